"""`eval RUN`: a measurement beside the loop, which no gate reads."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.commands import HERE, Overrides, Quiet, RunName, console_for
from pipeline.errors import RecipeError
from pipeline.processes.group import Processes
from pipeline.recipe import read as recipes
from pipeline.recipe.measures import main_of
from pipeline.recipe.methods import method
from pipeline.recipe.shape import Recipe, Stage, measured
from pipeline.run.run import Run
from pipeline.run.session import open_run, session
from pipeline.stages.run import run_stage
from pipeline.store.workspace import Workspace


def finished_rounds(run: Run) -> list[int]:
    """The rounds of a run that have a gate."""
    return [number for number in range(run.recipe.rounds + 1) if run.gate(number) is not None]


def _round_of(run: Run, number: int | None) -> int:
    """The round that a user asks for; the last finished one without.

    Raises:
        RecipeError: it is not finished.
    """
    done = finished_rounds(run)
    if not done:
        raise RecipeError(f"run {run.name}: no round is finished yet")
    if number is not None and number not in done:
        raise RecipeError(
            f"run {run.name}: round {number} is not finished; finished: {', '.join(map(str, done))}"
        )
    return done[-1] if number is None else number


def measured_by(recipe: Recipe) -> str:
    """The evaluation that measures the policy: that of the recipe's first stage that judges it by a main
    metric.

    Raises:
        RecipeError: the recipe has none.
    """
    stages = (*recipe.section("stages"), *recipe.stages)
    found = next((s.method for s in stages if recipe.policy in measured(s) and main_of(s)), None)
    if found is None:
        raise RecipeError(
            f"run {recipe.name}: no evaluate stage of its recipe says how {recipe.policy} is measured; name "
            "one: --by METHOD, a file of evaluate/"
        )
    return found


def evaluate_apart(
    name: str,
    number: int | None,
    split: str,
    overrides: list[str],
    console: Any,
    workspace: Workspace,
    by: str | None = None,
) -> str:
    """Measure the policy of a run after a round, paired with its seed. by: an evaluation; the recipe's own by
    default. Returns the numbers for people."""
    looked = open_run(name, workspace)
    number = _round_of(looked, number)
    policy = looked.recipe.policy
    given: dict[str, Any] = {"of": [policy, f"{policy}@0"], "split": split}
    for each in overrides:
        recipes.override(given, each, "samples=16")
    problems: list[str] = []
    how = by or measured_by(looked.recipe)
    settings = recipes.validate(method("evaluate", how).Settings, given, "eval", "", problems)
    if problems:
        raise RecipeError(problems)
    print_of = recipes.fingerprint(recipes.data_settings(settings))[:8]
    stage = Stage(f"{split}_{number:03d}_{print_of}", "apart", "evaluate", how, settings)
    with session(looked.recipe, console, Processes(), workspace) as run:
        metrics = run_stage(run, stage, number).extra["metrics"]
    lines = [f"{name} after round {number}, {split}:"]
    for key, value in metrics.items():
        if key.count("/") <= 1 and not key.endswith(("/low", "/high")):
            ends = [metrics[f"{key}/{end}"] for end in ("low", "high") if f"{key}/{end}" in metrics]
            within = f"  [{ends[0]:.4f}, {ends[1]:.4f}]" if len(ends) == 2 else ""
            lines.append(f"  {key:<24} {value:8.4f}{within}")
    return "\n".join(lines)


def command(
    name: RunName,
    overrides: Overrides = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="After which round; the last by default.")
    ] = None,
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    by: Annotated[
        str | None, typer.Option("--by", help="An evaluation of evaluate/; the recipe's own by default.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure a run's policy outside the loop; no gate reads it.

    `ratchet eval quickstart --round 2 --split test samples=16`
    """

    console = console_for(quiet, False)
    typer.echo(evaluate_apart(name, round_number, split, overrides or [], console, HERE, by))
