"""Lookahead search (Snell et al., arXiv:2408.03314): beam search whose beams are scored a few greedy steps
later.

Costs n * (k + 1) steps where beam search costs n, and was the worst of the three at equal cost in the paper.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate.beam import BeamSettings, search
from pipeline.rows import Dropped, Group, Node, Question, Trace


class Settings(BeamSettings):
    """Beam search's settings and how far to look."""

    ahead: int = Field(1, ge=1, description="greedy steps before the score (k)")


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree of beams, its ended traces, and the one chosen."""
    return (yield from search(question, settings, ahead=settings.ahead))
