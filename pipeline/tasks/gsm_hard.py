"""GSM-Hard: GSM8K's test questions with large numbers in them (Gao et al. 2022, PAL, arXiv:2211.10435).

Rows in the published form (`input`, `target`). A number within 0.001 of the target is right, as in the
authors' code. The numbers were changed by a program: some questions make little sense (a negative number of
apples). The questions are GSM8K's test questions, so it is a test split as a whole.

    task: {use: gsm_hard, path: gsmhardv2.jsonl, few_shot: 6}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import gsm8k


class Settings(presets.Settings):
    """GSM-Hard's settings."""

    hub: str = Field("reasoning-machines/gsm-hard", description="its name on the Hub")
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    compare: Kind = Field("numeric", description="when two answers are the same")
    absolute: float = Field(0.001, ge=0, description="numbers this near to gold are right")
    max_tokens: int = Field(320, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Word problems with a number as answer."""

    settings: Settings
    licence = "MIT"
    instruction = gsm8k.Task.instruction
    built_in = gsm8k.Task.built_in
    hub_splits = {"train": "test"}
    forms = (presets.Form("input", "target"), presets.Form("question", "answer"))

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        return {**plain, "answer": presets.number_of(plain, "answer")}
