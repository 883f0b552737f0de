"""Models -> numbers, and the gate. Evaluation is gold's other reader beside the labellers.

A method is one file: `Settings(EvaluateSettings)`, `answer(question, settings, model, search) ->
Asks[list[Trace]]` (one model on one problem) and `measure(outcomes, settings, ...)`, which turns
per-problem outcomes into metrics with 95 % intervals.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.settings import ModelName, StageSettings


class EvaluateSettings(StageSettings):
    """What every evaluation takes."""

    sees_gold: ClassVar[bool] = True
    makes: ClassVar[tuple[str, ...]] = ("Trace", "Label", "Dropped")

    of: ModelName | list[ModelName] = Field(
        "policy", description="the models measured; `policy@0` is the seed"
    )
    split: Literal["train", "dev", "test"] = "dev"
    problems: int | None = Field(None, ge=1, description="at most this many problems of the split; none: all")
    search: dict[str, Any] | None = Field(None, description="act by a generate method: {generate: beam, ...}")
