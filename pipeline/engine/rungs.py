"""Rungs: the columns that a row's batch has, and which sequences share a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

RUNGS = (64, 128, 256, 384, 512, 768, 1024)  #: columns; then steps of 512
#: weights from which a model is large to a CPU; products of fewer are in its cache, and Python's time counts
LARGE_WEIGHTS = 50_000_000
LARGE = (256, 512, 1024)  #: of a large model, whose step reads all weights for each batch; then steps of 1024
WIDE = (512, 2048)  #: on a GPU, where a row's own columns are read alone; then steps of 4096


@dataclass(frozen=True, slots=True)
class Room:
    """What a device has for an engine."""

    tokens: int  #: in one prefill or scoring forward
    cost: int  #: tokens of padding that are dearer than one more forward
    cache: int  #: bytes for the rows of one rung
    memory: int  #: bytes for what all searches remember


#: a forward is what the processor's cache holds (1.2 to 1.4 times as fast as 4096 tokens)
ON_CPU = Room(tokens=1024, cost=64, cache=2 << 30, memory=2 << 30)
ON_GPU = Room(tokens=1 << 15, cost=4096, cache=16 << 30, memory=16 << 30)


def rung_of(length: int) -> int:
    """The columns of the smallest rung that holds `length` tokens."""
    return next((rung for rung in RUNGS if rung >= length), -(-length // 512) * 512)


def large_rung_of(length: int) -> int:
    """The same for a large model on a CPU: few batches, each of which looks at the columns in use."""
    return next((rung for rung in LARGE if rung >= length), -(-length // 1024) * 1024)


def wide_rung_of(length: int) -> int:
    """The same where all rows had best share a batch, for each batch's step reads all weights."""
    return next((rung for rung in WIDE if rung >= length), -(-length // 4096) * 4096)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward may hold."""

    tokens: int
    columns: int  #: those that are known in front too
    cost: int  #: tokens of padding that are dearer than one more forward
    trim: bool  #: padding is known not to change bits


def groups(
    lengths: Sequence[int], known: Sequence[int], rung: Callable[[int], int], most: Limits
) -> Iterator[tuple[list[int], int]]:
    """Forwards over sequences of these lengths: which, and their columns. Those of one rung share a forward.
    known: the columns that stand in front of each and are not computed again.

    Where padding is known not to change bits, a forward is as wide as its longest sequence, and a new one
    begins where the padding would cost more than a forward does by itself.
    """
    order = sorted(range(len(lengths)), key=lambda i: (rung(lengths[i]), lengths[i]), reverse=True)
    group: list[int] = []
    width = now = waste = longest = 0
    for i in order:
        waste += width - lengths[i]
        longest = max(longest, lengths[i] + (known[i] if known else 0))
        full = (len(group) + 1) * width > most.tokens or (len(group) + 1) * longest > most.columns
        if full or now != rung(lengths[i]) or (most.trim and waste > most.cost):
            if group:
                yield group, width
            now = rung(lengths[i])
            width = lengths[i] if most.trim else now
            group, waste = [], width - lengths[i]
            longest = lengths[i] + (known[i] if known else 0)
        group.append(i)
    if group:
        yield group, width
