"""`ls`: every run, a line each."""

from __future__ import annotations

import typer

from pipeline.commands import HERE


def command() -> None:
    """List every run, a line each: state, rounds, work, disk, last result.

    `ratchet ls`
    """
    from pipeline.commands.status import all_runs, run_lines

    typer.echo(run_lines(all_runs(HERE)))
