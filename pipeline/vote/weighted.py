"""Weighted vote (DiVeRSe, arXiv:2206.02336; Math-Shepherd): the answer with the largest sum of its
candidates' scores.

Where every weight is the same this is the majority. A score below zero (a sum of log-odds) counts as its
logistic value: as a plain weight it would punish an answer for each vote it gets. So all candidates' scores
are mapped as soon as one of them is negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.vote import Candidate, ballots, usable


def logistic(score: float) -> float:
    """1 / (1 + exp(-score)), without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def vote(candidates: Sequence[Candidate]) -> str | None:
    """The winner, or None where no candidate has an answer. Ties: more votes, then log-probability, then
    the first.
    """
    known = [score for one in candidates if (score := usable(one.score)) is not None]
    if known and min(known) < 0:
        candidates = [
            one if (score := usable(one.score)) is None else replace(one, score=logistic(score))
            for one in candidates
        ]
    found = ballots(candidates)
    return (
        max(found, key=lambda ballot: (ballot.score, ballot.votes, ballot.logprob)).answer if found else None
    )
