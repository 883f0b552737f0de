"""A prefix grows: from what an engine wrote, where steps end, why it stopped, what it says.

Free of torch: the local and the server engine give the same `Request`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pipeline.asks import Prefix, closed, closing
from pipeline.engine.decoding import Decoding
from pipeline.engine.endings import EOS, LENGTH, STEP, STOP, Rule, hash_ids
from pipeline.engine.text import Text
from pipeline.errors import RecipeError

Until = Literal["step", "answer", "tokens"]
ENDS_ON: dict[str, int] = {"step": STEP | STOP | EOS, "answer": STOP | EOS, "tokens": STOP | EOS}


class Extracts(Protocol):
    """What growth, and a search that lets answers vote, need of a task."""

    step_separator: str
    stop: tuple[str, ...]

    def extract(self, text: str) -> str | None: ...
    def same(self, one: str, other: str) -> bool: ...

    def extract_turn(self, act: str, text: str) -> str | None: ...
    def extract_cut(self, act: str, text: str) -> str | None: ...


def _answer(task: Extracts, act: str, text: str, finish: str) -> str | None:
    """What a finished completion answers: the question, or what its turn was asked for."""
    if not act:
        return task.extract(text)
    return task.extract_cut(act, text) if finish == "length" else task.extract_turn(act, text)


@dataclass(slots=True, eq=False)
class Request:
    """One sequence to write. `ids` is the prompt and what was written before; the rest of the inputs say
    where it stops.

    The draws are named by `seed`: token t of the row takes the seed's t-th uniform. `ends_on` is a mask of
    STEP, STOP and EOS bits. When it ended, `new_ids`, `logprobs` (at temperature 1) and `flags` (what ended
    it) are filled. `memory` is what the row's search remembers, by prefixes that end at one of the `borders`
    or before the last token.
    """

    ids: list[int]
    limit: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    ends_on: int = EOS
    state: int = 0
    tag: Any = None
    memory: Any = None
    borders: tuple[int, ...] = ()  #: ends of the prompt and of each step, ascending
    decoding: Decoding | None = None  #: how its tokens are drawn, where not from the model's own distribution
    new_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    flags: int = 0


def fitted(prefix: Prefix, engine: Text) -> Prefix:
    """The prefix in the engine's own token ids.

    Ids that read as the prefix's text are kept; else (another tokenizer wrote them) each step is tokenised
    again by itself, and the log-probabilities are unknown.
    """
    if not prefix.token_ids or engine.decode(prefix.token_ids) == prefix.text:
        return prefix
    ids: list[int] = []
    ends: list[int] = []
    for step in prefix.steps:
        ids += engine.encode_more(step)
        ends.append(len(ids))
    ids += engine.encode_more(prefix.text[sum(map(len, prefix.steps)) :])
    unknown = (float("nan"),) * len(ids)
    return replace(prefix, token_ids=tuple(ids), step_ends=tuple(ends), logprobs=unknown)


def cut(prefix: Prefix, at: int, engine: Text) -> Prefix:
    """The first `at` tokens of a prefix, open; the prefix itself where those are all.

    Raises:
        RecipeError: the ids are another tokenizer's. ValueError: there are not so many tokens.
    """
    if not 0 <= at <= prefix.num_tokens:
        raise ValueError(f"cut at {at}: the completion has {prefix.num_tokens} tokens")
    if (said := engine.decode(prefix.token_ids)) != prefix.text:
        raise RecipeError(
            f"model {engine.name} reads the tokens of a completion as {said[:60]!r}, and they stand for "
            f"{prefix.text[:60]!r}: another tokenizer wrote them, so it cannot go on from inside a step. "
            f"Name the model that wrote them, or one with its tokenizer, in place of {engine.name}"
        )
    if at == prefix.num_tokens:
        return prefix
    num_steps = sum(end <= at for end in prefix.step_ends)
    start = prefix.step_ends[num_steps - 1] if num_steps else 0
    steps = prefix.steps[:num_steps]
    return replace(
        prefix,
        token_ids=prefix.token_ids[:at],
        step_ends=prefix.step_ends[:num_steps],
        steps=steps,
        text="".join(steps) + engine.decode(prefix.token_ids[start:at]),
        logprobs=prefix.logprobs[:at],
        finish="",
        answer=None,
    )


def begun(prefix: Prefix, prompt_ids: Sequence[int]) -> Prefix:
    """The prefix, with the hash of its prompt."""
    return prefix if prefix.prompt_hash else replace(prefix, prompt_hash=hash_ids(prompt_ids))


def grown(
    prefix: Prefix,
    row: Request,
    engine: Text,
    rule: Rule,
    task: Extracts,
    model: str,
    until: Until,
    room: int,
) -> Prefix:
    """The prefix after a row. `room` is the number of tokens that a completion may have here, prompt
    excluded.
    """
    stopped = bool(row.flags & STOP) and not row.flags & EOS
    new = _before_stop(prefix, row.new_ids, engine, task.stop) if stopped else row.new_ids
    ids = prefix.token_ids + tuple(new)
    places = rule.step_ends(new, row.state)
    ends = list(prefix.step_ends) + [len(prefix.token_ids) + place + 1 for place in places]
    if row.flags & EOS:
        finish = "eos"
    elif stopped:
        finish = "stop"
    elif len(prefix.token_ids) + len(row.new_ids) >= room or (row.flags & LENGTH and until == "answer"):
        finish = "length"
    else:
        finish = ""
    if not finish and until == "step" and (not ends or ends[-1] < len(ids)):
        ends.append(len(ids))  # a step cut by its own limit is a step
    old = len(prefix.steps)
    starts = [*(prefix.step_ends[-1:] or (0,)), *ends[old:]]
    steps = list(prefix.steps)
    steps += [engine.decode(ids[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
    rest = engine.decode(ids[starts[-1] :])
    text = "".join(steps) + rest
    closed_ends, closed_steps = tuple(ends), tuple(steps)
    if finish:
        closed_ends, closed_steps = closing(closed_ends, closed_steps, rest, len(ids))
    return Prefix(  # not `replace`, which costs as much as the rest of this function
        prompt=prefix.prompt,
        token_ids=ids,
        step_ends=closed_ends,
        steps=closed_steps,
        text=text,
        logprobs=prefix.logprobs + tuple(row.logprobs[: len(new)]),
        finish=finish or prefix.finish,
        answer=_answer(task, prefix.act, text, finish) if finish else prefix.answer,
        prompt_hash=prefix.prompt_hash,
        model=model,
        act=prefix.act,
    )


def ended(prefix: Prefix, finish: str, task: Extracts) -> Prefix:
    """The prefix, finished: its last step closed and its answer read."""
    return replace(closed(prefix), finish=finish, answer=_answer(task, prefix.act, prefix.text, finish))


def _before_stop(prefix: Prefix, new_ids: list[int], engine: Text, stop: Sequence[str]) -> list[int]:
    """The new tokens without those that begin inside the text that stopped them: no one wants to train on
    it.
    """
    new = [engine.texts[token] for token in new_ids]
    old = [engine.texts[token] for token in prefix.token_ids]
    text = b"".join(old + new)
    first = len(text) - len(new[-1]) + 1  # the stop ends inside the last token, no earlier
    begin = min(at for s in stop if (at := text.find(s.encode(), max(0, first - len(s.encode())))) >= 0)
    position = sum(map(len, old))
    kept = []
    for token, piece in zip(new_ids, new, strict=True):
        if position >= begin and piece:
            break
        kept.append(token)
        position += len(piece)
    return kept
