"""Right or wrong by the final answer alone (STaR; as a training label also Cobbe et al., arXiv:2110.14168).

A right answer does not make a right rationale: `evaluate` measures trace errors where the task has an
oracle. A completion cut by a limit is wrong whatever it holds, because its answer may have been cut too.
Problems whose answer nobody knows are dropped.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Nothing to set."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)


def verdict(trace: Trace, problem: Problem, task: BaseTask) -> tuple[bool, str]:
    """Is the trace right, and if not, why: truncated, no_answer or wrong_answer."""
    if trace.finish in ("length", "budget"):
        return False, "truncated"
    if trace.answer is None:
        return False, "no_answer"
    if task.correct(trace.answer, problem):
        return True, ""
    return False, "wrong_answer"


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """One Label a trace, or one Dropped (`no_gold`; `no_attempt` for a critique, a verdict and such)."""
    yield from ()  # asks nothing
    if problem.answer is None:
        return [Dropped(problem_id=problem.id, what=trace.id, reason="no_gold") for trace in group.traces]
    rows: list[Label | Trace | Dropped] = []
    for trace in group.traces:
        if not trace.is_attempt:
            rows.append(Dropped(problem_id=problem.id, what=trace.id, reason="no_attempt"))
            continue
        correct, reason = verdict(trace, problem, task)
        rows.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                correct=correct,
                value=float(correct),
                reason=reason,
                labeller="outcome",
            )
        )
    return rows
