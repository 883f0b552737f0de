"""From a TrainJob to a model and trainer arguments: what SFT and PRM training share before the first step."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import gc
import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from pipeline.engine.garbage import collect_garbage
from pipeline.engine.tokens import pad_of, require_embedded
from pipeline.errors import DamagedData, RatchetError, RecipeError
from pipeline.models.load import device_of, dtype_of
from pipeline.models.merged import with_adapter
from pipeline.models.pause import Pause, grow
from pipeline.settings import in_fingerprint
from pipeline.train import StepSchedule, TrainJob, TrainReport, TrainSettings
from pipeline.train._adapters import fitted, frozen_share, require_read
from pipeline.train._batches import Corpus
from pipeline.train._folded import fold

#: Micro-batches hold at most this many tokens, padding included, unless the recipe says otherwise.
TOKENS_AT_ONCE = 32_768
#: Not DeepSpeed or FSDP, which gather a layer's weights in its own forward.
PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU)
WHOLE = (*PLAIN, DistributedType.MULTI_GPU)  #: every rank holds all of the optimizer's state


class NothingTrainable(RatchetError):
    """The model would train nothing: a recipe's `lora` or `args` froze every weight."""

    exit_code = 2


def num_steps(settings: TrainSettings, round_number: int, num_rows: int) -> int:
    """Optimizer steps of this round: as set, or enough that every row is seen `epochs` times."""
    if isinstance(settings.steps, StepSchedule):
        return settings.steps.at(round_number)
    return settings.steps or max(1, math.ceil(settings.epochs * num_rows / settings.batch_size - 1e-9))


