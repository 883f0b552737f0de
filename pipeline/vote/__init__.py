"""Candidates -> answer. One file a rule: `vote(candidates) -> str | None`; `aggregate.py` turns step scores
into one score.

Candidates without an answer never win. Answers that mean the same share a `key` (`keys` finds it by the
task's equality; the text itself where none is given). Gold is not here: a vote cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer, with the PRM's aggregated score and the summed log-probability of its trace where they
    are known.
    """

    answer: str | None
    score: float | None = None
    logprob: float | None = None
    key: str = ""  #: the canonical form of the answer; "": the answer itself


@dataclass(frozen=True, slots=True)
class Ballot:
    """What stands for one answer."""

    answer: str  #: as the first of its candidates wrote it
    votes: int
    score: float  #: sum of the known scores
    best: float  #: highest score; -inf where none is known
    logprob: float  #: sum over its candidates; an unknown one counts as -inf


def keys(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> list[str | None]:
    """For each answer the first of those that mean the same (`task.same`); None stays None."""
    first: dict[str, str] = {}
    leaders: list[str] = []
    for answer in answers:
        if answer is None or answer in first:
            continue
        first[answer] = next((leader for leader in leaders if same(answer, leader)), answer)
        if first[answer] == answer:
            leaders.append(answer)
    return [None if answer is None else first[answer] for answer in answers]


def usable(score: float | None) -> float | None:
    """A score that may count: NaN and infinity say nothing."""
    return score if score is not None and math.isfinite(score) else None


def ballots(candidates: Sequence[Candidate]) -> list[Ballot]:
    """One Ballot an answer, in order of first appearance."""
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        if one.answer is not None:
            groups.setdefault(one.key or one.answer, []).append(one)
    found = []
    for members in groups.values():
        scores = [score for one in members if (score := usable(one.score)) is not None]
        found.append(
            Ballot(
                answer=str(members[0].answer),
                votes=len(members),
                score=math.fsum(scores),
                best=max(scores, default=-math.inf),
                logprob=math.fsum(-math.inf if one.logprob is None else one.logprob for one in members),
            )
        )
    return found
