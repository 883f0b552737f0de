"""The loss of one model with two heads, and the trainer that computes it: one forward for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Trainer

from pipeline.models.shared import HEAD, plain_of
from pipeline.train import TrainReport, _setup
from pipeline.train._batches import Batch, Corpus, step_batches
from pipeline.train._trainers import Exact

WATCHED = ("policy", "tokens", "value", "steps")  #: sums of losses, and of what they are over


def batches(corpus: Corpus, pad: int) -> Callable[[list[int]], Batch]:
    """Rows to `input_ids` [rows, longest], `labels` (values, NaN where there is none) and `words`: the ids
    that a right row is to write, -100 elsewhere.
    """
    plain = step_batches(corpus, pad, keep_columns=False)

    def collate(picked: list[int]) -> Batch:
        batch = plain(picked)
        ids = batch["input_ids"]
        columns = torch.arange(ids.shape[1])
        begins = torch.from_numpy(corpus.first_trained[picked].copy())[:, None]
        ends = torch.from_numpy(corpus.lengths[picked].copy())[:, None]
        inside = (columns >= begins) & (columns < ends)
        return {**batch, "words": torch.where(inside, ids, -100)}

    return collate


def squared_errors(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(tanh(raw / 2) - (2 label - 1))^2, added up: values and ends from -1 to 1 (by hand: raw 1.0986,
    label 1 -> tanh .5, .25).
    """
    return functional.mse_loss(torch.tanh(raw / 2), 2 * labels - 1, reduction="sum")


class JointLoss(Trainer):
    """The loss of one micro-batch."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        trainer: Any = self
        return trainer.loss_of(model, inputs, num_items_in_batch)


class JointTrainer(Exact, JointLoss):
    """Exact, and the loss of both heads."""

    watched = WATCHED
    beta: float

    def __init__(self, model: Any, args: Any) -> None:
        super().__init__(model, args)
        self.model_accepts_loss_kwargs = True  # what the loss is divided by is counted over micro-batches

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        """(tokens to write, steps to value) of the optimizer step, over all processes."""
        tokens = sum(int((batch["words"][:, 1:] != -100).sum()) for batch in batch_samples)
        steps = sum(int((~torch.isnan(batch["labels"])).sum()) for batch in batch_samples)
        counts = torch.tensor([tokens, steps], device=device)
        return self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def loss_of(self, model: Any, inputs: Any, counts: torch.Tensor | None) -> torch.Tensor:
        """One micro-batch's part of the step's loss, times the processes that gradients are averaged over."""
        given = {key: value for key, value in inputs.items() if key not in ("labels", "words")}
        labels, words = inputs["labels"], inputs["words"][:, 1:]
        found = model(**given, use_cache=False, output_hidden_states=True)
        written, known = words != -100, ~torch.isnan(labels)
        policy = functional.cross_entropy(
            found.logits[:, :-1][written].float(), words[written], reduction="sum"
        )
        head = getattr(plain_of(self.accelerator.unwrap_model(model)), HEAD)
        value = squared_errors(head(found.hidden_states[-1][known])[:, 0].float(), labels[known])
        self.watch(policy, written.sum(), value, known.sum())
        tokens, steps = counts if counts is not None else (written.sum(), known.sum())
        total = policy / tokens.clamp(min=1) + self.beta * value / steps.clamp(min=1)
        return total * self.args.world_size


def finish(trainer: Any, report: dict[str, float], dropped: Any) -> TrainReport:
    """The report, with each head's own mean loss over the training and by its windows."""
    plain = _setup.finish(trainer, report, dropped)
    sums, every = np.array(trainer.sums), trainer.log_every
    windows = [sums[number * every : (number + 1) * every] for number in range(len(plain.history))]
    history = [line | _means(window) for line, window in zip(plain.history, windows, strict=True)]
    return TrainReport(plain.metrics | _means(windows[-1]), plain.dropped, history)


def _means(sums: np.ndarray) -> dict[str, float]:
    policy, tokens, value, steps = sums.sum(0).tolist()
    return {"loss/policy": policy / max(tokens, 1), "loss/value": value / max(steps, 1)}
