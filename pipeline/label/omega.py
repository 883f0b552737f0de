"""Step labels by binary search for the first wrong step (OmegaPRM, Luo et al., arXiv:2406.06592, section 3).

MC(s) is the share of k roll-outs from a prefix s that end right. A wrong completion of M pieces is searched
for its first error: where the prefix in the middle has MC > 0 the error lies later, else in the first half;
so k log2 M roll-outs do what k M do. Every prefix that was tested is a node of the problem's tree, and its
own wrong roll-outs are candidates of later searches. The pool holds pairs (s, r) of a prefix with 0 < MC(s) <
1 and a wrong roll-out r from it; the next one to be searched is the one of the largest

    Q(s, r) + U(s),   Q = alpha^(1 - MC(s)) * beta^(len(r) / L),   U = c * sqrt(sum of all N) / (1 + N(s))

(equations 1 and 2; len(r) in tokens, N(s) how many searches began at s). Values are not backed up. It stops
at `searches`, or with an empty pool.

The traces of `from` are roll-outs of the root beside its own. Problems of which all of `filter` roll-outs end
right, or none, are dropped, as in section 4. Written are a Node and a Label (its MC) for each prefix tested,
each end of a searched completion and each different right one that was met (an end's value is its outcome,
which costs nothing; without the right ends a reward model would hardly see one), and a Label for each trace:
its outcome, the MC of those of its steps that were tested, null for the rest. What it cost stands among the
stage's metrics as `charged/MODEL`.

Ours by choice: equal roll-outs are searched once, and a place tested before is not asked about again.
Roll-outs that a limit cut are no candidates: their prefixes were never wrong. Not here: the down-sampling of
labels for training (`select/step_values` has `max_per_problem`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Counted, Cut, Prefix, prefix_of
from pipeline.label._prefixes import Ids, ValuedPrefix, ValuedPrefixes, usable
from pipeline.label.rollouts import RolloutSettings
from pipeline.rows import Dropped, Group, Label, Node, Problem
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask


class Settings(RolloutSettings):
    """The paper's numbers (section 4); its k is `n`."""

    makes: ClassVar[tuple[str, ...]] = ("Label", "Node", "Trace", "Dropped")

    filter: int = Field(
        32, ge=0, description="roll-outs of the question; all right or all wrong: dropped; 0: not asked"
    )
    searches: int = Field(100, ge=1, description="binary searches a problem, at most")
    pieces: int = Field(16, ge=2, description="a completion is cut into at most so many")
    split: Literal["steps", "tokens"] = Field(
        "steps", description="pieces end where steps do, or are of equal length in tokens"
    )
    alpha: float = Field(0.5, gt=0, le=1)
    beta: float = Field(0.9, gt=0, le=1)
    length: int = Field(500, ge=1, description="L, tokens")
    exploration: float = Field(0.125, ge=0, description="c")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """The filter, then log2 M prefixes a search, half a completion long on the average, and half of them
        tested before. As if no problem were dropped; and small models run out of different wrong roll-outs
        before they come to `searches`.
        """
        tests = math.ceil(math.log2(max(2, min(self.pieces, task.typical_steps))))
        searches = min(self.searches, given + self.n * task.typical_steps)
        rollouts = max(self.filter, self.n) + 0.25 * searches * tests * self.n
        return Cost({self.by: rollouts * task.typical_tokens}, {}, given)


@dataclass(frozen=True, slots=True)
class RolloutCandidate:
    """A wrong roll-out and the place that it began from."""

    place: ValuedPrefix
    rollout: Prefix

    @property
    def length(self) -> int:
        return self.rollout.num_tokens - self.place.num_tokens


@dataclass(slots=True)
class RolloutPool:
    """The pairs still to be searched, in the order in which they came."""

    settings: Settings
    candidates: list[RolloutCandidate] = field(default_factory=list)
    met: set[Ids] = field(default_factory=set)  #: completions that are or were here
    searches: int = 0  #: the sum of all N

    def add(self, place: ValuedPrefix, rollouts: Iterable[Prefix]) -> None:
        """Wrong roll-outs from a place, where it can hold a first error: 0 < MC < 1."""
        for rollout in rollouts if 0 < place.value < 1 else ():
            if rollout.token_ids not in self.met and rollout.finish in ("eos", "stop"):
                self.met.add(rollout.token_ids)
                self.candidates.append(RolloutCandidate(place, rollout))

    def take(self) -> RolloutCandidate:
        """Remove and return the candidate of the largest Q + U, the first of equals; its place is visited."""
        best = max(self.candidates, key=lambda one: self.worth(one))
        self.candidates.remove(best)
        best.place.visits += 1
        self.searches += 1
        return best

    def worth(self, one: RolloutCandidate) -> float:
        """Q + U."""
        return quality(one.place.value, one.length, self.settings) + exploration(
            self.searches, one.place.visits, self.settings
        )


