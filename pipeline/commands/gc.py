"""`gc RUN`: remove a run's scratch; what is committed stays."""

from __future__ import annotations

import typer

from pipeline.commands import HERE, RunName
from pipeline.run.session import open_run
from pipeline.store.lock import RunLock
from pipeline.store.run_folder import gc
from pipeline.store.workspace import Workspace


def collect(name: str, workspace: Workspace) -> str:
    """Remove a run's trainer checkpoints and what dead processes left; what is committed stays.

    Raises:
        RecipeError: no such run.
        RunInUse: somebody works on it.
    """
    run = open_run(name, workspace)
    scratch = sum(path.stat().st_size for path in (run.folder / "scratch").rglob("*") if path.is_file())
    lock = RunLock(run.folder, [workspace.checkpoints / name])
    with lock:
        freed = gc(run.folder, workspace.checkpoints / name)
    left = "an open training stage begins again at its first step" if scratch else "there was no scratch"
    return f"{name}: {freed:,} bytes freed, {lock.swept} unfinished files removed; {left}"


def command(name: RunName) -> None:
    """Remove a run's scratch: trainer checkpoints and unfinished files. What is committed stays.

    `ratchet gc quickstart`
    """

    typer.echo(collect(name, HERE))
