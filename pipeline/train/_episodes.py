"""Rows of a policy gradient as flat arrays, the order of their passes, and how they become batches.

Values stand at the completion's tokens, one each, row after row; in a batch at the place *before* a token,
[B, T - 1], as log-probabilities of next tokens do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.rows import Example
from pipeline.train._batches import Batch, Corpus, Order, policy_batches
from pipeline.train._setup import TOKENS_AT_ONCE

FILLER = -1  #: a place that no row stands at, so that every device gets as many


@dataclass(frozen=True)
class Episodes:
    """N rows. `values[name]` are flat over the completions' tokens: advantages, old, and what is read under
    the starting weights before the first step: start, reference, entropy.
    """

    corpus: Corpus
    places: np.ndarray  #: row i's completion is values[places[i]:places[i + 1]]
    groups: list[str]  #: the problem of each row
    kl_weights: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Example]) -> Episodes:
        """Rows that are sound (`policy_gradient.fault_of`)."""
        corpus = Corpus.of(
            [[*row.prompt_ids, *row.completion_ids] for row in rows],
            [row.trace_id or row.problem_id for row in rows],
            [len(row.prompt_ids) for row in rows],
        )
        sizes = [len(row.completion_ids) for row in rows]
        advantages = np.concatenate(
            [np.broadcast_to(np.array(r.advantage, np.float32), n) for r, n in zip(rows, sizes, strict=True)]
        )
        old = np.concatenate([np.array(row.old_logprobs, np.float32) for row in rows])
        weights = np.array([1.0 if row.kl_weight is None else row.kl_weight for row in rows], np.float32)
        places = np.concatenate([[0], np.cumsum(sizes)])
        return cls(
            corpus, places, [row.problem_id for row in rows], weights, {"advantages": advantages, "old": old}
        )

    def digest(self) -> str:
        """One hash over what the corpus does not hold."""
        found = hashlib.sha256(self.kl_weights.tobytes())
        for name in ("advantages", "old"):
            found.update(self.values[name].tobytes())
        return found.hexdigest()

    def facts(self) -> dict[str, float]:
        """Counts for metrics, before anything is trained: groups, and those of equal advantages."""
        range_of: dict[str, tuple[float, float]] = {}
        advantages = self.values["advantages"]
        for group, start, end in zip(self.groups, self.places[:-1], self.places[1:], strict=True):
            low, high = range_of.get(group, (math.inf, -math.inf))
            own = advantages[start:end]
            range_of[group] = min(low, float(own.min())), max(high, float(own.max()))
        equal = sum(low == high for low, high in range_of.values())
        return {
            "groups": float(len(range_of)),
            "equal_groups": float(equal),
            "advantage/mean": float(advantages.mean(dtype=np.float64)),
            "advantage/sd": float(advantages.std(dtype=np.float64)),
            "length": float(np.diff(self.places).mean()),
            "perplexity": float(np.exp(-self.values["old"].mean(dtype=np.float64))),
            "distinct": self.distinct(),
        }

    def distinct(self) -> float:
        """Completions that differ, of a problem's: their share of all."""
        found = set()
        for group, first, start, end in zip(
            self.groups,
            self.corpus.first_trained,
            self.corpus.offsets[:-1],
            self.corpus.offsets[1:],
            strict=True,
        ):
            found.add((group, self.corpus.tokens[start + first : end].tobytes()))
        return len(found) / len(self.groups)

    def pay(self, reference: np.ndarray, coefficient: float) -> None:
        """k1: each token's advantage less the log-ratios from it to the end, times the coefficient."""
        ratios = (self.values["old"] - reference).astype(np.float64)
        for row, (start, end) in enumerate(zip(self.places[:-1], self.places[1:], strict=True)):
            paid = np.cumsum(ratios[start:end][::-1])[::-1]
            self.values["advantages"][start:end] -= (coefficient * self.kl_weights[row] * paid).astype(
                np.float32
            )

    def top(self, share: float) -> np.ndarray:
        """1 where a token's entropy is among the highest `share` of the round's, 0 elsewhere."""
        edge = np.quantile(self.values["entropy"], 1 - share)
        return (self.values["entropy"] >= edge).astype(np.float32)


class Passes(Order):
    """Each pass goes over all rows in `passes` steps of about as many rows, by length within a step, filled
    up to `batch_size` places with none.
    """

    def __init__(self, corpus: Corpus, passes: int, width: int, steps: int, seed: int) -> None:
        super().__init__(corpus, width, steps, seed)
        self.passes = passes

    def rows_of(self, step: int) -> np.ndarray:
        """The rows of a step, without fillers."""
        whole, part = divmod(step, self.passes)
        return np.array_split(self.shuffled(whole), self.passes)[part]

    def _of_step(self, step: int) -> np.ndarray:
        rows = self.rows_of(step)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        return np.concatenate([rows, np.full(self.batch_size - len(rows), FILLER)])

    def num_trained(self, corpus: Corpus) -> int:
        """Trained tokens in the whole training, repetitions counted."""
        return int(sum(corpus.num_trained[self.rows_of(step)].sum() for step in range(self.steps)))


def width(rows: int, world: int, micro_batch: int | None, longest: int) -> int:
    """Places of a step: its rows, filled up so that every device does equal micro-batches."""
    share = math.ceil(rows / world)
    at_once = min(share, micro_batch or max(1, TOKENS_AT_ONCE // max(longest, 1)))
    return world * at_once * math.ceil(share / at_once)


def batches(episodes: Episodes, pad: int) -> Callable[[list[int]], Batch]:
    """Rows to `input_ids`, `labels`, `position_ids` [B, T] and each of `values` [B, T - 1], with the mask of
    trained places and the KL weight of each row [B, 1].
    """
    collate = policy_batches(episodes.corpus, pad)

    def batch(picked: list[int]) -> Batch:
        real = [row for row in picked if row != FILLER]
        found = collate(real or [0])
        found["rows"] = found["rows"][: len(real)]
        if not real:
            found["labels"] = torch.full_like(found["labels"], -100)
        mask = (found["labels"][:, 1:] != -100).float()
        for name, flat in episodes.values.items():
            parts = [flat[episodes.places[row] : episodes.places[row + 1]] for row in real]
            wide = torch.zeros_like(mask)
            if real:
                wide[mask.bool()] = torch.from_numpy(np.concatenate(parts))
            found[name] = wide
        found["mask"] = mask
        found["kl_weights"] = torch.from_numpy(episodes.kl_weights[real or [0]])[:, None]
        fillers = len(picked) - len(mask)
        if fillers:
            for name, value in found.items():
                if name != "rows":
                    fill = -100 if name == "labels" else pad if name == "input_ids" else 0
                    extra = value.new_full((fillers, value.shape[1]), fill)
                    if name == "position_ids":
                        extra = value[:1].expand(fillers, -1)
                    found[name] = torch.cat([value, extra])
        return found

    return batch
