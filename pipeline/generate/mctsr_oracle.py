"""MCTSr as its released code runs it (arXiv:2406.07394, run_with_earlystopping.py): the search of `mctsr`,
which stops at the first answer that is right by gold.

**It sees gold**, so what it finds is closer to pass@k than to an answer: a control that shows the size of
that leak, no method to report. Every metric of an evaluation of its answers is named `gold/...` and says
so.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.asks import Asks, Prefix
from pipeline.generate import mctsr
from pipeline.generate._answers import Rows
from pipeline.rows import Dropped, Group, Problem, Question
from pipeline.tasks import BaseTask


class Settings(mctsr.Settings):
    """Those of `mctsr`."""

    sees_gold: ClassVar[bool] = True
    shows_hint: ClassVar[bool] = False


def generate(
    question: Question, settings: Settings, given: Group | None, *, problem: Problem, task: BaseTask
) -> Asks[Rows]:
    """The tree up to the first right answer, which is chosen; that of the highest Q where none is right."""
    if problem.answer is None:
        return [Dropped(problem_id=question.id, what=question.id, reason="no_gold")]

    def is_right(prefix: Prefix) -> bool:
        return prefix.finish in ("eos", "stop") and task.correct(prefix.answer, problem)

    return (yield from mctsr.search(question, settings, is_right))
