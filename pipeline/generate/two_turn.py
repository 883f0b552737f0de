"""SCoRe's episodes (arXiv:2409.12917, section 3): an answer, then another attempt that sees it and no
verdict.

    turns: {generate: two_turn, by: policy, n: 8}

The second attempt is `chosen` and names the first as its `parent`; `turn` tells the two apart, so that
`label: shaped` rewards each by itself and `select: episodes` trains on the tokens of both. Nothing here knows
whether an attempt is right: the second turn is asked for in any case, as at test time.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import All, Asks, Continue, Said, Turn, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(GenerateSettings):
    """How many episodes."""

    draws: ClassVar[tuple[str, ...]] = ("n",)
    acts: ClassVar[tuple[str, ...]] = ("revise",)

    n: int = Field(8, ge=1, description="episodes a problem: two attempts each")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost({self.by: 2 * self.n * self.tokens(task)}, {}, 2 * self.n)


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """n first attempts, then their n second ones."""
    s = settings

    def write(prefixes: list, n: int) -> Continue:
        return Continue(
            prefixes,
            by=s.by,
            n=n,
            max_tokens=s.max_tokens,
            **s.sampling,
        )

    more = {"temperature": s.temperature, "cut": s.cuts}
    written = yield write([start(question)], s.n)
    firsts = [
        to_trace(question, prefix, number, tokens_charged=prefix.num_tokens, **more)
        for number, prefix in enumerate(written)
    ]
    turns = yield All(*(Turn(question, "revise", [Said(first.text)], by=s.by) for first in firsts))
    again = yield write([start(turn) for turn in turns], 1)
    seconds = [
        to_trace(turn, prefix, number, parent=first.id, chosen=True, tokens_charged=prefix.num_tokens, **more)
        for number, (turn, prefix, first) in enumerate(zip(turns, again, firsts, strict=True))
    ]
    return [*firsts, *seconds]
