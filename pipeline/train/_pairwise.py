"""transformers' Trainer on pairs: the difference of two scores, each read at the last token of its half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import functional

from pipeline.train._batches import Batch
from pipeline.train._pairs import Pairs, last_token_batches, reading_batches
from pipeline.train._trainers import Exact
from pipeline.train.prm import raw_scores

TOKENS_AT_ONCE = 16_384  #: of a reading, padding included


def scores_of(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """[pairs, 2]: the score at the last column of each half; labels: of `last_token_batches`."""
    scores = raw_scores(outputs.logits, None)
    columns = torch.cat([labels[:, 0], labels[:, 1]]).long()
    return scores.gather(1, columns[:, None])[:, 0].view(2, -1).T


def loss_of(scale: float, smoothing: float) -> Callable[..., torch.Tensor]:
    """-c log s(d) - (1 - c) log s(-d), d = r_chosen - r_rejected - scale * margin, over the step's pairs; c:
    the row's confidence, brought towards a half by `smoothing`.
    """

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        scores = scores_of(outputs, labels)
        apart = scores[:, 0] - scores[:, 1] - scale * labels[:, 2]
        sure = labels[:, 3] * (1 - 2 * smoothing) + smoothing
        total = -(sure * functional.logsigmoid(apart) + (1 - sure) * functional.logsigmoid(-apart)).sum()
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


class PairwiseTrainer(Exact):
    """The number of pairs of the step, over all processes, normalises the loss."""

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        num = torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)
        return self.accelerator.reduce(num, "sum") if self.args.world_size > 1 else num

    def scores(self, pairs: Pairs, pad: int) -> np.ndarray:
        """[N, 2]: the raw scores of both halves. Every rank calls it."""
        model: Any = self.model
        found = np.zeros((len(pairs), 2), np.float32)
        collate = last_token_batches(pairs, pad)
        mine: list[tuple[list[int], list[list[float]]]] = []
        batches = reading_batches(pairs, TOKENS_AT_ONCE)
        was = model.training
        model.eval()
        for picked in batches[self.args.process_index :: self.args.world_size]:
            inputs: Any = self._prepare_inputs(collate(picked))
            with torch.no_grad(), self.accelerator.autocast():
                outputs = model(input_ids=inputs["input_ids"], use_cache=False)
            mine.append((picked, scores_of(outputs, inputs["labels"]).double().cpu().tolist()))
            self.job.beat("")
        model.train(was)
        for picked, values in gather_object(mine) if self.args.world_size > 1 else mine:
            found[picked] = values
        return found