def quality(value: float, length: int, settings: Settings) -> float:
    """Q: prefixes that nearly always end right, and short wrong roll-outs from them (MC .5, 250 tokens:
    .6708)."""
    return settings.alpha ** (1 - value) * settings.beta ** (length / settings.length)


def exploration(searches: int, visits: int, settings: Settings) -> float:
    """U: places that few searches began at (4 in all, 1 here: .125)."""
    return settings.exploration * math.sqrt(searches) / (1 + visits)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Node | Dropped]]:
    """Nodes and Labels of the tree, a Label a trace; a Dropped for each trace of a problem that is not
    searched.
    """
    kept, dropped = usable(problem, group.traces, task)
    if not kept:
        return [*dropped]
    places, pool = ValuedPrefixes(), RolloutPool(settings)
    root = Prefix(prompt=kept[0][0].prompt)
    [found] = yield settings.asking([root], settings.by, max(settings.filter, settings.n), keep=True)
    if settings.filter and found.share in (0, 1):
        why = "all_wrong" if found.share == 0 else "all_right"
        return [
            *dropped,
            *(Dropped(problem_id=problem.id, what=trace.id, reason=why) for trace, *_ in kept),
        ]
    start = places.counted(root, found)
    for trace, right, _ in kept:
        places.ended(prefix_of(trace), right, trace.id)
    pool.add(start, [prefix_of(trace) for trace, right, _ in kept if not right])
    meet(start, places, pool)
    while pool.candidates and pool.searches < settings.searches:
        chosen = pool.take()
        for place in (yield from search(chosen, places, settings)):
            meet(place, places, pool)
    return [
        *dropped,
        *(places.trace_label(trace, right, why, "omega") for trace, right, why in kept),
        *places.rows(problem.id, "omega"),
    ]


def meet(place: ValuedPrefix, places: ValuedPrefixes, pool: RolloutPool) -> None:
    """What the roll-outs of a place bring: candidates that end wrong, and ends that are right."""
    found = place.counted or Counted(0, 0)
    verdicts = list(zip(found.rollouts, found.correct, strict=True))
    for rollout, right in verdicts:
        if right:
            places.ended(rollout, True)
    pool.add(place, [rollout for rollout, right in verdicts if not right])


def search(one: RolloutCandidate, places: ValuedPrefixes, settings: Settings) -> Asks[list[ValuedPrefix]]:
    """Search a wrong roll-out for its first error. Returns the places that it tested and nobody had before;
    all are entered, and so is the end of the roll-out, which is known to be wrong.
    """
    ends = borders(one.rollout, one.place.num_tokens, settings)
    prefixes = yield Cut(one.rollout, at=ends, by=settings.by)
    places.ended(one.rollout, False)
    fresh: list[ValuedPrefix] = []
    sound, fault = -1, len(ends)  # the last prefix known to be sound, the first known to be lost
    while fault - sound > 1:
        middle = (sound + fault) // 2
        prefix = prefixes[middle]
        place = places.get(prefix.token_ids)
        if place is None:
            [found] = yield settings.asking([prefix], settings.by, keep=True)
            place = places.counted(prefix, found)
            fresh.append(place)
        if place.value > 0:
            sound = middle
        else:
            fault = middle
    return fresh


def borders(rollout: Prefix, begun: int, settings: Settings) -> tuple[int, ...]:
    """Where the pieces of a roll-out end that began after `begun` tokens, without the last: numbers of
    tokens, ascending.
    """
    if settings.split == "tokens":
        steps = list(range(begun + 1, rollout.num_tokens + 1))
    else:
        steps = [end for end in rollout.step_ends if end > begun]
    num = min(settings.pieces, len(steps))
    return tuple(steps[-(-(piece * len(steps)) // num) - 1] for piece in range(1, num))
