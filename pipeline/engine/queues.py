"""What the driver keeps of a search under way, and how asks of one kind and model become rows and forwards.

An ask is first *prepared* (checked, its rows named) and handed on only when all asks of its search are sound;
so a search that cannot go on leaves no row behind. Results go back to the place in the reply that waits for
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.asks import Ask, Choose, Continue, Logprob, MonteCarlo, Prefix, Score
from pipeline.engine.draws import monte_carlo_seeds, seed_of
from pipeline.engine.endings import Rule
from pipeline.engine.growth import ENDS_ON, Request, begun, ended, fitted, grown
from pipeline.vote import weight

Enqueue = Callable[[], None]
Engines = Callable[[str], Any]
#: a model, prompt and ids of a prefix, temperature, top_p, top_k: what equal roll-outs have in common
RolloutKey = tuple[str, str, tuple[int, ...], float, float, int]


def rollout_key(by: str, prefix: Prefix, temperature: float, top_p: float, top_k: int) -> RolloutKey:
    """What names the roll-outs of a prefix within a run, beside the weights that `by` has there."""
    return by, prefix.prompt, prefix.token_ids, temperature, top_p, top_k


class TooLong(Exception):
    """A prompt that leaves no room for an answer: the search ends with a reason, the stage goes on."""


class NotReadable(TooLong):
    """A prefix that another tokenizer wrote, and that this one cannot say: its search ends with a reason."""


@dataclass(eq=False)
class Leaf:
    """One simple ask, and the replies it waits for."""

    ask: Any
    number: int  #: of the ask within its search
    live: Live
    replies: list[Any] = field(default_factory=list)

    def expect(self, number: int) -> None:
        """So many replies are to come."""
        self.replies = [None] * number

    def reply(self, place: int, value: Any) -> None:
        """One came."""
        self.replies[place] = value
        self.live.missing -= 1


@dataclass(eq=False)
class Live:
    """A search under way."""

    search: Any
    number: int  #: its place in the stream
    num_asks: int = 0
    missing: int = 0  #: replies that the search waits for
    ask: Ask | None = None
    leaves: list[Leaf] = field(default_factory=list)
    charged: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)  #: roll-outs: asked for, right, cut by a limit
    scores: dict[Any, Any] = field(default_factory=dict)  #: a prefix is scored once
    known: dict[str, set[Any]] = field(default_factory=dict)  #: prefixes whose reading is paid
    rollouts: dict[RolloutKey, Samples] = field(default_factory=dict)  #: Monte-Carlo: drawn once
    drawn: list[_For] = field(default_factory=list)  #: Monte-Carlo rows that were written, in order of asking
    right: dict[tuple[str, str], bool] = field(default_factory=dict)
    memories: dict[str, Any] = field(default_factory=dict)

    def memory(self, by: str, engine: Any) -> Any:
        """What this search remembers of a model's reading; None where the engine does not remember."""
        if by not in self.memories:
            stem = (self.search.stem,) if self.search.stem else ()
            self.memories[by] = engine.new_memory(*stem)
        return self.memories[by]

    def forget(self) -> None:
        """The search ended: what it remembered goes at once, for leaves and search hold one another."""
        for memory in self.memories.values():
            if memory is not None:
                memory.forget()
        self.memories.clear()
        self.leaves = []

    @property
    def name(self) -> tuple[str, int]:
        return self.search.problem_id, self.number


@dataclass(eq=False)
class Samples:
    """What a search has of one prefix's rows, by sample number: what came of them, or who waits for it."""

    ends: dict[int, Prefix] = field(default_factory=dict)
    writing: dict[int, _For] = field(default_factory=dict)
    alike: dict[tuple[int, ...], Prefix] = field(default_factory=dict)  #: by the tokens written

    def grown(self, row: Request, make: Callable[[], Prefix]) -> Prefix:
        """What comes of a row; of one that is token by token like another sample, what came of that: short
        completions often are.
        """
        ids, logprobs = tuple(row.new_ids), tuple(row.logprobs)
        found = self.alike.get(ids)
        if found is None or found.logprobs[-len(ids) :] != logprobs:
            found = self.alike[ids] = make()
        return found


