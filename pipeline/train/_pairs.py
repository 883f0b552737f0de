"""Pairs as flat token arrays, and how they become batches: the chosen halves of a batch first, then the
rejected ones, as TRL lays them. Padding is on the right. Not here: text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from pipeline.errors import NothingKept
from pipeline.rows import Pair
from pipeline.train._batches import Batch, Corpus, _columns, _positions, _tensors

Ids = tuple[list[int], list[int], list[int]]  #: of prompt, chosen and rejected


@dataclass(frozen=True)
class Pairs(Corpus):
    """N pairs: the arrays hold 2 N rows, pair i's chosen one at 2 i and its rejected one after it, and as
    targets of the chosen one its margin (column 0) and confidence (column 1).
    """

    @classmethod
    def paired(
        cls,
        sides: Sequence[Ids],
        names: list[str],
        margins: Sequence[tuple[float, float]],
    ) -> Pairs:
        """Of (prompt, chosen, rejected) and (margin, confidence), each pair's."""
        rows: list[Sequence[int]] = []
        first: list[int] = []
        targets: list[tuple[Sequence[int], Sequence[float]]] = []
        for (prompt, chosen, rejected), (margin, confidence) in zip(sides, margins, strict=True):
            rows += [[*prompt, *chosen], [*prompt, *rejected]]
            first += [len(prompt)] * 2
            targets += [([0, 1], [margin, confidence]), ([], [])]
        flat = Corpus.of(rows, names, first, targets)
        return cls(**{part.name: getattr(flat, part.name) for part in fields(flat)})

    @cached_property
    def flat(self) -> Corpus:
        """The 2 N rows, each by itself."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return Corpus(**parts | {"names": [name for name in self.names for _ in range(2)]})

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer half of each pair."""
        return np.diff(self.offsets).reshape(-1, 2).max(axis=1)

    @property
    def num_trained(self) -> np.ndarray:
        """Of each pair, the tokens of both completions."""
        return (np.diff(self.offsets) - self.first_trained).reshape(-1, 2).sum(axis=1)

    @property
    def margins(self) -> np.ndarray:
        """[N, 2]: margin and confidence of each pair."""
        return self.target_values.reshape(-1, 2)


def pair_batches(pairs: Pairs, pad: int, reference: np.ndarray | None = None) -> Callable[[list[int]], Batch]:
    """Pairs to `input_ids`, `attention_mask`, `completion_mask` and `position_ids`, each [2 pairs, longest];
    reference: [N, 2] log-likelihoods of each half, which come along.
    """

    def collate(picked: list[int]) -> Batch:
        chosen = np.asarray(picked)
        halves = np.concatenate([2 * chosen, 2 * chosen + 1])
        row, column, token = _columns(pairs.flat, halves)
        shape = (len(halves), int(pairs.lengths[chosen].max()))
        ids, seen, trained = np.full(shape, pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        ids[row, column], seen[row, column] = token, 1
        trained[row, column] = column >= pairs.first_trained[halves][row]
        batch = _tensors(
            input_ids=ids,
            attention_mask=seen,
            completion_mask=trained,
            position_ids=_positions(shape),
            rows=chosen,
        )
        if reference is not None:
            batch["ref_chosen_logps"] = torch.from_numpy(reference[chosen, 0].astype(np.float32))
            batch["ref_rejected_logps"] = torch.from_numpy(reference[chosen, 1].astype(np.float32))
        return batch

    return collate


def last_token_batches(pairs: Pairs, pad: int) -> Callable[[list[int]], Batch]:
    """Pairs to `input_ids` and `position_ids` [2 pairs, longest], with `labels` [pairs, 4]: the last column
    of each half, the margin and the confidence.
    """

    def collate(picked: list[int]) -> Batch:
        batch = pair_batches(pairs, pad)(picked)
        last = batch["attention_mask"].sum(dim=1) - 1
        number = len(picked)
        labels = torch.stack([last[:number], last[number:]], dim=1).float()
        margins = torch.from_numpy(pairs.margins[np.asarray(picked)])
        kept = {key: batch[key] for key in ("input_ids", "position_ids", "rows")}
        return {**kept, "labels": torch.cat([labels, margins], dim=1)}

    return collate


def reading_batches(pairs: Pairs, tokens: int) -> list[list[int]]:
    """All pairs in batches of about equal length and at most `tokens` tokens, padding included."""
    order = np.argsort(pairs.lengths, kind="stable")
    found: list[list[int]] = []
    for pair in order.tolist():
        length = int(pairs.lengths[pair])
        if not found or 2 * length * (len(found[-1]) + 1) > tokens:
            found.append([])
        found[-1].append(pair)
    return found


def read_pairs(
    rows: Iterable[Pair], ids_of: Callable[[Pair], tuple[Ids, str]], max_length: int, dropped: Counter[str]
) -> Pairs:
    """Rows as token ids; what cannot be trained on is counted by reason. ids_of: a row's ids, and why it
    cannot be used.

    Raises:
        NothingKept: no pair is left.
    """
    sides: list[Ids] = []
    names: list[str] = []
    margins: list[tuple[float, float]] = []
    for row in rows:
        found, fault = ids_of(row)
        if not fault and found[1] == found[2]:
            fault = "same"
        if not fault and len(found[0]) + max(len(found[1]), len(found[2])) > max_length:
            fault = "too_long"
        if fault:
            dropped[fault] += 1
            continue
        sides.append(found)
        names.append(f"{row.trace_id or row.problem_id} over {row.rejected_id or 'another'}")
        margins.append((row.margin, row.confidence))
    if not sides:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise NothingKept(
            f"no pair to train on: {reasons or 'no row arrived'}. For too_long raise max_length "
            f"({max_length}); for no_token_ids take pairs of `select: pairs`"
        )
    return Pairs.paired(sides, names, margins)
