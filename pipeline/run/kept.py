"""What a process keeps of rounds that are over, so that a round costs what is new in it.

Only what is committed is kept, and what is committed does not change: a part is known by its hash, which was
checked when it was read. Nothing here reaches the disk. Not here: models (`Run.engines`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 32 << 20  #: of parts whose rows are kept; in memory a row takes some thirty times as much


@dataclass
class Kept:
    """The rows of earlier rounds, and what was derived from them."""

    sources: dict[str, Any] = field(default_factory=dict)  #: committed stage folders, by path
    metrics: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  #: rows of rounds that are closed
    card: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  #: a folder's part of the run's card
    afforded: dict[int, set[str]] = field(default_factory=dict)  #: problems that a round's budget pays for
    order: tuple[int, list[str]] = (-1, [])  #: a pass over the training problems, and its order
    most_bytes: int = MOST_BYTES
    num_bytes: int = 0
    _rows: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)

    def rows(self, folder: str, part: dict[str, Any], read: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """The rows of a part, read once while there is room. What was there first stays: every round asks for
        the same parts in the same order, so making room for later ones would lose each before it is asked
        for again.

        part: its entry in the manifest: {file, kind, rows, bytes, sha256}.
        """
        key = (folder, part["file"], part["sha256"])
        if key in self._rows:
            yield from self._rows[key]
        elif self.num_bytes + part["bytes"] > self.most_bytes:
            yield from read()
        else:
            rows = self._rows[key] = list(read())
            self.num_bytes += part["bytes"]
            yield from rows
