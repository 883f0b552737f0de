"""SCoRe's rewards of two-turn episodes, and their advantages (arXiv:2409.12917, sections 5.1 and 5.2).

    first:  {label: shaped, from: check, stage: 1, rounds: [1, 40]}
    second: {label: shaped, from: check, stage: 2, alpha: 10, rounds: [41, null]}

With r1, r2 the attempts' rewards (`Label.value` of `outcome`), the second attempt gets r2 + alpha (r2 - r1)
in stage 2: 11 where it mends, 1 and 0 where it leaves what was right or wrong, -10 where it spoils (alpha
10); in stage 1 it gets r2. The first attempt gets r1 in stage 2, and nothing in stage 1, where its tokens
feel the KL term alone. `gamma` adds the second attempt's reward to the first one's: the paper's 0 gives
each turn its own.

`Label.value` becomes the reward; the advantage is that less the mean of the problem's other episodes at the
same turn (RLOO; the paper names no baseline). `reference` names the model that the policy is held near,
such as `policy@0`: each step then pays for the log-ratios from it to the end, `beta_first` times in stage
1's first attempt, `beta` times elsewhere. Where the reference is the model's own base, the training's `kl`
and `select: episodes, kl_weight: [10, 1]` do the same in the loss.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Logprob, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped, reward_of, to_go
from pipeline.label.group_advantage import advantages
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask

Rows = list[Label | Trace | Dropped]
Episode = tuple[Trace, Trace]


class Settings(LabelSettings):
    """The paper's: alpha 10, gamma 0, beta 0.01, and 0.1 for stage 1's first attempts."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    stage: Literal[1, 2] = Field(description="1: learn another second attempt; 2: both, with the bonus")
    alpha: float = Field(10.0, ge=0, description="times the change from the first to the second attempt")
    gamma: float = Field(0.0, ge=0, le=1, description="of the second attempt's reward, the first one's part")
    reference: PolicyName | None = Field(
        None, description="held near this model, such as policy@0, by the advantages; none: not here"
    )
    beta: float = Field(0.01, ge=0, description="weight of the log-ratio to the reference")
    beta_first: float = Field(0.1, ge=0, description="the same of stage 1's first attempts")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        read = {self.reference: given * task.typical_tokens} if self.reference else {}
        return Cost({}, read, given)

    def weight(self, turn: int) -> float:
        """Of the log-ratio, in the first attempt (0) or the second (1)."""
        return self.beta_first if self.stage == 1 and turn == 0 else self.beta


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[Rows]:
    """A Label for each attempt of a whole episode; a Dropped for the others (`no_reward`, `no_episode`)."""
    episodes, rows = paired(group)
    if not episodes:
        return rows
    rewards = [shaped(*_both(group, episode), settings) for episode in episodes]
    away = yield from _ratios(episodes, settings)
    for turn in (0, 1):
        own = [pair[turn] for pair in rewards]
        for place, relative in enumerate(advantages(own, "rloo")):
            trace = episodes[place][turn]
            paid = to_go(away[trace.id], 1.0) if away else []
            weight = settings.weight(turn)
            rows.append(
                Label(
                    problem_id=trace.problem_id,
                    trace_id=trace.id,
                    value=own[place],
                    advantage=[relative - weight * each for each in paid] or [relative],
                    labeller=f"shaped/{settings.stage}",
                )
            )
    return rows


def shaped(r1: float, r2: float, settings: Settings) -> tuple[float, float]:
    """The rewards of the two attempts (0 and 1 at alpha 10, stage 2 -> 0, 11)."""
    second = r2 + settings.alpha * (r2 - r1) if settings.stage == 2 else r2
    first = r1 if settings.stage == 2 else 0.0
    return first + settings.gamma * second, second


def paired(group: Group) -> tuple[list[Episode], Rows]:
    """The episodes whose attempts both have a reward, in order of the second ones, and what is left over."""
    by_id = {trace.id: trace for trace in group.traces}
    kept, rows, named = list[Episode](), list[Label | Trace | Dropped](), set[str]()
    for second in group.traces:
        first = by_id.get(second.parent or "")
        if first is None or not (first.is_attempt and second.is_attempt):
            continue
        if None not in _rewards(group, (first, second)) and not named & {first.id, second.id}:
            kept.append((first, second))
            named |= {first.id, second.id}
    for trace in group.traces:
        if trace.id not in named:
            lone = reward_of(group.label(trace)) is not None
            rows.append(dropped(trace, "no_episode" if lone else "no_reward"))
    return kept, rows


def _rewards(group: Group, episode: Episode) -> list[float | None]:
    return [reward_of(group.label(trace)) for trace in episode]


def _both(group: Group, episode: Episode) -> tuple[float, float]:
    r1, r2 = _rewards(group, episode)
    return r1 or 0.0, r2 or 0.0


def _ratios(episodes: list[Episode], settings: Settings) -> Asks[dict[str, list[float]]]:
    """For each trace the log-ratio to the reference, a number a step; empty where nothing is held."""
    if settings.reference is None:
        return {}
    traces = [trace for pair in episodes for trace in pair if trace.token_ids]
    theirs = yield Logprob([prefix_of(trace) for trace in traces], by=settings.reference)
    found: dict[str, list[float]] = {trace.id: [] for pair in episodes for trace in pair}
    for trace, other in zip(traces, theirs, strict=True):
        gaps = [mine - his for mine, his in zip(trace.logprobs, other, strict=True)]
        starts = [0, *trace.step_ends]
        found[trace.id] = [sum(gaps[a:b]) for a, b in zip(starts, trace.step_ends, strict=False)]
    return found
