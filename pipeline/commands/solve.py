"""`solve "PROBLEM" --run RUN --search mcts_star`: one problem, answered by a run's trained models, and the
tree it grew.

The question is the user's, so nobody knows its answer: the search sees no gold, as always.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.commands import HERE, Overrides
from pipeline.errors import RecipeError, nearest
from pipeline.recipe.methods import NotBuilt, method
from pipeline.recipe.read import override
from pipeline.recipe.shape import split_name
from pipeline.recipe.validate import validate
from pipeline.rows import Node, Problem, Trace
from pipeline.run.session import open_run
from pipeline.settings import models_named
from pipeline.store.workspace import Workspace


def solve(question: str, name: str, search: str, overrides: list[str], workspace: Workspace) -> str:
    """The answer and the tree, as text.

    Raises:
        RecipeError: no such run or method, or the run has no reward model for it.
    """
    from pipeline.commands.evaluate import finished_rounds
    from pipeline.engine.driver import Driver
    from pipeline.report.show import render_rows
    from pipeline.stages.work import engine_of, make_search, question_of, template_of

    run = open_run(name, workspace)
    rounds = finished_rounds(run)
    if not rounds:
        raise RecipeError(f"run {name}: no round is finished yet, so no model stands")
    settings = _settings(run.recipe.models, search, overrides)
    named = {model for _, model in models_named(settings)}
    weights = {model: run.versions.standing(split_name(model)[0], rounds[-1]) for model in named}
    task = next(iter(run.tasks.values()))
    problem = Problem(id="asked", question=question, answer=None, source=task.name)
    asked = question_of(task, problem, template_of(run, weights[settings.by]))
    assert asked is not None
    driver = Driver(
        lambda model: engine_of(run, weights[model]), run_seed=run.recipe.seed, round=0, stage="solve"
    )
    asks = method("generate", search).generate(asked, settings, None)
    [finished] = driver.run([make_search(task, settings, "asked", asks)])
    if finished.error:
        raise RecipeError(f"{question!r}: {finished.error}")
    return _say(finished.result, finished.charged, task, problem, render_rows)


def _settings(models: dict[str, Any], search: str, overrides: list[str]) -> Any:
    try:
        kind = method("generate", search).Settings
    except NotBuilt:
        from pipeline.recipe.methods import methods

        raise RecipeError(
            f"--search {search}: no such method{nearest(search, methods('generate'))}"
        ) from None
    given: dict[str, Any] = {}
    policies = [name for name, model in models.items() if model.head is None]
    judges = [name for name, model in models.items() if model.head is not None]
    if "by" in kind.model_fields:
        given["by"] = policies[0]
    if "value" in kind.model_fields and judges:
        given["value"] = judges[0]
    for each in overrides:
        override(given, each, "iterations=100")
    problems: list[str] = []
    settings = validate(kind, given, f"--search {search}", "", problems)
    problems += [
        f"--search {search}: {key}: the run has no model {model!r}{nearest(model, models)}"
        for key, model in (models_named(settings) if settings else ())
        if split_name(model)[0] not in models
    ]
    if problems:
        raise RecipeError(problems)
    return settings


def _say(rows: list[Any], charged: dict[str, int], task: Any, problem: Problem, render: Any) -> str:
    traces = [row for row in rows if isinstance(row, Trace)]
    nodes = [row for row in rows if isinstance(row, Node)]
    best = next((t for t in traces if t.chosen), traces[0] if traces else None)
    lines = []
    if nodes:
        lines += [render(nodes, limit=len(nodes)), ""]
    if best is None:
        lines.append("no answer: the search wrote no whole trace; give it more iterations or tokens")
    else:
        score = "" if best.score is None else f"   (value {best.score:.2f})"
        lines += [best.text.rstrip(), f"answer: {best.answer or 'none'}{score}"]
        verdicts = task.step_oracle(problem, best.steps)
        if verdicts is not None:
            lines.append("the task's oracle: " + ("every step holds" if all(verdicts) else "a step is wrong"))
    lines.append("tokens: " + ", ".join(f"{n:,} by {model}" for model, n in charged.items()))
    return "\n".join(lines)


def command(
    question: Annotated[str, typer.Argument(help="A problem in the task's own words.")],
    overrides: Overrides = None,
    run_name: Annotated[
        str, typer.Option("--run", help="The run whose models answer.")
    ] = "rest_mcts_countdown",
    search: Annotated[str, typer.Option(help="A generate method.")] = "mcts_star",
) -> None:
    """Answer one problem with a run's trained models, and print the search tree.

    `ratchet solve "numbers 3, 7, 12; target 24" --run rest_mcts_countdown --search mcts_star iterations=20`
    """

    typer.echo(solve(question, run_name, search, overrides or [], HERE))
