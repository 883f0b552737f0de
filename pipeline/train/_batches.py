"""Training rows as flat token arrays, their order as a function of (seed, step), and how rows become batches.

Not here: text. Rows arrive as token ids; whatever is too long was refused before. Padding is on the right,
and since every model here is causal, a real token never sees a pad: no attention mask is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Batch = dict[str, torch.Tensor]
LINE = 128  #: tokens; a line of rows is a multiple of it


@dataclass(frozen=True)
class Corpus:
    """N rows in flat arrays: row i is tokens[offsets[i]:offsets[i + 1]].

    `targets[i]` are (column, value) pairs of a PRM row, with a weight each where not all weigh alike; for a
    policy row `first_trained[i]` is the column where the completion begins.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    names: list[str]
    first_trained: np.ndarray
    target_columns: np.ndarray
    target_values: np.ndarray
    target_offsets: np.ndarray
    target_weights: np.ndarray  #: empty: all weigh 1
    starting: np.ndarray | None = None  #: of each target, what the starting weights say there

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        names: list[str],
        first_trained: Sequence[int] = (),
        targets: Sequence[tuple[Sequence[int], Sequence[float]]] = (),
        weights: Sequence[Sequence[float]] = (),
    ) -> Corpus:
        """Rows of token ids as flat arrays."""

        def flat(parts: list[Sequence[Any]], kind: Any) -> tuple[np.ndarray, np.ndarray]:
            offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
            values: np.ndarray = np.fromiter(
                (x for part in parts for x in part), dtype=kind, count=int(offsets[-1])
            )
            return values, offsets.astype(np.int64)

        tokens, offsets = flat(list(rows), np.int64)
        columns, target_offsets = flat([t[0] for t in targets], np.int64)
        values, _ = flat([t[1] for t in targets], np.float32)
        heavy, _ = flat(list(weights), np.float32)
        first = np.asarray(first_trained, np.int64)
        return cls(tokens, offsets, names, first, columns, values, target_offsets, heavy)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @property
    def num_trained(self) -> np.ndarray:
        """Of each row, the tokens (policy) or steps (PRM) that carry loss."""
        return (
            np.diff(self.target_offsets)
            if len(self.target_offsets) > 1
            else self.lengths - self.first_trained
        )


