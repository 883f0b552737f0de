"""Lookahead search (Snell et al., arXiv:2408.03314): beam search whose beams are scored a few greedy steps
later.

Costs n * (k + 1) steps where beam search costs n, and was the worst of the three at equal cost in the paper.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate.beam import PoolSettings, search
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(PoolSettings):
    """Beam search's settings and how far to look."""

    ahead: int = Field(1, ge=1, description="greedy steps before the score (k)")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each step is looked past by `ahead` more, as far as a completion goes."""
        steps = task.typical_steps
        ahead = sum(min(self.ahead, steps - depth) for depth in range(1, int(steps) + 1))
        return self.searching(task, self.n * (steps + max(ahead, 0.0)), self.n)


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree of beams, its ended traces, and the one chosen."""
    return (yield from search(question, settings, ahead=settings.ahead))
