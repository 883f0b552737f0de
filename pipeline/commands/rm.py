"""`rm RUN`: remove a run, rows and weights, after asking."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands import HERE, RunName
from pipeline.errors import RecipeError, nearest
from pipeline.report.wording import size
from pipeline.run.session import run_names
from pipeline.run.status import size_of
from pipeline.store.disk import DISK, Disk
from pipeline.store.lock import RunLock
from pipeline.store.run_folder import run_name_ok
from pipeline.store.workspace import Workspace


def contents(name: str, workspace: Workspace) -> str:
    """What would go, for the question.

    Raises:
        RecipeError: no such run, or no name of one.
    """
    run_name_ok(name, workspace.data, workspace.checkpoints)
    rows, weights = workspace.rows_of(name), workspace.weights_of(name)
    if not rows.is_dir() and not weights.is_dir():
        raise RecipeError(f"no run {name!r} in {workspace.data}/{nearest(name, run_names(workspace.data))}")
    places = [f"{place} ({size(size_of(place))})" for place in (rows, weights) if place.is_dir()]
    users = readers(name, workspace)
    told = f"; read by {', '.join(users)}, which could not be repaired without it" if users else ""
    return " and ".join(places) + told


def readers(name: str, workspace: Workspace) -> list[str]:
    """The runs whose recipes begin from this one's models."""
    found = []
    for other in run_names(workspace.data):
        text = (workspace.rows_of(other) / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
        if other != name and f"run://{name}@" in text:
            found.append(other)
    return found


def remove(name: str, workspace: Workspace, disk: Disk = DISK) -> str:
    """Remove a run under its lock; its name is free afterwards.

    Raises:
        RecipeError: no such run.
        RunInUse: somebody works on it.
    """
    said = contents(name, workspace).partition(";")[0]
    rows = workspace.rows_of(name)
    with RunLock(rows, [workspace.weights_of(name)]):
        disk.remove(workspace.weights_of(name))  # first: rows without weights can be verified and repaired
        disk.remove(rows)
    return f"removed {said}"


def command(
    name: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a run: its rows, metrics and weights. Asks first; a run in use is left alone.

    - `ratchet rm quickstart`
    - `ratchet rm quickstart --yes`
    """
    what = contents(name, HERE)
    if not yes and not typer.confirm(f"Remove {what}?"):
        typer.echo("nothing removed")
        raise typer.Exit(1)
    typer.echo(remove(name, HERE))