class Order(torch.utils.data.Dataset):
    """Which row stands at which position of training: the rows, shuffled anew each time all were seen,
    without end.

    A function of (seed, position) and of nothing that happened before, so a resumed run reads what the killed
    one would have. The rows of one optimizer step stand by length, so that its micro-batches pad little.
    """

    def __init__(self, corpus: Corpus, batch_size: int, steps: int, seed: int) -> None:
        self.lengths, self.batch_size, self.steps, self.seed = corpus.lengths, batch_size, steps, seed
        self.shuffled = lru_cache(maxsize=2)(self._shuffled)
        self.of_step = lru_cache(maxsize=2)(self._of_step)

    def _shuffled(self, epoch: int) -> np.ndarray:
        # Philox's raw stream is fixed by its paper; Generator.permutation may change with numpy
        raw = np.random.Philox(key=[self.seed % 2**64, epoch]).random_raw(len(self.lengths))
        return np.argsort(raw, kind="stable")

    def _of_step(self, step: int) -> np.ndarray:
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.lengths))
        rows = np.concatenate([self.shuffled(int(e))[places[epochs == e]] for e in np.unique(epochs)])
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __getitem__(self, position: int) -> int:
        return int(self.of_step(position // self.batch_size)[position % self.batch_size])

    def __getitems__(self, positions: list[int]) -> list[int]:
        return [self[position] for position in positions]

    def num_trained(self, corpus: Corpus) -> int:
        """Trained tokens (or steps) in the whole training, repetitions counted."""
        whole, rest = divmod(len(self), len(corpus))
        per_row = corpus.num_trained
        return int(whole * per_row.sum() + per_row[self.shuffled(whole)[:rest]].sum())


def _columns(corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row in batch, column, token) of every real token of the batch."""
    lengths = corpus.lengths[rows]
    row = np.repeat(np.arange(len(rows)), lengths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, column, corpus.tokens[np.repeat(corpus.offsets[rows], lengths) + column]


def policy_batches(corpus: Corpus, pad: int) -> Callable[[list[int]], Batch]:
    """Rows to `input_ids`, `labels` (-100 on prompt and padding) and `position_ids`, each [rows, longest]."""

    def collate(picked: list[int]) -> Batch:
        rows = np.asarray(picked)
        row, column, token = _columns(corpus, rows)
        width = int(corpus.lengths[rows].max())
        ids, labels = np.full((len(rows), width), pad), np.full((len(rows), width), -100)
        ids[row, column] = token
        trained = column >= corpus.first_trained[rows][row]
        labels[row[trained], column[trained]] = token[trained]
        return _tensors(input_ids=ids, labels=labels, position_ids=_positions(ids.shape), rows=rows)

    return collate


def packed_batches(corpus: Corpus, pad: int, max_length: int) -> Callable[[list[int]], Batch]:
    """The same rows laid end to end, several to a line of at most `max_length` tokens (first fit, longest
    first).

    Positions start anew with each row: transformers builds the mask that keeps rows apart from them, as long
    as there is neither an attention mask nor a cache. A row's first token predicts nothing and is predicted
    by nothing. The optimizer step holds the same rows as without packing, so the update is the same.
    """

    def collate(picked: list[int]) -> Batch:
        rows = np.asarray(picked)
        lengths = corpus.lengths[rows]
        line, start, room = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), list[int]()
        for i in np.argsort(-lengths, kind="stable"):
            fits = next((k for k, free in enumerate(room) if free >= lengths[i]), len(room))
            if fits == len(room):
                room.append(max_length)
            line[i], start[i] = fits, max_length - room[fits]
            room[fits] -= int(lengths[i])
        row, column, token = _columns(corpus, rows)
        shape = (len(room), max_length - min(room))
        at = line[row], start[row] + column
        ids, labels, positions = np.full(shape, pad), np.full(shape, -100), np.zeros(shape, np.int64)
        ids[at], positions[at] = token, column
        trained = column >= np.maximum(corpus.first_trained[rows][row], 1)
        labels[at[0][trained], at[1][trained]] = token[trained]
        return _tensors(input_ids=ids, labels=labels, position_ids=positions, rows=rows)

    return collate


def line_batches(corpus: Corpus, pad: int) -> Callable[[list[int]], Batch]:
    """The same rows on one line, for attention that knows where each begins (`_alone`). The line is padded to
    a multiple of LINE, as a row of its own.
    """

    def collate(picked: list[int]) -> Batch:
        rows = np.asarray(picked)
        lengths = corpus.lengths[rows]
        row, column, token = _columns(corpus, rows)
        rest = -len(token) % LINE
        ids, labels = np.pad(token, (0, rest), constant_values=pad), np.full(len(token) + rest, -100)
        trained = np.flatnonzero(column >= np.maximum(corpus.first_trained[rows][row], 1))
        labels[trained] = token[trained]
        places = np.concatenate([column, np.arange(rest)])
        starts = np.cumsum([0, *lengths, *([rest] if rest else [])]).astype(np.int32)
        batch = _tensors(
            input_ids=ids[None], labels=labels[None], position_ids=places[None], cu_seq_lens_q=starts,
            cu_seq_lens_k=starts, rows=rows,
        )  # fmt: skip
        longest: Any = int(max(lengths.max(), rest))
        return {**batch, "max_length_q": longest, "max_length_k": longest}

    return collate


def step_batches(corpus: Corpus, pad: int, keep_columns: bool) -> Callable[[list[int]], Batch]:
    """Rows of a PRM to `input_ids` [rows, longest] and float `labels`, NaN wherever nothing is trained.

    Labels are [rows, longest]; with `keep_columns` they are [rows, columns at which some row of the batch is
    trained], and `logits_to_keep` names those columns, so that the LM head is not computed anywhere else. A
    last dimension of two holds value and weight, where not all weigh alike; of three, what the starting
    weights say too.
    """
    beside = [corpus.target_weights] if len(corpus.target_weights) else []
    if corpus.starting is not None:
        beside = [*(beside or [np.ones_like(corpus.target_values)]), corpus.starting]

    def collate(picked: list[int]) -> Batch:
        rows = np.asarray(picked)
        row, column, token = _columns(corpus, rows)
        ids = np.full((len(rows), int(corpus.lengths[rows].max())), pad)
        ids[row, column] = token
        labels = np.full((*ids.shape, 1 + len(beside)) if beside else ids.shape, np.nan, np.float32)
        for i, r in enumerate(rows):
            piece = slice(corpus.target_offsets[r], corpus.target_offsets[r + 1])
            values = corpus.target_values[piece]
            if beside:
                values = np.stack([values, *(each[piece] for each in beside)], axis=-1)
            labels[i, corpus.target_columns[piece]] = values
        if not keep_columns:
            return _tensors(input_ids=ids, labels=labels, position_ids=_positions(ids.shape), rows=rows)
        kept = np.flatnonzero(~np.isnan(labels).all(axis=(0, 2) if beside else 0))
        return _tensors(
            input_ids=ids,
            labels=labels[:, kept],
            position_ids=_positions(ids.shape),
            logits_to_keep=kept,
            rows=rows,
        )

    return collate


def _positions(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.arange(shape[1]), shape).copy()


def _tensors(**arrays: np.ndarray) -> Batch:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
