"""Process reward models: a score for each step, read at the last token of the step, trained on any number.

head `value`: a scalar on the backbone (AutoModelForTokenClassification, num_labels=1), as in ReST-MCTS*
(arXiv:2406.03816). head `token`: '+' against '-' among the language model's own next tokens, as in Math-
Shepherd (arXiv:2312.08935); pure LoRA, so any server that loads adapters serves it. An off-the-shelf token-
classification PRM (one label, or two: wrong, right) is a base too.

`prm.json` beside the weights says how a score is read: {"head", "target", "activation": "none" | "sigmoid"}.
Targets: `value` and `advantage` are squared error on the raw output (an advantage may be negative), `soft` is
cross-entropy with a probability, `hard` with 1 where the label is above `hard_above` (Math-Shepherd's HE: any
completion was right).

DiVeRSe's step-aware loss (arXiv:2206.02336, section 3.2) is `step_weight: 0.1` with a cross-entropy: the
solution, read at the last token, weighs 1, and each step 0.1 more where it ends. `label_smoothing` takes a
share of the labels to be wrong (Secrets of RLHF, part II, arXiv:2401.06080). `value_clip: 0.2` is PPO's for a
critic: of the error of the score, and of the score held within 0.2 of what it was when training began, the
larger one counts (Secrets of RLHF, part I, arXiv:2307.04964).

No maintained package trains a PRM on soft labels (TRL removed its trainer); this one is transformers' Trainer
with float labels, NaN where nothing is trained. Not done: pairwise and ranking losses; a target after every
token is `train/orm.py`, outcomes without step labels `train/implicit.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.settings import ModelName, added, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly

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
    step_weight: float | None = added(
        None,
        ge=0,
        description="DiVeRSe: weight of each step's loss beside 1 for the solution's, which is read at the "
        "last step; none: every step counts alike (the paper: 0.1)",
    )
    label_smoothing: float = added(
        0.0, ge=0, lt=0.5, description="target soft or hard: the share of labels that are taken to be wrong"
    )
    value_clip: float | None = added(
        None, gt=0, description="target value or advantage: how far a score may move in a training; PPO 0.2"
    )
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    @model_validator(mode="after")
    def _smooth_what_is_likely(self) -> Self:
        if self.label_smoothing and self.target in MEAN_SQUARE:
            raise ValueError(
                f"label_smoothing: {self.label_smoothing:g} is for a cross-entropy: set target soft or hard, "
                f"not {self.target}"
            )
        return self

    @model_validator(mode="after")
    def _clip_what_is_a_number(self) -> Self:
        if self.value_clip is not None and self.target not in MEAN_SQUARE:
            raise ValueError(
                f"value_clip: {self.value_clip:g} is for a squared error: set target value or advantage, not "
                f"{self.target}"
            )
        return self

    def fault_of_head(self, head: str | None, whole: bool) -> str:
        if head == "token" and self.target in MEAN_SQUARE:
            return (
                f"target {self.target}: head token is a probability; use target soft or hard, or head: value"
            )
        return ""


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (StepExample); weights and prm.json go to `job.out`. Every rank calls it; rank 0
    writes.

    Raises:
        NothingKept: no label is left. RecipeError: a head, target or label that do not fit. Diverged: a loss
        that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from pipeline.train._verifier import fit

    dropped: Counter[str] = Counter()
    corpus = read(job, settings, dropped)
    numbers = settings.target in MEAN_SQUARE
    reading = {"target": settings.target, "activation": "none" if numbers else "sigmoid"}
    clip = settings.value_clip
    loss = partial(loss_of, settings.target, clip=clip)
    return fit(job, settings, corpus, loss, reading, dropped, starting=clip is not None)


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Corpus:
    """The rows as token ids, columns and targets: the column of a step is that of its last token."""
    from pipeline.train._batches import Corpus
    from pipeline.train._verifier import smoothed

    rows: list[list[int]] = []
    names: list[str] = []
    targets: list[tuple[list[int], list[float]]] = []
    weights: list[list[float]] = []
    for row in job.rows():
        if fault := fault_of(row, settings.max_length):
            dropped[fault] += 1
            continue
        steps = list(zip(row.step_ends, row.labels, strict=True))
        known = [(end - 1, label) for end, label in steps if label is not None]
        if settings.step_weight == 0 and row.labels[-1] is None:
            dropped["no_outcome"] += 1
            continue
        if settings.step_weight is not None:
            whole = [k == len(steps) - 1 for k, (_, label) in enumerate(steps) if label is not None]
            weights.append([settings.step_weight + last for last in whole])
        names.append(row.trace_id or row.problem_id)
        rows.append(row.token_ids)
        values = [label for _, label in known]
        if settings.target == "soft" and not 0 <= min(values) <= max(values) <= 1:
            raise RecipeError(
                f"row {names[-1]}: labels from {min(values):g} to {max(values):g} are no probabilities: use "
                "target value or advantage"
            )
        wanted = [smoothed(target_of(value, settings), settings.label_smoothing) for value in values]
        targets.append(([column for column, _ in known], wanted))
    if not rows:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no row arrived"
        )
        raise NothingKept(
            f"no step to train on: {reasons}. For too_long raise max_length ({settings.max_length})"
        )
    return Corpus.of(rows, names, targets=targets, weights=weights)


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


def loss_of(
    target: str, signs: tuple[int, int] | None, clip: float | None = None
) -> Callable[..., torch.Tensor]:
    """The loss over labelled positions, divided by their number in the whole optimizer step, over all
    processes. Labels [rows, columns] are targets, [rows, columns, 2] targets and weights, and with `clip`
    [rows, columns, 3] also starting scores.
    """
    import torch

    from pipeline.train._verifier import raw_scores, summed

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        weights = starts = None
        if labels.dim() == 3:
            labels, weights, *more = labels.unbind(-1)
            starts = more[0] if more else None
        known = ~torch.isnan(labels)  # the sign of a label is never a mask: advantages may be negative
        scores = raw_scores(outputs.logits, signs)[known]
        how = "mse" if target in MEAN_SQUARE else "bce"
        if weights is not None:
            weights = weights[known]
        if starts is not None and weights is not None and clip is not None:
            total = torch.sum(clipped_errors(scores, starts[known], labels[known], clip) * weights)
        else:
            total = summed(scores, labels[known], how, weights)
        number = known.sum() if weights is None else weights.sum()
        return total / (number if num_items_in_batch is None else num_items_in_batch)

    return loss


def clipped_errors(
    scores: torch.Tensor, starts: torch.Tensor, targets: torch.Tensor, clip: float
) -> torch.Tensor:
    """The larger of (v - t)^2 and (v_start + clamp(v - v_start, -clip, clip) - t)^2 (v .9, v_start .5, t 1,
    clip .2 -> .09): a score that moved too far towards its target learns no more.
    """
    import torch

    held = starts + (scores - starts).clamp(-clip, clip)
    return torch.maximum((scores - targets) ** 2, (held - targets) ** 2)
