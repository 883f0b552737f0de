"""What a reward model makes of samples: their scores, and how its best of k fares as k grows.

Best of n moves away from the policy by KL = log n - (n - 1) / n; a reward model that is asked too hard goes
on praising its choice (`score@k`) while gold (`best@k`) falls: Gao et al., arXiv:2210.10760.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from pipeline.evaluate import Metric
from pipeline.evaluate.intervals import best_at, score_at
from pipeline.rows import Label, Trace
from pipeline.vote import usable
from pipeline.vote.aggregate import Aggregate, aggregate


class Scored(Protocol):
    """One model's samples of one problem."""

    @property
    def right(self) -> tuple[bool, ...]: ...

    @property
    def answers(self) -> tuple[str | None, ...]: ...

    @property
    def scores(self) -> tuple[float | None, ...]: ...


def judged(
    traces: Sequence[Trace], scores: Sequence[Sequence[float]], by: str, rule: Aggregate
) -> tuple[list[Trace], list[Label]]:
    """Traces with a PRM's aggregated score, and the step scores as Labels; a step cut by a limit has none."""
    marked, labels = [], []
    for trace, steps in zip(traces, scores, strict=True):
        known = list(steps)
        marked.append(replace(trace, score=aggregate(known, rule) if known else None))
        padded = [*known, *[None] * (len(trace.steps) - len(known))]
        labels.append(Label(problem_id=trace.problem_id, trace_id=trace.id, step_scores=padded, labeller=by))
    return marked, labels


def best_metrics(ks: Sequence[int]) -> Iterator[Metric]:
    """What is declared of the best of k."""
    for k in ks:
        yield Metric(f"best@{k}", f"best of {k} by score", short=f"best@{k}", gain=f"gain/best@{k}")
        yield Metric(f"score@{k}", f"the best of {k}'s own score", share=False)


def best_pairs(found: Iterable[Scored], ks: Sequence[int]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """For each metric its (num, den) of each problem. As in the vote `best`, a sample without an answer or
    without a score is nobody's choice; a problem with fewer than k samples, or without any choice, counts in
    neither metric."""
    rows = [(_choices(one), one.right) for one in found]
    for k in ks:
        enough = [len(scores) >= k and max(scores) != -math.inf for scores, _ in rows]
        pairs = list(zip(rows, enough, strict=True))
        yield f"best@{k}", [(best_at(s, right, k), 1.0) if ok else (0.0, 0.0) for (s, right), ok in pairs]
        yield f"score@{k}", [(score_at(s, k), 1.0) if ok else (0.0, 0.0) for (s, _), ok in pairs]


def _choices(one: Scored) -> list[float]:
    """The samples' scores; -infinity where nobody can choose one."""
    found = []
    for score, answer in zip(one.scores, one.answers, strict=True):
        known = usable(score)
        found.append(-math.inf if known is None or answer is None else known)
    return found
