"""`show RUN ROUND STAGE`: a stage's rows for people."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.commands import HERE, RunName
from pipeline.errors import RecipeError
from pipeline.run.session import open_run
from pipeline.run.status import _state
from pipeline.store.workspace import Workspace


def show_rows(
    name: str, number: int, stage_name: str, row: int | None, limit: int, workspace: Workspace
) -> str:
    """A stage's rows for people.

    Raises:
        RecipeError: no such run, stage or round, or the stage has written nothing yet.
    """
    from pipeline.report.show import render_rows
    from pipeline.stages.inputs import ChunkReader

    run = open_run(name, workspace)
    stage = run.recipe.stage(stage_name)
    folder = run.stage_folder(stage, number)
    plan = folder.plan()
    if plan is None or folder.manifest() is None:
        raise RecipeError(
            f"run {name}: round {number}: {stage_name} has written nothing yet ({_state(run, stage, number)})"
        )
    rows: list[Any] = []
    reader = ChunkReader(workspace.data)
    wanted = limit if row is None else row + 1
    for chunk_number, chunk in enumerate(plan.chunks):
        if stage.room == "label":
            for group in reader.groups(chunk).values():
                rows += group.traces
        for kind in folder.require().kinds:
            rows += folder.read_chunk(kind, chunk_number)
        mains = sum(type(r).__name__ == (plan.main if stage.room != "label" else "Trace") for r in rows)
        if mains >= wanted:
            break
    return render_rows(rows, limit=limit, number=row, problems=run.problems)


def command(
    name: RunName,
    round_number: Annotated[int, typer.Argument(metavar="ROUND")],
    stage_name: Annotated[str, typer.Argument(metavar="STAGE")],
    row: Annotated[int | None, typer.Option(help="One row, whole, by its number from 0.")] = None,
    limit: Annotated[int, typer.Option(help="How many rows.")] = 10,
) -> None:
    """Show a stage's rows for people: traces with their steps and labels, trees indented.

    `ratchet show quickstart 1 check --limit 5`
    """

    typer.echo(show_rows(name, round_number, stage_name, row, limit, HERE))
