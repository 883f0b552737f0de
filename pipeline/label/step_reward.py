"""Rewards by step from a model: what `group_advantage` (`process`) and `gae` make advantages of.

One reward at the end of each step, 0 elsewhere:

- `value`: what a reward model says of the step (step-PPO of Math-Shepherd, arXiv:2312.08935, 3.4)
- `value` and `plus`: Q + alpha A, A of a model trained on advantages (PAV, arXiv:2410.08146, eq. 5; alpha 3
  to 5 there)
- `implicit` against `reference`: beta times the log-ratio of the step's tokens under the two (PRIME,
  arXiv:2502.01456, eq. 3)

`outcome` adds the trace's own reward to its last step. `change: true` takes what a step adds to the score
before it, so that the sum is the last score however many steps there are: with plain scores a policy earns by
writing more of them. `last: true` takes the last score alone: PPO with an outcome reward model, which
Math-Shepherd's is held against. Traces that have no step are dropped.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Logprob, Score, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped, reward_of
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, ModelName, RewardModelName, added
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Whose word counts."""

    sees_gold: ClassVar[bool] = False

    value: RewardModelName | None = Field(None, description="the reward model whose step scores are rewards")
    plus: RewardModelName | None = Field(None, description="a model of advantages to add, alpha times; PAV")
    alpha: float = Field(3.0, ge=0, description="weight of `plus`; PAV: 5 (2B), 3 (9B)")
    implicit: ModelName | None = Field(
        None, description="a model whose log-ratio to `reference` is the reward"
    )
    reference: ModelName | None = Field(None, description="what `implicit` was trained from")
    beta: float = Field(0.05, gt=0, description="of the log-ratio; PRIME 0.05")
    outcome: float = Field(0.0, ge=0, description="weight of the trace's own reward, at its last step")
    change: bool = Field(False, description="reward what a step adds to the score before it")
    last: bool = added(False, description="the last step's score alone: PPO with an outcome reward model")

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        return (*self.needs, "Label") if self.outcome else self.needs

    @model_validator(mode="after")
    def _one_source(self) -> Settings:
        if (self.value is None) == (self.implicit is None):
            raise ValueError("give one of value (a reward model) and implicit (a log-ratio)")
        if (self.implicit is None) != (self.reference is None):
            raise ValueError("implicit and reference stand together: the log-ratio is between the two")
        if self.implicit is not None and self.implicit == self.reference:
            raise ValueError(
                f"reference: {self.reference} is `implicit` itself, so each reward would be 0: name the "
                "weights that it began from, as PRIME does"
            )
        if self.plus is not None and self.value is None:
            raise ValueError("plus: advantages are added to the scores of value")
        if self.last and (self.value is None or self.plus is not None or self.change):
            raise ValueError(
                "last: the last score of value is the reward: leave out implicit, plus and change"
            )
        return self

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        asked = [name for name in (self.value, self.plus, self.implicit, self.reference) if name]
        read: dict[str, float] = {}
        for name in asked:
            read[name] = read.get(name, 0.0) + given * task.typical_tokens
        return Cost({}, read, given)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label with one reward a step for each trace that has steps; a Dropped for the others."""
    rows: list[Label | Trace | Dropped] = []
    kept: list[Trace] = []
    for trace in group.traces:
        if not trace.step_ends:
            rows.append(dropped(trace, "no_steps"))
        elif settings.outcome and reward_of(group.label(trace)) is None:
            rows.append(dropped(trace, "no_reward"))
        else:
            kept.append(trace)
    if not kept:
        return rows
    prefixes = [prefix_of(trace) for trace in kept]
    if settings.value is not None:
        asks = [Score(prefixes, by=name) for name in (settings.value, settings.plus) if name]
        scores, *gains = yield All(*asks)
    else:
        ours, theirs = yield All(
            *(Logprob(prefixes, by=name) for name in (settings.implicit, settings.reference) if name)
        )
        scores = [log_ratios(*three, settings.beta) for three in zip(kept, ours, theirs, strict=True)]
        gains = []
    for place, trace in enumerate(kept):
        rewards = list(scores[place])
        if settings.change:
            rewards = [now - before for before, now in zip([0.0, *rewards], rewards, strict=False)]
        if settings.last:
            rewards = [0.0] * (len(rewards) - 1) + rewards[-1:]
        if gains:
            rewards = [q + settings.alpha * a for q, a in zip(rewards, gains[0][place], strict=True)]
        if settings.outcome:
            rewards[-1] += settings.outcome * (reward_of(group.label(trace)) or 0.0)
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                step_scores=list(rewards),
                labeller="step_reward",
            )
        )
    return rows


def log_ratios(trace: Trace, ours: list[float], theirs: list[float], beta: float) -> list[float]:
    """beta times the log-ratio of each step's tokens (a step's sum 4 at .05 -> .2)."""
    found, start = [], 0
    for end in trace.step_ends:
        found.append(beta * (math.fsum(ours[start:end]) - math.fsum(theirs[start:end])))
        start = end
    return found
