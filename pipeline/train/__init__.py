"""Rows -> weights. A method is one file with the hooks of `TrainMethod`.

The trainer never hears which method made its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from pydantic import Field, PositiveInt

from pipeline.settings import ModelName, Settings, StageSettings, added, optional
from pipeline.train._owned import OWNED

#: schedules that look at how training goes
UNPLANNED = ("reduce_lr_on_plateau", "greedy")


class StepSchedule(Settings):
    """STaR's growing number of optimizer steps: floor(first * growth^(round - 1)), at most `cap`."""

    first: int = Field(40, ge=1)
    growth: float = Field(1.2, gt=0)
    cap: int | None = Field(None, ge=1)

    def at(self, round_number: int) -> int:
        """Optimizer steps in a round (1-based)."""
        steps = int(self.first * self.growth ** (max(round_number, 1) - 1) + 1e-9)
        return min(steps, self.cap) if self.cap else steps


class TrainSettings(StageSettings):
    """What every trainer takes."""

    needs: ClassVar[tuple[str, ...]] = ("Example",)  #: the first is the kind of row that it trains on
    #: the models that it can train, by head (`pipeline/models/heads.py`); "policy": a model without one
    heads: ClassVar[tuple[str, ...]] = ("policy",)
    knows_pauses: ClassVar[bool] = False  #: may a model have pause tokens behind its prompts?
    trainer_arguments: ClassVar[str] = "TrainingArguments"  #: the class that `args` goes to, for `check`
    owned: ClassVar[Mapping[str, str]] = OWNED  #: keys of `args` that a recipe gives elsewhere

    model: ModelName = Field("policy", description="the model that learns")
    steps: PositiveInt | StepSchedule | None = Field(
        None, description="optimizer steps, or {first, growth}; none: epochs"
    )
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(32, ge=1, description="examples an optimizer step, over all processes")
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: str = Field("constant_with_warmup", description="a transformers scheduler type")
    schedule_rounds: int | None = added(
        None, ge=1, description="rounds that one schedule goes over; none: each training has its own"
    )
    carry_optimizer: bool = added(
        False, description="the optimizer goes on from the round before; its state lies beside the weights"
    )
    max_length: int = Field(
        1024, ge=8, description="tokens of prompt + completion; longer rows are dropped, never cut"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="passed through to the trainer's own arguments"
    )

    def steps_in(self, round_number: int) -> int | None:
        """Optimizer steps of a round; None where epochs say it."""
        return self.steps.at(round_number) if isinstance(self.steps, StepSchedule) else self.steps

    def fault_of_lora(self, lora: dict[str, Any]) -> str:
        """Why this method cannot train with such LoRA settings, said before anything is sampled; empty if it
        can.
        """
        return ""

    def faults(self, restart_from: str, given: Sequence[tuple[str, StageSettings]]) -> Iterator[str]:
        """What cannot go together, a sentence each, said before anything is sampled.

        restart_from: what the model's trainings start from. given: the name and settings of each stage whose
        rows arrive, through whatever stands between.
        """
        if self.warmup_steps and self.schedule == "constant":
            yield (
                f"warmup_steps: {self.warmup_steps}, and schedule: constant begins at its full rate; set "
                "schedule: constant_with_warmup, or leave warmup_steps out"
            )
        if self.carry_optimizer and restart_from == "base":
            yield "carry_optimizer: the model restarts from its base each round; set restart_from: previous"
        if self.carry_optimizer and self.args.get("deepspeed"):
            yield "carry_optimizer: under ZeRO its state lies in pieces on the ranks; no args.deepspeed here"
        if self.carry_optimizer and self.args.get("fsdp"):
            yield "carry_optimizer: under FSDP its state lies in pieces on the ranks; no args.fsdp here"
        if self.schedule_rounds and self.schedule in UNPLANNED:
            yield f"schedule_rounds: {self.schedule} follows the losses, not a plan; choose linear or cosine"

    def place_in_schedule(self, round_number: int) -> tuple[int, int] | None:
        """(trainings before this one, trainings in all) of a schedule over several rounds, each with as many
        steps as this one; None where each training has its own.
        """
        if self.schedule_rounds is None:
            return None
        return max(round_number - (self.rounds or (1, None))[0], 0) // self.every, self.schedule_rounds

    def fault_of_head(self, head: str | None, whole: bool) -> str:
        """Why these settings cannot train a model with such a head (`whole`: all its weights, no adapter),
        said before anything is sampled; empty if they can.
        """
        return ""


@dataclass(frozen=True)
class TrainJob:
    """Everything a trainer needs and nothing it should not know.

    rows: a fresh iterator over the training rows at each call, in the manifest's order. base: an ordinary
    Hugging Face folder. adapter: the adapter (or full weights) to go on from, None for a fresh one. out: an
    empty temporary folder; the trainer leaves its weights there (adapter or full model, tokenizer not
    needed; an optimizer that is carried in `optimizer/`), and the caller canonises and commits them.
    scratch: a folder of this stage's own for trainer checkpoints; a run that resumes finds what an earlier
    process left there. report: call with {"step", "loss", ...} at each log.
    """

    rows: Callable[[], Iterator[Any]]
    base: Path
    adapter: Path | None
    out: Path
    scratch: Path
    seed: int
    round: int
    lora: dict[str, Any] | None  #: passed to peft's LoraConfig; None: train all weights
    head: str | None = None
    dtype: str = "auto"
    save_every: int = 0  #: optimizer steps between checkpoints; 0: none
    carry_optimizer: bool = False  #: leave the optimizer's state too, in `out/optimizer/` (`_carried`)
    optimizer: Path | None = None  #: the state to go on from, None for a fresh one
    schedule: tuple[int, int] | None = None  #: (trainings before, in all) of one schedule over several
    report: Callable[[dict[str, float]], None] = field(default=lambda values: None)
    say: Callable[[str], None] = field(default=lambda text: None)  #: hears a sentence now and then
    #: told after each batch (""), and what begins that takes long ("saving"): a supervisor listens
    beat: Callable[[str], None] = field(default=lambda what="": None)


@dataclass(frozen=True)
class TrainReport:
    """What training did: numbers for metrics (loss, steps, tokens, examples, num_trainable) and rows it
    refused, by reason.
    """

    metrics: dict[str, float]
    dropped: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class TrainMethod(Protocol):
    """What a file in train/ has. Its Settings may say more than fields: which `heads` it trains, by
    `fault_of_head` which of them not under these settings, and by `fault_of_lora` what of a model's LoRA
    settings it cannot train.
    """

    Settings: type[TrainSettings]

    def train(self, job: TrainJob, settings: Any) -> TrainReport:
        """Train on `job.rows()` and leave the weights in `job.out`. Every process calls it; the main one
        writes.
        """
        ...

    @optional
    def target_of(self, label: float, settings: Any) -> float:
        """The number that a row's label trains towards; the stage refuses rows whose targets are all one."""
        return label

    @optional
    def monitors(self, settings: Any) -> Mapping[str, str]:
        """Of the report's metrics those that tell where a training goes, and what a reader calls each: drawn
        by round, and a gate may bound them; none.
        """
        return {}


def contract(module: ModuleType) -> type:
    """The Protocol that a module has to keep."""
    return TrainMethod
