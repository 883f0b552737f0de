"""The loss of an implicit reward model, and the trainer that computes it: one forward with the adapter, one
without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer

from pipeline.train._batches import Batch, Corpus, step_batches
from pipeline.train._trainers import StepTrainer


def batches(corpus: Corpus, pad: int) -> Callable[[list[int]], Batch]:
    """Rows to `input_ids` [rows, longest], `labels` [rows] (outcomes) and `spans` [rows, 2]: the columns
    where each completion begins and ends.
    """
    plain = step_batches(corpus, pad, keep_columns=False)

    def collate(picked: list[int]) -> Batch:
        batch = plain(picked)
        known = ~torch.isnan(batch["labels"])
        begins = known.float().argmax(dim=1)
        ends = torch.from_numpy(corpus.lengths[picked].copy())
        return {**batch, "labels": batch["labels"][known], "spans": torch.stack([begins, ends], dim=1)}

    return collate


def summed_logprobs(logits: torch.Tensor, ids: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """[rows]: the log-probability of the ids from column spans[:, 0] up to spans[:, 1], given all before."""
    logits, following = logits[:, :-1].float(), ids[:, 1:]
    found = logits.gather(-1, following[..., None])[..., 0] - logits.logsumexp(-1)
    columns = torch.arange(1, ids.shape[1], device=ids.device)
    inside = (columns >= spans[:, :1]) & (columns < spans[:, 1:])
    return (found * inside).sum(-1)


def ratio_loss(ratios: torch.Tensor, outcomes: torch.Tensor, beta: float) -> torch.Tensor:
    """Cross-entropy of sigma(beta * log-ratio) with the outcomes, added up (by hand: ratio 10, beta .05,
    outcome 1 -> sigma .62246, loss .47408).
    """
    return functional.binary_cross_entropy_with_logits(beta * ratios, outcomes, reduction="sum")


class Ratio(Trainer):
    """transformers' Trainer whose loss looks at the model twice."""

    beta: float

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        given = dict(inputs)
        outcomes, spans = given.pop("labels"), given.pop("spans")
        ids = given["input_ids"]
        ours = summed_logprobs(model(**given, use_cache=False).logits, ids, spans)
        ratios = ours - self._started(model, given, spans)
        total = ratio_loss(ratios, outcomes, self.beta)
        if num_items_in_batch is None:
            return total / len(outcomes)
        return (
            total * self.accelerator.num_processes / num_items_in_batch
        )  # gradients are a mean over processes

    @torch.no_grad()
    def _started(self, model: torch.nn.Module, given: dict[str, Any], spans: torch.Tensor) -> torch.Tensor:
        """The same sums under the base: the adapter is off, and so is dropout."""
        plain: Any = self.accelerator.unwrap_model(model)
        was = plain.training
        plain.eval()
        try:
            with plain.disable_adapter():
                return summed_logprobs(plain(**given, use_cache=False).logits, given["input_ids"], spans)
        finally:
            plain.train(was)


class RatioTrainer(StepTrainer, Ratio):
    """The two together: exact as every training here."""
