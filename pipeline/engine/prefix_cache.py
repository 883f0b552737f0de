"""What one search has had read by one model: keys and values of its prefixes, so that no step is read twice.

A tree's prefixes share their prompt and their first steps. On CPU a prefix that is read in parts has the bits
of one that is read whole (`selftest` looks at up to 300 columns on each machine, and nothing is remembered
where it does not hold), so what is remembered changes no result, only the time. All searches of an engine
share its room; what does not fit is read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.engine.cache import Stash, stacked

LEAST_STEM = 32  #: tokens of a stem: a shorter one costs more to copy than to read
Ids = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Held:
    """A prefix that was read: a piece [2 * layers, heads, tokens, size] for each reading, in order."""

    pieces: tuple[torch.Tensor, ...]
    num_tokens: int
    value: float | None = None  #: what was read at its last token, if it was asked for


NOTHING = Held((), 0)


class CacheBudget:
    """What all memories of an engine may take together. token_bytes: what a token takes."""

    def __init__(self, num_bytes: int, token_bytes: int) -> None:
        self.left, self.token_bytes = num_bytes, token_bytes


@dataclass(slots=True, eq=False)
class Stem:
    """What stands in front of the prompts of many searches (worked examples), read once for all."""

    ids: Ids
    held: Held


class Stems:
    """The stems that an engine has read for the rows under way."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._read: dict[str, Stem | None] = {}

    def of(self, text: str) -> Stem | None:
        """The reading of a stem, made at its first use; None where there is too little to share. Its last
        token may fuse with what follows, so it is left out.
        """
        if text and text not in self._read:
            ids = tuple(self.engine.encode_text(text))[:-1]
            self._read[text] = self._made(ids) if LEAST_STEM <= len(ids) < self.engine.context else None
        return self._read.get(text)

    @torch.inference_mode()
    def _made(self, ids: Ids) -> Stem | None:
        [(_, width)] = self.engine.groups([len(ids)])
        layers, _ = self.engine.prefill([ids], width)
        read = stacked(layers)
        return None if read is None else Stem(ids, Held((read[:, 0, :, : len(ids)].clone(),), len(ids)))

    def clear(self) -> None:
        """Forget them: their rows are done."""
        self._read.clear()


class PrefixCache:
    """The prefixes of one search in one model, and the stem that it shares with others."""

    def __init__(self, room: CacheBudget, stem: Stem | None = None) -> None:
        self.room, self.stem = room, stem
        self._held: dict[Ids, Held] = {}

    def fits(self, num_tokens: int) -> bool:
        """Is there room for so many tokens more?"""
        return num_tokens * self.room.token_bytes <= self.room.left

    def forget(self) -> None:
        """Give the room back: the search ended."""
        self.room.left += sum(held.pieces[-1].nbytes for held in self._held.values())
        self._held.clear()

    def longest(self, ids: Ids, borders: Iterable[int]) -> Held:
        """The longest of ids[:border] that is remembered and leaves something to read."""
        for border in sorted(borders, reverse=True):
            if border < len(ids) and (held := self._held.get(ids[:border])) is not None:
                return held
        stem = self.stem
        if stem is not None and len(stem.ids) < len(ids) and ids[: len(stem.ids)] == stem.ids:
            return stem.held
        return NOTHING

    def knows(self, ids: Ids) -> bool:
        """Is this prefix remembered?"""
        return ids in self._held

    def value(self, ids: Ids) -> float | None:
        """What was read at the last token of a prefix."""
        held = self._held.get(ids)
        return None if held is None else held.value

    def keep(self, ids: Ids, start: Held, ends: Sequence[int], read: torch.Tensor, first: int = 0) -> None:
        """Remember ids[:end] for each end, ascending. `read` [2 * layers, heads, columns, size] holds the
        columns from `first` on; those of `start` are remembered already.
        """
        held = start
        for end in ends:
            if end <= held.num_tokens:
                continue
            known = self._held.get(ids[:end])
            if known is None:
                if not self.fits(end - held.num_tokens):
                    return
                piece = read[:, :, held.num_tokens - first : end - first].clone()
                self.room.left -= piece.nbytes
                known = self._held[ids[:end]] = Held((*held.pieces, piece), end)
            held = known

    def note(self, ids: Ids, value: float) -> None:
        """What was read at the last token of a remembered prefix."""
        if ids in self._held:
            self._held[ids].value = value


@dataclass(slots=True, eq=False)
class Reading:
    """What is read of a sequence: the values at positions `at`, those known first.

    ends: the borders after which what was read is remembered.
    """

    ids: Ids
    at: Sequence[int]  #: to read now
    memory: PrefixCache | None = None
    ends: Sequence[int] = ()
    held: Held = NOTHING
    known: list[float] = field(default_factory=list)

    def values(self, found: Sequence[float]) -> list[float]:
        """All asked values: those known, and those just read, which are noted."""
        if self.memory is not None:
            for place, value in zip(self.at, found, strict=False):
                self.memory.note(self.ids[: place + 1], value)
        return [*self.known, *found[: len(self.at)]]


def reading(ids: Ids, at: Sequence[int], memory: PrefixCache | None, borders: Sequence[int]) -> Reading:
    """What there is to read of a sequence, of which a search may remember a part up to one of the borders
    (ascending), or, where no position is asked for, all but its last token.
    """
    if memory is None:
        return Reading(ids, at)
    known: list[float] = []
    for place in at:
        value = memory.value(ids[: place + 1])
        if value is None:
            break
        known.append(value)
    first = at[len(known)] if len(known) < len(at) else len(ids)
    last = () if at else (len(ids) - 1,)  # what a row wrote is remembered up to its last token
    held = memory.longest(ids, [border for border in (*borders, *last) if border <= first])
    known = known[: sum(place < held.num_tokens for place in at)]
    return Reading(ids, at[len(known) :], memory, (*borders, len(ids)), held, known)


def sizes(readings: Sequence[Reading]) -> tuple[list[int], list[int]]:
    """Of each, the tokens to read and those known."""
    known = [one.held.num_tokens for one in readings]
    return [len(one.ids) - held for one, held in zip(readings, known, strict=True)], known


def remember(readings: Sequence[Reading], layers: Sequence[Stash]) -> None:
    """Keep what a forward read, where a search remembers; row i of the layers is of reading i."""
    some = any(one.memory is not None and one.memory.fits(1) for one in readings)
    if some and (read := stacked(layers)) is not None:
        for row, one in enumerate(readings):
            if one.memory is not None:
                one.memory.keep(one.ids, one.held, one.ends, read[:, row])


def gathered(known: Sequence[Held], num_rows: int, num_columns: int, like: torch.Tensor) -> torch.Tensor:
    """[2 * layers, rows, heads, columns, size]: what is remembered of each row, zeros behind it."""
    layers, heads, _, size = like.shape
    whole = like.new_zeros(layers, num_rows, heads, num_columns, size)
    for row, held in enumerate(known):
        start = 0
        for piece in held.pieces:
            end = start + piece.shape[2]
            whole[:, row, :, start:end] = piece
            start = end
    return whole


def prompts(
    sequences: Sequence[Sequence[int]], memories: Sequence[tuple[PrefixCache | None, int]]
) -> list[Reading]:
    """The prompts that several sequences of a search share and it does not remember: read first, and once."""
    asked = ((memory, tuple(ids[:num])) for ids, (memory, num) in zip(sequences, memories, strict=True))
    return [
        Reading(ids, (), memory, (len(ids),))
        for (memory, ids), count in Counter(asked).items()
        if ids and count > 1 and memory is not None and not memory.knows(ids) and memory.fits(len(ids))
    ]
