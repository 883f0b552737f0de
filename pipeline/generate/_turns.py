"""What the generators of conversations share: turns written in order, each a trace under its parent, and what
of the past the next one is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from pipeline.asks import Asks, Continue, Prefix, Said, Turn, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import ATTEMPTS, Dropped, Question, Trace
from pipeline.settings import PolicyName

#: of a critique that gives no verdict: counted, and never taken for one
NO_VERDICT = "no_verdict"


class TalkSettings(GenerateSettings):
    """What every such generator takes."""

    critic: PolicyName | None = Field(
        None, description="the model that criticises; none: the one that writes"
    )
    check_temperature: float = Field(0.0, ge=0, le=10, description="of the critic; 0: greedy")
    window: int = Field(0, ge=0, description="attempts that a turn sees, the last ones; 0: all of them")

    @property
    def critic_name(self) -> str:
        return self.critic or self.by


@dataclass
class Talk:
    """One conversation so far. `traces` are its turns in order; `history` what was said in them."""

    question: Question
    settings: Any
    number: int = 0  #: of the conversation, among those of the problem
    traces: list[Trace] = field(default_factory=list)
    history: list[Said] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  #: how many turns of each act were taken

    def shown(self) -> list[Said]:
        """The last attempts and what was said of them. The first one shown stands as the answer, whatever
        turn it was: what it answered is not shown."""
        attempts = [place for place, said in enumerate(self.history) if said.act in ATTEMPTS]
        first = attempts[-self.settings.window] if 0 < self.settings.window < len(attempts) else 0
        afresh = max(place for place, said in enumerate(self.history) if not said.act)
        shown = self.history[max(first, afresh) :]
        return [Said(shown[0].text), *shown[1:]]

    def say(self, act: str, by: str, temperature: float, of: int = 1) -> Asks[Trace]:
        """The next turn: an act ("" answers the question), by a model. of: conversations a problem, so that
        their numbers do not meet."""
        s = self.settings
        turn = self.question
        if act:
            turn = yield Turn(self.question, act, self.shown(), by=by)
        how = s.sampling_at(temperature)
        [prefix] = yield Continue(start(turn), by=by, max_tokens=s.max_tokens, **how)
        return self.add(turn, act, prefix, temperature, of)

    def add(self, turn: Question, act: str, prefix: Prefix, temperature: float, of: int = 1) -> Trace:
        """A turn that was written."""
        s, place = self.settings, self.numbers.get(act, 0)
        self.numbers[act] = place + 1
        trace = to_trace(
            replace(turn, turn=len(self.history)),  # of the conversation, whatever of it was shown
            prefix,
            place * of + self.number,
            temperature=temperature,
            cut=bool(temperature) and s.cuts,
            parent=self.traces[-1].id if self.traces else None,
            tokens_charged=prefix.num_tokens,
        )
        self.traces.append(trace)
        self.history.append(Said(trace.text, act))
        return trace


def choose(traces: Sequence[Trace], chosen: Trace | None) -> list[Trace]:
    """The traces, one of them marked as the answer."""
    return [replace(trace, chosen=True) if trace is chosen else trace for trace in traces]


def silent(traces: Sequence[Trace]) -> list[Dropped]:
    """A row for each critique that says neither right nor wrong."""
    mute = [trace for trace in traces if trace.act == "critique" and trace.answer is None]
    return [
        Dropped(problem_id=trace.problem_id, what=f"{trace.problem_id}/x{place}", reason=NO_VERDICT)
        for place, trace in enumerate(mute)
    ]
