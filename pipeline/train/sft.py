"""Supervised fine-tuning of a policy on its kept traces: the NLL of the completion, LoRA or full, on TRL's
SFTTrainer.

STaR (arXiv:2203.14465) and ReST-EM train anew from the base each round, ReST-MCTS* (arXiv:2406.03816) goes on
from the last round: the model's `restart_from` decides which folder arrives here. Rows that carry token ids
are trained on exactly those. The selectors refuse a trace that was cut, so ids without an end token are taken
for an answer that ended at the task's stop text, and get one; rows from elsewhere may be cut: `unended:
drop`. Not done: row weights (TRL has none), truncation (what is too long is dropped and counted).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import Example
from pipeline.settings import operational
from pipeline.train import TrainJob, TrainReport, TrainSettings

if TYPE_CHECKING:
    from pipeline.train._batches import Corpus


class Settings(TrainSettings):
    """SFT's settings beside what every trainer takes."""

    heads: ClassVar[tuple[str, ...]] = ("policy", "token")
    trainer_arguments: ClassVar[str] = "SFTConfig"

    packing: bool = Field(
        False,
        description="lay several rows end to end; the same update, less padding, best with flash attention",
    )
    unended: Literal["end", "drop"] = Field(
        "end",
        description="token ids without an end token ended at a stop text (end: add it) or are cut (drop)",
    )
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (Example) and leave the weights in `job.out`. Every rank calls it; rank 0 writes.

    Raises:
        NothingKept: no row is left. RecipeError: `args`, `lora` or weights that cannot be. Diverged: a loss
        that is not finite.
    """
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # first: without it every rank on a CPU box is alone
    from pipeline.train import _setup

    with _setup.exact():
        return _train(job, settings)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from pipeline.train import _alone, _batches, _setup, _trainers

    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    dropped: Counter[str] = Counter()
    corpus = read(job, settings, tokenizer, dropped)
    steps = _setup.num_steps(settings, job.round, len(corpus))
    longest = settings.max_length if settings.packing else int(corpus.lengths.max())
    # rows come as tokens and none is too long: TRL has nothing to prepare
    ready = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = _setup.trainer_arguments(SFTConfig, job, settings, longest, steps, **ready)
    model = _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    use_cache = model.config.use_cache
    trainer = _trainers.PolicyTrainer(model, arguments, tokenizer)
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    if _alone.use(model):
        collate = _batches.line_batches(corpus, tokenizer.pad_token_id)
    elif settings.packing:
        collate = _batches.packed_batches(corpus, tokenizer.pad_token_id, settings.max_length)
    else:
        collate = _batches.policy_batches(corpus, tokenizer.pad_token_id)
    fingerprint = _setup.fingerprint(job, settings, corpus, steps)
    trainer.prepare(job, order, collate, corpus.names, fingerprint, settings.log_every)
    report = _setup.announce(job, trainer, corpus, order)
    trainer.run()
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    return _setup.finish(trainer, report, dropped)


def read(job: TrainJob, settings: Settings, tokenizer: Any, dropped: Counter[str]) -> Corpus:
    """The rows as token ids; what cannot be trained on is counted by reason."""
    from pipeline.train._batches import Corpus

    ends = end_tokens(job, tokenizer)
    rows: list[list[int]] = []
    names: list[str] = []
    first_trained: list[int] = []
    weights: set[float] = set()
    for row in job.rows():
        prompt, completion, fault = token_ids(row, settings, tokenizer, ends)
        if not fault and len(prompt) + len(completion) > settings.max_length:
            fault = "too_long"
        if fault:
            dropped[fault] += 1
            continue
        rows.append(prompt + completion)
        names.append(row.trace_id or row.problem_id)
        first_trained.append(len(prompt))
        weights.add(row.weight)
    if not rows:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no row arrived"
        )
        raise NothingKept(
            f"nothing to train on: {reasons}. For too_long raise max_length ({settings.max_length}); for "
            "truncated raise the generator's max_tokens, or set unended: end."
        )
    if len(weights) > 1:
        raise RecipeError(
            f"rows carry different weights ({min(weights)} to {max(weights)}) and train: sft knows none: "
            "select rows of one weight"
        )
    return Corpus.of(rows, names, first_trained)


def token_ids(
    row: Example, settings: Settings, tokenizer: Any, ends: set[int]
) -> tuple[list[int], list[int], str]:
    """(prompt, completion, why it cannot be used) of a row."""
    prompt, completion = list(row.prompt_ids), list(row.completion_ids)
    if not completion:
        if not row.completion:
            return prompt, completion, "empty"
        # a rendered chat template carries its own start token
        starts = bool(tokenizer.bos_token) and row.prompt.startswith(tokenizer.bos_token)
        prompt = tokenizer(row.prompt, add_special_tokens=not starts)["input_ids"]
        if len(prompt) > 1 and prompt[-1] in ends and not row.prompt.endswith(tokenizer.eos_token or "\0"):
            prompt = prompt[:-1]  # tokenizers of the T5 family close every text
        completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        return prompt, completion if completion[-1] in ends else [*completion, tokenizer.eos_token_id], ""
    if completion[-1] not in ends:
        if settings.unended == "drop":
            return prompt, completion, "truncated"
        completion.append(tokenizer.eos_token_id)
    return prompt, completion, ""


def end_tokens(job: TrainJob, tokenizer: Any) -> set[int]:
    """The ids at which the policy's generation ends."""
    from transformers import GenerationConfig

    ends = {tokenizer.eos_token_id}
    if (job.base / "generation_config.json").is_file():
        stated = GenerationConfig.from_pretrained(str(job.base)).eos_token_id
        ends |= set(stated if isinstance(stated, list) else [stated])
    return ends - {None}
