"""`solve "PROBLEM" --run RUN --search mcts_star`: one problem, answered by a run's trained models, and the
tree it grew.

The question is the user's, so nobody knows its answer: the search sees no gold, as always.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import HERE, Overrides
from pipeline.errors import RecipeError, nearest
from pipeline.models.heads import can, head_of
from pipeline.recipe.methods import NotBuilt, method
from pipeline.recipe.read import override
from pipeline.recipe.shape import Recipe, dump, first_part, split_name
from pipeline.recipe.validate import validate
from pipeline.rows import Label, Node, Problem, Trace
from pipeline.run.session import open_run
from pipeline.settings import StageSettings, asked_of, models_named
from pipeline.store.workspace import Workspace


class Solver:
    """A run's models, ready to answer one problem after another.

    Raises:
        RecipeError: no such run or method, no finished round, or the run has no reward model for the method.
    """

    def __init__(
        self,
        name: str,
        search: str | None,
        overrides: list[str],
        workspace: Workspace,
        budget: int | None = None,
    ) -> None:
        from pipeline.commands.evaluate import finished_rounds
        from pipeline.stages.work import template_of

        self.run = run = open_run(name, workspace)
        rounds = finished_rounds(run)
        if not rounds:
            raise RecipeError(f"run {name}: no round is finished yet, so no model stands")
        self.spending = None if budget is None else Spending(run, rounds[-1], budget, search, overrides)
        if self.spending is None:
            self.search, usual = (search, {}) if search else own_search(run.recipe)
            self.settings = _settings(run.recipe.models, self.search, usual, overrides)
            self.by = self.settings.by
        else:
            self.search, self.settings = f"what {self.spending.stage.name} measured", self.spending.settings
            self.by = self.settings.measured[0]
        named = {model for _, model in models_named(self.settings)}
        self.weights = {model: run.versions.standing(split_name(model)[0], rounds[-1]) for model in named}
        self.task = next(iter(run.tasks.values()))
        self.template = template_of(run, self.weights[self.by])
        self.said = f"{name} after round {rounds[-1]}, by {self.search}"

    def answer(self, question: str) -> str:
        """The answer and the tree, as text.

        Raises:
            RecipeError: the question does not fit the model.
        """
        from pipeline.engine.driver import Driver
        from pipeline.report.show import render_rows
        from pipeline.stages.work import engine_of, make_search, question_of

        problem = Problem(id="asked", question=question, answer=None, source=self.task.name)
        asked = question_of(self.task, problem, self.template, self.weights[self.by].round)
        assert asked is not None
        driver = Driver(
            lambda model: engine_of(self.run, self.weights[model]),
            run_seed=self.run.recipe.seed,
            round=0,
            stage="solve",
        )
        if self.spending is not None:
            asks = self.spending.asks(asked, self.by)
        else:
            asks = method("generate", self.search).generate(asked, self.settings, None)
        [finished] = driver.run([make_search(self.task, self.settings, "asked", asks)])
        if finished.error:
            raise RecipeError(f"{question!r}: {finished.error}")
        return _say(finished.result, finished.charged, self.task, problem, render_rows)


class Spending:
    """What the newest evaluation of a run that can tell says of a budget of samples.

    Raises:
        RecipeError: none has measured it, or a search or settings are named beside the budget.
    """

    def __init__(
        self, run: Any, newest: int, budget: int, search: str | None, overrides: Sequence[str]
    ) -> None:
        if search or overrides:
            raise RecipeError(
                "solve: --budget takes the strategy that was measured: leave out --search and keys"
            )
        self.budget = budget
        for number in range(newest, -1, -1):
            for stage in reversed(run.stages_in(number)):
                if stage.room != "evaluate" or not hasattr(method("evaluate", stage.method), "spend"):
                    continue
                if (manifest := run.stage_folder(stage, number).manifest()) is not None:
                    self.stage, self.settings = stage, stage.settings
                    self.metrics: dict[str, float] = manifest.extra["metrics"]
                    return
        raise RecipeError(
            f"run {run.name}: no evaluation has measured how to spend a budget; add {{evaluate: "
            "compute_optimal, ...} to its recipe, or name a --search"
        )

    def asks(self, question: Any, by: str) -> Any:
        """The asks of one question."""
        spend = method("evaluate", self.stage.method).spend
        return spend(question, self.settings, by, self.metrics, self.budget)


def solve(question: str, name: str, search: str | None, overrides: list[str], workspace: Workspace) -> str:
    """The answer to one problem and the tree, as text. search: none takes the run's own.

    Raises:
        RecipeError: no such run or method, or the run has no reward model for it.
    """
    return Solver(name, search, overrides, workspace).answer(question)


def own_search(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """(a generate method, its settings): what the run searches with itself, to measure or else to learn;
    without a search what it writes by, as that method is by default.

    Raises:
        RecipeError: it does neither.
    """
    for stage in reversed(recipe.stages):
        search = getattr(stage.settings, "search", None)
        if stage.room == "evaluate" and isinstance(search, dict):
            return str(search["generate"]), {k: v for k, v in search.items() if k != "generate"}
    stages = [s for s in recipe.stages if s.room == "generate" and s.built and not s.settings.sees_gold]
    searches = [s for s in stages if any(recipe.models[n].head for n in map(first_part, s.models.values()))]
    if not searches:
        if not stages:
            raise RecipeError(f"solve: {recipe.name} writes by no method of its own: name one with --search")
        return stages[-1].method, {}
    shared = {described.alias or key for key, described in StageSettings.model_fields.items()}
    own = {k: v for k, v in dump(searches[-1].settings).items() if k not in shared | {"where", "split"}}
    return searches[-1].method, own


def newest_run(data: Path) -> str:
    """The run that finished a round last.

    Raises:
        RecipeError: there is none.
    """
    gates = sorted(data.glob("*/round-*/gate.json"), key=lambda path: path.stat().st_mtime)
    if not gates:
        raise RecipeError(f"solve: no run in {data}/ has finished a round; name one with --run")
    return gates[-1].parents[1].name


def converse(solver: Solver, read: Callable[[], str], say: Callable[[str], None]) -> None:
    """Answer one question after another, until an empty line or the end of the input."""
    say(f"{solver.said}. One problem a line, as the task words it; an empty line ends.")
    while True:
        try:
            question = read().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not question:
            return
        try:
            say(solver.answer(question))
        except RecipeError as error:
            say(f"{type(error).__name__}: {error}")


def _settings(models: dict[str, Any], search: str, usual: dict[str, Any], overrides: list[str]) -> Any:
    try:
        kind = method("generate", search).Settings
    except NotBuilt:
        from pipeline.recipe.methods import methods

        raise RecipeError(
            f"--search {search}: no such method{nearest(search, methods('generate'))}"
        ) from None
    given: dict[str, Any] = dict(usual)
    policies = [name for name, model in models.items() if head_of(model.head).policy]
    judges = [name for name, model in models.items() if can(model.head, "scores")]
    for key, does in asked_of(kind).items():
        fitting = policies if does == "writes" else judges if does == "scores" else []
        if fitting and kind.model_fields[key].get_default() is not None:
            given.setdefault(key, fitting[0])
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
    said = [row.reason for row in rows if isinstance(row, Label) and row.reason]
    best = next((t for t in traces if t.chosen), traces[0] if traces else None)
    lines = [*said]
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
    question: Annotated[
        str | None, typer.Argument(help="A problem in the task's own words; without it, they are asked for.")
    ] = None,
    overrides: Overrides = None,
    run_name: Annotated[
        str | None, typer.Option("--run", help="The run whose models answer; the newest by default.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="A generate method; what the run searches with by default.")
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Samples to spend: the strategy that the run measured as best for them."),
    ] = None,
) -> None:
    """Answer problems with a run's trained models, and print the search tree of each.

    - `ratchet solve "numbers 3, 7, 12; target 24" --run rest_mcts_countdown --search mcts_star iterations=20`
    - `ratchet solve --run compute_optimal_countdown --budget 16`
    - `ratchet solve --run quickstart` (asks for one problem after another)
    """
    changes = list(overrides or [])
    if question is not None and re.fullmatch(r"[a-z_][a-z0-9_.]*=\S*", question):
        changes.insert(0, question)  # a setting, and no question before it
        question = None
    solver = Solver(run_name or newest_run(HERE.data), search, changes, HERE, budget)
    if question is None:
        converse(solver, input, typer.echo)
    else:
        typer.echo(solver.answer(question))
