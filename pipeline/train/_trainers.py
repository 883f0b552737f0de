"""The trainers: TRL's and transformers' own, made exact and safe by one mixin.

Differences from the stock classes: a loss or gradient that is not finite stops training before the optimizer
step, on every rank, and names the rows; data order is a function of (seed, step); the loss of each step
survives a kill; checkpoints count only when vouched for. No model card, no tokenizer, no per-step metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from datasets import Dataset
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTTrainer

from pipeline.errors import Diverged
from pipeline.store.disk import DISK
from pipeline.train import TrainJob, _carried
from pipeline.train import _checkpoints as checkpoints
from pipeline.train._batches import Batch, Order
from pipeline.train._fits import name_experts, routes, same_loss, takes_positions, use_own_loss


class Exact(Trainer):
    """What all trainers add to transformers' loop.

    watched: names of sums that `watch` adds up over an optimizer step, kept by step as the losses are.
    """

    watched: tuple[str, ...] = ()

    def prepare(
        self,
        job: TrainJob,
        order: Order,
        collate: Callable[[list[int]], Batch],
        names: list[str],
        fingerprint: str,
        log_every: int,
        packed: bool = False,
    ) -> None:
        """What the constructor of the class below has no room for."""
        self.job, self.names, self.fingerprint, self.log_every = job, names, fingerprint, log_every
        self.train_dataset, self.data_collator, self.order = order, collate, order
        self.losses: list[float] = []
        self.sums: list[list[float]] = []  # of each step so far, one number for each of `watched`
        self.watching: list[torch.Tensor] = []
        self.pending_sums: list[torch.Tensor] = []
        self.pending: list[torch.Tensor] = []
        self.this_step: list[torch.Tensor] = []
        self.step_rows: list[torch.Tensor] = []
        self.grad_norm = math.nan
        if self.args.deepspeed is None and not packed and not takes_positions(self.model):
            self.without_positions()
        if isinstance(self.model, PeftModel):  # a card that is not kept: an eighth of a second at each save
            self.model.create_or_update_model_card = lambda *_, **__: None  # type: ignore[method-assign]
        self.remove_callback(PrinterCallback)
        self.add_callback(StepCallback(self))

    def run(self) -> None:
        """Train from the newest complete checkpoint, or from the start. Every rank calls it."""
        found: list[Path | None] = [None]
        if self.is_world_process_zero():
            found[0] = checkpoints.newest_complete(
                self.job.scratch, self.args.world_size, self.fingerprint, self.job.say
            )
        if self.args.world_size > 1:
            broadcast_object_list(found)
        if found[0] is not None:
            self.losses, self.sums = checkpoints.progress_until(found[0])
            self.job.report({"step": float(len(self.losses)), "resumed": 1.0})
        self.train(resume_from_checkpoint=str(found[0]) if found[0] else None)
        self.flush()

    def without_positions(self) -> None:
        """Batches name no positions, for a family that counts its own otherwise: every column is a token."""
        collate: Any = self.data_collator

        def plain(picked: list[int]) -> Batch:
            batch = collate(picked)
            del batch["position_ids"]
            return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

        self.data_collator = plain

    def flush(self) -> None:
        """Bring the losses of the last steps to the CPU, averaged over ranks. A collective: every rank calls
        it at the same steps.
        """
        if self.pending:
            together = torch.stack(self.pending).double()
            if self.args.world_size > 1:
                together = self.accelerator.reduce(together, "mean")
            self.losses += together.tolist()
            self.pending.clear()
        if self.pending_sums:
            sums = torch.stack(self.pending_sums).double()
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            self.sums += sums.tolist()
            self.pending_sums.clear()

    def watch(self, *values: torch.Tensor) -> None:
        """Add to the sums of this step, one value for each of `watched`."""
        self.watching.append(torch.stack([value.detach().float() for value in values]))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As ever, then the state that an earlier round left."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and self.job.optimizer is not None:
            _carried.load(cast("torch.nn.Module", self.model), optimizer, self.job.optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A schedule over several trainings begins where the one before ended."""
        if self.job.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        before, trainings = self.job.schedule
        begun = before * num_training_steps
        scheduler: Any = super().create_scheduler(trainings * num_training_steps, optimizer)
        scheduler.last_epoch = begun
        rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, base, share in rates:
            group["lr"] = base * share(begun)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
        return scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        rows = inputs.pop("rows")
        loss: Any = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self.this_step.append(loss.detach())
        self.step_rows.append(rows)
        bad = ~torch.isfinite(loss.detach())
        # before backward, so under DeepSpeed too, whose backward takes the optimizer step; all ranks decide
        # alike
        if self.args.world_size > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        if bad:
            self._stop("loss", rows if not torch.isfinite(loss.detach()) else rows[:0], model)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self.args.max_grad_norm <= 0:
            return None
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        plain = (
            self.accelerator.distributed_type != DistributedType.DEEPSPEED and self.accelerator.scaler is None
        )
        # a loss can be finite and its gradient not (a square root at 0); clipping would spread it to every
        # weight
        if plain and norm is not None and not math.isfinite(float(norm)):
            self._stop("gradient", torch.cat(self.step_rows), model)
        self.grad_norm = norm
        return norm

    def _stop(self, what: str, rows: torch.Tensor, model: torch.nn.Module) -> None:
        """Say which rows did it, then stop. Every rank comes here at the same step."""
        if self.args.world_size == 1 and len(rows) > 1:
            rows = self._guilty(rows, model)
        guilty = [self.names[int(row)] for row in rows]
        if self.args.world_size > 1:
            guilty = gather_object(guilty)
        step, out = self.state.global_step + 1, self.job.scratch / "nan-rows.json"
        if self.is_world_process_zero():
            DISK.write(out, json.dumps({"step": step, "what": what, "rows": sorted(set(guilty))}).encode())
        raise Diverged(
            f"step {step}: the {what} is not finite; {len(set(guilty))} of {self.order.batch_size} rows are "
            f"to blame (listed in {out}). Training stopped before the optimizer step; nothing was saved. "
            "Lower learning_rate, or drop those rows."
        )

    def _guilty(self, rows: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
        """The rows whose own loss is not finite; all of them if each is finite alone."""
        alone = []
        for row in rows.tolist():
            inputs = self._prepare_inputs(self.data_collator([row]))
            inputs.pop("rows")
            with torch.no_grad():
                loss: Any = super().compute_loss(model, inputs)
            alone.append(bool(torch.isfinite(loss)))
        return rows if all(alone) else rows[~torch.tensor(alone, device=rows.device)]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the stock one walks all parameters at every step, for a number nobody reads

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in checkpoints: it holds library versions and a date."""

    def save_weights(self, out: Path) -> None:
        """The adapter, or the whole model, into `out`: safetensors and JSON only. A collective under
        DeepSpeed.
        """
        self.save_model(str(out))
        if self.is_world_process_zero():
            if self.job.carry_optimizer:
                _carried.save(cast("torch.nn.Module", self.model), self.optimizer, out)
            for name in ("training_args.bin", "README.md"):
                (out / name).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()


class StepCallback(TrainerCallback):
    """Losses by step, reports, and the vouching for checkpoints."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.this_step.clear()
        self.trainer.step_rows.clear()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.job.beat("")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self.trainer
        trainer.job.beat("")
        trainer.pending.append(torch.stack(trainer.this_step).sum())
        if trainer.watching:
            trainer.pending_sums.append(torch.stack(trainer.watching).sum(0))
            trainer.watching.clear()
        if hasattr(trainer, "_metrics"):
            trainer._metrics[
                "train"
            ].clear()  # TRL keeps a float a step until it logs, which it never does here
        logs = state.global_step % trainer.log_every == 0 or state.global_step == state.max_steps
        if logs or control.should_save:
            trainer.flush()
        if logs:
            window = trainer.losses[(state.global_step - 1) // trainer.log_every * trainer.log_every :]
            values = {"step": float(state.global_step), "steps": float(state.max_steps)}
            values |= {
                "loss": sum(window) / len(window),
                "learning_rate": float(trainer._get_learning_rate()),
            }
            trainer.job.report(values | {"grad_norm": float(trainer.grad_norm)})
        if control.should_save or state.global_step == state.max_steps:
            trainer.job.beat("saving")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self.trainer
        trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            folder = trainer.job.scratch / f"checkpoint-{state.global_step}"
            checkpoints.keep_progress(folder, trainer.losses, trainer.sums)
            checkpoints.mark_complete(folder, state.global_step, args.world_size, trainer.fingerprint)
        trainer.accelerator.wait_for_everyone()


class PolicyTrainer(Exact, SFTTrainer):
    """TRL's SFTTrainer on rows that are token ids already."""

    def __init__(self, model: Any, args: Any, tokenizer: Any) -> None:
        # TRL insists on a datasets.Dataset and a tokenizer at construction; both are replaced, for the rows
        # are tokens already
        stand_in = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        self.lent = name_experts(model.config)
        if args.deepspeed is None and hasattr(model.config.get_text_config(), "output_router_logits"):
            args.router_aux_loss_coef = args.router_aux_loss_coef if routes(model) else 0.0
        super().__init__(model, args, train_dataset=stand_in, processing_class=tokenizer)
        plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        # an adapter beside the head is not in the weights that TRL's loss reads
        beside = isinstance(plain.get_output_embeddings(), AuxiliaryTrainingWrapper)
        if args.deepspeed is None and (beside or not same_loss(model)):
            use_own_loss(plain)
        self.processing_class = None
        self.callback_handler.processing_class = None

    def save_weights(self, out: Path) -> None:
        if self.lent:
            model: Any = self.model
            del model.config.get_text_config().num_experts
        super().save_weights(out)


class StepTrainer(Exact):
    """transformers' Trainer on float labels: the number of labelled positions, or the sum of their weights,
    not a number of tokens, normalises the loss.
    """

    def _get_num_items_in_batch(
        self, batch_samples: list[Batch], device: torch.device
    ) -> torch.Tensor | None:
        num = torch.stack([labelled(batch["labels"]) for batch in batch_samples]).sum().to(device)
        return self.accelerator.reduce(num, "sum") if self.args.world_size > 1 else num


def labelled(labels: torch.Tensor) -> torch.Tensor:
    """How many positions of a batch carry a label; with weights (a third dimension), what they sum to."""
    return labels[..., 1].nansum() if labels.dim() == 3 else (~torch.isnan(labels)).sum()
