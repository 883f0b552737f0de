"""`sync RUN`: rebuild what a run's monitor shows from its metrics.jsonl."""

from __future__ import annotations

import typer

from pipeline.commands import HERE, RunName


def command(name: RunName) -> None:
    """Rebuild what a run's monitor (wandb, TensorBoard) shows from its metrics.jsonl, and upload it where
    wandb is online.

    `ratchet sync quickstart`
    """
    from pipeline.report.monitor.mirror import require_mode
    from pipeline.report.monitor.mirror import sync as rebuild
    from pipeline.run.session import open_run

    require_mode()
    looked = open_run(name, HERE)
    header = looked.recipe.header
    done, said = rebuild(looked.folder, header.wandb, checkpoints=HERE.checkpoints, monitor=header.monitor)
    typer.echo(said)
    raise typer.Exit(0 if done else 1)
