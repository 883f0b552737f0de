"""Check as context (Wang et al., arXiv:2405.18634): an answer, a check of it, and the answer again with
both in sight.

    again: {generate: check_context, by: policy, checks: 3, window: 1}

The last answer is `chosen`. The paper answers again whatever the check says, and so a model has to keep what
was found right by itself; `until_right` ends the conversation there. `context: false` draws the next answer
afresh, without answer and check in sight: the control that says what the context is worth. A check that gives
no verdict is counted (`no_verdict`) and taken for none. The critic may be another model. No gold is seen, so
how good the critic is, another stage has to say.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate._turns import Talk, TalkSettings, choose, silent
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(TalkSettings):
    """The paper's: one check, then the answer again."""

    draws: ClassVar[tuple[str, ...]] = ("n",)
    acts: ClassVar[tuple[str, ...]] = ("critique", "revise")

    n: int = Field(1, ge=1, description="conversations a problem")
    checks: int = Field(1, ge=1, description="how often the answer is checked and given again")
    until_right: bool = Field(False, description="end where a check says right")
    context: bool = Field(True, description="false: the next answer sees neither the last one nor its check")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Where no check says right; a check is taken to be as long as an answer."""
        wrote = Cost({self.by: self.n * (self.checks + 1) * self.tokens(task)})
        said = Cost({self.critic_name: self.n * self.checks * self.tokens(task)})
        return wrote + said + Cost(traces=self.n * (2 * self.checks + 1))


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The turns of each conversation in order, its last answer chosen."""
    s, rows, turns = settings, list[Trace | Node | Dropped](), list[Trace]()
    for number in range(s.n):
        talk = Talk(question, s, number)
        answer = yield from talk.say("", s.by, s.temperature, s.n)
        for _ in range(s.checks):
            check = yield from talk.say("critique", s.critic_name, s.check_temperature, s.n)
            if s.until_right and check.answer == "right":
                break
            answer = yield from talk.say("revise" if s.context else "", s.by, s.temperature, s.n)
        turns += talk.traces
        rows += choose(talk.traces, answer)
    return [*rows, *silent(turns)]
