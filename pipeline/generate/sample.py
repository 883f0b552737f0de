"""Plain sampling: n completions of a problem, each written to its end in one go.

STaR (arXiv:2203.14465) takes one a problem, ReST-EM (arXiv:2312.06585) 32. The worked examples that STaR
puts in front are the task's (`few_shot`). It neither checks nor scores what it writes.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Continue, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(GenerateSettings):
    """How many, and how they are drawn."""

    draws: ClassVar[tuple[str, ...]] = ("n",)

    n: int = Field(1, ge=1, description="completions a problem; STaR 1, ReST-EM 32")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost({self.by: self.n * self.tokens(task)}, {}, self.n)


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """n traces of the question, in sample order."""
    written = yield Continue(
        start(question),
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )
    return [
        to_trace(
            question,
            prefix,
            number,
            temperature=settings.temperature,
            cut=settings.cuts,
            tokens_charged=prefix.num_tokens,
        )
        for number, prefix in enumerate(written)
    ]
