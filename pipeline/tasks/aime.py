r"""AIME: the American Invitational Mathematics Examination, whose answers are whole numbers of 0 to 999.

Rows of any year in the forms that the Hub has: `problem`, `answer` (`id`, `solution`), or `Problem`, `Answer`
(`ID`, `Solution`). Thirty problems a year are few: draw many samples of each, and read the interval. A test
split as a whole. The problems are the Mathematical Association of America's.

    task: {use: aime, path: aime_2025.jsonl, chat: true, max_tokens: 4096}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources
from pipeline.tasks import math


class Settings(presets.Settings):
    """AIME's settings."""

    hub: str = Field("HuggingFaceH4/aime_2024", description="its name on the Hub")
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    compare: Kind = Field("numeric", description="when two answers are the same")
    step_separator: str = Field("\n\n", min_length=1, description="what separates the steps")
    max_tokens: int = Field(2048, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Competition problems with a whole number of 0 to 999 as answer."""

    settings: Settings
    licence = "not stated (problems: MAA)"
    instruction = math.Task.instruction
    built_in = math.Task.built_in
    hub_splits = {"train": "test"}
    forms = (
        presets.Form("problem", "answer", "id", solution="solution"),
        presets.Form("Problem", "Answer", "ID", solution="Solution"),
        presets.Form("question", "answer"),
    )

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        number = presets.number_of(plain, "answer")  # 073 is 73
        if not number.isdigit() or int(number) > 999:
            raise sources.BadRow(f"'answer' is {number}: a whole number of 0 to 999 is wanted")
        found = {**plain, "answer": number}
        if extract.boxed(str(found.get("solution", ""))) is None:
            found.pop("solution", None)  # a sketch without its answer is no gold completion
        return found
