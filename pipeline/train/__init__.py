"""Rows -> weights. A method is one file with the hooks of `TrainMethod`.

The trainer never hears which method made its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from pydantic import Field, PositiveInt

from pipeline.settings import ModelName, Settings, StageSettings, optional
from pipeline.train._owned import OWNED


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
    needed), and the caller canonises and commits them. scratch: a folder of this stage's own for trainer
    checkpoints; a run that resumes finds what an earlier process left there. report: call with {"step",
    "loss", ...} at each log.
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


def contract(module: ModuleType) -> type:
    """The Protocol that a module has to keep."""
    return TrainMethod
