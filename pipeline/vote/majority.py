"""Self-consistency (arXiv:2203.11171): the answer that most candidates give; ties by summed
log-probability, then the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.vote import Candidate, VoteSettings, ballots


class Settings(VoteSettings):
    """Scores do not count."""


def vote(candidates: Sequence[Candidate], settings: Settings | None = None) -> str | None:
    """The winner, or None where no candidate has an answer."""
    found = ballots(candidates)
    return max(found, key=lambda ballot: (ballot.votes, ballot.logprob)).answer if found else None
