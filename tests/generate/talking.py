"""A written-out talker: what it says to each act, in order, one character a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.asks import All, Choose, Continue, Prefix, Score, Turn
from pipeline.tasks import countdown

TASK = countdown.Task(countdown.Settings(use="countdown"))


@dataclass
class Talker:
    """says[act]: its replies in order, the last one again when used up. chooses: [first, against it] for each prompt.

    A text that ends in `~` was cut by the limit.
    """

    says: dict[str, list[str]]
    chooses: Callable[[str], tuple[float, float]] = lambda prompt: (0.5, 0.5)
    scores: Callable[[Prefix, str], list[float]] = lambda prefix, by: [0.5] * len(prefix.steps)
    used: dict[str, int] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)

    def drive(self, search: Any) -> Any:
        reply = None
        while True:
            try:
                ask = search.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.reply(ask)

    def reply(self, ask: Any) -> Any:
        self.asked.append(ask)
        if isinstance(ask, All):
            return [self.reply(member) for member in ask.asks]
        if isinstance(ask, Turn):
            shown = " | ".join(f"{said.act}:{said.text}" for said in ask.history)
            prompt = f"{ask.question.question} {ask.act} <{shown}>"
            return replace(
                ask.question, prompt=prompt, prompt_used=prompt, act=ask.act, turn=len(ask.history)
            )
        if isinstance(ask, Choose):
            return [list(self.chooses(prefix.prompt)) for prefix in ask.listed]
        if isinstance(ask, Score):
            return [self.scores(prefix, ask.by) for prefix in ask.listed]
        assert isinstance(ask, Continue)
        return [self.write(prefix) for prefix in ask.listed for _ in range(ask.n)]

    def write(self, prefix: Prefix) -> Prefix:
        place = self.used.get(prefix.act, 0)
        text = self.says[prefix.act][min(place, len(self.says[prefix.act]) - 1)]
        self.used[prefix.act] = place + 1
        text, cut = text.removesuffix("~"), text.endswith("~")
        answer = TASK.extract_turn(prefix.act, text) if prefix.act else TASK.extract(text)
        steps = tuple(TASK.steps(text))
        ends = [sum(map(len, steps[: k + 1])) for k in range(len(steps))]
        return replace(
            prefix,
            text=text,
            token_ids=tuple(map(ord, text)),
            steps=steps,
            step_ends=tuple(ends),
            logprobs=(-1.0,) * len(text),
            finish="length" if cut else "eos",
            answer=answer,
            model="policy",
        )
