"""Rows -> weights. A method is one file: `Settings(TrainSettings)` and `train(job, settings) -> TrainReport`.

The trainer never hears which method made its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pipeline.settings import ModelName, Settings, StageSettings


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

    needs: ClassVar[tuple[str, ...]] = ("Example",)

    model: ModelName = Field("policy", description="the model that learns")
    steps: int | StepSchedule | None = Field(
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

    def fault_of_lora(self, lora: dict[str, Any]) -> str:
        """Why this method cannot train with such LoRA settings, said before anything is sampled; empty if it
        can.
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
    prompt_tokens: int = 0
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
