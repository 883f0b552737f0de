"""The policy-gradient trainer: transformers' loop, trl's fused head, the losses of `_losses.py`.

The loss of an optimizer step is divided by what its rows have over all micro-batches and processes, so that
it does not depend on how they are cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Trainer
from trl.trainer.utils import add_fused_lm_head

from pipeline.train import TrainReport, _losses, _setup
from pipeline.train._episodes import Episodes, Passes, batches
from pipeline.train._fits import same_loss, use_own_loss
from pipeline.train._trainers import Exact

#: sums over a step's tokens (ratios: of a token or a sequence, over the tokens they stand for)
WATCHED = ("tokens", "rows", "ratio", "low", "high", "entropy", "kl_old", "kl_reference", "mismatch")


class GradientLoss(Trainer):
    """The loss of one micro-batch."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        trainer: Any = self
        return trainer.loss_of(model, inputs, num_items_in_batch)


class GradientTrainer(Exact, GradientLoss):
    """Exact, and a policy gradient's loss."""

    watched = WATCHED

    def __init__(self, model: Any, args: Any) -> None:
        plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        add_fused_lm_head(plain, outputs=("log_probs", "entropy"))
        if not same_loss(model):
            use_own_loss(plain, train_entropy=True)
        super().__init__(model, args)
        self.model_accepts_loss_kwargs = True  # what the loss is divided by is counted over micro-batches

    def begin(self, settings: Any, episodes: Episodes, order: Passes, pad: int) -> None:
        """What the loss has to know; reads every row once where a reference, an entropy or the starting
        weights' own word is asked for.
        """
        self.settings, self.episodes = settings, episodes
        self.objective: _losses.Objective = _losses.OBJECTIVES[settings.loss]
        self.low, self.high = settings.bounds()
        completions = np.diff(episodes.places)
        self.longest = float(settings.longest or completions.max())
        self.rollout = float(completions.sum()) / order.passes
        self.pad = pad
        values, kl = episodes.values, settings.kl
        if settings.truncate is not None or settings.top_entropy < 1 or _wants_start(kl):
            values["start"], values["entropy"] = self.read(self.model)
        if kl.coefficient:
            values["reference"] = values["start"] if kl.reference == "start" else self.read_base()
            if kl.kind == "k1":
                episodes.pay(values.pop("reference"), kl.coefficient)
        if settings.truncate is not None:
            ratio = np.exp((values["start"] - values["old"]).astype(np.float64))
            values["weights"] = np.minimum(ratio, settings.truncate).astype(np.float32)
            values["old"] = values["start"]
        if settings.top_entropy < 1:
            values["kept"] = episodes.top(settings.top_entropy)
        for name in ("start", "entropy"):
            values.pop(name, None)

    @torch.no_grad()
    def read(self, model: Any) -> tuple[np.ndarray, np.ndarray]:
        """(log-probability, entropy) of each completion token under a model as it is now. Each process reads
        all rows: what it says must not depend on how many there are.
        """
        found = [np.zeros(int(self.episodes.places[-1]), np.float32) for _ in range(2)]
        lengths = self.episodes.corpus.lengths
        size = max(1, _setup.TOKENS_AT_ONCE // int(lengths.max()))
        ordered = np.argsort(lengths, kind="stable")
        collate = batches(self.episodes, self.pad)
        was = model.training
        model.eval()
        for start in range(0, len(ordered), size):
            picked = ordered[start : start + size].tolist()
            inputs = self._prepare_inputs(collate(picked))
            with self.compute_loss_context_manager():
                out = self.forward(model, inputs)
            mask = inputs["mask"].bool()
            for flat, value in zip(found, out, strict=True):
                spread = np.split(value[mask].float().cpu().numpy(), np.cumsum(self._sizes(picked))[:-1])
                for row, part in zip(picked, spread, strict=True):
                    flat[self.episodes.places[row] : self.episodes.places[row + 1]] = part
            self.job.beat("")
        model.train(was)
        return found[0], found[1]

    def _sizes(self, rows: list[int]) -> list[int]:
        places = self.episodes.places
        return [int(places[row + 1] - places[row]) for row in rows]

    def read_base(self) -> np.ndarray:
        """The log-probabilities under the model's base: without its adapter, or loaded beside it."""
        model: Any = self.model
        if isinstance(model, PeftModel):
            with model.disable_adapter():
                return self.read(model)[0]
        base: Any = AutoModelForCausalLM.from_pretrained(
            str(self.job.base), dtype=next(model.parameters()).dtype
        )
        base.to(next(model.parameters()).device)
        add_fused_lm_head(base, outputs=("log_probs", "entropy"))
        if not same_loss(base):
            use_own_loss(base)
        return self.read(base)[0]

    @staticmethod
    def forward(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probability, entropy) [B, T - 1] of next tokens, 0 where none is trained."""
        given = {key: inputs[key] for key in ("input_ids", "position_ids", "attention_mask") if key in inputs}
        out = model(**given, labels=inputs["labels"], fused_lm_head=True)
        return out.log_probs.float(), out.entropy.float()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """(rows, tokens) of the optimizer step, over all processes."""
        lengths = [batch["mask"].sum(-1) for batch in batch_samples]
        counts = torch.tensor(
            [sum(int((n > 0).sum()) for n in lengths), sum(float(n.sum()) for n in lengths)], device=device
        )
        return self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def loss_of(self, model: Any, inputs: Any, counts: torch.Tensor | None) -> torch.Tensor:
        """One micro-batch's part of the step's loss, times the processes that gradients are averaged over."""
        logprobs, entropy = self.forward(model, inputs)
        mask, kl = inputs["mask"], self.settings.kl
        reference = inputs.get("reference")
        rows, tokens = counts.tolist() if counts is not None else (float(len(mask)), float(mask.sum()))
        batch = _losses.Batch(
            logprobs, inputs["old"], inputs["advantages"], mask, reference,
            inputs.get("weights"), inputs.get("kept"), kl.coefficient * inputs["kl_weights"], kl.corrected,
        )  # fmt: skip
        loss, ratio = _losses.per_token(batch, self.objective, self.low, self.high)
        by = _losses.Weighing(max(rows, 1), max(tokens, 1), self.rollout, self.longest)
        total = _losses.reduced(loss, mask, self.objective.reduction, by)
        if self.settings.entropy_bonus:
            acting = mask if batch.kept is None else mask * batch.kept
            total = total - self.settings.entropy_bonus * (entropy * acting).sum() / self._acting(by, acting)
        self._watch(batch, ratio, entropy)
        return total * self.args.world_size

    def _acting(self, by: _losses.Weighing, acting: torch.Tensor) -> float:
        """Tokens that the entropy bonus is a mean over: of the step, or the share of it that trains."""
        if "kept" not in self.episodes.values:
            return by.tokens
        return by.tokens * float(self.episodes.values["kept"].mean())

    @torch.no_grad()
    def _watch(self, batch: _losses.Batch, ratio: torch.Tensor, entropy: torch.Tensor) -> None:
        mask = batch.mask
        low, high = _losses.clipped(ratio, batch.advantages, self.low, self.high, self.objective.form)
        gap = batch.logprobs - batch.old
        away = torch.zeros_like(mask) if batch.reference is None else batch.logprobs - batch.reference
        self.watch(
            mask.sum(), (mask.sum(-1) > 0).sum(), (ratio * mask).sum(), (low * mask).sum(),
            (high * mask).sum(), (entropy * mask).sum(), (_losses.k3(batch.old, batch.logprobs) * mask).sum(),
            (away * mask).sum(), (gap.abs() * mask).sum(),
        )  # fmt: skip


def _wants_start(kl: Any) -> bool:
    return bool(kl.coefficient) and kl.reference == "start"


def finish(trainer: Any, report: dict[str, float], dropped: Any) -> TrainReport:
    """The report, with what a policy gradient is watched by: means over all its tokens, and the history."""
    plain = _setup.finish(trainer, report, dropped)
    sums, every = np.array(trainer.sums), trainer.log_every
    history = []
    for number, line in enumerate(plain.history):
        history.append(line | _means(trainer, sums[number * every : (number + 1) * every]))
    first = sums[0][WATCHED.index("mismatch")] / max(sums[0][0], 1)
    more = _means(trainer, sums) | {"mismatch": float(first), "staleness": float(len(sums) - 1)}
    return TrainReport(plain.metrics | more, plain.dropped, history)


def _means(trainer: Any, sums: np.ndarray) -> dict[str, float]:
    total = dict(zip(WATCHED, sums.sum(0).tolist(), strict=True))
    tokens = max(total["tokens"], 1)
    found = {
        "ratio": total["ratio"] / tokens,
        "clip/low": total["low"] / tokens,
        "clip/high": total["high"] / tokens,
        "entropy": total["entropy"] / tokens,
        "kl/old": total["kl_old"] / tokens,
    }
    if "reference" in trainer.episodes.values:
        found["kl/reference"] = total["kl_reference"] / tokens
    return found
