"""`show RUN ROUND STAGE`: a stage's rows for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands import HERE, RunName
from pipeline.errors import RecipeError
from pipeline.recipe.shape import Stage
from pipeline.run.run import Run
from pipeline.run.session import open_run
from pipeline.run.status import _state
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.report.show import Whole
    from pipeline.stages.inputs import Source


def show_rows(
    name: str, number: int, stage_name: str, row: int | None, limit: int, workspace: Workspace
) -> str:
    """A stage's rows for people.

    Raises:
        RecipeError: no such run, stage or round, or the stage has written nothing yet.
    """
    from pipeline.report.show import num_items, render_rows
    from pipeline.stages.inputs import ChunkReader

    if limit < 1:
        raise RecipeError(f"--limit {limit}: 1 or more")
    if row is not None and row < 0:
        raise RecipeError(f"--row {row}: 0 or more; rows are counted from 0")
    run = open_run(name, workspace)
    stage = run.recipe.stage(stage_name)
    if number not in (there := rounds_of(run, stage)):
        said = ", ".join(map(str, there)) or "none: no round of it is done"
        raise RecipeError(f"run {name}: {stage_name} has no round {number}; it has {said}")
    folder = run.stage_folder(stage, number)
    plan = folder.plan()
    if plan is None or folder.manifest() is None:
        raise RecipeError(
            f"run {name}: round {number}: {stage_name} has written nothing yet ({_state(run, stage, number)})"
        )
    if stage.room == "train":
        raise RecipeError(
            f"run {name}: {stage_name} writes weights and no rows: see what it read "
            f"({', '.join(reads(stage))}), or `ratchet report {name}` for its curves"
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
        if num_items(rows) > wanted:  # one more than is shown, or the last tree may not be whole
            break
    return render_rows(rows, limit=limit, number=row, problems=run.problems, whole=_whole(folder, stage))


def rounds_of(run: Run, stage: Stage) -> list[int]:
    """The rounds in which a stage has begun, or would run next."""
    kind = "final" if stage.section == "finally" else "round"
    numbers = sorted(int(path.name.split("-")[1]) for path in run.folder.glob(f"{kind}-[0-9]*"))
    return [n for n in numbers if (run.stage_folder(stage, n).path / "plan.json").exists()]


def reads(stage: Stage) -> list[str]:
    """The stages that a stage reads."""
    return [source for source in stage.sources if isinstance(source, str)]


def _whole(folder: StageFolder, stage: Stage) -> Whole:
    """What the whole stage holds, by its manifest; a label stage's traces stand in what it reads."""
    from pipeline.report.show import MAINS, Whole

    counts, plan = folder.require().counts, folder.plan()
    problems = sum(len(chunk.ids) for chunk in plan.chunks) if plan else 0
    if stage.room == "label":
        traces = sum(source.folder.require().counts.rows.get("Trace", 0) for source in _read(folder))
        return Whole(traces or None, dict(counts.dropped), problems)
    if counts.rows.get("Node"):
        return Whole(None, dict(counts.dropped), problems)
    main = next((kind.__name__ for kind in MAINS if counts.rows.get(kind.__name__)), "")
    return Whole(counts.rows.get(main), dict(counts.dropped), problems)


def _read(folder: StageFolder) -> list[Source]:
    """The committed stages whose traces a label stage labels."""
    from pipeline.stages.inputs import Source

    plan, data = folder.plan(), folder.path.parents[2]
    paths = {path for chunk in plan.chunks for path in chunk.reads} if plan else set()
    return [Source.at(data, path) for path in sorted(paths)]


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
