"""The driver: advances hundreds of searches at once and is the only place that holds engines (docs/design.md,
3).

Each search is a generator of asks. Asks of one kind and model are merged: rows to write join the engine's
running batch every few tokens, in name order; prefixes to score share forwards. A search whose asks are all
replied goes on at once, while others still decode. What a search gets depends on its own asks and names
alone, never on the window; only the order in which results come does.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.asks import All, Ask, Asks, Counted, Cut, MonteCarlo, Prefix, Same, Turn
from pipeline.engine.decoding import Decoding
from pipeline.engine.growth import Extracts, cut
from pipeline.engine.queues import (
    READS,
    WRITES,
    Enqueue,
    Leaf,
    Live,
    ReadQueue,
    RolloutKey,
    TooLong,
    WriteQueue,
)
from pipeline.vote import keys

T = TypeVar("T")
JOIN_EVERY = 4  #: tokens between two looks at the searches


@dataclass
class Search:
    """One problem's search, not started. max_tokens: what a completion may have."""

    problem_id: str
    task: Extracts
    asks: Asks[Any]
    max_tokens: int
    stem: str = ""  #: what its prompt shares with other searches': the worked examples, read once for all
    #: Monte-Carlo roll-outs that stand already, by sample number: read instead of drawn
    rollouts: Mapping[RolloutKey, Sequence[Prefix]] = field(default_factory=dict)
    decoding: Decoding | None = None  #: how all that it writes is drawn, where not as the model itself draws


@dataclass(frozen=True, slots=True)
class Drawn:
    """A Monte-Carlo roll-out that was written, and the prefix that it begins with."""

    prefix: Prefix
    begun: Prefix
    ask: MonteCarlo


@dataclass
class Finished:
    """What a search returned, and what it would cost: model -> tokens, written by policies, read by reward
    models.

    `error` is set, and `result` None, where a prompt does not fit the model: a counted reason, not a crash.
    `drawn`: its Monte-Carlo roll-outs that were written and not read, in order of asking. `counted`: of all
    that it asked for from open prefixes, read ones too: rollouts, rollouts/right, rollouts/truncated.
    """

    problem_id: str
    result: Any
    charged: dict[str, int]
    error: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


