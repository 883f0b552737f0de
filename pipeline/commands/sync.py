"""`sync RUN`: rebuild a run's wandb mirror from its metrics.jsonl."""

from __future__ import annotations

import typer

from pipeline.commands import HERE, RunName


def command(name: RunName) -> None:
    """Rebuild a run's wandb mirror from its metrics.jsonl, and upload it where wandb is online.

    `ratchet sync quickstart`
    """
    from pipeline.report.wandb.mirror import require_mode
    from pipeline.report.wandb.mirror import sync as rebuild
    from pipeline.run.session import open_run

    require_mode()
    looked = open_run(name, HERE)
    done, said = rebuild(looked.folder, looked.recipe.header.wandb, checkpoints=HERE.checkpoints)
    typer.echo(said)
    raise typer.Exit(0 if done else 1)
