"""Process reward models: a score for each step, read at the last token of the step, trained on any number.

head `value`: a scalar on the backbone (AutoModelForTokenClassification, num_labels=1), as in ReST-MCTS*
(arXiv:2406.03816). head `token`: '+' against '-' among the language model's own next tokens, as in Math-
Shepherd (arXiv:2312.08935); pure LoRA, so any server that loads adapters serves it. An off-the-shelf token-
classification PRM (one label, or two: wrong, right) is a base too.

`prm.json` beside the weights says how a score is read: {"head", "target", "activation": "none" | "sigmoid"}.
Targets: `value` and `advantage` are squared error on the raw output (an advantage may be negative), `soft` is
cross-entropy with a probability, `hard` with 1 where the label is above `hard_above` (Math-Shepherd's HE: any
completion was right).

No maintained package trains a PRM on soft labels (TRL removed its trainer); this one is transformers' Trainer
with float labels, NaN where nothing is trained. Not done: pairwise and ranking losses.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.settings import ModelName, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings

if TYPE_CHECKING:
    import torch

    from pipeline.train._batches import Corpus

MEAN_SQUARE = ("value", "advantage")


class Settings(TrainSettings):
    """What the score means and what every trainer takes."""

    needs: ClassVar[tuple[str, ...]] = ("StepExample",)
    heads: ClassVar[tuple[str, ...]] = ("value", "token")

    model: ModelName = Field("prm", description="the reward model that learns")
    target: Literal["value", "soft", "hard", "advantage"] = Field(
        "value", description="squared error on a value, or cross-entropy with a probability (soft, hard)"
    )
    hard_above: float = Field(0.0, description="target hard: labels above this are 1")
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (StepExample); weights and prm.json go to `job.out`. Every rank calls it; rank 0
    writes.

    Raises:
        NothingKept: no label is left. RecipeError: a head, target or label that do not fit. Diverged: a loss
        that is not finite.
    """
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # first: without it every rank on a CPU box is alone
    from pipeline.train import _setup

    if job.head == "token" and settings.target in MEAN_SQUARE:
        raise RecipeError(
            f"target {settings.target}: head token is a probability; use target soft or hard, or head: value"
        )
    with _setup.exact():
        return _train(job, settings)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoTokenizer, TrainingArguments

    from pipeline.engine.endings import sign_tokens
    from pipeline.train import _batches, _setup, _trainers

    token = job.head == "token"
    dropped: Counter[str] = Counter()
    corpus = read(job, settings, dropped)
    steps = _setup.num_steps(settings, job.round, len(corpus))
    arguments = _setup.trainer_arguments(TrainingArguments, job, settings, int(corpus.lengths.max()), steps)
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    signs = sign_tokens(tokenizer, job.base.name) if token else None
    model = load(job, settings, token)
    use_cache = getattr(model.config, "use_cache", True)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    trainer = _trainers.StepTrainer(model, arguments, compute_loss_func=loss_of(settings.target, signs))
    trainer.model_accepts_loss_kwargs = False  # the count of labels goes to the loss, not to the model
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    collate = _batches.step_batches(corpus, pad, keep_columns=token)
    fingerprint = _setup.fingerprint(job, settings, corpus, steps)
    trainer.prepare(job, order, collate, corpus.names, fingerprint, settings.log_every)
    report = _setup.announce(job, trainer, corpus, order)
    trainer.run()
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    if trainer.is_world_process_zero():
        write_reading(job, settings)
    trainer.accelerator.wait_for_everyone()
    return _setup.finish(trainer, report, dropped)


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Corpus:
    """The rows as token ids, columns and targets: the column of a step is that of its last token."""
    from pipeline.train._batches import Corpus

    rows: list[list[int]] = []
    names: list[str] = []
    targets: list[tuple[list[int], list[float]]] = []
    for row in job.rows():
        if fault := fault_of(row, settings.max_length):
            dropped[fault] += 1
            continue
        known = [
            (end - 1, label)
            for end, label in zip(row.step_ends, row.labels, strict=True)
            if label is not None
        ]
        names.append(row.trace_id or row.problem_id)
        rows.append(row.token_ids)
        targets.append(([column for column, _ in known], [target_of(label, settings) for _, label in known]))
        values = [label for _, label in known]
        if settings.target == "soft" and not 0 <= min(values) <= max(values) <= 1:
            raise RecipeError(
                f"row {names[-1]}: labels from {min(values):g} to {max(values):g} are no probabilities: use "
                "target value or advantage"
            )
    if not rows:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no row arrived"
        )
        raise NothingKept(
            f"no step to train on: {reasons}. For too_long raise max_length ({settings.max_length})"
        )
    return Corpus.of(rows, names, targets=targets)


