"""One model as policy and value model (AlphaMath, Chen et al., arXiv:2405.03553, equation 7): it learns to
write from right solutions and to value the steps of all.

    labels: {label: outcome, from: search}
    rows:   {select: step_values, from: labels, shared: all}     # Q of a step: the share of right ends
    learn:  {train: shared, model: policy, from: rows}           # models.policy: head: shared

The loss of an optimizer step is the mean negative log-likelihood of the completion tokens of right rows plus
`beta` times the mean squared error of the values at the steps' last tokens, of all rows. A row is right where
its last label is 1. As in the authors' code values are tanh, and ends are worth -1 and 1; our labels and
scores go from 0 to 1, so a score is (1 + tanh) / 2, a logistic, and its squared error counts four times:
a score of .75 at label 1 is a value of .5 at 1, an error of .25.

A model of head `shared` is one model in a recipe: `by: policy` and `value: policy` name the same weights, its
gate takes both over together, an export is a policy's folder that holds the value head too. No other trainer
takes it. The paper goes on from the base each round (`restart_from: base`).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.errors import NothingKept, RecipeError
from pipeline.settings import ModelName, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly
from pipeline.train._outcomes import fault_of

if TYPE_CHECKING:
    from pipeline.train._batches import Corpus


class Settings(TrainSettings):
    """The weight of the value loss, and what every trainer takes."""

    needs: ClassVar[tuple[str, ...]] = ("StepExample",)
    heads: ClassVar[tuple[str, ...]] = ("shared",)

    model: ModelName = Field("policy", description="the model that learns to write and to value")
    beta: float = Field(0.1, ge=0, description="weight of the value loss beside the policy's")
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (StepExample); the weights of both heads and prm.json go to `job.out`. Every rank
    calls it; rank 0 writes.

    Raises:
        NothingKept: no right row to learn to write from. RecipeError: a label that is no probability.
        Diverged: a loss that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoConfig, AutoTokenizer, TrainingArguments

    from pipeline.models.shared import HEAD, shared_class
    from pipeline.train import _batches, _joint, _setup
    from pipeline.train._verifier import carried_out

    dropped: Counter[str] = Counter()
    corpus = read(job, settings, dropped)
    steps = _setup.num_steps(settings, job.round, len(corpus))
    arguments = _setup.trainer_arguments(TrainingArguments, job, settings, int(corpus.lengths.max()), steps)
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    try:
        kind = shared_class(AutoConfig.from_pretrained(str(job.base)))
    except ValueError as problem:
        raise RecipeError(f"{job.base.name}: head: shared: {problem}; use another base") from None
    # the head trains whole and is saved with the adapter; peft would wrap it in LoRA as well
    whole = {"exclude_modules": [HEAD], "modules_to_save": [HEAD]}
    model: Any = _setup.load_model(job, kind, "CAUSAL_LM", whole, fresh=(f"{HEAD}.",))
    use_cache = getattr(model.config, "use_cache", True)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    trainer = _joint.JointTrainer(model, arguments)
    trainer.beta = settings.beta
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    reading = {"target": "value", "activation": "sigmoid"}
    batches = _joint.batches(corpus, pad)
    report = carried_out(job, settings, trainer, corpus, order, batches, reading, use_cache)
    return _joint.finish(trainer, report | {"right": float(_right(corpus))}, dropped)


def _right(corpus: Corpus) -> int:
    """Rows that the policy learns from."""
    return int((corpus.first_trained < corpus.lengths).sum())


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Corpus:
    """The rows as token ids, with the values at steps' last tokens as targets; of a right row the completion
    is trained from where it begins, of another nothing is.
    """
    from pipeline.engine.tokens import encoder
    from pipeline.train._batches import Corpus

    encode = encoder(job.base)
    rows, names, targets, begins = [], [], [], []
    for row in job.rows():
        prompt_ids = encode(row.prompt) if row.prompt else []
        if fault := fault_of(row, prompt_ids, settings.max_length):
            dropped[fault] += 1
            continue
        ends = zip(row.step_ends, row.labels, strict=True)
        known = [(end - 1, label) for end, label in ends if label is not None]
        if not all(math.isfinite(label) and 0 <= label <= 1 for _, label in known):
            low, high = min(label for _, label in known), max(label for _, label in known)
            raise RecipeError(
                f"row {row.trace_id or row.problem_id}: labels from {low:g} to {high:g} are no shares of "
                "right ends: select them with step_values, use: step_scores or correct"
            )
        rows.append(row.token_ids)
        names.append(row.trace_id or row.problem_id)
        targets.append(([column for column, _ in known], [label for _, label in known]))
        begins.append(len(prompt_ids) if row.labels[-1] == 1 else len(row.token_ids))
    corpus = Corpus.of(rows, names, first_trained=begins, targets=targets)
    if not _right(corpus):
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common()) or "none dropped"
        raise NothingKept(
            f"none of {len(rows):,} rows ends right (last label 1), so there is nothing to learn to write "
            f"from ({reasons}). Sample more (n), or raise max_length ({settings.max_length}) for too_long"
        )
    return corpus