def split_batch(batch_size: int, world: int, micro_batch: int | None, longest: int) -> tuple[int, int]:
    """(rows at once on a device, accumulation) whose product times `world` is `batch_size`."""
    if batch_size % world:
        near = max(world, round(batch_size / world) * world)
        raise RecipeError(
            f"batch_size {batch_size} cannot be shared by {world} processes; the nearest is {near}"
        )
    share = batch_size // world
    if micro_batch is None:
        fits = max(1, TOKENS_AT_ONCE // max(longest, 1))
        micro_batch = max(n for n in range(1, share + 1) if share % n == 0 and n <= fits)
    if share % micro_batch:
        raise RecipeError(
            f"micro_batch {micro_batch} does not divide the {share} rows a process takes of {batch_size}"
        )
    return micro_batch, share // micro_batch


def _near(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def trainer_arguments(
    kind: type[TrainingArguments],
    job: TrainJob,
    settings: TrainSettings,
    longest: int,
    steps: int,
    **more: Any,
) -> TrainingArguments:
    """Arguments of a trainer: ours, then the recipe's `args`."""
    known = [f.name for f in dataclasses.fields(kind) if f.init]
    problems = [f"args.{key}: unknown key{_near(key, known)}" for key in settings.args if key not in known]
    owned = settings.owned
    problems += [f"args.{key}: not here; it is set by {owned[key]}" for key in settings.args if key in owned]
    if problems:
        raise RecipeError(problems)
    gpu = torch.cuda.is_available()
    world = PartialState(cpu=not gpu).num_processes
    if job.carry_optimizer and (kind_of := PartialState().distributed_type) not in WHOLE:
        raise RecipeError(
            f"carry_optimizer: under {kind_of.value} its state lies in pieces on the ranks; use one process "
            "or recipes/launch/ddp.yaml"
        )
    per_device, accumulation = split_batch(
        settings.batch_size, world, getattr(settings, "micro_batch", None), longest
    )
    values: dict[str, Any] = {
        "output_dir": str(job.scratch),
        "max_steps": steps,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_steps,
        "lr_scheduler_type": settings.schedule,
        "seed": job.seed % 2**31,
        "bf16": gpu and job.dtype != "float32",
        "use_cpu": not gpu,
        "gradient_checkpointing": False,
        # a last step is saved by what the training leaves; before that a kill costs no more than save_every
        "save_strategy": "steps" if 0 < job.save_every < steps else "no",
        "save_steps": job.save_every or 500,
        "logging_strategy": "no",
        # the default replaces a NaN loss by the average of earlier ones and trains on
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        "ddp_find_unused_parameters": False,
        **more,
        **settings.args,
    }
    try:
        arguments = kind(**values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"the trainer refuses its arguments: {error}") from error
    # one process drives one GPU: without this, Trainer spreads a model over all it sees (nn.DataParallel)
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """On CPU, only deterministic kernels; no library chatter; afterwards no trainer is left."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic  # its setting is a property that type checkers do not see
    filled, loud = memory.fill_uninitialized_memory, hf_logging.get_verbosity()
    if not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
    # a trainer collects garbage when it starts: seconds, were a stage's rows not set aside
    collect_garbage()
    gc.freeze()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # names that TRL and transformers still use of each other
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")  # sft saves the row alone
            yield
    finally:
        gc.unfreeze()
        collect_garbage()
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
        hf_logging.set_verbosity(loud)
        if bars:
            hf_logging.enable_progress_bar()


def weights_dtype(job: TrainJob) -> torch.dtype:
    """Weights that train keep float32 (on a GPU under bfloat16 autocast). Frozen ones load as bfloat16 on a
    GPU, and on a CPU where the engine does.
    """
    if job.dtype != "auto":
        return getattr(torch, job.dtype)
    if job.lora is None:
        return torch.float32
    return dtype_of("auto", device_of("auto"), job.base)


def lora_config(lora: dict[str, Any], task_type: str, **more: Any) -> LoraConfig:
    """The recipe's `lora`, whole, over the defaults."""
    known = [f.name for f in dataclasses.fields(LoraConfig) if f.init]
    if problems := [f"lora.{key}: unknown key{_near(key, known)}" for key in lora if key not in known]:
        raise RecipeError(problems)
    try:
        return LoraConfig(**{"target_modules": "all-linear", "task_type": task_type, **more, **lora})
    except (ValueError, TypeError) as error:
        raise RecipeError(f"lora: peft refuses it: {error}") from error


def load_model(
    job: TrainJob,
    auto: Any,
    task_type: str,
    lora_more: dict[str, Any] | None = None,
    fresh: tuple[str, ...] = (),
    pause: Pause | None = None,
    **load: Any,
) -> PreTrainedModel | PeftModel:
    """The model that trains: base or earlier weights, with a fresh adapter, an earlier one, or none.
    fresh: how the names of weights begin that a base need not have. pause: a token that it learns.

    Raises:
        RecipeError: what it goes on from does not fit `lora`. DamagedData: weights are missing.
        NothingTrainable: every weight is frozen.
    """
    set_seed(job.seed % 2**31)
    is_adapter = job.adapter is not None and (job.adapter / "adapter_config.json").is_file()
    if job.adapter is not None and is_adapter != (job.lora is not None):
        had, now = ("an adapter", "lora: none") if is_adapter else ("full weights", "an adapter (lora)")
        raise RecipeError(
            f"{job.adapter} holds {had} and the recipe asks for {now}: fork the run, or keep lora as it was"
        )
    folder = job.adapter if job.adapter is not None and not is_adapter else job.base
    model, found = auto.from_pretrained(
        str(folder), dtype=weights_dtype(job), output_loading_info=True, **load
    )
    # a fresh head may be missing; anything else would be random numbers in the middle of a model
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(fresh)):
        raise DamagedData(f"{folder} lacks {len(missing)} weights of its model, {missing[0]} among them")
    grow(model, pause)
    if is_adapter and job.adapter is not None:
        model = with_adapter(model, Path(job.adapter), is_trainable=True)
        for config in model.peft_config.values():  # a bare name would be looked up on the Hub at each save
            config.base_model_name_or_path = str(job.base)
    elif job.lora is not None:
        try:
            config = lora_config(job.lora, task_type, **(lora_more or {}))
            model = get_peft_model(model, fitted(config, model))
            if "target_modules" in job.lora:
                require_read(model)
        except ValueError as error:
            raise RecipeError(f"lora: peft refuses it: {error}") from error
    if num_trainable(model) == 0:
        raise NothingTrainable(
            f"0 of {sum(p.numel() for p in model.parameters()):,} weights would train: lora.target_modules, "
            "layers_to_transform or modules_to_save match nothing that learns. Correct the model's `lora`."
        )
    kind = PartialState().distributed_type
    if job.lora is not None and not torch.cuda.is_available() and kind in PLAIN:
        fold(model)
    return model


def padding(model: Any, tokenizer: Any, corpus: Corpus, name: str) -> int:
    """A token to pad with.

    Raises:
        RecipeError: the rows hold tokens that the model has no embedding for.
    """
    size = int(model.config.get_text_config().vocab_size)
    require_embedded([int(corpus.tokens.max())], size, tokenizer, name)
    return pad_of(tokenizer, size)


def num_trainable(model: torch.nn.Module) -> int:
    """Weights that take a gradient."""
    return sum(
        p.numel() if p.numel() else getattr(p, "ds_numel", 0) for p in model.parameters() if p.requires_grad
    )


def _brief_hash(folder: Path | None) -> dict[str, str]:
    """Of each weight and config file, size and a hash of its ends: enough to tell jobs apart at no cost
    (manifests do the rest).
    """
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder else ():
        if path.suffix in (".safetensors", ".json"):
            size = path.stat().st_size
            with path.open("rb") as stream:
                head = stream.read(1 << 22)
                stream.seek(max(0, size - (1 << 22)))
                found[path.name] = f"{size}:{hashlib.sha256(head + stream.read()).hexdigest()}"
    return found


def fingerprint(job: TrainJob, settings: TrainSettings, corpus: Corpus, steps: int, more: str = "") -> str:
    """What a trainer checkpoint must agree with: rows, settings, models, versions; on CPU the thread count
    too, as it changes bits. more: a hash of what else of the rows trains.
    """
    rows = hashlib.sha256()
    for array in (
        corpus.tokens,
        corpus.offsets,
        corpus.first_trained,
        corpus.target_columns,
        corpus.target_values,
        corpus.target_weights,
    ):
        rows.update(array.tobytes())
    free = {key for key in type(settings).model_fields if not in_fingerprint(settings, key)}
    content = {
        "settings": settings.model_dump(mode="json", exclude={"steps", "epochs", *free}),
        "job": [job.seed, job.round, job.lora, job.head, job.dtype, steps],
        "rows": rows.hexdigest() + more,
        "models": [
            *map(_brief_hash, (job.base, job.adapter)),
            *([_brief_hash(job.optimizer), job.schedule] if job.carry_optimizer or job.schedule else []),
        ],
        "versions": [version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")],
        "threads": 0 if torch.cuda.is_available() else torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def announce(job: TrainJob, trainer: Any, corpus: Corpus, order: Any) -> dict[str, float]:
    """Say how the batch is split; returns the metrics that are known before the first step."""
    args = trainer.args
    values = {
        "num_processes": args.world_size,
        "batch_per_device": args.per_device_train_batch_size,
        "accumulation": args.gradient_accumulation_steps,
        "num_trainable": num_trainable(trainer.model),
        "examples": len(corpus),
        "steps": order.steps,
        "epochs": len(order) / len(corpus),
        "trained_positions": order.num_trained(corpus),
    }
    report = {key: float(value) for key, value in values.items()}
    job.report({"step": 0.0, **report})
    job.say(
        f"{len(corpus):,} rows, {order.steps:,} steps of {order.batch_size} = "
        f"{args.per_device_train_batch_size} rows a device x {args.world_size} processes x "
        f"{args.gradient_accumulation_steps} accumulated; {values['num_trainable']:,} weights train"
    )
    if share := frozen_share(trainer.model):
        job.say(share)
    return report


def finish(trainer: Any, report: dict[str, float], dropped: Any) -> TrainReport:
    """The report of a finished training: the same whether it was killed on the way or not."""
    losses, every = trainer.losses, trainer.log_every
    windows = [losses[i : i + every] for i in range(0, len(losses), every)]
    history = [
        {"step": float(min((i + 1) * every, len(losses))), "loss": sum(window) / len(window)}
        for i, window in enumerate(windows)
    ]
    return TrainReport(
        {**report, "loss": history[-1]["loss"], "loss/first": history[0]["loss"]}, dict(dropped), history
    )
