"""A world for labellers: a character is a token, a line a step, and what roll-outs do is a plain function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pipeline.asks import All, Counted, Cut, Logprob, MonteCarlo, Prefix
from pipeline.engine.growth import cut
from pipeline.rows import Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings

PROBLEM = Problem(id="p", question="?", answer="right")
#: text and ids as the engines' own `Text` has them, one character a token
CHARACTERS = SimpleNamespace(name="policy", decode=lambda ids: "".join(map(chr, ids)))


class Lines(BaseTask):
    """Right is the answer `right`; where the oracle is on, a step with `bad` in it is wrong, and all after it."""

    def __init__(self, oracle: bool = True) -> None:
        super().__init__(TaskSettings(use="lines"))
        self.oracle = oracle

    def extract(self, text):
        return text.strip().split("\n")[-1] or None

    def correct(self, answer, problem):
        return answer == problem.answer

    def step_oracle(self, problem, steps):
        if not self.oracle:
            return None
        return [not any("bad" in step for step in steps[: k + 1]) for k in range(len(steps))]


def trace(number: int, *steps: str, finish: str = "eos", **more: Any) -> Trace:
    """A trace of these lines; its answer is the last one."""
    lines = [f"{step}\n" for step in steps]
    text = "".join(lines)
    given = {
        "answer": steps[-1] if steps else None,
        "logprobs": [-1.0] * len(text),
        "step_ends": [sum(map(len, lines[: k + 1])) for k in range(len(lines))],
    }
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="Q:", text=text, token_ids=[ord(c) for c in text],
        steps=lines, finish=finish, **(given | more),
    )  # fmt: skip


def written(prefix: Prefix, *steps: str) -> Prefix:
    """A prefix, ended with these lines."""
    text = prefix.text + "".join(f"{step}\n" for step in steps)
    lines = text.splitlines(keepends=True)
    ends = tuple(sum(map(len, lines[: k + 1])) for k in range(len(lines)))
    return Prefix(
        prompt=prefix.prompt, token_ids=tuple(map(ord, text)), step_ends=ends, steps=tuple(lines), text=text,
        logprobs=(-1.0,) * len(text), finish="eos", answer=lines[-1].strip(),
    )  # fmt: skip


def stamped(rows: Any, labeller: str, problem: str = PROBLEM.id) -> Any:
    """The rows, each found to say whose problem it is of, and its labels who gave them."""
    assert {row.problem_id for row in rows} <= {problem}
    assert {row.labeller.split("/")[0] for row in rows if isinstance(row, Label)} <= {labeller}
    return rows


@dataclass
class World:
    """Answers asks. rollouts(prefix, n): the completions of a prefix; a done prefix stays as it is."""

    rollouts: Callable[[Prefix, int], list[Prefix]]
    asked: list[str] = field(default_factory=list)  #: texts of the prefixes that roll-outs were asked of
    tokens: Counter[str] = field(default_factory=Counter)

    def reply(self, ask: Any) -> Any:
        if isinstance(ask, All):
            return [self.reply(one) for one in ask.asks]
        if isinstance(ask, Cut):
            return [cut(ask.prefix, at, CHARACTERS) for at in ask.at]
        if isinstance(ask, Logprob):
            return [[-1.0] * prefix.num_tokens for prefix in ask.listed]
        assert isinstance(ask, MonteCarlo)
        return [self.counted(prefix, ask.n) for prefix in ask.listed]

    def counted(self, prefix: Prefix, n: int) -> Counted:
        self.asked.append(prefix.text)
        found = [prefix] * n if prefix.done else self.rollouts(prefix, n)
        correct = tuple(one.answer == PROBLEM.answer for one in found)
        self.tokens["written"] += sum(one.num_tokens - prefix.num_tokens for one in found)
        return Counted(n, sum(correct), tuple(found), correct)

    def drive(self, asks: Any) -> Any:
        """What a labeller returns in this world; `seen` are its asks as they came."""
        self.seen: list[Any] = []
        reply = None
        while True:
            try:
                ask = asks.send(reply)
            except StopIteration as stop:
                return stop.value
            self.seen.append(ask)
            reply = self.reply(ask)


def shares(value: Callable[[str], float]) -> Callable[[Prefix, int], list[Prefix]]:
    """Roll-outs of which the share value(text of the prefix) ends right; the wrong ones all differ."""

    def rollouts(prefix: Prefix, n: int) -> list[Prefix]:
        right = round(value(prefix.text) * n)
        wrong = [written(prefix, f"bad {len(prefix.steps)}", f"end {k}") for k in range(n - right)]
        return [written(prefix, "right")] * right + wrong

    return rollouts
