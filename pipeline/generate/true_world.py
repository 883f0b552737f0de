"""The search of `world_model` in the task's own world: a step may be taken where the rules allow it and
what it states is so (`BaseTask.legal`), and an end is worth what it is (arXiv:2305.14078; the arm that has
a simulator).

**It sees gold**, as a simulator does that knows when the goal is reached: every metric of an evaluation of
its answers is named `gold/...`. For the same search where only the steps are checked, there is no method
here.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.asks import Asks, Prefix
from pipeline.generate import world_model
from pipeline.generate.world_model import Plan, Rows
from pipeline.rows import Dropped, Group, Problem, Question
from pipeline.tasks import BaseTask


class Settings(world_model.Settings):
    """Those of `world_model`; no critique is asked for."""

    sees_gold: ClassVar[bool] = True
    shows_hint: ClassVar[bool] = False
    acts: ClassVar[tuple[str, ...]] = ()


class Ruled:
    """The task's world."""

    def __init__(self, problem: Problem, task: BaseTask) -> None:
        self.problem, self.task = problem, task

    def admits(self, prefix: Prefix) -> bool:
        verdicts = self.task.legal(self.problem.question, list(prefix.steps))
        return verdicts is None or all(verdicts)

    def worth(self, prefix: Prefix) -> Asks[float | None]:
        yield from ()  # asks nothing
        ended = prefix.finish in ("eos", "stop")
        return float(ended and self.task.correct(prefix.answer, self.problem))


def generate(
    question: Question, settings: Settings, given: Group | None, *, problem: Problem, task: BaseTask
) -> Asks[Rows]:
    """The tree, a trace for each end in it, and the one that the moves led to chosen."""
    if problem.answer is None:
        return [Dropped(problem_id=question.id, what=question.id, reason="no_gold")]
    return (yield from Plan(question, settings).search(Ruled(problem, task)))
