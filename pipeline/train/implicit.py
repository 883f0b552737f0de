"""Implicit process reward models (Yuan et al., arXiv:2412.01981; PRIME, arXiv:2502.01456): step values from
outcomes alone.

A language model is trained so that beta times the log-ratio of a whole solution to the weights it starts from
is the log-odds of a right answer: cross-entropy of sigma(beta * sum log(pi / pi_start)) with the outcome. The
same sum up to a step is then that step's value, although no step had a label (proposition 3.1).

    labels:   {label: outcome, from: samples}
    rows:     {select: step_values, from: labels, use: correct}
    implicit: {train: implicit, model: prm, from: rows}        # models.prm: head: implicit

The outcome is the label of a row's last step. The start is the model's base, which stands beside the adapter:
`lora: none` would lose it. `prm.json` keeps beta, which readers need: {"head": "implicit", "beta": 0.05,
"activation": "none"}. Scores are log-odds; `Score` gives their logistic, as for every verifier.

Not here: the losses of the paper that need pairs (DPO, KTO, NCA), and PRIME's loop, in which policy and
reward model learn from the same roll-outs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.settings import ModelName, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly
from pipeline.train._outcomes import read_outcomes

if TYPE_CHECKING:
    from pipeline.train._batches import Corpus


class Settings(TrainSettings):
    """The papers' beta, and what every trainer takes."""

    needs: ClassVar[tuple[str, ...]] = ("StepExample",)
    heads: ClassVar[tuple[str, ...]] = ("implicit",)

    model: ModelName = Field("prm", description="the reward model that learns")
    beta: float = Field(0.05, gt=0, description="of beta * log-ratio (both papers: 0.05)")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="the share of outcomes that are taken to be wrong"
    )
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    def fault_of_head(self, head: str | None, whole: bool) -> str:
        if whole:
            return (
                "lora: none trains all weights, and an implicit reward model is read against the base, "
                "which has to stand beside it: train an adapter (lora: {r: 16})"
            )
        return ""

    def fault_of_lora(self, lora: dict[str, Any]) -> str:
        bias = lora.get("bias", "none")
        if bias != "none":
            return (
                f"bias: {bias}: trained biases stay when the adapter is switched off, so the base would not "
                "be the start any more: leave it out"
            )
        return ""


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (StepExample); the adapter and prm.json go to `job.out`. Every rank calls it;
    rank 0 writes.

    Raises:
        NothingKept: no outcome is left. RecipeError: no adapter, or a label that does not fit. Diverged: a
        loss that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    from pipeline.train import _batches, _ratio, _setup
    from pipeline.train._verifier import carried_out

    dropped: Counter[str] = Counter()
    corpus = read(job, settings, dropped)
    steps = _setup.num_steps(settings, job.round, len(corpus))
    arguments = _setup.trainer_arguments(TrainingArguments, job, settings, int(corpus.lengths.max()), steps)
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    model: Any = _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    use_cache = getattr(model.config, "use_cache", True)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    trainer = _ratio.RatioTrainer(model, arguments)
    trainer.beta = settings.beta
    trainer.model_accepts_loss_kwargs = False  # the count of rows goes to the loss, not to the model
    trainer.loss_is_scaled_for_ga = True  # by that count, over all micro-batches
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    reading = {"target": "outcome", "activation": "none", "beta": settings.beta}
    batches = _ratio.batches(corpus, pad)
    report = carried_out(job, settings, trainer, corpus, order, batches, reading, use_cache)
    return _setup.finish(trainer, report, dropped)


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Corpus:
    """The rows as token ids, each with one target, the outcome, at the column where its completion begins."""
    from pipeline.train._batches import Corpus
    from pipeline.train._verifier import smoothed

    found = list(read_outcomes(job, settings.max_length, dropped))
    return Corpus.of(
        [row.token_ids for row, _, _ in found],
        [row.trace_id or row.problem_id for row, _, _ in found],
        targets=[([begin], [smoothed(outcome, settings.label_smoothing)]) for _, begin, outcome in found],
    )
