"""Direct preference optimization (arXiv:2305.18290) and its relatives on Pair rows, LoRA or full, on TRL's
DPOTrainer.

`loss` takes all of TRL's names; several are summed with `loss_weights`. Alone, the pair loss lowers the
likelihood of the winners too; Iterative RPO (arXiv:2404.19733, equation 1) adds their negative
log-likelihood: `loss: [sigmoid, sft]`. The reference is the weights that the training starts from (Iterative
RPO, Self-Rewarding: the last round's policy) or the base; its log-likelihoods are read once, before the first
step.

The metrics say what the training did to its own pairs: mean log-likelihood of winners and losers before and
after, how often the winner is likelier, and how often and by how much the implicit reward (beta times the
log-ratio to the reference) prefers it.

Rows that carry token ids are trained on exactly those; whole completions whose ids lack an end token ended at
a stop text, and get one. A model of `head: pair` learns to answer which of two is better (`select: duels`).

Not done: DeepSpeed (the reference is read before weights are shared out), packing, truncation (what is too
long is dropped and counted).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.rows import Example, Pair
from pipeline.settings import StageSettings, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly
from pipeline.train._owned import OWNED
from pipeline.train.sft import Settings as AsSft
from pipeline.train.sft import end_tokens, fault_on_head, token_ids

if TYPE_CHECKING:
    import numpy as np

    from pipeline.train._pairs import Ids, Pairs

Loss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


NO_DEEPSPEED = (
    "train: dpo reads its reference before the processes share the weights out, which DeepSpeed does not let "
    "it: use recipes/launch/ddp.yaml, or one process"
)
SMOOTHED = frozenset({"robust", "exo_pair", "aot", "aot_unpaired"})  #: losses that know of flipped pairs


class Settings(TrainSettings):
    """DPO's settings beside what every trainer takes; batch_size counts pairs."""

    needs: ClassVar[tuple[str, ...]] = ("Pair",)
    heads: ClassVar[tuple[str, ...]] = ("policy", "pair")
    trainer_arguments: ClassVar[str] = "DPOConfig"
    owned: ClassVar[dict[str, str]] = {
        **OWNED,
        "beta": "beta",
        "loss_type": "loss",
        "loss_weights": "loss_weights",
        "label_smoothing": "label_smoothing",
        "truncation_mode": "max_length",
        "precompute_ref_batch_size": "micro_batch",
        **dict.fromkeys(
            (
                "precompute_ref_log_probs",
                "sync_ref_model",
                "ref_model_mixup_alpha",
                "ref_model_sync_steps",
            ),
            "reference",
        ),
        **dict.fromkeys(("model_init_kwargs", "trust_remote_code"), "the recipe's models"),
    }

    beta: float = Field(0.1, gt=0, description="how near to the reference; for ipo its tau")
    loss: tuple[Loss, ...] = Field(("sigmoid",), description="TRL's loss types, summed")
    loss_weights: tuple[float, ...] | None = Field(None, description="one weight a loss; none: 1 each")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of flipped pairs, for loss robust; epsilon of exo_pair"
    )
    reference: Literal["start", "base"] = Field(
        "start", description="what it stays near to: the weights that it starts from, or the model's base"
    )
    micro_batch: int | None = operational(
        None, ge=1, description="pairs at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    @model_validator(mode="after")
    def _losses(self) -> Settings:
        if not set(self.loss) - {"sft"}:
            raise ValueError("loss: no loss over pairs; add sigmoid, or train: sft on the chosen ones")
        if twice := [name for name in self.loss if self.loss.count(name) > 1]:
            raise ValueError(f"loss: {twice[0]} stands there twice: name it once, with its loss_weights")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss):
            raise ValueError(f"loss_weights: {len(self.loss_weights)} weights for {len(self.loss)} losses")
        if off := [weight for weight in self.loss_weights or () if weight <= 0]:
            raise ValueError(
                f"loss_weights: {off[0]:g} is not above 0; leave a loss out that shall not count"
            )
        if self.label_smoothing and not SMOOTHED & set(self.loss):
            raise ValueError(
                f"label_smoothing: {', '.join(self.loss)} takes none: of TRL's losses "
                f"{', '.join(sorted(SMOOTHED))} do (robust is sigmoid where that share of pairs is flipped)"
            )
        if "exo_pair" in self.loss and not self.label_smoothing:
            raise ValueError("label_smoothing: exo_pair needs one above 0 (its paper: 1e-3)")
        return self

    def faults(self, restart_from: str, given: Sequence[tuple[str, StageSettings]]) -> Iterator[str]:
        """What would be refused only after all its pairs are made."""
        yield from super().faults(restart_from, given)
        if self.args.get("deepspeed"):
            yield f"args.deepspeed: {NO_DEEPSPEED}"
        if unsure := next((name for name, settings in given if settings.smooths), ""):
            yield (
                f"from: {unsure} makes pairs of a confidence below 1, which train: dpo does not know: "
                f"train: pairwise does; else set {unsure}'s confidence: 1"
            )

    def fault_of_lora(self, lora: dict[str, Any]) -> str:
        """The loss is computed from the head's own weights, past any adapter on it."""
        return fault_on_head(lora, "dpo")


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (Pair) and leave the weights in `job.out`. Every rank calls it; rank 0 writes.

    Raises:
        NothingKept: no pair is left. RecipeError: `args`, `lora`, weights or launches that cannot be.
        Diverged: a loss that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig

    from pipeline.train import _adapters, _batches, _pairs, _preferences, _setup

    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    dropped: Counter[str] = Counter()
    ends = end_tokens(job, tokenizer)
    pairs = _pairs.read_pairs(
        job.rows(), lambda row: ids_of(row, tokenizer, ends), settings.max_length, dropped
    )
    require_sure(pairs)
    steps = _setup.num_steps(settings, job.round, len(pairs))
    losses = {
        "beta": settings.beta,
        "loss_type": list(settings.loss),
        "loss_weights": list(settings.loss_weights) if settings.loss_weights else None,
        "label_smoothing": settings.label_smoothing,
        "max_length": None,
    }
    longest = 2 * int(pairs.lengths.max())
    arguments = _setup.trainer_arguments(DPOConfig, job, settings, longest, steps, **losses)
    require_fit(arguments, settings)
    model = _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    pad = _setup.padding(model, tokenizer, pairs, job.base.name)
    _adapters.require_trained(model)
    use_cache = getattr(model.config, "use_cache", True)
    trainer = _preferences.PreferenceTrainer(model, arguments, tokenizer)
    trainer.job = job
    fingerprint = _setup.fingerprint(job, settings, pairs, steps)
    before, reference = references(job, settings, trainer, pairs, pad, fingerprint)
    order = _batches.Order(pairs, settings.batch_size, steps, job.seed)
    collate = _pairs.pair_batches(pairs, pad, reference)
    trainer.prepare(job, order, collate, pairs.names, fingerprint, settings.log_every)
    report = _setup.announce(job, trainer, pairs, order)
    trainer.run()
    job.beat("reading the pairs again")
    after = trainer.likelihoods(pairs, pad)
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    return _setup.finish(trainer, report | preferred(before, after, reference, settings.beta), dropped)


