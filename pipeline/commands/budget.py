"""`compare RECIPE... --tokens N`: recipes at an equal budget of generated policy tokens, and one table.

Each round of a recipe gets N / rounds charged policy tokens; what its generate stages wrote beyond them is
not trained on (reason `budget`), so every method learns from the same number of tokens. Reward-model tokens
have a column of their own. Round 0 (`before`) is outside the budget and shown in the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import HERE, Quiet, console_for
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.measures import Measure, measures
from pipeline.recipe.read import load
from pipeline.recipe.shape import Recipe
from pipeline.run.record import by_round, read
from pipeline.run.session import announce, session
from pipeline.run.status import run_status
from pipeline.store.workspace import Workspace


def compare(paths: list[Path], tokens: int, overrides: list[str], console: Any, workspace: Workspace) -> str:
    """Run each recipe under its budget (or go on with it), and tabulate. Runs are named compare-RECIPE-sSEED.

    Raises:
        RecipeError: a recipe has no rounds to spread the tokens over.
    """
    done = []
    for path in paths:
        plain = load(path, overrides)
        if not plain.rounds:
            raise RecipeError(f"{path}: has no rounds, so there is nothing to spread {tokens} tokens over")
        share = tokens // plain.rounds
        recipe = load(
            path, [*overrides, f"tokens_per_round={share}"], f"compare-{plain.name}-s{plain.seed}-{tokens}"
        )
        with session(recipe, console, Processes(), workspace) as run:
            announce(run)
            run_loop(run)
        done.append(recipe)
    return table(done, workspace)


def tokens_of(metrics: dict[str, float], recipe: Recipe, heads: bool) -> int:
    """Charged tokens of a round's generate and label stages, of policies or of reward models."""
    names = {stage.name for stage in recipe.stages if stage.room in ("generate", "label")}
    total = 0.0
    for key, value in metrics.items():
        stage, _, rest = key.partition("/charged/")
        model = recipe.models.get(rest.split("@")[0]) if rest else None
        if model is not None and stage in names and (rest.split("@")[0] not in recipe.policies) == heads:
            total += value
    return int(total)


def table(recipes: list[Recipe], workspace: Workspace) -> str:
    """What evaluations declare as columns, the main one with its interval, then tokens and wall time; a line
    a round of each recipe."""
    known = {recipe.name: measures(recipe) for recipe in recipes}
    columns = {m.metric.column: m.metric.main for each in known.values() for m in each if m.metric.column}
    mains, others = ([name for name, main in columns.items() if main == want] for want in (True, False))
    measured = [cell for name in mains for cell in (name, "95 %")]
    head = ("recipe", "round", *measured, "tokens", "PRM tokens", *others, "seconds")
    lines: list[tuple[str, ...]] = [head]

    def line(recipe: Recipe, number: str, metrics: dict[str, float], seconds: float) -> tuple[str, ...]:
        here = known[recipe.name]
        return (
            recipe.path.rsplit("/", 1)[-1].removesuffix(".yaml"),
            number,
            *(cell for name in mains for cell in _cells(metrics, here, name)),
            f"{tokens_of(metrics, recipe, heads=False):,}",
            f"{tokens_of(metrics, recipe, heads=True):,}",
            *(_cells(metrics, here, name)[0] for name in others),
            f"{seconds:.0f}" if seconds else "",
        )

    for recipe in recipes:
        rows = read(workspace.data / recipe.name / "metrics.jsonl")
        status = run_status(recipe.name, workspace)
        for number, metrics in by_round(row for row in rows if not row.get("final")).items():
            stages = status["rounds"][number]["stages"].values()
            lines.append(line(recipe, str(number), metrics, sum(one["seconds"] for one in stages)))
        final = by_round(row for row in rows if row.get("final"))
        if final:
            lines.append(line(recipe, "test", final[max(final)], 0.0))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _cells(metrics: dict[str, float], known: Sequence[Measure], column: str) -> tuple[str, str]:
    """The first measure of a column that was measured, and its interval."""
    name = next((m.name for m in known if m.metric.column == column and m.name in metrics), None)
    if name is None:
        return "", ""
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    return f"{metrics[name]:.3f}", "" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def command(
    recipe_files: Annotated[list[Path], typer.Argument(metavar="RECIPE...")],
    tokens: Annotated[int, typer.Option(help="Generated policy tokens a recipe may learn from.", min=1)],
    change: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value for every recipe.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run recipes at an equal budget of generated tokens, and print one table.

    `ratchet compare recipes/rest_em_countdown.yaml recipes/rest_mcts_countdown.yaml --tokens 3000000 --set
    seed=1`"""

    typer.echo(compare(recipe_files, tokens, change or [], console_for(quiet, False), HERE))