@dataclass(eq=False)
class _For:
    """Whom a row's result goes to: who asked, and equal asks that came while it was written."""

    prefix: Prefix
    rule: Rule
    room: int
    waiting: list[tuple[Leaf, Sequence[int]]]
    samples: Samples
    sample: int
    end: Prefix | None = None  #: what came of it


class WriteQueue:
    """Continue and MonteCarlo: rows of the engines' running batches."""

    def __init__(self, engines: Engines, run_seed: int, round: int, stage: str, spent: Counter[str]) -> None:
        self._engines, self._names, self._spent = engines, (run_seed, round, stage), spent
        self._queue: list[tuple[tuple[Any, ...], str, Request]] = []
        self._busy: dict[str, Any] = {}

    def prepare(self, leaf: Leaf) -> Enqueue:
        """Name an ask's rows.

        Raises:
            TooLong: a prompt fills the context.
        """
        ask, live, engine = leaf.ask, leaf.live, self._engines(leaf.ask.by)
        task = live.search.task
        rule = engine.rule(task.step_separator, task.stop)
        until, most = ("answer", 0) if isinstance(ask, MonteCarlo) else (ask.until, ask.max_tokens)
        decoding = (
            live.search.decoding if isinstance(ask, Continue) else None
        )  # roll-outs are the model's own
        ready: list[tuple[int, Prefix]] = []
        rows: list[Request] = []
        for number, given in enumerate(ask.listed):
            places = range(number * ask.n, number * ask.n + ask.n)
            prefix, room, limit = self._room(given, live, engine, rule, most, ask.by)
            if limit <= 0:
                ready += [(place, prefix) for place in places]
                continue
            prompt_ids = engine.encode(prefix.prompt)
            ids = [*prompt_ids, *prefix.token_ids]
            remembers = until == "step" or bool(prefix.token_ids)
            memory = live.memory(ask.by, engine) if remembers else engine.stem_memory(live.search.stem)
            borders = (len(prompt_ids), *(len(prompt_ids) + end for end in prefix.step_ends))
            state = rule.state_after(prefix.token_ids)
            samples = self._samples(ask, prefix, engine, live) if isinstance(ask, MonteCarlo) else Samples()
            seed = self._seeds(leaf, engine, ids)
            groups = [places] if ask.temperature == 0 else [[place] for place in places]
            for sample, group in enumerate(groups):
                if (end := samples.ends.get(sample)) is not None:
                    ready += [(place, end) for place in group]
                    continue
                if (other := samples.writing.get(sample)) is not None:
                    other.waiting.append((leaf, group))
                    continue
                tag = samples.writing[sample] = _For(prefix, rule, room, [(leaf, group)], samples, sample)
                if isinstance(ask, MonteCarlo):
                    live.drawn.append(tag)
                sampling = ask.temperature, ask.top_p, ask.top_k
                drawn = seed(group[0], sample)
                more = memory, borders, decoding
                rows.append(Request(ids, limit, drawn, *sampling, ENDS_ON[until], state, tag, *more))
        leaf.expect(len(ask.listed) * ask.n)

        def enqueue() -> None:
            for place, prefix in ready:
                leaf.reply(place, prefix)
            self._queue += [((*live.name, leaf.number), ask.by, row) for row in rows]

        return enqueue

    @staticmethod
    def _samples(ask: MonteCarlo, prefix: Prefix, engine: Any, live: Live) -> Samples:
        """What this search has of a prefix's roll-outs: drawn before, under way, or brought by an earlier
        labeller. Those are charged as if they were drawn, and nothing is spent.

        Raises:
            NotReadable: the model's tokenizer cannot say what another one wrote.
        """
        key = rollout_key(ask.by, prefix, ask.temperature, ask.top_p, ask.top_k)
        if key not in live.rollouts:
            if engine.decode(prefix.token_ids) != prefix.text:
                raise NotReadable(f"not readable: the tokenizer of {ask.by} cannot say {prefix.text[:60]!r}")
            live.rollouts[key] = Samples()
        samples, brought = live.rollouts[key], live.search.rollouts.get(key, ())
        for sample in range(min(1 if ask.temperature == 0 else ask.n, len(brought))):
            if sample not in samples.ends:
                samples.ends[sample] = brought[sample]
                live.charged[ask.by] += brought[sample].num_tokens - prefix.num_tokens
        return samples

    @staticmethod
    def _room(
        given: Prefix, live: Live, engine: Any, rule: Rule, most: int, by: str
    ) -> tuple[Prefix, int, int]:
        """The prefix in the engine's ids, the tokens that its completion may have, and those to write now."""
        if given.done:
            return given, 0, 0
        prompt_ids = engine.encode(given.prompt)
        prefix = begun(fitted(given, engine), prompt_ids)
        room = min(live.search.max_tokens, engine.context - len(prompt_ids))
        if room <= 0:
            raise TooLong(
                f"prompt too long: {len(prompt_ids)} tokens, and {by} holds {engine.context} with its answer"
            )
        limit = min(room - prefix.num_tokens, most or room)
        return (prefix, room, limit) if limit > 0 else (ended(prefix, "length", live.search.task), room, 0)

    def _seeds(self, leaf: Leaf, engine: Any, ids: list[int]) -> Callable[[int, int], int]:
        """The seed of a row, by its place in the reply and its number among the prefix's samples."""
        ask = leaf.ask
        if ask.temperature == 0:
            return lambda place, sample: 0
        run_seed, round_number, stage = self._names
        if isinstance(ask, MonteCarlo):
            sampling = f"temperature={ask.temperature!r} top_p={ask.top_p!r} top_k={ask.top_k!r}"
            seed = monte_carlo_seeds(run_seed, engine.weights_hash, ids, sampling)
            return lambda place, sample: seed(sample)
        names = run_seed, round_number, stage, leaf.live.search.problem_id, leaf.number
        return lambda place, sample: seed_of(*names, place)

    def work(self, num_tokens: int) -> None:
        """Hand new rows over in name order, and write a few tokens in every running batch."""
        by_model: dict[str, list[Request]] = {}
        for _, by, row in sorted(self._queue, key=lambda entry: entry[0]):
            by_model.setdefault(by, []).append(row)
        self._queue.clear()
        for by, rows in by_model.items():
            self._busy[by] = self._engines(by)
            self._busy[by].submit(rows)
        for by in sorted(self._busy):
            for row in self._busy[by].step(num_tokens):
                self._settle(row)
            if not self._busy[by].busy:
                del self._busy[by]

    def _settle(self, row: Request) -> None:
        tag: _For = row.tag
        [(leaf, _), *_] = tag.waiting
        ask, live = leaf.ask, leaf.live
        until = ask.until if isinstance(ask, Continue) else "answer"
        engine, task = self._engines(ask.by), live.search.task
        prefix = tag.samples.grown(
            row, lambda: grown(tag.prefix, row, engine, tag.rule, task, ask.by, until, tag.room)
        )
        live.charged[ask.by] += len(row.new_ids)
        self._spent[ask.by] += len(row.new_ids)
        del tag.samples.writing[tag.sample]
        tag.samples.ends[tag.sample] = tag.end = prefix
        for leaf, places in tag.waiting:
            for place in places:
                leaf.reply(place, prefix)


