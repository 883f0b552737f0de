"""Advantages of a problem's samples against one another: no critic.

The reward is `Label.value` (of `outcome`, `plurality`, ...). With r a group's rewards, m their mean:

- grpo: (r - m) / (s + 1e-4), s with n - 1 below as in trl (DeepSeekMath, arXiv:2402.03300, 4.1.1)
- dr_grpo: r - m (arXiv:2503.20783)
- rloo: r - mean of the others (arXiv:2402.14740)
- max_rl: (r - m) / m, 0 where all are wrong (arXiv:2602.02710); rewards from 0 up, others are left out
- reinforce_pp: r - m; `select: episodes` whitens over the round with `whiten: true` (REINFORCE++-baseline,
  arXiv:2501.03262)
- pass_at_k: the analytic advantage of pass@k for right or wrong (arXiv:2508.10751)
- best_of_k: the best sample alone gets its lead over the second (arXiv:2503.19595)

`process` adds rewards by step (`Label.step_scores` of `step_reward`), made relative the same way and summed
to the end: GRPO with process supervision (arXiv:2402.03300, 4.1.3), PRIME with `rloo` (arXiv:2502.01456, eq.
5: an answer's mean step reward stands for it in the others' baseline). A group whose rewards are all equal
gets zeros, which a training counts (`equal_groups`) and `select: episodes, where: mixed` leaves out; with
`process` hardly any group is equal in all, and `between` looks at the rewards themselves. Turns of a
conversation are groups of their own. Not here: a critic (`gae`), KL in the reward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.label._rewards import by_turn, dropped, reward_of, step_rewards_of, to_go
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import added
from pipeline.tasks import BaseTask

TINY = 1e-4  #: added to a deviation, as trl does
Rows = list[Label | Trace | Dropped]


class Settings(LabelSettings):
    """Whose formula, and what counts."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    kind: Literal["grpo", "dr_grpo", "rloo", "max_rl", "reinforce_pp", "pass_at_k", "best_of_k"] = Field(
        "grpo", description="how rewards become advantages"
    )
    k: int = Field(4, ge=1, description="of pass_at_k: tries of which one has to be right")
    outcome: float = Field(1.0, ge=0, description="weight of the advantages of whole traces")
    process: float = Field(0.0, ge=0, description="weight of those of rewards by step; 0: none are read")
    gamma: float = Field(
        1.0, ge=0, le=1, description="discount of later steps' rewards; 0: each step by its own alone (PAV)"
    )
    overlong: tuple[int, int] | None = Field(
        None,
        description="[from, to]: a reward falls by 0 to 1 between these tokens (DAPO: limit - cache, limit)",
    )
    between: tuple[float, float] | None = added(
        None,
        description="only groups whose mean reward lies within, before `overlong`; others are left out as "
        "too_hard or too_easy (PRIME: [0.2, 0.8])",
    )

    @property
    def samples_wanted(self) -> int:
        return self.k if self.kind == "pass_at_k" else 2

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.overlong and not 0 <= self.overlong[0] < self.overlong[1]:
            raise ValueError(f"overlong: {list(self.overlong)}: the first is below the second")
        if self.between and not (self.outcome and self.between[0] <= self.between[1]):
            raise ValueError(
                f"between: {list(self.between)}: bounds of the mean reward, the first not above the second, "
                "and with outcome above 0, or no reward is read"
            )
        if self.process and self.kind in ("pass_at_k", "best_of_k", "max_rl"):
            raise ValueError(f"process: rewards by step have no {self.kind}; take grpo, dr_grpo or rloo")
        if self.overlong and self.kind == "pass_at_k":
            raise ValueError(
                "overlong: pass_at_k is of answers that are right or wrong, with no penalty between"
            )
        if self.overlong and self.kind == "max_rl":
            raise ValueError(
                "overlong: max_rl divides by the mean reward, which a penalty brings to 0 and below it; "
                "take grpo, dr_grpo or rloo, or mask long answers (select: episodes, truncated: drop)"
            )
        if not (self.outcome or self.process):
            raise ValueError("outcome and process are both 0: nothing would count")
        return self


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[Rows]:
    """A Label with an advantage for each trace that has a reward: one number, or one a step (`process`)."""
    yield from ()  # asks nothing
    rows: Rows = []
    for traces in by_turn(group):
        rows += _turn(traces, group, settings)
    return rows