class Driver:
    """Runs searches over engines.

    engines: the engine of a model's name. is_right: does a finished prefix answer the problem? Only
    Monte-Carlo labellers need it.

    Attributes:
        spent: by model, tokens written and those of the prefixes that were read; seconds by kind of work;
            over all runs of this driver.
    """

    def __init__(
        self,
        engines: Callable[[str], Any],
        *,
        run_seed: int,
        round: int,
        stage: str,
        is_right: Callable[[str, Prefix], bool] | None = None,
    ) -> None:
        self._make, self._engines, self._is_right = engines, dict[str, Any](), is_right
        self.spent: dict[str, Any] = {
            "written": Counter(),
            "read": Counter(),
            "seconds": {"write": 0.0, "read": 0.0, "search": 0.0},
        }
        self._writer = WriteQueue(self.engine, run_seed, round, stage, self.spent["written"])
        self._reader = ReadQueue(self.engine, self.spent["read"])

    def engine(self, name: str) -> Any:
        """The engine of a model, made at its first use."""
        if name not in self._engines:
            self._engines[name] = self._make(name)
        return self._engines[name]

    def run(
        self,
        searches: Iterable[Search],
        window: int = 128,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Iterator[Finished]:
        """Each search's result, as they finish. `window` searches live at a time; it changes no result.

        progress: called about once a second with {"done", "live", "tokens", "seconds"}.
        """
        source, exhausted = iter(searches), False
        live: dict[Live, None] = {}
        taken, started, told = 0, time.monotonic(), 0.0
        gc.freeze()  # small objects of searches make it run often: libraries and models stay out of it
        try:
            while live or not exhausted:
                while len(live) < window and not exhausted:
                    search = next(source, None)
                    exhausted = search is None
                    if search is not None:
                        live[Live(search, taken)] = None
                        taken += 1
                yield from self._advance(live)
                if progress and time.monotonic() - told >= 1:
                    told = time.monotonic()
                    tokens = sum(self.spent["written"].values())
                    done = taken - len(live)
                    progress({"done": done, "live": len(live), "tokens": tokens, "seconds": told - started})
                if len(live) >= window or exhausted:
                    self._work()
        finally:
            gc.unfreeze()
            for one in live:
                one.search.asks.close()
                one.forget()
            for engine in self._engines.values():
                engine.clear()

    def _advance(self, live: dict[Live, None]) -> list[Finished]:
        """Let every search go on that waits for nothing; those that ended leave."""
        clock = time.monotonic()
        found = []
        for one in sorted((one for one in live if one.missing == 0), key=lambda one: one.name):
            end = self._go_on(one)
            if end is not None:
                del live[one]
                one.forget()
                found.append(end)
        self.spent["seconds"]["search"] += time.monotonic() - clock
        return found

    def _work(self) -> None:
        """Read what waits, else write a few tokens: what was read lets more rows join the next ones."""
        clock = time.monotonic()
        if self._reader.waiting:
            self._reader.work()
            self.spent["seconds"]["read"] += time.monotonic() - clock
        else:
            self._writer.work(JOIN_EVERY)
            self.spent["seconds"]["write"] += time.monotonic() - clock

    # -- one search

    def _go_on(self, live: Live) -> Finished | None:
        """Reply as long as nothing is missing; the search's end, if it came to it."""
        problem_id = live.search.problem_id
        while live.missing == 0:
            reply = None if live.ask is None else self._assemble(live.ask, iter(live.leaves))
            try:
                live.ask = live.search.asks.send(reply)
            except StopIteration as stop:
                drawn = [Drawn(tag.end, tag.prefix, tag.waiting[0][0].ask) for tag in live.drawn if tag.end]
                return Finished(
                    problem_id, stop.value, dict(live.charged), drawn=drawn, counted=dict(live.counted)
                )
            live.leaves = []
            self._take(live.ask, live)
            try:
                enqueues = [self._prepare(leaf) for leaf in live.leaves]
            except TooLong as reason:
                live.search.asks.close()
                return Finished(problem_id, None, dict(live.charged), str(reason))
            live.missing = sum(len(leaf.replies) for leaf in live.leaves)
            for enqueue in enqueues:
                enqueue()
        return None

    def _take(self, ask: Ask, live: Live) -> None:
        """Number the asks: order of yield, members of `All` in order."""
        if isinstance(ask, All):
            for member in ask.asks:
                self._take(member, live)
        else:
            live.leaves.append(Leaf(ask, live.num_asks, live))
            live.num_asks += 1

    def _prepare(self, leaf: Leaf) -> Enqueue:
        if isinstance(leaf.ask, WRITES):
            return self._writer.prepare(leaf)
        if isinstance(leaf.ask, READS):
            return self._reader.prepare(leaf)
        if isinstance(leaf.ask, Cut):
            return pieces(leaf, self.engine(leaf.ask.by))
        if isinstance(leaf.ask, Same):
            return told_apart(leaf)
        if isinstance(leaf.ask, Turn):
            return worded(leaf, self.engine(leaf.ask.by))
        raise TypeError(
            f"problem {leaf.live.search.problem_id}: a search yielded {leaf.ask!r}, which is no ask"
        )

    def _assemble(self, ask: Ask, leaves: Iterator[Leaf]) -> Any:
        """The reply to an ask."""
        if isinstance(ask, All):
            return [self._assemble(member, leaves) for member in ask.asks]
        leaf = next(leaves)
        if isinstance(ask, Turn):
            return leaf.replies[0]
        if not isinstance(ask, MonteCarlo):
            return leaf.replies
        return [self._counted(ask, leaf, start) for start in range(0, len(leaf.replies), ask.n)]

    def _counted(self, ask: MonteCarlo, leaf: Leaf, start: int) -> Counted:
        if self._is_right is None:
            raise TypeError(
                "MonteCarlo sees gold: only a label stage may ask it, whose driver is given is_right"
            )
        rollouts = tuple(leaf.replies[start : start + ask.n])
        right = leaf.live.right
        keys = [(prefix.text, prefix.finish) for prefix in rollouts]
        for key, prefix in zip(keys, rollouts, strict=True):
            if key not in right:
                right[key] = bool(self._is_right(leaf.live.search.problem_id, prefix))
        correct = tuple(right[key] for key in keys)
        if not ask.listed[start // ask.n].done:  # a completion that has ended is its own only roll-out
            cut_off = sum(prefix.finish in ("length", "budget") for prefix in rollouts)
            said = {"rollouts": ask.n, "rollouts/right": sum(correct), "rollouts/truncated": cut_off}
            leaf.live.counted.update(said)
        return Counted(ask.n, sum(correct), *((rollouts, correct) if ask.keep else ()))


def pieces(leaf: Leaf, engine: Any) -> Enqueue:
    """Cut: replied at once.

    Raises:
        RecipeError: another tokenizer wrote the completion. ValueError: a place outside of it.
    """
    return _at_once(leaf, [cut(leaf.ask.prefix, place, engine) for place in leaf.ask.at])


def told_apart(leaf: Leaf) -> Enqueue:
    """Same: replied at once, by the task's equality."""
    return _at_once(leaf, keys(leaf.ask.answers, leaf.live.search.task.same))


def _at_once(leaf: Leaf, replies: Sequence[Any]) -> Enqueue:
    leaf.expect(len(replies))

    def enqueue() -> None:
        for place, reply in enumerate(replies):
            leaf.reply(place, reply)

    return enqueue


def worded(leaf: Leaf, engine: Any) -> Enqueue:
    """Turn: replied at once.

    Raises:
        RecipeError: the task has no words for the act, or the model no template for its turns.
    """
    from pipeline.tasks.prepare import render_turn

    question = render_turn(leaf.live.search.task, leaf.ask, engine.render)
    leaf.expect(1)
    return lambda: leaf.reply(0, question)


def drive_with_replies(asks: Asks[T], replies: Iterable[Any], seen: list[Ask] | None = None) -> T:
    """What a search returns when it is sent these replies: for tests. A reply that can be called is called
    with the ask.

    seen: gets the asks, in order. Raises AssertionError where the search asks more or less than there are
    replies.
    """
    given = iter(replies)
    reply: Any = None
    nothing = object()
    while True:
        try:
            ask = asks.send(reply)
        except StopIteration as stop:
            left = len(list(given))
            assert not left, f"the search ended with {left} replies unread"
            return stop.value
        if seen is not None:
            seen.append(ask)
        reply = next(given, nothing)
        assert reply is not nothing, f"the search asked once more than there are replies: {ask!r}"
        reply = reply(ask) if callable(reply) else reply
