"""A written-out policy and PRM: searches are driven by hand from tables, one character a token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from pipeline.asks import All, Continue, Prefix, Same, Score, Turn
from pipeline.rows import Question
from pipeline.vote import keys


@dataclass
class Table:
    """Canned replies.

    `steps[text]` (`steps["act:text"]` in a turn that has some): the next steps sampled there, in order, again from the first when used up; a step ends
    with a line break, the last one with a full stop, one cut by a limit with a tilde. `greedy[text]`: what
    temperature 0 writes. `values[text]`: what the PRM says of a text.
    """

    steps: dict[str, list[str]]
    values: dict[str, float] = field(default_factory=dict)
    greedy: dict[str, str] = field(default_factory=dict)
    logprobs: dict[str, float] = field(default_factory=dict)  #: of each token of a step; -1 where not given
    progress: dict[str, float] = field(default_factory=dict)  #: of the model called progress
    used: dict[str, int] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)

    def reply(self, ask):
        self.asked.append(ask)
        if isinstance(ask, All):
            return [self.reply(member) for member in ask.asks]
        if isinstance(ask, Continue):
            return [self.write(prefix, ask) for prefix in ask.listed for _ in range(ask.n)]
        if isinstance(ask, Turn):
            prompt = (
                ask.question.prompt + "".join(f"{one.act}[{one.text}]" for one in ask.history) + f"{ask.act}:"
            )
            turn = len(ask.history)
            return replace(ask.question, prompt=prompt, prompt_used=prompt, act=ask.act, turn=turn)
        if isinstance(ask, Same):
            return keys(ask.answers, str.__eq__)
        assert isinstance(ask, Score)
        table = self.progress if ask.by == "progress" else self.values
        return [[table["".join(p.steps[: k + 1])] for k in range(len(p.steps))] for p in ask.listed]

    def write(self, prefix, ask):
        while not prefix.done:
            if ask.temperature == 0 and prefix.text in self.greedy:
                step = self.greedy[prefix.text]
            else:
                turn = f"{prefix.act}:{prefix.text}"
                key = turn if turn in self.steps else prefix.text
                place = self.used.get(key, 0)
                step = self.steps[key][place % len(self.steps[key])]
                self.used[key] = place + 1
            prefix = longer(prefix, step, self.logprobs.get(step, -1.0))
            if ask.until == "step":
                break
        return prefix

    def drive(self, search):
        reply = None
        while True:
            try:
                ask = search.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.reply(ask)


def longer(prefix: Prefix, step: str, logprob: float = -1.0) -> Prefix:
    ids = prefix.token_ids + tuple(map(ord, step))
    return replace(
        prefix,
        token_ids=ids,
        text=prefix.text + step,
        steps=(*prefix.steps, step),
        step_ends=(*prefix.step_ends, len(ids)),
        logprobs=prefix.logprobs + (logprob,) * len(step),
        finish="eos" if step.endswith(".") else "length" if step.endswith("~") else "",
        answer=step[:-1] if step.endswith(".") else None,
    )


@pytest.fixture
def question():
    return Question(id="p", question="?", prompt="Q:", prompt_used="Q:")


@pytest.fixture
def table():
    return Table
