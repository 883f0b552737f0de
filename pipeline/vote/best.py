"""Best of n (Cobbe et al., arXiv:2110.14168): the answer of the single highest score. Without any score,
the majority.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.vote import Candidate, ScoredSettings, ballots


class Settings(ScoredSettings):
    """How its scores are made."""


def vote(candidates: Sequence[Candidate], settings: Settings | None = None) -> str | None:
    """The winner, or None where no candidate has an answer. Ties: more votes, then log-probability, then
    the first.
    """
    found = ballots(candidates)
    return (
        max(found, key=lambda ballot: (ballot.best, ballot.votes, ballot.logprob)).answer if found else None
    )
