"""`gc RUN`: remove a run's scratch and the optimizers that no next round needs; what else is committed
stays."""

from __future__ import annotations

import typer

from pipeline.commands import HERE, RunName
from pipeline.run.session import open_run
from pipeline.store.lock import RunLock
from pipeline.store.run_folder import gc, size_of
from pipeline.store.workspace import Workspace


def collect(name: str, workspace: Workspace) -> str:
    """Remove a run's trainer checkpoints, what dead processes left, and the carried optimizers of rounds that
    are over; rows and weights stay. `verify --repair` cannot make weights again that went on from a dropped
    optimizer.

    Raises:
        RecipeError: no such run.
        RunInUse: somebody works on it.
    """
    run = open_run(name, workspace)
    scratch = sum(path.stat().st_size for path in (run.folder / "scratch").rglob("*") if path.is_file())
    lock = RunLock(run.folder, [workspace.checkpoints / name])
    with lock:
        needed = run.versions.needed_optimizers()
        old = [path for path in sorted(run.weights.glob("round-*/*.optimizer")) if path not in needed]
        freed = sum(map(size_of, old))
        for path in old:
            run.disk.remove(path / "manifest.json")  # first: what no manifest vouches for is not read
            run.disk.remove(path)
        freed += gc(run.folder, workspace.checkpoints / name)
    dropped = f"; {len(old)} optimizers of earlier rounds dropped" if old else ""
    left = "an open training stage begins again at its first step" if scratch else "there was no scratch"
    return f"{name}: {freed:,} bytes freed, {lock.swept} unfinished files removed{dropped}; {left}"


def command(name: RunName) -> None:
    """Remove a run's scratch: trainer checkpoints, unfinished files, optimizers that no next round needs.
    Rows and weights stay.

    `ratchet gc quickstart`
    """

    typer.echo(collect(name, HERE))