class ReadQueue:
    """Score, Logprob and Choose: forwards over what a search does not remember."""

    def __init__(self, engines: Engines, spent: Counter[str]) -> None:
        self._engines, self._spent = engines, spent
        self._queue: dict[tuple[str, str], list[tuple[Leaf, int, Any, int]]] = {}

    @property
    def waiting(self) -> int:
        """Prefixes that wait to be read."""
        return sum(map(len, self._queue.values()))

    def prepare(self, leaf: Leaf) -> Enqueue:
        """What each prefix of an ask has to have read.

        Raises:
            TooLong: a prefix does not fit the context.
            RecipeError: a reward model whose tokenizer lacks the step mark.
        """
        ask, live, engine = leaf.ask, leaf.live, self._engines(leaf.ask.by)
        kind = type(ask).__name__
        if isinstance(ask, Logprob) and ask.of == "certainty":
            kind = "Certainty"
        if kind == "Score":
            engine.require_mark(live.search.task.step_separator)
        items = []
        for given in ask.listed:
            prompt_ids = engine.encode(given.prompt)
            prefix = fitted(given, engine)
            ids = (*prompt_ids, *prefix.token_ids)
            asked = _asked(ask, prefix, len(prompt_ids), engine)
            longest = len(ids) + max(map(len, asked), default=0) if kind == "Choose" else len(ids)
            if longest > engine.context:
                raise TooLong(
                    f"prompt too long: {longest} tokens to read, and {ask.by} holds {engine.context}"
                )
            items.append(((kind, ask.by, ids, asked), len(prompt_ids)))
        leaf.expect(len(items))

        def enqueue() -> None:
            for place, (key, num_prompt) in enumerate(items):
                _charge(live, key, num_prompt)
                if key in live.scores:
                    leaf.reply(place, live.scores[key])
                else:
                    self._queue.setdefault((kind, ask.by), []).append((leaf, place, key, num_prompt))

        return enqueue

    def work(self) -> None:
        """Read all that waits, by kind and model."""
        for kind, by in sorted(self._queue):
            waiting = self._queue.pop((kind, by))
            engine = self._engines(by)
            todo = list(dict.fromkeys((leaf.live, key, num_prompt) for leaf, _, key, num_prompt in waiting))
            items = [(ids, asked) for _, (_, _, ids, asked), _ in todo]
            memories = [(live.memory(by, engine), num_prompt) for live, _, num_prompt in todo]
            values = _READ[kind](engine, items, memories)
            for (live, key, _), value in zip(todo, values, strict=True):
                live.scores[key] = value
                self._spent[by] += len(key[2])
            for leaf, place, key, _ in waiting:
                leaf.reply(place, leaf.live.scores[key])


