"""Reward models from preferences: Bradley-Terry on a scalar head, -log s(r_chosen - r_rejected).

Each score is read at the last token of its half, so that pairs of steps (`select/pairs`, `between: siblings`)
make rStar-Math's process preference model (arXiv:2501.04519, section 3.3) and pairs of whole completions an
outcome reward model (arXiv:2203.02155, equation 1); both kinds may come together. `margin_scale` asks that
scores part by a share of the row's margin (Llama 2, arXiv:2307.09288, equation 2; adaptive margin in Secrets
of RLHF II, arXiv:2401.06080, section 2.3.2); a row's `confidence` smooths its label.

A score is a log-odds that means something against another of the same problem alone; `prm.json` says
`sigmoid`, so searches and votes see numbers from 0 to 1. The metrics hold how often the pairs are told right
before and after. The two completions in one context are `head: pair`, which `train/dpo` trains.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline.rows import Pair
from pipeline.settings import ModelName, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly

if TYPE_CHECKING:
    from pipeline.train._pairs import Ids


class Settings(TrainSettings):
    """What every trainer takes, and what a preference asks for; batch_size counts pairs."""

    needs: ClassVar[tuple[str, ...]] = ("Pair",)
    heads: ClassVar[tuple[str, ...]] = ("value",)

    model: ModelName = Field("prm", description="the reward model that learns")
    margin_scale: float = Field(
        0.0, ge=0, description="how far scores shall part for each unit of a row's margin; 0: any distance"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that are thought flipped")
    micro_batch: int | None = operational(
        None, ge=1, description="pairs at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (Pair); weights and prm.json go to `job.out`. Every rank calls it; rank 0 writes.

    Raises:
        NothingKept: no pair is left. RecipeError: a base that does not fit. Diverged: a loss that is not
        finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoTokenizer, TrainingArguments

    from pipeline.train import _batches, _pairs, _pairwise, _setup, _verifier

    dropped: Counter[str] = Counter()
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    pairs = _pairs.read_pairs(job.rows(), ids_of, settings.max_length, dropped)
    steps = _setup.num_steps(settings, job.round, len(pairs))
    longest = 2 * int(pairs.lengths.max())
    arguments = _setup.trainer_arguments(TrainingArguments, job, settings, longest, steps)
    model = _verifier.load(job, on_numbers=False, token=False)
    use_cache = getattr(model.config, "use_cache", True)
    pad = _setup.padding(model, tokenizer, pairs, job.base.name)
    loss = _pairwise.loss_of(settings.margin_scale, settings.label_smoothing)
    trainer = _pairwise.PairwiseTrainer(model, arguments, compute_loss_func=loss)
    trainer.model_accepts_loss_kwargs = False  # the count of pairs goes to the loss, not to the model
    trainer.job = job
    order = _batches.Order(pairs, settings.batch_size, steps, job.seed)
    job.beat("reading the pairs")
    before = trainer.scores(pairs, pad)
    fingerprint = _setup.fingerprint(job, settings, pairs, steps)
    collate = _pairs.last_token_batches(pairs, pad)
    trainer.prepare(job, order, collate, pairs.names, fingerprint, settings.log_every)
    report = _setup.announce(job, trainer, pairs, order)
    trainer.run()
    job.beat("reading the pairs again")
    after = trainer.scores(pairs, pad)
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    if trainer.is_world_process_zero():
        _verifier.write_reading(job, {"target": "pairs", "activation": "sigmoid"})
    trainer.accelerator.wait_for_everyone()
    told = {
        f"pair_accuracy/{when}": float((values[:, 0] > values[:, 1]).mean())
        for when, values in (("before", before), ("after", after))
    }
    gap = float((after[:, 0] - after[:, 1]).mean(dtype=float))
    return _setup.finish(trainer, report | told | {"score_margin": gap}, dropped)


def ids_of(row: Pair) -> tuple[Ids, str]:
    """The row's ids, and why it cannot be used: a score is read where generation will read it."""
    known = row.chosen_ids and row.rejected_ids
    ids = (list(row.prompt_ids), list(row.chosen_ids), list(row.rejected_ids))
    return ids, "" if known else "no_token_ids"
