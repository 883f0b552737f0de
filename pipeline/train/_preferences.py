"""TRL's DPOTrainer on pairs that are token ids already, against a reference that is read once.

Differences from the stock class, beside those of `Exact`: the reference's log-likelihoods are read before the
first step and kept in the scratch folder, so that a resumed training sees the same numbers, and no second
adapter or model stays in memory; the loss `sft` is divided by the winners' tokens of the whole optimizer
step, not of a micro-batch, so that the split of a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from transformers import AutoModelForCausalLM
from trl import DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from pipeline.errors import DamagedData
from pipeline.store.disk import DISK
from pipeline.store.documents import seal, unseal
from pipeline.train._batches import Batch
from pipeline.train._fits import name_experts, routes, same_loss, use_own_loss
from pipeline.train._pairs import Pairs, pair_batches, reading_batches
from pipeline.train._trainers import Exact

KEPT = "reference.json"
TOKENS_AT_ONCE = 16_384  #: of a reading, padding included


class WithWinnersLikelihood(DPOTrainer):
    """The pair losses by TRL, the winners' negative log-likelihood by the tokens of the step."""

    loss_is_scaled_for_ga = True  #: what compute_loss gives is a micro-batch's share of the step's loss
    nll_weight = 0.0
    log_probs: torch.Tensor | None = None

    def take_over_nll(self) -> None:
        """Take `sft` out of TRL's losses: it knows a micro-batch alone, and fails with `use_weighting`."""
        named = list(zip(self.loss_types, self.loss_weights, strict=True))
        self.nll_weight = sum(weight for name, weight in named if name == "sft")
        rest = [(name, weight) for name, weight in named if name != "sft"]
        self.loss_types, self.loss_weights = [name for name, _ in rest], [weight for _, weight in rest]

        def keep(module: Any, given: Any, output: Any) -> None:
            self.log_probs = getattr(output, "log_probs", None)

        model: Any = self.model
        model.register_forward_hook(keep)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss: Any = super().compute_loss(model, inputs) / self.args.gradient_accumulation_steps
        if self.nll_weight and self.log_probs is not None:
            winners = self.log_probs[: len(self.log_probs) // 2]  # 0 where nothing is trained
            number = num_items_in_batch
            if number is None:
                number = inputs["completion_mask"][: len(winners), 1:].sum()
            loss = loss - self.nll_weight * winners.sum() * self.args.world_size / number
        self.log_probs = None
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        masks = [batch["completion_mask"] for batch in batch_samples]
        num = torch.stack([mask[: len(mask) // 2, 1:].sum() for mask in masks]).sum().to(device)
        return self.accelerator.reduce(num, "sum") if self.args.world_size > 1 else num

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # rows are tokens already

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # read by `likelihoods`


class PreferenceTrainer(Exact, WithWinnersLikelihood):
    """DPO and its relatives, exact and resumable."""

    def __init__(self, model: Any, args: Any, tokenizer: Any) -> None:
        stand_in = Dataset.from_dict({"prompt": [""], "chosen": [""], "rejected": [""]})
        self.lent = name_experts(model.config)
        if hasattr(model.config.get_text_config(), "output_router_logits"):
            args.router_aux_loss_coef = args.router_aux_loss_coef if routes(model) else 0.0
        # without an adapter TRL would load the reference beside the model; with one it has nothing to load
        args.precompute_ref_log_probs = not isinstance(model, PeftModel)
        later: Any = list  # `prepare` brings the rows and what makes batches of them
        super().__init__(
            model, None, args, data_collator=later, train_dataset=stand_in, processing_class=tokenizer
        )
        self.precompute_ref_logps = True
        if isinstance(model, PeftModel) and "ref" in model.peft_config:
            model.delete_adapter("ref")  # TRL's copy of the start: it is read before it changes
        plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        beside = isinstance(plain.get_output_embeddings(), AuxiliaryTrainingWrapper)
        if beside or not same_loss(model):
            use_own_loss(plain)
        if "sft" in self.loss_types:
            self.take_over_nll()
        self.processing_class = None
        self.callback_handler.processing_class = None

    def save_weights(self, out: Path) -> None:
        if self.lent:
            model: Any = self.model
            del model.config.get_text_config().num_experts
        super().save_weights(out)

    def likelihoods(self, pairs: Pairs, pad: int, of: Path | str = "now") -> np.ndarray:
        """[N, 2]: the log-likelihood of each half of each pair, in nats over its tokens. Every rank calls it.
        of: the model as it is now, the `base` below its adapter, or a folder's model.
        """
        found = np.zeros((len(pairs), 2), np.float32)
        collate = pair_batches(pairs, pad)
        mine: list[tuple[list[int], list[list[float]]]] = []
        batches = reading_batches(pairs, TOKENS_AT_ONCE)
        with self._reading(of) as model:
            for picked in batches[self.args.process_index :: self.args.world_size]:
                inputs: Any = self._prepare_inputs(collate(picked))
                inputs.pop("rows")
                halves = self.compute_ref_log_probs(model, inputs)
                mine.append((picked, torch.stack(halves, dim=1).double().cpu().tolist()))
                self.job.beat("")
        for picked, values in gather_object(mine) if self.args.world_size > 1 else mine:
            found[picked] = values
        return found

    @contextmanager
    def _reading(self, of: Path | str) -> Iterator[Any]:
        """The model to read: TRL reads its `ref_model` as it is, without one the base below an adapter."""
        model: Any = self.model
        was = model.training
        model.eval()
        if isinstance(of, Path):
            model = AutoModelForCausalLM.from_pretrained(str(of), dtype=model.dtype).to(model.device).eval()
            add_fused_lm_head(model)
            if not same_loss(model):
                use_own_loss(model)
        self.ref_model = None if of == "base" else model
        try:
            yield model
        finally:
            self.ref_model = None
            trained: Any = self.model
            trained.train(was)


def kept(scratch: Path, fingerprint: str, trainer: Any, pairs: int) -> np.ndarray | None:
    """What an earlier start of this training read: [2, N, 2], of the start and of the reference."""
    found: list[Any] = [None]
    if trainer.is_world_process_zero():
        try:
            stated = unseal(scratch / KEPT)
            found[0] = stated["read"] if stated["fingerprint"] == fingerprint else None
        except (FileNotFoundError, DamagedData, KeyError):
            pass
    if trainer.args.world_size > 1:
        broadcast_object_list(found)
    values = None if found[0] is None else np.asarray(found[0], np.float32)
    return values if values is not None and values.shape == (2, pairs, 2) else None


def keep(scratch: Path, fingerprint: str, trainer: Any, read: np.ndarray) -> None:
    """Lay them aside for a start after a kill; what is not finite stops the first step."""
    if trainer.is_world_process_zero() and np.isfinite(read).all():
        DISK.write(scratch / KEPT, seal({"fingerprint": fingerprint, "read": read.astype(float).tolist()}))
    trainer.accelerator.wait_for_everyone()
