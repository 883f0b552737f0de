"""A policy gradient from a stage's rows: on-policy reinforcement learning in a loop of stages.

Each row brings its advantage and the log-probabilities that it was drawn by (`select: episodes`); which
method made them, nothing here knows. Losses, their ratios and what they are divided by: `_losses.py`, held
against trl's GRPOTrainer to 1e-6 in `tests/train/test_policy_gradient.py`.

The ratio is to the recorded log-probabilities, so several passes (`epochs`) and `minibatches` a pass are
off-policy as they should be; `staleness` says by how many steps. Where a server wrote the tokens it computes
a little otherwise: `truncate: 2` then reads every row once under the weights that training starts from, takes
the ratio to that, and multiplies each token by min(p_start / p_recorded, 2).

`kl` holds the policy near a reference: `kind: k3` in the loss; `k1` in the advantage, where each token pays
for the log-ratios from it to the end (a reward, as in RLHF; in the loss its gradient would be zero on
average). `top_entropy: 0.2` trains on the fifth of tokens with the most entropy (arXiv:2506.01939), measured
once a round under the weights that training starts from, where trl measures in each micro-batch. For many
small rounds: `restart_from: previous`, `carry_optimizer`, `schedule_rounds`.

Not here: a value head (a critic is a model of its own: `label: gae`), sampling while training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.errors import NothingKept
from pipeline.rows import Example
from pipeline.settings import Settings as Plain
from pipeline.settings import StageSettings, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly

if TYPE_CHECKING:
    from pipeline.train._episodes import Episodes

LOSSES = ("reinforce", "grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo", "ppo")


class Reference(Plain):
    """How the policy is held near another."""

    coefficient: float = Field(0.0, ge=0, description="0: not at all; R1 0.001, RLHF 0.02")
    kind: Literal["k3", "k1"] = Field("k3", description="k3: in the loss; k1: in the advantage of each token")
    reference: Literal["start", "base"] = Field(
        "base", description="the model's base, or the weights that this training starts from"
    )
    corrected: bool = Field(
        True, description="k3 times the ratio, so that its gradient is the KL's own (arXiv:2512.02556)"
    )

    @model_validator(mode="after")
    def _weighs(self) -> Reference:
        beside = sorted(self.model_fields_set)
        if beside and "coefficient" not in beside:
            raise ValueError(
                f"{beside[0]} without a coefficient, which is 0: nothing would be held; R1 0.001, RLHF 0.02"
            )
        return self


class Settings(TrainSettings):
    """The loss, and what bounds it. One step a round on all its rows, unless said otherwise."""

    on_policy: ClassVar[bool] = True
    words: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("beta", "kl_coef", "kl_beta", "kl_coeff"), "kl.coefficient"),
        **dict.fromkeys(("epsilon", "cliprange", "clip_range", "clip_ratio"), "clip_low and clip_high"),
        **dict.fromkeys(("epsilon_high", "clip_ratio_high"), "clip_high"),
        **dict.fromkeys(("num_iterations", "ppo_epochs", "num_ppo_epochs"), "epochs"),
        **dict.fromkeys(("num_mini_batches", "ppo_mini_batches"), "minibatches"),
        **dict.fromkeys(("entropy_coef", "entropy_coeff"), "entropy_bonus"),
        **dict.fromkeys(
            ("vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max", "tis_imp_ratio_cap"),
            "truncate",
        ),
        "epsilon_low": "clip_low",
        "clip_ratio_low": "clip_low",
        "loss_type": "loss",
        "top_entropy_quantile": "top_entropy",
        "use_bias_correction_kl": "kl.corrected",
        "importance_sampling_level": "loss: gspo takes the ratio of a sequence, the others of a token",
        "scale_rewards": "kind of label: group_advantage; grpo divides by the deviation, dr_grpo does not",
        "reward_weights": "outcome and process of label: group_advantage",
        **dict.fromkeys(("num_generations", "group_size"), "n of the stage that samples"),
        **dict.fromkeys(("max_completion_length", "max_new_tokens"), "max_tokens of the stage that samples"),
    }

    loss: Literal["reinforce", "grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo", "ppo"] = Field(
        "grpo", description="which objective"
    )
    clip_low: float | None = Field(
        None, gt=0, le=1, description="how far a ratio may fall below 1; none: the loss's own (0.2)"
    )
    clip_high: float | None = Field(
        None, gt=0, description="how far it may rise above 1; none: the loss's own (0.2; dapo 0.28, cispo 4)"
    )
    minibatches: int = Field(1, ge=1, description="optimizer steps in which a pass goes over the rows")
    batch_size: int = Field(
        0, ge=0, description="rows an optimizer step, over all processes; 0: the rows / minibatches"
    )
    kl: Reference = Field(Reference.model_validate({}), description="how the policy is held near another")
    entropy_bonus: float = Field(0.0, ge=0, description="times the mean entropy, added to the objective")
    top_entropy: float = Field(1.0, gt=0, le=1, description="share of tokens that train, by entropy")
    truncate: float | None = Field(
        None, gt=0, description="most that a token weighs that another engine drew; 2 where a server wrote"
    )
    longest: int | None = Field(
        None, ge=1, description="of dr_grpo: tokens that a completion may have; none: the round's longest"
    )
    learning_rate: float = Field(1e-5, gt=0)
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    @model_validator(mode="after")
    def _read(self) -> Settings:
        """What the loss does not read is refused: it would stand there as if it did something."""
        clips = {"reinforce": (), "cispo": ("clip_high",)}.get(self.loss, ("clip_low", "clip_high"))
        for key in ("clip_low", "clip_high"):
            if getattr(self, key) is not None and key not in clips:
                raise ValueError(f"{key}: loss {self.loss} has none: leave it out, or take another loss")
        if self.longest is not None and self.loss != "dr_grpo":
            raise ValueError(f"longest: loss {self.loss} is not divided by it; dr_grpo is")
        if self.minibatches > 1 and self.batch_size:
            raise ValueError("minibatches and batch_size both say how many rows a step has: leave one out")
        return self

    def faults(self, restart_from: str, given: Sequence[tuple[str, StageSettings]]) -> Iterator[str]:
        """Traces that were not drawn from the policy itself have no ratio to it."""
        yield from super().faults(restart_from, given)
        pooled = any(settings.pools_rounds for _, settings in given)
        paid = self.kl.coefficient and self.kl.kind == "k1" and self.kl.reference == "start"
        if paid and restart_from == "previous" and not pooled:
            yield (
                "kl: k1 is the log-ratio of the weights that wrote to the reference, and start is these very "
                "weights: nothing would be paid. Set reference: base, or kind: k3"
            )
        wrote = {settings.written_by: name for name, settings in given if settings.written_by}
        if wrote and self.model not in wrote:
            writer, name = next(iter(wrote.items()))
            yield (
                f"from: the traces of {name} are written by {writer}, and {self.model} learns from them: the "
                f"ratio would be to another model. Let {self.model} write (by: {self.model})"
            )
        for name, settings in given:
            if how := settings.drawn_otherwise:
                yield (
                    f"from: the traces of {name} are drawn with {how}, so their log-probabilities are not "
                    "those that they were drawn by: sample at temperature 1, without top_p, top_k and hints"
                )

    def bounds(self) -> tuple[float, float]:
        """(low, high): how far a ratio may go."""
        from pipeline.train._losses import OBJECTIVES

        low, high = OBJECTIVES[self.loss].clip
        return (
            low if self.clip_low is None else self.clip_low,
            high if self.clip_high is None else self.clip_high,
        )


def monitors(settings: Settings) -> dict[str, str]:
    """What PPO-max watches (arXiv:2307.04964, section 5): over the round's rows, which stand before the step,
    and over the steps taken."""
    found = {
        "kl/old": "KL from the policy that wrote, nats a token",
        "entropy": "entropy, nats a token",
        "length": "tokens a completion",
        "perplexity": "perplexity of what was written",
        "distinct": "share of distinct completions",
        "clip/low": "tokens clipped below",
        "clip/high": "tokens clipped above",
    }
    if settings.kl.coefficient and settings.kl.kind == "k3":
        found["kl/reference"] = f"log-ratio to the {settings.kl.reference}, nats a token"
    return found


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (Example with `advantage` and `old_logprobs`) and leave the weights in `job.out`.
    Every rank calls it; rank 0 writes.

    Raises:
        NothingKept: no row is left. RecipeError: settings or weights that cannot be. Diverged: a loss that is
        not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    from pipeline.train import _adapters, _episodes, _gradient, _setup

    dropped: Counter[str] = Counter()
    episodes = read(job, settings, dropped)
    corpus, facts = episodes.corpus, episodes.facts()
    passes = 1 if settings.batch_size == 0 else math.ceil(len(corpus) / settings.batch_size)
    passes = settings.minibatches if settings.batch_size == 0 else passes
    passes = min(passes, len(corpus))  # steps in which all rows are seen once
    steps = settings.steps_in(job.round) or max(1, math.ceil(settings.epochs * passes - 1e-9))
    world, longest = PartialState().num_processes, int(corpus.lengths.max())
    width = _episodes.width(math.ceil(len(corpus) / passes), world, settings.micro_batch, longest)
    sized = settings.model_copy(update={"batch_size": width})
    arguments = _setup.trainer_arguments(TrainingArguments, job, sized, longest, steps)
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    model = _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    _adapters.require_trained(model)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    use_cache = getattr(model.config, "use_cache", True)
    trainer = _gradient.GradientTrainer(model, arguments)
    order = _episodes.Passes(corpus, passes, width, steps, job.seed)
    fingerprint = _setup.fingerprint(job, settings, corpus, steps, episodes.digest())
    trainer.prepare(
        job, order, _episodes.batches(episodes, pad), corpus.names, fingerprint, settings.log_every
    )
    trainer.begin(settings, episodes, order, pad)
    report = _setup.announce(job, trainer, corpus, order) | {"epochs": steps / passes}
    trainer.run()
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    return _gradient.finish(trainer, report | facts, dropped)


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> Episodes:
    """The rows as token ids with their advantages; what cannot be trained on is counted by reason.

    Raises:
        NothingKept: none is left.
    """
    from pipeline.train._episodes import Episodes

    kept: list[Example] = []
    for row in job.rows():
        if reason := fault_of(row, settings.max_length):
            dropped[reason] += 1
        else:
            kept.append(row)
    if not kept:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no row arrived"
        )
        raise NothingKept(
            f"no trace to train on: {reasons}. Rows need an advantage and the log-probabilities that they "
            f"were drawn by (select: episodes); for too_long raise max_length ({settings.max_length})"
        )
    return Episodes.of(kept)


def fault_of(row: Example, max_length: int) -> str:
    """Why a row cannot be trained on; empty if it can."""
    size = len(row.completion_ids)
    if not size or not row.prompt_ids:
        return "no_token_ids"
    if size + len(row.prompt_ids) > max_length:
        return "too_long"
    if not row.old_logprobs or len(row.old_logprobs) != size or not all(map(math.isfinite, row.old_logprobs)):
        return "no_logprobs"
    if not row.advantage or len(row.advantage) not in (1, size):
        return "no_advantage"
    if any(a is None or not math.isfinite(a) for a in row.advantage):
        return "bad_advantage"
    if row.kl_weight is not None and not (math.isfinite(row.kl_weight) and row.kl_weight >= 0):
        return "bad_kl_weight"
    return ""