def _turn(traces: list[Trace], group: Group, settings: Settings) -> Rows:
    plain = [reward_of(group.label(trace)) for trace in traces]
    if reason := outside([reward for reward in plain if reward is not None], settings):
        return [dropped(trace, reason) for trace in traces]
    whole = [shaped(trace, r, settings.overlong) for trace, r in zip(traces, plain, strict=True)]
    steps = [step_rewards_of(trace, group.label(trace)) for trace in traces] if settings.process else []
    rows: Rows = []
    known: list[int] = []
    for place, trace in enumerate(traces):
        if settings.outcome and whole[place] is None:
            rows.append(dropped(trace, "no_reward"))
        elif settings.process and steps[place] is None:
            rows.append(dropped(trace, "no_step_rewards"))
        else:
            known.append(place)
    rewards = [value for place in known if (value := whole[place]) is not None]
    if settings.outcome and (reason := unfit(rewards, settings)):
        return [*rows, *(dropped(traces[place], reason) for place in known)]
    outcome = advantages(rewards, settings.kind, settings.k) if settings.outcome else [0.0] * len(known)
    process = (
        step_advantages([steps[place] or [] for place in known], settings.kind, settings.gamma)
        if settings.process
        else None
    )
    for number, place in enumerate(known):
        alone = settings.outcome * outcome[number]
        found = [alone] if process is None else [alone + settings.process * a for a in process[number]]
        rows.append(
            Label(
                problem_id=traces[place].problem_id,
                trace_id=traces[place].id,
                advantage=list(found),
                labeller=f"group_advantage/{settings.kind}",
            )
        )
    return rows


def outside(rewards: Sequence[float], settings: Settings) -> str:
    """Why a group is left out for its mean reward; empty where it is not."""
    if settings.between is None or not rewards:
        return ""
    low, high = settings.between
    mean = fmean(rewards)
    return "too_hard" if mean < low else "too_easy" if mean > high else ""


def shaped(trace: Trace, reward: float | None, overlong: tuple[int, int] | None) -> float | None:
    """The reward less DAPO's soft penalty of length (arXiv:2503.14476, eq. 13: 90 of 80 to 100 -> -0.5)."""
    if reward is None or overlong is None:
        return reward
    start, end = overlong
    return reward - min(max((len(trace.token_ids) - start) / (end - start), 0.0), 1.0)


def unfit(rewards: Sequence[float], settings: Settings) -> str:
    """Why a group's rewards do not fit the formula; empty where they do."""
    if settings.kind == "max_rl":
        return "reward_below_0" if any(reward < 0 for reward in rewards) else ""
    if settings.kind != "pass_at_k":
        return ""
    if any(reward not in (0.0, 1.0) for reward in rewards):
        return "not_right_or_wrong"
    return "fewer_than_k" if len(rewards) < settings.k else ""


def advantages(rewards: Sequence[float], kind: str, k: int = 4) -> list[float]:
    """One advantage a reward; zeros for a group of one, which has nothing to be compared with."""
    if len(rewards) < 2 or max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean, number = fmean(rewards), len(rewards)
    match kind:
        case "grpo":
            return [(r - mean) / (stdev(rewards) + TINY) for r in rewards]
        case "rloo":
            return [(r - mean) * number / (number - 1) for r in rewards]
        case "max_rl":
            return [(r - mean) / mean if mean > 0 else 0.0 for r in rewards]
        case "pass_at_k":
            return pass_at_k(rewards, k)
        case "best_of_k":
            best, second = sorted(rewards, reverse=True)[:2]
            return [best - second if r == best else 0.0 for r in rewards]
    return [r - mean for r in rewards]  # dr_grpo; reinforce_pp, before it is whitened


def pass_at_k(rewards: Sequence[float], k: int) -> list[float]:
    """The analytic advantages of pass@k: of right and of wrong samples, each as it stands in all groups of k
    (n 8, 2 right, k 4 -> 0.52223 and -0.17408).
    """
    number, right = len(rewards), sum(r > 0 for r in rewards)
    fails = math.comb(number - right, k) / math.comb(number, k)
    spread = math.sqrt(fails * (1 - fails))
    if not spread:
        return [0.0] * number
    beside = math.comb(number - right - 1, k - 1) / math.comb(number - 1, k - 1)
    return [(fails if r > 0 else fails - beside) / spread for r in rewards]


def step_advantages(steps: Sequence[Sequence[float]], kind: str, gamma: float) -> list[list[float]]:
    """Rewards by step, each made relative to the group's, summed from each step to the end."""
    flat = [reward for one in steps for reward in one]
    if kind == "rloo":
        means = [fmean(one) if one else 0.0 for one in steps]
        others = max(len(means) - 1, 1)
        bases = [(math.fsum(means) - mean) / others if len(means) > 1 else mean for mean in means]
        relative = [[r - base for r in one] for one, base in zip(steps, bases, strict=True)]
    else:
        mean = fmean(flat) if flat else 0.0
        scale = stdev(flat) + TINY if kind == "grpo" and len(flat) > 1 else 1.0
        relative = [[(r - mean) / scale for r in one] for one in steps]
    return [to_go(one, gamma) for one in relative]