def _asked(ask: Any, prefix: Prefix, num_prompt: int, engine: Any) -> Any:
    """What is read of a prefix: the places of its step ends, its first token, or the ids of each option."""
    if isinstance(ask, Score):
        return tuple(num_prompt + end - 1 for end in prefix.step_ends)
    if isinstance(ask, Logprob):
        return num_prompt
    return tuple(tuple(engine.encode_more(option)) for option in ask.options)


def _charge(live: Live, key: tuple[Any, ...], num_prompt: int) -> None:
    """Charge the completion's tokens that this search has not had read before, by step ends."""
    kind, by, ids, asked = key
    known = live.known.setdefault(by, set())
    if kind == "Choose":
        live.charged[by] += 0 if (ids, asked) in known else sum(map(len, asked))
        known.add((ids, asked))
        return
    ends = [place + 1 for place in asked] if kind == "Score" else [len(ids)]
    paid = next((end for end in reversed(ends) if ids[:end] in known), num_prompt)
    live.charged[by] += max(0, (ends[-1] if ends else num_prompt) - paid)
    known.update(ids[:end] for end in ends)


def _choose(engine: Any, items: Sequence[tuple[tuple[int, ...], Any]]) -> list[list[float]]:
    """Probabilities of the options: the softmax of each option's log-probability after the prefix."""
    flat = [((*ids, *option), len(ids)) for ids, options in items for option in options]
    logprobs = iter(engine.logprobs(flat))
    replies = []
    for _, options in items:
        total = np.array([sum(next(logprobs)) for _ in options])
        weight = np.exp(total - total.max(initial=-np.inf))
        replies.append((weight / weight.sum()).tolist())
    return replies


_READ: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "Score": lambda engine, items, memories: [
        [weight(score, engine.score_kind) for score in row] for row in engine.score(items, memories)
    ],
    "Logprob": lambda engine, items, _: engine.logprobs(items),
    "Certainty": lambda engine, items, _: engine.certainties(items),
    "Choose": lambda engine, items, _: _choose(engine, items),
}
READS = (Score, Logprob, Choose)
WRITES = (Continue, MonteCarlo)
