"""Weighted vote (DiVeRSe, arXiv:2206.02336; Math-Shepherd): the answer with the largest sum of its
candidates' weights.

A weight is what the score is as a number from 0 to 1: a value clamped (as the authors of ReST-MCTS* do), a
probability as it is, log-odds through the logistic. What a score is comes with it, from the model's head and
the aggregation; how the others look changes nothing, so a third answer never turns a vote between two.
Where every weight is the same this is the majority.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.vote import Candidate, ScoredSettings, ballots


class Settings(ScoredSettings):
    """How its weights are made."""


def vote(candidates: Sequence[Candidate], settings: Settings | None = None) -> str | None:
    """The winner, or None where no candidate has an answer. Ties: more votes, then log-probability, then
    the first.
    """
    found = ballots([replace(one, score=one.weight) for one in candidates])
    return (
        max(found, key=lambda ballot: (ballot.score, ballot.votes, ballot.logprob)).answer if found else None
    )
