"""What stands around every training: this process in its place among the ranks, and exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import RecipeError
from pipeline.models.pause import pause_of
from pipeline.train import TrainJob, TrainReport, TrainSettings

S = TypeVar("S", bound=TrainSettings)


def exactly(job: TrainJob, settings: S, train: Callable[[TrainJob, S], TrainReport]) -> TrainReport:
    """Train, on every rank.

    Raises:
        RecipeError: what `check` says of a head or of `lora` settings, for those who call a trainer directly.
    """
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # first: without it every rank on a CPU box is alone
    from pipeline.train import _setup

    fault = settings.fault_of_head(job.head, job.lora is None) or settings.fault_of_lora(job.lora or {})
    if fault:
        raise RecipeError(fault)
    pause = pause_of(job.adapter, job.base)
    if pause is not None and pause.copies and not settings.knows_pauses:
        raise RecipeError(
            f"{job.adapter or job.base} has {pause.copies} pause tokens behind every prompt (pause.json), "
            "and this method trains without: use train: sft, or a base without pauses"
        )
    with _setup.exact():
        return train(job, settings)
