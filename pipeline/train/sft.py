"""Supervised fine-tuning of a policy on its kept traces: the NLL of the completion, LoRA or full, on TRL's
SFTTrainer.

STaR (arXiv:2203.14465) and ReST-EM train anew from the base each round, ReST-MCTS* (arXiv:2406.03816) goes on
from the last round: the model's `restart_from` decides which folder arrives here. Rows that carry token ids
are trained on exactly those. The selectors refuse a trace that was cut, so ids without an end token are taken
for an answer that ended at the task's stop text, and get one; rows from elsewhere may be cut: `unended:
drop`. Not done: row weights (TRL has none), truncation (what is too long is dropped and counted).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.engine.tokens import encode_prompt
from pipeline.errors import NothingKept, RecipeError
from pipeline.models.chat import chat_of
from pipeline.models.pause import MOST, Pause, id_in, pause_of, write_pause
from pipeline.rows import Example
from pipeline.settings import StageSettings, added, operational
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly

if TYPE_CHECKING:
    from pipeline.train._batches import Corpus


#: what families call the layer that makes logits
HEADS = ("lm_head", "embed_out", "output_projection", "lm_proj")


class Settings(TrainSettings):
    """SFT's settings beside what every trainer takes."""

    heads: ClassVar[tuple[str, ...]] = ("policy", "token")
    knows_pauses: ClassVar[bool] = True
    trainer_arguments: ClassVar[str] = "SFTConfig"

    packing: bool = Field(
        False,
        description="lay several rows end to end; the same update, less padding, best with flash attention",
    )
    unended: Literal["end", "drop"] = Field(
        "end",
        description="token ids without an end token ended at a stop text (end: add it) or are cut (drop)",
    )
    pause: int | None = added(
        None,
        ge=0,
        le=MOST,
        description="copies of one learned token between prompt and answer, without loss (arXiv:2310.02226: "
        "10 or 50); 0: none; none: as many as the weights that it starts from have",
    )
    micro_batch: int | None = operational(
        None, ge=1, description="rows at once on a device; none: as many as 32k tokens hold"
    )
    log_every: int = operational(10, ge=1, description="optimizer steps between reports")

    def faults(self, restart_from: str, given: Sequence[tuple[str, StageSettings]]) -> Iterator[str]:
        """A token of its own lies beside the adapter, which a sharded model cannot leave there."""
        yield from super().faults(restart_from, given)
        if self.pause and (self.args.get("deepspeed") or self.args.get("fsdp")):
            yield "pause: the token's row is saved from one whole model: no args.deepspeed or args.fsdp here"

    def fault_of_lora(self, lora: dict[str, Any]) -> str:
        """The loss is computed from the head's own weights, past any adapter on it."""
        return fault_on_head(lora, "sft")


def fault_on_head(lora: dict[str, Any], method: str) -> str:
    """Why a trainer with TRL's fused head cannot train such an adapter; empty if it can."""
    named = lora.get("target_modules")
    for one in named if isinstance(named, (list, tuple)) else [named]:
        if (name := str(one).rpartition(".")[2]) in HEADS:
            return (
                f"target_modules: {name}: train: {method} cannot train an adapter on the head: leave it out, "
                "or name it in lora.modules_to_save, which trains it whole"
            )
    return ""


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Train on `job.rows()` (Example) and leave the weights in `job.out`. Every rank calls it; rank 0 writes.

    Raises:
        NothingKept: no row is left. RecipeError: `args`, `lora` or weights that cannot be. Diverged: a loss
        that is not finite.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from pipeline.train import _adapters, _alone, _batches, _fits, _setup, _trainers

    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    dropped: Counter[str] = Counter()
    pause = pause_for(job, settings, tokenizer)
    corpus = read(job, settings, tokenizer, dropped, pause)
    steps = _setup.num_steps(settings, job.round, len(corpus))
    longest = settings.max_length if settings.packing else int(corpus.lengths.max())
    # rows come as tokens and none is too long: TRL has nothing to prepare
    ready = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = _setup.trainer_arguments(SFTConfig, job, settings, longest, steps, **ready)
    learned = {"trainable_token_indices": [pause.id]} if pause and pause.copies else None
    model = _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM", learned, pause=pause)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    _adapters.require_trained(model)
    fault = _fits.packing_fault(model) if settings.packing and arguments.deepspeed is None else ""
    if fault:
        job.say(f"packing: {fault}: the update would not be the same, so rows are padded instead")
    use_cache = getattr(model.config, "use_cache", True)
    trainer = _trainers.PolicyTrainer(model, arguments, tokenizer)
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    packed = settings.packing and not fault
    if _alone.use(model):
        collate, packed = _batches.line_batches(corpus, pad), False
    elif packed:
        collate = _batches.packed_batches(corpus, pad, settings.max_length)
    else:
        collate = _batches.policy_batches(corpus, pad)
    fingerprint = _setup.fingerprint(job, settings, corpus, steps)
    trainer.prepare(job, order, collate, corpus.names, fingerprint, settings.log_every, packed)
    report = _setup.announce(job, trainer, corpus, order)
    trainer.run()
    model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    if pause is not None and trainer.is_world_process_zero():
        if learned and job.lora is not None:  # the token's row, and not all of a resized embedding
            model.save_pretrained(str(job.out), save_embedding_layers=False)
            (job.out / "README.md").unlink(missing_ok=True)
        write_pause(job.out, pause)
    trainer.accelerator.wait_for_everyone()
    return _setup.finish(trainer, report, dropped)


