"""Step labels by comparison with right completions (DiVeRSe, Li et al., arXiv:2206.02336, section 3.3).

Positive paths are the task's own solution and every trace whose answer is right; all their steps are 1. A
step of another trace is 1 as long as the results of the steps so far, as a multiset, are contained in those
of *some* positive path, whole and in any order; so along a trace labels fall once and never rise. A step that
states no result has no label; a wrong trace without any result is 0 throughout. What a step's result is, the
task says (`Task.step_result`): the number that it comes to.

No roll-out and no model is asked, so a label costs nothing; how often it is true, `evaluate: label_quality`
says. Of two steps that come to the same number it cannot tell which was meant. Not here: the comparison of
texts by an entailment model, for tasks without results, whose traces are dropped (`no_results`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Group, Label, Problem
from pipeline.tasks import BaseTask

Results = Sequence[str | None]


class Settings(LabelSettings):
    """Which completions count as right ones."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    gold: bool = Field(True, description="the task's own solution is a positive path, where it has one")


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label a trace, or a Dropped where nothing can be compared."""
    yield from ()  # asks nothing
    verdicts = [
        (False, "no_gold") if problem.answer is None else verdict(trace, problem, task)
        for trace in group.traces
    ]
    stated = [[task.step_result(step) for step in trace.steps] for trace in group.traces]
    positive = [results for results, (right, _) in zip(stated, verdicts, strict=True) if right]
    gold = task.gold_completion(problem) if settings.gold and problem.answer is not None else None
    if gold:
        positive.append([task.step_result(step) for step in task.steps(gold)])
    sums = [Counter(result for result in results if result is not None) for results in positive]
    reason = why_not(problem, stated, sums)
    if reason:
        return [Dropped(problem_id=problem.id, what=trace.id, reason=reason) for trace in group.traces]
    rows: list[Label | Dropped] = []
    for trace, results, (right, why) in zip(group.traces, stated, verdicts, strict=True):
        scores: list[float | None] = [1.0] * len(results) if right else list(matched(results, sums))
        rows.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                correct=right,
                step_scores=scores,
                value=float(right),
                reason=why,
                labeller="match",
            )
        )
    return rows


def why_not(problem: Problem, stated: Sequence[Results], sums: Sequence[Counter[str]]) -> str:
    """Why nothing of a problem can be compared, or ""."""
    if problem.answer is None:
        return "no_gold"
    if not sums:
        return "no_right_path"
    nothing = all(result is None for results in stated for result in results) or not any(sums)
    return "no_results" if nothing else ""


def matched(results: Results, sums: Sequence[Counter[str]]) -> list[float | None]:
    """1 while the results so far are contained in some positive path's, then 0 (by hand: 3, 5, 9 against {5,
    3, 15} -> 1, 1, 0).
    """
    if all(result is None for result in results):
        return [0.0] * len(results)
    so_far, found = Counter[str](), list[float | None]()
    for result in results:
        if result is None:
            found.append(None)
            continue
        so_far[result] += 1
        found.append(float(any(so_far <= whole for whole in sums)))
    return found
