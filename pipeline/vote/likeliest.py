"""The answer of the candidate that its own writer finds likeliest, a token: the highest mean log-probability.

It asks no reward model. Wang et al. (self-consistency, arXiv:2203.11171, table 1, "normalized") weigh votes
by it; a mean, because a sum prefers short answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.vote import Candidate, VoteSettings, usable


class Settings(VoteSettings):
    """Nothing to set."""


def vote(candidates: Sequence[Candidate], settings: Settings | None = None) -> str | None:
    """The winner, or None where no candidate has an answer. An unknown log-probability comes last; ties: the
    first.
    """
    answered = [one for one in candidates if one.answer is not None]

    def mean(one: Candidate) -> float:
        total = usable(one.logprob)
        return float("-inf") if total is None else total / max(one.num_tokens, 1)

    return max(answered, key=mean).answer if answered else None