def require_sure(pairs: Pairs) -> None:
    """Refuse smoothed pairs: TRL's losses know one share of flipped labels for all."""
    unsure = int((pairs.margins[:, 1] < 1).sum())
    if unsure:
        raise RecipeError(
            f"{unsure} of {len(pairs)} pairs have a confidence below 1, which train: dpo does not know: "
            "train: pairwise does; else select: strength with confidence: 1"
        )


def require_fit(arguments: Any, settings: Settings) -> None:
    """Refuse what would not be the update that the recipe asks for."""
    if arguments.deepspeed is not None or getattr(arguments, "deepspeed_plugin", None) is not None:
        raise RecipeError(NO_DEEPSPEED)
    sorted_losses = [name for name in settings.loss if name.startswith("aot")]
    if sorted_losses and arguments.gradient_accumulation_steps > 1:
        raise RecipeError(
            f"loss: {sorted_losses[0]} sorts a whole batch, and this one is split into "
            f"{arguments.gradient_accumulation_steps}: set micro_batch to the pairs of a process"
        )


def ids_of(row: Pair, tokenizer: Any, ends: set[int]) -> tuple[Ids, str]:
    """The row's ids, else those of its text, and why it cannot be used. Steps are taken as they are, whole
    completions end.
    """
    if row.chosen_ids and row.rejected_ids and not row.whole:
        return (list(row.prompt_ids), list(row.chosen_ids), list(row.rejected_ids)), ""
    halves = [
        token_ids(
            Example(
                problem_id=row.problem_id, prompt=row.prompt, completion=text, prompt_ids=row.prompt_ids,
                completion_ids=ids,
            ),
            AsSft.model_validate({}), tokenizer, ends,
        )
        for text, ids in ((row.chosen, row.chosen_ids), (row.rejected, row.rejected_ids))
    ]  # fmt: skip
    return (halves[0][0], halves[0][1], halves[1][1]), halves[0][2] or halves[1][2]


def references(
    job: TrainJob, settings: Settings, trainer: Any, pairs: Pairs, pad: int, fingerprint: str
) -> tuple[np.ndarray, np.ndarray]:
    """(of the start, of the reference): the log-likelihoods of all pairs, [N, 2] each, read once."""
    import numpy as np

    from pipeline.train import _preferences

    read = _preferences.kept(job.scratch, fingerprint, trainer, len(pairs))
    if read is None:
        job.beat("reading the reference")
        start = trainer.likelihoods(pairs, pad)
        other = start if settings.reference == "start" else of_base(job, trainer, pairs, pad)
        read = np.stack([start, other])
        _preferences.keep(job.scratch, fingerprint, trainer, read)
    return read[0], read[1]


def of_base(job: TrainJob, trainer: Any, pairs: Pairs, pad: int) -> np.ndarray:
    """The base's log-likelihoods: below the adapter, else of the folder."""
    from peft import PeftModel

    if isinstance(trainer.model, PeftModel):
        return trainer.likelihoods(pairs, pad, of="base")
    return trainer.likelihoods(pairs, pad, of="now" if job.adapter is None else job.base)


def preferred(before: np.ndarray, after: np.ndarray, reference: np.ndarray, beta: float) -> dict[str, float]:
    """What a training did to its pairs."""
    rewards = beta * (after - reference).astype(float)
    gap = rewards[:, 0] - rewards[:, 1]
    means = {
        f"{name}/{when}": float(values[:, side].mean(dtype=float))
        for when, values in (("before", before), ("after", after))
        for side, name in enumerate(("chosen", "rejected"))
    }
    likelier = {
        f"likelier/{when}": float((values[:, 0] > values[:, 1]).mean())
        for when, values in (("before", before), ("after", after))
    }
    return {
        **means,
        **likelier,
        "pair_accuracy": float((gap > 0).mean()),
        "reward_margin": float(gap.mean()),
    }