def fault_of(row: StepExample, max_length: int) -> str:
    """Why a row cannot be trained on; empty if it can."""
    ends = row.step_ends
    if len(ends) != len(row.labels) or any(not 0 < end <= len(row.token_ids) for end in ends):
        return "bad_steps"
    if any(label is not None and not math.isfinite(label) for label in row.labels):
        return "bad_label"
    if all(label is None for label in row.labels):
        return "no_label"
    return "too_long" if len(row.token_ids) > max_length else ""


def target_of(label: float, settings: Settings) -> float:
    """The number that the output is held against."""
    return float(label > settings.hard_above) if settings.target == "hard" else float(label)


def load(job: TrainJob, settings: Settings, token: bool) -> Any:
    """The model with its head: a fresh one on a language model, or the head that the base brings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.models.scorer import NAMES, is_ready, scorer_class
    from pipeline.train import _setup

    if token:
        return _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    config = AutoConfig.from_pretrained(str(job.base))
    ready = is_ready(config)
    num_labels = config.num_labels if ready else 1
    if num_labels > 2 or (num_labels == 2 and settings.target in MEAN_SQUARE):
        raise RecipeError(
            f"{job.base.name} scores with {num_labels} labels: one label serves every target, two (wrong, "
            f"right) serve soft and hard, not {settings.target}"
        )
    config.num_labels, config.classifier_dropout = num_labels, 0.0  # the library's default is 0.1
    try:
        kind = scorer_class(config)
    except ValueError as problem:
        raise RecipeError(f"{job.base.name}: head: value: {problem}; use another base") from None
    head = "classifier" if ready and not hasattr(_empty(kind, config), "score") else "score"
    return _setup.load_model(
        job,
        kind,
        "TOKEN_CLS",
        # the head trains whole and is saved with the adapter; peft would wrap it in LoRA as well
        {"exclude_modules": [head], "modules_to_save": [head]},
        fresh=() if ready else tuple(f"{name}." for name in NAMES),
        config=config,
    )


def _empty(kind: Any, config: Any) -> Any:
    """A model without memory for its weights, to look at its parts."""
    import torch

    with torch.device("meta"):
        return kind(config)


def raw_scores(logits: torch.Tensor, signs: tuple[int, int] | None) -> torch.Tensor:
    """[..., labels or vocabulary] to [...]: the scalar, the log-odds of the second of two labels, or of '+'
    against '-'.
    """
    logits = logits.float()
    if signs:
        return logits[..., signs[0]] - logits[..., signs[1]]
    return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits.squeeze(-1)


def loss_of(target: str, signs: tuple[int, int] | None) -> Callable[..., torch.Tensor]:
    """The loss over labelled positions, divided by their number in the whole optimizer step, over all
    processes.
    """
    import torch
    from torch.nn import functional

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        known = ~torch.isnan(labels)  # the sign of a label is never a mask: advantages may be negative
        scores = raw_scores(outputs.logits, signs)[known]
        if target in MEAN_SQUARE:
            total = functional.mse_loss(scores, labels[known], reduction="sum")
        else:
            total = functional.binary_cross_entropy_with_logits(scores, labels[known], reduction="sum")
        return total / (known.sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def write_reading(job: TrainJob, settings: Settings) -> None:
    """How a score is read from these weights."""
    from pipeline.store.disk import DISK

    reading = {
        "head": job.head or "value",
        "target": settings.target,
        "activation": "none" if settings.target in MEAN_SQUARE else "sigmoid",
    }
    DISK.write(job.out / "prm.json", (json.dumps(reading, sort_keys=True) + "\n").encode())