def pause_for(job: TrainJob, settings: Settings, tokenizer: Any) -> Pause | None:
    """The pauses that this training puts behind prompts; None where the model knows none.

    Raises:
        RecipeError: it goes on from an adapter that has no place for the token.
    """
    known = pause_of(job.adapter, job.base)
    if settings.pause is None or (not settings.pause and known is None):
        return known
    pause = Pause(known.id if known else id_in(tokenizer), settings.pause)
    said = job.adapter / "adapter_config.json" if job.adapter is not None else None
    if pause.copies and said is not None and said.is_file():
        held = json.loads(said.read_text(encoding="utf-8")).get("trainable_token_indices") or []
        if pause.id not in (held if isinstance(held, list) else [i for ids in held.values() for i in ids]):
            raise RecipeError(
                f"pause: {pause.copies}: {job.adapter} was trained without the token and holds none: "
                "set the model's restart_from: base"
            )
    return pause


def read(
    job: TrainJob,
    settings: Settings,
    tokenizer: Any,
    dropped: Counter[str],
    pause: Pause | None = None,
) -> Corpus:
    """The rows as token ids; what cannot be trained on is counted by reason."""
    from pipeline.train._batches import Corpus

    ends = end_tokens(job, tokenizer)
    rows: list[list[int]] = []
    names: list[str] = []
    first_trained: list[int] = []
    weights: set[float] = set()
    for row in job.rows():
        prompt, completion, fault = token_ids(row, settings, tokenizer, ends)
        prompt = pause.after(prompt) if pause else prompt
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
    chat = chat_of(tokenizer)  # a turn ends at the template's own mark
    end = chat.end if chat.end is not None and chat.asks(row.prompt) else tokenizer.eos_token_id
    if not completion:
        if not row.completion:
            return prompt, completion, "empty"
        prompt = encode_prompt(tokenizer, row.prompt)
        if len(prompt) > 1 and prompt[-1] in ends and not row.prompt.endswith(tokenizer.eos_token or "\0"):
            prompt = prompt[:-1]  # tokenizers of the T5 family close every text
        completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        return prompt, completion if completion[-1] in ends else [*completion, end], ""
    if completion[-1] not in ends:
        if settings.unended == "drop":
            return prompt, completion, "truncated"
        completion.append(end)
    return prompt, completion, ""


def end_tokens(job: TrainJob, tokenizer: Any) -> set[int]:
    """The ids at which the policy's generation ends."""
    from transformers import GenerationConfig

    ends = {tokenizer.eos_token_id, chat_of(tokenizer).end}
    if (job.base / "generation_config.json").is_file():
        stated = GenerationConfig.from_pretrained(str(job.base)).eos_token_id
        ends |= set(stated if isinstance(stated, list) else [stated])
    return ends - {None}
