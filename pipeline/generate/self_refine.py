"""Self-Refine (Madaan et al., arXiv:2303.17651): answer, criticise, rewrite, until the critic is content.

    refine: {generate: self_refine, by: policy, attempts: 4}

As in the authors' code the history grows, so each turn sees all before it (`window` keeps the last attempts
alone, for a model that has learned no more). Unlike it, critique and rewrite are two turns, and the answer
that counts (`chosen`) is the one in force when the critic says `right`; there it is the last rewrite, even
one written after that word. A critique without a verdict is counted (`no_verdict`) and ends nothing. The
critic may be another model. Whether the critic is right nobody here knows: no gold stops it.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate._turns import Talk, TalkSettings, choose, silent
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(TalkSettings):
    """The authors' defaults: four attempts, the first greedy, the others and the critic at 0.7."""

    draws: ClassVar[tuple[str, ...]] = ("n",)
    acts: ClassVar[tuple[str, ...]] = ("critique", "rewrite")

    n: int = Field(1, ge=1, description="conversations a problem")
    attempts: int = Field(4, ge=1, description="attempts at most, the first one counted")
    first_temperature: float = Field(0.0, ge=0, le=10, description="of the first attempt")
    temperature: float = Field(0.7, ge=0, le=10, description="of the rewrites")
    check_temperature: float = Field(0.7, ge=0, le=10, description="of the critic")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Where the critic is never content; a critique is taken to be as long as an answer."""
        wrote = Cost({self.by: self.n * self.attempts * self.tokens(task)})
        said = Cost({self.critic_name: self.n * (self.attempts - 1) * self.tokens(task)})
        return wrote + said + Cost(traces=self.n * (2 * self.attempts - 1))


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The turns of each conversation in order, its answer in force chosen."""
    rows: list[Trace | Node | Dropped] = []
    turns: list[Trace] = []
    for number in range(settings.n):
        talk = Talk(question, settings, number)
        answer = yield from talk.say("", settings.by, settings.first_temperature, settings.n)
        for _ in range(settings.attempts - 1):
            check = yield from talk.say(
                "critique", settings.critic_name, settings.check_temperature, settings.n
            )
            if check.answer == "right":
                break
            answer = yield from talk.say("rewrite", settings.by, settings.temperature, settings.n)
        turns += talk.traces
        rows += choose(talk.traces, answer)
    return [*rows, *silent(turns)]
