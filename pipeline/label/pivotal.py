"""Pivotal tokens: where one token changes the chance of success (phi-4, Abdin et al., arXiv:2412.08905,
section 4.3.2 and its figure 4).

p(prefix) is the share of n roll-outs that end right. A completion is split where half of its negative
log-probability lies, and each part again, until it moves p by less than `gap` or is a single token; a single
token that moves it by `gap` or more is pivotal. That finds every pivotal token where p rises or falls all
along; else it may pass over some, and never names a wrong one but by the noise of n draws. Only problems with
p in `within` are looked at: with others a token rarely matters.

What else could have been written there is drawn already: the roll-outs of the prefix before a pivotal token
begin with other tokens. Of these the one that goes the other way most is valued too (`others`: how many), so
that `select/sibling_pairs` finds an accepted and a rejected token after one prefix:

    pivots:  {label: pivotal, from: sample}
    pairs:   {select: sibling_pairs, from: pivots, tokens: 1}

Written are a Node and a Label (p) for each prefix at which a part ends, for each alternative, and a Label for
each trace that was split; its steps have no scores, for parts end inside of them. The paper does not say its
`gap` nor its n; ours are choices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Cut, Logprob, MonteCarlo, Prefix, prefix_of
from pipeline.label._prefixes import ValuedPrefix, ValuedPrefixes, usable
from pipeline.label.rollouts import RolloutSettings
from pipeline.rows import ROUNDING, Dropped, Group, Label, Node, Problem, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask


class Settings(RolloutSettings):
    """How finely a completion is looked at. `by`, whose success a token changes, is who wrote the traces."""

    makes: ClassVar[tuple[str, ...]] = ("Label", "Node", "Trace", "Dropped")

    n: int = Field(16, ge=1, description="roll-outs a prefix")
    gap: float = Field(0.2, gt=0, le=1, description="p_gap: a part that moves p by less is not split")
    within: tuple[float, float] = Field(
        (0.2, 0.8), description="[low, high]: problems whose p lies outside are dropped"
    )
    traces: int = Field(2, ge=1, description="traces split a problem, the first ones")
    others: int = Field(1, ge=0, description="alternatives valued beside a pivotal token, at most")

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if not 0 <= self.within[0] < self.within[1] <= 1:
            raise ValueError(f"within: {list(self.within)} must be two shares, low before high")
        return self

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """The question's p, and two halvings down to a token for each split trace."""
        prefixes = 2 * math.ceil(math.log2(max(2.0, task.typical_tokens))) + self.others
        rollouts = self.n * (1 + 0.5 * min(given, self.traces) * prefixes)
        return Cost({self.by: rollouts * task.typical_tokens}, {}, given)


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens first .. last - 1 of a completion, with p before and after them."""

    whole: int  #: which completion
    first: int
    last: int
    before: float
    after: float

    @property
    def moved(self) -> float:
        return self.after - self.before

    def moves(self, gap: float) -> bool:
        """Does it move p by so much or more?"""
        return abs(self.moved) >= gap - ROUNDING


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Node | Dropped]]:
    """Nodes and Labels of the prefixes valued, a Label for each trace that was split, a Dropped for each
    other one.
    """
    kept, dropped = usable(problem, group.traces, task)
    dropped += [_dropped(trace, "over_limit") for trace, *_ in kept[settings.traces :]]
    kept = kept[: settings.traces]
    if not kept:
        return [*dropped]
    places = ValuedPrefixes()
    root = Prefix(prompt=kept[0][0].prompt)
    [found] = yield valued([root], settings)
    low, high = settings.within
    if not low <= found.share <= high:
        why = "too_hard" if found.share < low else "too_easy"
        return [*dropped, *(_dropped(trace, why) for trace, *_ in kept)]
    places.counted(root, found)
    wholes = [prefix_of(trace) for trace, *_ in kept]
    surprise = yield from surprises(wholes, settings)
    for whole, (trace, right, _) in zip(wholes, kept, strict=True):
        places.ended(whole, right, trace.id)
    parts = [
        Part(i, 0, whole.num_tokens, found.share, float(right))
        for i, (whole, (_, right, _)) in enumerate(zip(wholes, kept, strict=True))
    ]
    ended = yield from split(parts, wholes, surprise, places, settings)
    pivots = [part for part in ended if part.last - part.first == 1 and part.moves(settings.gap)]
    yield from alternatives(pivots, wholes, places, settings)
    count = Counter(part.whole for part in pivots)
    return [
        *dropped,
        *(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                correct=right,
                value=float(right),
                reason=why or ("pivotal" if count[i] else "no_pivot"),
                labeller="pivotal",
            )
            for i, (trace, right, why) in enumerate(kept)
        ),
        *places.rows(problem.id, "pivotal"),
    ]


def valued(prefixes: Sequence[Prefix], settings: Settings) -> MonteCarlo:
    """p of some prefixes, with the roll-outs."""
    return settings.asking(prefixes, settings.by, keep=True)


def surprises(wholes: Sequence[Prefix], settings: Settings) -> Asks[list[list[float]]]:
    """The negative log-probability of each token: as the writer stored it, else by asking."""
    known = [[-x for x in whole.logprobs] for whole in wholes]
    missing = [
        i
        for i, (whole, found) in enumerate(zip(wholes, known, strict=True))
        if len(found) != whole.num_tokens or not all(map(math.isfinite, found))
    ]
    if missing:
        replies = yield Logprob([wholes[i] for i in missing], by=settings.by)
        for i, reply in zip(missing, replies, strict=True):
            known[i] = [-x for x in reply]
    return known


def split(
    parts: list[Part],
    wholes: Sequence[Prefix],
    surprise: Sequence[Sequence[float]],
    places: ValuedPrefixes,
    settings: Settings,
) -> Asks[list[Part]]:
    """Halve parts until each moves p by less than the gap or is one token: those of all completions at once.
    Every border between two parts is entered.
    """
    ended: list[Part] = []
    while parts:
        ended += [part for part in parts if not divisible(part, settings)]
        parts = [part for part in parts if divisible(part, settings)]
        if not parts:
            break
        middles = [part.first + half(surprise[part.whole][part.first : part.last]) for part in parts]
        cuts = yield All(
            *(
                Cut(wholes[part.whole], at=(middle,), by=settings.by)
                for part, middle in zip(parts, middles, strict=True)
            )
        )
        prefixes = [prefix for [prefix] in cuts]
        fresh = list({prefix.token_ids: prefix for prefix in prefixes}.values())
        counts = yield valued(fresh, settings)
        for prefix, found in zip(fresh, counts, strict=True):
            places.counted(prefix, found)
        halves: list[Part] = []
        for part, middle, prefix in zip(parts, middles, prefixes, strict=True):
            p = places.by_ids[prefix.token_ids].value
            halves.append(Part(part.whole, part.first, middle, part.before, p))
            halves.append(Part(part.whole, middle, part.last, p, part.after))
        parts = halves
    return ended


def divisible(part: Part, settings: Settings) -> bool:
    """Does a part move p, and has it more than one token?"""
    return part.moves(settings.gap) and part.last - part.first > 1


def half(surprise: Sequence[float]) -> int:
    """How many tokens the left half has: its sum is nearest to half of all, both halves having some (by hand:
    .1, .1, 3, .1 -> 2; four equal ones -> 2).
    """
    total, left, best, distance = math.fsum(surprise), 0.0, 1, math.inf
    for place in range(1, len(surprise)):
        left += surprise[place - 1]
        if abs(left - total / 2) < distance:
            best, distance = place, abs(left - total / 2)
    return best


def alternatives(
    pivots: Sequence[Part], wholes: Sequence[Prefix], places: ValuedPrefixes, settings: Settings
) -> Asks[None]:
    """Value other tokens than the pivotal ones: those with which the roll-outs from before went the other
    way.
    """
    rollouts: list[tuple[int, Prefix]] = []
    for part in pivots:
        whole = wholes[part.whole]
        before = places.get(whole.token_ids[: part.first])
        if before is not None:
            found = others(before, whole.token_ids[part.first], rises=part.moved < 0)
            rollouts += [(part.first + 1, rollout) for rollout in found[: settings.others]]
    if not rollouts:
        return
    cuts = yield All(*(Cut(rollout, at=(at,), by=settings.by) for at, rollout in rollouts))
    fresh = list({p.token_ids: p for [p] in cuts if places.get(p.token_ids) is None}.values())
    if fresh:
        counts = yield valued(fresh, settings)
        for prefix, found in zip(fresh, counts, strict=True):
            places.counted(prefix, found)


def others(before: ValuedPrefix, token: int, rises: bool) -> list[Prefix]:
    """For each token but one that roll-outs from a place begin with, one of them: first the token after
    which most (or, where p is to fall, fewest) end right, then the more frequent one.
    """
    found: dict[int, list[tuple[Prefix, bool]]] = {}
    if before.counted is not None:
        for rollout, ok in zip(before.counted.rollouts, before.counted.correct, strict=True):
            if rollout.num_tokens > before.num_tokens:
                found.setdefault(rollout.token_ids[before.num_tokens], []).append((rollout, ok))
    sign = -1 if rises else 1

    def order(first: int) -> tuple[float, int, int]:
        verdicts = [ok for _, ok in found[first]]
        return sign * sum(verdicts) / len(verdicts), -len(verdicts), first

    return [found[first][0][0] for first in sorted(found, key=order) if first != token]


def _dropped(trace: Trace, reason: str) -> Dropped:
    return Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason)
