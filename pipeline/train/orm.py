"""Outcome reward models (Cobbe et al., arXiv:2110.14168, section 4.2 and appendix E): the outcome of the
whole solution is the target after every one of its tokens.

    labels:   {label: outcome, from: samples}
    rows:     {select: step_values, from: labels, use: correct}
    verifier: {train: orm, model: verifier, from: rows}

The outcome is the label of a row's last step; labels of steps before it are not looked at. What it writes is
read as any reward model is, at the last token of each step, so votes, searches and `prm_quality` take it: the
paper's score of a solution is `aggregate: last`.

head `token` is the paper's verifier: logits of the language model's own head are the score, so that
`lm_weight` can add its joint language-modelling loss on the solution's tokens (right or wrong, as there).
head `value` is a scalar of its own, without a language model beside it. `loss: mse` is squared error (on the
probability, where the head is one), `bce` cross-entropy; the paper has the first.

Not here: dropout on residuals (the paper: 20 %), which `lora_dropout` stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings import ModelName, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly
from pipeline.train._outcomes import read_outcomes

if TYPE_CHECKING:
    import torch

    from pipeline.train._batches import Batch, Corpus


class Settings(TrainSettings):
    """The loss, and what every trainer takes."""

    needs: ClassVar[tuple[str, ...]] = ("StepExample",)
    heads: ClassVar[tuple[str, ...]] = ("value", "token")

    model: ModelName = Field("orm", description="the verifier that learns")
    loss: Literal["mse", "bce"] = Field("mse", description="squared error (the paper), or cross-entropy")
    lm_weight: float = Field(
        0.0, ge=0, description="head token: weight of the language-modelling loss beside it (the paper: 1)"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="loss bce: the share of outcomes that are taken to be wrong"
    )
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    @model_validator(mode="after")
    def _smooth_what_is_likely(self) -> Self:
        if self.label_smoothing and self.loss != "bce":
            share = f"{self.label_smoothing:g}"
            raise ValueError(f"label_smoothing: {share} is for a cross-entropy: set loss: bce")
        return self

    def fault_of_head(self, head: str | None, whole: bool) -> str:
        if self.lm_weight and head != "token":
            return (
                f"lm_weight {self.lm_weight:g}: head {head} has no language model beside its score; use "
                "head: token, or lm_weight: 0"
            )
        return ""


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (StepExample); weights and prm.json go to `job.out`. Every rank calls it; rank 0
    writes.

    Raises:
        NothingKept: no outcome is left. RecipeError: a head or a label that does not fit. Diverged: a loss
        that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from pipeline.train._verifier import fit

    dropped: Counter[str] = Counter()
    corpus = read(job, settings, dropped)
    likely = settings.loss == "bce" or job.head == "token"
    reading = {"target": "outcome", "activation": "sigmoid" if likely else "none"}
    loss = partial(loss_of, settings.loss, settings.lm_weight)
    collate = next_tokens if settings.lm_weight else None
    return fit(job, settings, corpus, loss, reading, dropped, collate)


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Corpus:
    """The rows as token ids, with the outcome as target at each token of the completion."""
    from pipeline.train._batches import Corpus
    from pipeline.train._verifier import smoothed

    rows, names, targets = [], [], []
    for row, begin, outcome in read_outcomes(job, settings.max_length, dropped):
        columns = list(range(begin, len(row.token_ids)))
        wanted = smoothed(outcome, settings.label_smoothing)
        rows.append(row.token_ids)
        names.append(row.trace_id or row.problem_id)
        targets.append((columns, [wanted] * len(columns)))
    return Corpus.of(rows, names, targets=targets)


def next_tokens(corpus: Corpus, pad: int, keep_columns: bool) -> Callable[[list[int]], Batch]:
    """The steps' batches, labels [rows, columns, 3]: target, weight 1, and the token that follows where it is
    one of the completion (its first token follows the prompt's last).
    """
    import numpy as np
    import torch

    from pipeline.train._batches import step_batches

    plain = step_batches(corpus, pad, keep_columns=False)

    def collate(picked: list[int]) -> Batch:
        batch = plain(picked)
        ids, targets = batch["input_ids"], batch["labels"]
        inside = ~torch.isnan(targets)
        following = torch.full(targets.shape, np.nan)
        following[:, :-1] = torch.where(inside[:, 1:], ids[:, 1:].float(), torch.nan)
        labels = torch.stack([targets, inside.float(), following], dim=-1)
        kept = (inside | ~torch.isnan(following)).any(dim=0).nonzero()[:, 0]
        return {**batch, "labels": labels[:, kept], "logits_to_keep": kept}

    return collate


def loss_of(loss: str, lm_weight: float, signs: tuple[int, int] | None) -> Callable[..., torch.Tensor]:
    """The loss over all tokens of the completions, divided by their number in the whole optimizer step, over
    all processes; each is scored once and, with `lm_weight`, predicted once.
    """
    import torch
    from torch.nn import functional

    from pipeline.train._verifier import raw_scores, summed

    how = "brier" if loss == "mse" and signs else loss

    def outcome_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        targets = labels[..., 0] if labels.dim() == 3 else labels
        known = ~torch.isnan(targets)
        total = summed(raw_scores(outputs.logits, signs)[known], targets[known], how)
        if lm_weight:
            following = labels[..., 2]
            written = ~torch.isnan(following)
            total = total + lm_weight * functional.cross_entropy(
                outputs.logits[written].float(), following[written].long(), reduction="sum"
            )
        return total / (known.sum() if num_items_in_batch is None else num_items_in_batch)

    return outcome_loss
