"""PPO-max's brakes on the reward (Secrets of RLHF, part I, arXiv:2307.04964, section 5.3, and its code).

A reward is brought to the scale of the round, clipped, and pays for leaving a reference:

    r'_k = clip((r_k - m) / s, -c, c) - kl * sum over the step's tokens of log p / p_reference

Rewards are `Label.step_scores` (of `step_reward`), or `Label.value` at the last step. m and s are their mean
and deviation over the round; the released code goes on counting from batch to batch, which no stage could
repeat. As there the mean stays (`center: false`), for advantages are normalised again (`episodes`, `whiten`).
Its values are the defaults: clip 10, KL weight 0.02 at every token; `scale` and the clip are flags there, off
unless asked for. log p is what the trace was drawn by.

The reference is a model of the recipe: `policy@0`, as it was before the first round, or another. What comes
out are rewards by step for `gae` (`step_scores`). Value clipping is `train: prm`'s `value_clip`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from pipeline.asks import Asks, Logprob, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped, reward_of, step_rewards_of
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask

TINY = 1e-8  #: added to a deviation
Moments = tuple[int, float, float]  #: rewards, their sum and that of their squares


class Settings(LabelSettings):
    """The released code's values."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    scale: bool = Field(True, description="divide rewards by their deviation over the round")
    center: bool = Field(False, description="take their mean off too")
    clip: float | None = Field(10.0, gt=0, description="no reward is larger than this, scaled")
    kl: float = Field(0.02, ge=0, description="price of a nat from the reference, at each token; 0: none")
    reference: PolicyName | None = Field(None, description="what the policy is held near: policy@0")

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        if self.kl and self.reference is None:
            raise ValueError(
                f"kl: {self.kl:g} is the price of leaving a reference: name one (reference: policy@0), or "
                "set kl: 0"
            )
        if self.center and not self.scale:
            raise ValueError("center: rewards are centred where they are scaled: set scale: true")
        return self

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        read = {self.reference: given * task.typical_tokens} if self.kl and self.reference else {}
        return Cost({}, read, given)


def rewards_of(trace: Trace, label: Label | None) -> list[float] | None:
    """The rewards that there are: one a step, or the trace's own; None without any."""
    if (steps := step_rewards_of(trace, label)) is not None:
        return steps
    whole = reward_of(label)
    return None if whole is None else [whole]


def survey(group: Group, settings: Settings) -> Moments:
    """Of a problem's rewards: how many, their sum, and that of their squares."""
    found = [r for trace in group.traces for r in rewards_of(trace, group.label(trace)) or ()]
    return len(found), math.fsum(found), math.fsum(r * r for r in found)


def reduce(surveys: Iterable[Moments], settings: Settings) -> tuple[float, float]:
    """(mean, deviation) of the round's rewards as they are taken off and divided by; (0, 1): not at all."""
    number, total, squares = 0, 0.0, 0.0
    for one in surveys:
        number, total, squares = number + one[0], total + one[1], squares + one[2]
    if not settings.scale or number < 2:
        return 0.0, 1.0
    mean = total / number
    deviation = math.sqrt(max(squares - number * mean * mean, 0.0) / (number - 1))
    return (mean if settings.center else 0.0), deviation + TINY


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask, *, whole: tuple[float, float]
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label with one reward a step for each trace with a reward and a step; a Dropped for the others."""
    rows: list[Label | Trace | Dropped] = []
    kept: list[tuple[Trace, list[float]]] = []
    for trace in group.traces:
        found = rewards_of(trace, group.label(trace))
        if not trace.step_ends:
            rows.append(dropped(trace, "no_steps"))
        elif found is None:
            rows.append(dropped(trace, "no_reward"))
        elif settings.kl and len(trace.logprobs) != len(trace.token_ids):
            rows.append(dropped(trace, "no_logprobs"))
        else:
            kept.append((trace, found))
    theirs: list[list[float]] = [[]] * len(kept)
    if kept and settings.kl and settings.reference:
        theirs = yield Logprob([prefix_of(trace) for trace, _ in kept], by=settings.reference)
    for (trace, found), reference in zip(kept, theirs, strict=True):
        rewards = [0.0] * (len(trace.step_ends) - len(found)) + [shaped(r, whole, settings) for r in found]
        if settings.kl:
            prices = log_ratios(trace.logprobs, reference, trace.step_ends)
            rewards = [r - settings.kl * paid for r, paid in zip(rewards, prices, strict=True)]
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                step_scores=list(rewards),
                labeller="shaped_reward",
            )
        )
    return rows


def shaped(reward: float, whole: tuple[float, float], settings: Settings) -> float:
    """A reward on the round's scale, clipped (3 at mean 1, deviation .1, clip 10 -> 10)."""
    mean, deviation = whole
    found = (reward - mean) / deviation
    return found if settings.clip is None else min(max(found, -settings.clip), settings.clip)


def log_ratios(ours: Sequence[float], theirs: Sequence[float], ends: Sequence[int]) -> list[float]:
    """Of each step the sum of its tokens' log-ratios (-1, -1, -1 against -2, -1, -1.5 to 1, 3 -> 1, .5)."""
    starts = [0, *ends[:-1]]
    return [
        math.fsum(ours[start:end]) - math.fsum(theirs[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]
