"""Borda count: each candidate gets one point for every candidate that it beats by score, half a point for a
tie; points add up by answer.

This is the count over one score a candidate. Where a judge was asked of every two, LLaMA-Berry's Enhanced
Borda Count (arXiv:2410.02884) stands in `preferences`, and `label/duel` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.vote import Candidate, ScoredSettings, ballots, usable


class Settings(ScoredSettings):
    """How its scores are made."""


def vote(candidates: Sequence[Candidate], settings: Settings | None = None) -> str | None:
    """The winner, or None where no candidate has an answer. Ties: more votes, then log-probability, then
    the first.
    """
    running = [one for one in candidates if one.answer is not None]
    scores = [score if (score := usable(one.score)) is not None else float("-inf") for one in running]
    pointed = [
        replace(one, score=sum((mine > other) + 0.5 * (mine == other) for other in scores) - 0.5)
        for one, mine in zip(running, scores, strict=True)
    ]
    found = ballots(pointed)
    return (
        max(found, key=lambda ballot: (ballot.score, ballot.votes, ballot.logprob)).answer if found else None
    )
