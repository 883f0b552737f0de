r"""MATH-500: the 500 test problems of MATH that Let's Verify Step by Step kept (arXiv:2305.20050).

Rows in the Hub's form (`problem`, `solution`, `answer`, `level`, `unique_id`) or with `content` and `answer`.
It is a test split as a whole; `math` trains on MATH's own training problems and tests on these.

    task: {use: math500, path: math_500.json, chat: true}
"""

from __future__ import annotations

from pydantic import Field

from pipeline.tasks import _presets as presets
from pipeline.tasks import math


class Settings(presets.Settings):
    """MATH-500's settings."""

    hub: str = Field("HuggingFaceH4/MATH-500", description="its name on the Hub")
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    step_separator: str = Field("\n\n", min_length=1, description="what separates the steps")
    max_tokens: int = Field(1024, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Competition problems whose answer is a mathematical object."""

    settings: Settings
    licence = "MIT"
    instruction = math.Task.instruction
    built_in = math.Task.built_in
    forms = (
        presets.Form("problem", "answer", "unique_id", "level", "solution"),
        presets.Form("content", "answer"),
    )
