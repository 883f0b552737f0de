"""`curve RECIPE --sizes 500,1000,2000`: the recipe at several numbers of training problems, and what more
would bring.

Two arms: the same steps at every size, and the same epochs (steps in proportion to the size); at the largest
size they are one run. Each size is a run of its own name (curve-RECIPE-SIZE-ARM-sSEED), so a curve that was
stopped goes on with the same command, and each run has its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import HERE, Quiet, console_for
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.look import look
from pipeline.recipe.measures import Measure, measures
from pipeline.recipe.read import load
from pipeline.recipe.shape import Recipe
from pipeline.report.learning_curve import LEAST, Point, fit, page, sentence
from pipeline.run.record import by_round, read
from pipeline.run.session import announce, session
from pipeline.store.disk import DISK
from pipeline.store.workspace import Workspace

STEPS, EPOCHS = "same steps", "same epochs"
ARMS = {"steps": STEPS, "epochs": EPOCHS}


def numbers(given: str, option: str, least: int) -> list[int]:
    """`500,1000` as numbers, rising.

    Raises:
        RecipeError: something else stands there.
    """
    words = [word.strip() for word in given.split(",") if word.strip()]
    if not words or not all(word.isdigit() and int(word) >= least for word in words):
        raise RecipeError(
            f"{option} {given}: whole numbers from {least} on with commas between, as 500,1000,2000"
        )
    return sorted({int(word) for word in words})


def overrides_of(recipe: Recipe, size: int, largest: int, arm: str) -> list[str]:
    """What makes a recipe one of this size: fewer training problems and, in the arm of the same epochs, steps
    in proportion; a training that goes by epochs has more of them in the arm of the same steps.
    """
    found = [f"task.train={size}"]
    part = size / largest
    for stage in recipe.stages:
        if stage.room != "train" or size == largest:
            continue
        here, settings = f"{stage.section}.{stage.name}", stage.settings
        if settings.steps is None and arm == "steps":
            found.append(f"{here}.epochs={settings.epochs / part:.6g}")
        elif isinstance(settings.steps, int) and arm == "epochs":
            found.append(f"{here}.steps={max(1, round(settings.steps * part))}")
        elif settings.steps is not None and arm == "epochs":
            found.append(f"{here}.steps.first={max(1, round(settings.steps.first * part))}")
    return found


def curve(
    path: Path,
    sizes: Sequence[int],
    seeds: Sequence[int],
    overrides: Sequence[str],
    console: Any,
    workspace: Workspace,
) -> str:
    """Run (or go on with) each size, arm and seed; fit, write the page, and say what it comes to.

    Raises:
        RecipeError: fewer than three sizes, a recipe with several tasks, without a training or a main metric,
        or one that does not fit at some size. Nothing has run then.
    """
    plain = load(path, overrides)
    if len(sizes) < LEAST:
        raise RecipeError(
            f"curve: {len(sizes)} sizes: three or more say how a curve bends; name more with --sizes"
        )
    if len(plain.tasks) != 1:
        raise RecipeError(f"{path}: a mix of tasks has no one size: name a recipe with a single task")
    if not any(measure.metric.main for measure in measures(plain)):
        raise RecipeError(f"{path}: no evaluation with a main metric, so there is nothing to draw a curve of")
    if not any(stage.room == "train" for stage in plain.stages):
        raise RecipeError(f"{path}: trains nothing, so every size gives the same result")
    for arm in ARMS:
        for size in sizes[:-1]:
            load(path, [*overrides, *overrides_of(plain, size, sizes[-1], arm)])
    largest = load(path, [*overrides, f"task.train={sizes[-1]}"])
    look(largest, workspace).refuse(f"{path}: at {sizes[-1]:,} problems")
    arms: dict[str, list[Point]] = {says: [] for says in ARMS.values()}
    head: Measure | None = None
    for size in sizes:
        for arm, says in ARMS.items():
            for seed in seeds:
                shared = "full" if size == sizes[-1] else arm
                name = f"curve-{plain.name}-{size}-{shared}-s{seed}"
                own = [*overrides, f"seed={seed}", *overrides_of(plain, size, sizes[-1], arm)]
                recipe = load(path, own, name)
                with session(recipe, console, Processes(), workspace) as run:
                    announce(run)
                    run_loop(run)
                head, point = result(recipe, size, workspace)
                arms[says].append(point)
    assert head is not None
    fits = {arm: fit(points) for arm, points in arms.items()}
    title, measure = f"Learning curve of {plain.name}", f"{head.metric.says} ({head.stage})"
    target = workspace.data / f"curve-{plain.name}.html"
    DISK.write(target, page(title, measure, arms, fits).encode())
    rows = [{"arm": arm, "size": p.size, "value": p.value, "half": p.half} for arm in arms for p in arms[arm]]
    DISK.write(target.with_suffix(".json"), (json.dumps(rows, indent=1) + "\n").encode())
    return "\n".join(
        [*_table(arms), "", *(sentence(arm, arms[arm], fits[arm]) for arm in fits), f"{target}: the picture"]
    )


def result(recipe: Recipe, size: int, workspace: Workspace) -> tuple[Measure, Point]:
    """The main metric at the end of a run: of the test split where it was read, else of the last round.

    Raises:
        RecipeError: it was not measured.
    """
    rows = read(workspace.data / recipe.name / "metrics.jsonl")
    for final in (True, False):
        known = by_round(row for row in rows if bool(row.get("final")) == final)
        values = known[max(known)] if known else {}
        for measure in measures(recipe):
            if measure.metric.main and measure.name in values:
                value = values[measure.name]
                low, high = (values.get(f"{measure.name}/{end}", value) for end in ("low", "high"))
                return measure, Point(size, value, (high - low) / 2)
    raise RecipeError(f"run {recipe.name}: no main metric was measured")


def _table(arms: dict[str, list[Point]]) -> list[str]:
    lines = [f"{'problems':>9}  {'arm':<12}  result"]
    for arm, points in arms.items():
        lines += [f"{p.size:>9,}  {arm:<12}  {100 * p.value:.1f} % +- {100 * p.half:.1f}" for p in points]
    return lines


def command(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE")],
    sizes: Annotated[str, typer.Option(help="Training problems, with commas between: 500,1000,2000,4000.")],
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between; three tell luck from size.")] = "0",
    change: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value for every run.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe at several data sizes (same steps, same epochs), and fit how its error falls.

    `ratchet curve recipes/quickstart.yaml --sizes 1000,2000,4000,8000 --seeds 0,1,2`
    """
    typer.echo(
        curve(
            recipe_file,
            numbers(sizes, "--sizes", 1),
            numbers(seeds, "--seeds", 0),
            change or [],
            console_for(quiet, False),
            HERE,
        )
    )
