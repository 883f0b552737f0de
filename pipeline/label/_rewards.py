"""What the labellers of rewards and advantages share: a trace's reward, its steps' rewards, and sums of them.

A reward is `Label.value` (an outcome labeller sets 1 or 0); rewards by step are `Label.step_scores`. Numbers
of any sign are allowed: which they are says the labeller that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.rows import Dropped, Group, Label, Trace


def reward_of(label: Label | None) -> float | None:
    """A trace's reward; None where nobody gave one, or no number."""
    if label is None or label.value is None or not math.isfinite(label.value):
        return None
    return float(label.value)


def step_rewards_of(trace: Trace, label: Label | None) -> list[float] | None:
    """One reward a step (an unknown one counts 0); None where there are none, or not one a step."""
    if label is None or label.step_scores is None or len(label.step_scores) != len(trace.step_ends):
        return None
    if all(score is None for score in label.step_scores):
        return None
    return [0.0 if score is None or not math.isfinite(score) else float(score) for score in label.step_scores]


def to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """Of each step the discounted sum of its own and all later rewards (1, 0, 2 at .5 -> 1.5, 1, 2)."""
    sums: list[float] = []
    after = 0.0
    for reward in reversed(rewards):
        after = reward + gamma * after
        sums.append(after)
    return sums[::-1]


def by_turn(group: Group) -> list[list[Trace]]:
    """The traces that answer the same prompt of a problem: those of one turn."""
    turns: dict[int, list[Trace]] = {}
    for trace in group.traces:
        turns.setdefault(trace.turn, []).append(trace)
    return [turns[turn] for turn in sorted(turns)]


def dropped(trace: Trace, reason: str) -> Dropped:
    """A trace that a labeller has nothing to say of."""
    return Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason)
