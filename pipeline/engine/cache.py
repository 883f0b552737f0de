"""A key-value cache of slots: row k of a running batch owns slot k, token t of a row stands in column t of
its slot.

Padding is on the right, so a token's column is its position, whatever its neighbours are. Three kinds of
layer: `Stash` keeps what a prefill computes, `Resumed` begins with what an earlier one computed, and `Slots`
holds the running batch and takes one new column a row and step. Sliding windows are a matter of the mask;
models with recurrent layers are refused by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """What transformers wants to know of any layer. Positions and masks are always given, so the sizes
    are never used.
    """

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Stash(_Layer):
    """One prefill: attention sees the new keys alone, and they are kept."""

    keys: torch.Tensor
    values: torch.Tensor
    whole: torch.Tensor | None = None  #: the tensor that holds this and all other layers, if one does

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> Stash:
        """One that holds these."""
        stash = cls()
        stash.keys, stash.values = keys, values
        return stash

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.keys, self.values = key_states, value_states
        return key_states, value_states


class Resumed(Stash):
    """The rest of prefixes whose first columns are known: whole [2 * layers, rows, heads, columns, size]
    holds those of all layers.
    """

    def __init__(self, whole: torch.Tensor, layer: int, lines: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = whole[2 * layer], whole[2 * layer + 1]
        self.whole, self._lines = whole, lines

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write the new columns behind the known ones; give all."""
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            held.view(-1, held.shape[3]).index_copy_(0, self._lines, new.reshape(-1, new.shape[3]))
        return self.keys, self.values


def resumed(whole: torch.Tensor, positions: torch.Tensor) -> list[Stash]:
    """A layer for each two of `whole` [2 * layers, rows, heads, columns, size]; `positions` [rows, new] is
    where the new columns go.
    """
    _, rows, heads, columns, _ = whole.shape
    first = torch.arange(rows * heads, device=whole.device).view(rows, heads, 1) * columns
    lines = (first + positions[:, None]).reshape(-1)
    return [Resumed(whole, layer, lines) for layer in range(len(whole) // 2)]


def stacked(layers: Sequence[Stash]) -> torch.Tensor | None:
    """Keys and values of all layers, [2 * layers, rows, heads, columns, size]; None where they differ in
    shape.
    """
    if layers[0].whole is not None:
        return layers[0].whole
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return torch.stack(held) if len({tensor.shape for tensor in held}) == 1 else None


class Slots(_Layer):
    """The running batch of one rung in one layer: [slots, heads, columns, size]. Columns that no row has come
    to yet take no room.
    """

    keys: Any
    values: Any

    def __init__(self, place: WriteCursor) -> None:
        super().__init__()
        self.place = place

    def _room(self, like_keys: torch.Tensor, like_values: torch.Tensor) -> None:
        """Room for all slots and columns, keeping what is held. Zeros: a masked column may be anything
        finite.
        """
        num_slots, num_columns = self.place.num_slots, self.place.num_columns
        if self.keys is not None and self.keys.shape[0] == num_slots and self.keys.shape[2] == num_columns:
            return
        for name, like in (("keys", like_keys), ("values", like_values)):
            fresh = like.new_zeros(num_slots, like.shape[1], num_columns, like.shape[3])
            held = getattr(self, name)
            if held is not None:
                fresh[: held.shape[0], :, : held.shape[2]] = held
            setattr(self, name, fresh)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write each row's new column; give the columns of the rows that take part."""
        self._room(key_states, value_states)
        num, heads, width = key_states.shape[0], key_states.shape[1], key_states.shape[3]
        lines, used = self.place.lines(num, heads), self.place.num_used
        self.keys.view(-1, width).index_copy_(0, lines, key_states.reshape(-1, width))
        self.values.view(-1, value_states.shape[3]).index_copy_(
            0, lines, value_states.reshape(num * heads, -1)
        )
        return self.keys[:num, :, :used], self.values[:num, :, :used]

    def fill(self, stash: Stash, source: torch.Tensor, slots: slice) -> None:
        """Copy prefilled row source[i] into the i-th of `slots`."""
        self._room(stash.keys, stash.values)
        width = min(stash.keys.shape[2], self.place.num_columns)  # what stands behind is padding
        self.keys[slots, :, :width] = stash.keys[source, :, :width]
        self.values[slots, :, :width] = stash.values[source, :, :width]

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Slot target[i] takes over what slot source[i] holds."""
        if self.keys is None:
            return
        self.keys[target] = self.keys[source]
        self.values[target] = self.values[source]


@dataclass
class WriteCursor:
    """The size of a running batch, and where the step in progress writes: row i into column columns[i] of
    slot i.
    """

    num_columns: int = 0
    num_slots: int = 0
    num_used: int = 0  #: columns that the step looks at; what lies behind is masked for every row
    columns: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    _lines: torch.Tensor | None = None

    def write_to(self, columns: torch.Tensor, num_used: int) -> None:
        """The next step's columns."""
        self.columns, self.num_used, self._lines = columns, num_used, None
        self.num_columns = max(self.num_columns, num_used)

    def lines(self, num_rows: int, num_heads: int) -> torch.Tensor:
        """The lines [rows * heads] of a layer, seen as [slots * heads * columns, size]; the same for all
        layers of a step.
        """
        if self._lines is None or len(self._lines) != num_rows * num_heads:
            lines = torch.arange(num_rows * num_heads, device=self.columns.device) * self.num_columns
            self._lines = lines.view(num_rows, num_heads).add_(self.columns[:, None]).view(-1)
        return self._lines


def cache_of(layers: Sequence[Stash] | Sequence[Slots]) -> Cache:
    """What a model's forward takes."""
    return Cache(layers=list(layers))
