"""Process labels by the first mistake (Uesato et al., arXiv:2211.14275, section 2.3): steps before the first
major mistake are 1, that step and all after it 0.

In the paper people mark the mistake; here the task's exact step oracle does. A mistake is a step after which
no right end can be reached, or that states something false. Traces of a task whose oracle does not know are
dropped (`no_oracle`). These are the labels that every other labeller approximates: a reward model trained on
them is the ceiling of what step labels can give.
"""

from __future__ import annotations

from itertools import accumulate
from operator import and_

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Group, Label, Problem
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Nothing to set."""


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label a trace, with its outcome where that is known; or a Dropped."""
    yield from ()  # asks nothing
    rows: list[Label | Dropped] = []
    for trace in group.traces:
        verdicts = task.step_oracle(problem, trace.steps) if trace.steps else []
        if not verdicts or len(verdicts) != len(trace.steps):
            why = "no_oracle" if trace.steps else "no_steps"
            rows.append(Dropped(problem_id=problem.id, what=trace.id, reason=why))
            continue
        scores = until_wrong(verdicts)
        right, reason = (None, "") if problem.answer is None else verdict(trace, problem, task)
        rows.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                correct=right,
                step_scores=list(scores),
                value=scores[-1],
                reason=reason,
                labeller="first_error",
            )
        )
    return rows


def until_wrong(verdicts: list[bool]) -> list[float]:
    """1 up to the first wrong step, 0 from there on (by hand: right, wrong, right -> 1, 0, 0)."""
    return [float(sound) for sound in accumulate(verdicts, and_)]
