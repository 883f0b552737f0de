"""Generalised advantage estimation with a critic; the action is a whole step.

delta_k = r_k + gamma V_{k+1} - V_k, A_k = delta_k + gamma lambda A_{k+1} (arXiv:1506.02438), over steps as in
OpenR's step-wise PPO and Math-Shepherd's (arXiv:2312.08935, 3.4). Rewards are `Label.step_scores` of
`step_reward`; where there are none, `Label.value` stands at the last step. The critic is a named value model:
its score after step k is V_{k+1}, and nothing follows the last step. What a question is worth before its
first step no step score says: `start: group` takes the mean return of the problem's other traces, `zero` 0.

The Label carries the advantages, which all tokens of a step share. With `returns: true` it carries as
`step_scores` what the critic should have said after each step, A_{k+1} + V_{k+1}, and 0 after the last: PPO's
targets (arXiv:1707.06347). `select: step_values` makes rows of them and `train: prm` goes on with the critic,
`target: advantage` where returns may leave 0 to 1 (a score of any other target is clamped), `value_clip: 0.2`
as in PPO. A critic is also what a labeller's values train (`shepherd`, `tree_value`). Critic warm-up: let the
policy's training begin later (`rounds: [4, null]`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Score, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import by_turn, dropped, reward_of, step_rewards_of, to_go
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, RewardModelName, added
from pipeline.tasks import BaseTask

Rows = list[Label | Trace | Dropped]


class Settings(LabelSettings):
    """PPO's defaults."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    critic: RewardModelName = Field(description="the value model that judges each state")
    gamma: float = Field(1.0, ge=0, le=1, description="discount a step; OpenR 0.95")
    lam: float = Field(0.95, ge=0, le=1, description="lambda: 0 trusts the critic alone, 1 the rewards alone")
    start: Literal["group", "zero"] = Field(
        "group", description="the value of a question: the mean return of its other traces, or 0"
    )
    returns: bool = added(
        False, description="leave as step_scores what the critic should have said after each step"
    )

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost({}, {self.critic: given * task.typical_tokens}, given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[Rows]:
    """A Label with one advantage a step for each trace with a reward and a step; a Dropped for the others."""
    rows: Rows = []
    for traces in by_turn(group):
        rows += yield from _turn(traces, group, settings)
    return rows


def _turn(traces: list[Trace], group: Group, settings: Settings) -> Asks[Rows]:
    rows: Rows = []
    kept: list[tuple[Trace, list[float]]] = []
    for trace in traces:
        label_of = group.label(trace)
        rewards, whole = step_rewards_of(trace, label_of), reward_of(label_of)
        if not trace.step_ends:
            rows.append(dropped(trace, "no_steps"))
        elif rewards is None and whole is None:
            rows.append(dropped(trace, "no_reward"))
        else:
            kept.append((trace, rewards or [0.0] * (len(trace.step_ends) - 1) + [whole or 0.0]))
    if not kept:
        return rows
    scores = yield Score([prefix_of(trace) for trace, _ in kept], by=settings.critic)
    starts = first_values([to_go(rewards, settings.gamma)[0] for _, rewards in kept], settings.start)
    for (trace, rewards), after, first in zip(kept, scores, starts, strict=True):
        values = [first, *after[:-1]]
        found = estimates(rewards, values, settings.gamma, settings.lam)
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                advantage=list(found),
                step_scores=list(targets(found, values)) if settings.returns else None,
                labeller="gae",
            )
        )
    return rows


def targets(advantages: Sequence[float], values: Sequence[float]) -> list[float]:
    """What a critic should say after each step: the return from the next one on, 0 after the last
    (.7655, .49, .2 and .2, .5, .8 -> .99, 1, 0).
    """
    return [a + v for a, v in zip(advantages[1:], values[1:], strict=True)] + [0.0]


def first_values(returns: Sequence[float], start: str) -> list[float]:
    """What the question is worth to each trace: the mean return of the others, or 0."""
    others = len(returns) - 1
    if start == "zero" or others < 1:
        return [0.0] * len(returns)
    total = math.fsum(returns)
    return [(total - mine) / others for mine in returns]


def estimates(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """A_k from rewards and the value before each step (0, 0, 1; .2, .5, .8; 1, .95 -> .7655, .49, .2)."""
    found: list[float] = []
    later, value_after = 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        later = reward + gamma * value_after - value + gamma * lam * later
        value_after = value
        found.append(later)
    return found[::-1]
