r"""SciBench: college physics, chemistry and mathematics with numbers as answers (Wang et al. 2023,
arXiv:2307.10635).

Rows in the published form (`problem_text`, `answer_number`, `unit`) or with `content` and `answer`, whose
unit stands in the question. As in the authors' code an answer within 5 % is right; a unit is compared where
both answers have one, and a power of ten in the asked unit may stand in the number. A test split as a whole.

    task: {use: scibench, path: scibench/, chat: true}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources


class Settings(presets.Settings):
    """SciBench's settings."""

    hub: str = Field("xw27/scibench", description="its name on the Hub")
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    compare: Kind = Field("numeric", description="when two answers are the same")
    tolerance: float = Field(0.05, ge=0, lt=1, description="relative, with `compare: numeric`")
    max_tokens: int = Field(768, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Science problems with a number and a unit as answer."""

    settings: Settings
    licence = "MIT"
    instruction = "Reason step by step and put the final number into \\boxed{}."
    hub_splits = {"train": "test"}
    forms = (
        presets.Form("problem_text", "answer_number", difficulty="source", solution="solution"),
        presets.Form("content", "answer"),
    )

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        written = plain["answer"]
        value = extract.number(str(written).replace("\u2212", "-").strip())
        if isinstance(written, bool) or value is None:
            raise sources.BadRow(f"the answer is no number: {written!r}"[:120])
        found = {**plain, "answer": str(written).strip()}
        if extract.boxed(str(found.get("solution", ""))) is None:
            found.pop("solution", None)  # a worked example without a box is no gold completion
        if unit := str(row.get("unit") or "").strip():
            found["unit"] = unit
            found["question"] = (
                f"{sources.text(plain, 'question').strip()} The unit of the answer should be {unit}."
            )
        return found

    built_in = (
        (
            "A car goes 150 km in 2 hours. What is its mean speed? The unit of the answer should be km/h.",
            "Speed is distance over time.\n150 km / 2 h = 75 km/h\nThe answer is \\boxed{75}.",
            "75",
        ),
        (
            "Two moles of an ideal gas fill 0.05 m^3 at 300 K. What is the pressure? The unit of the answer"
            " should be kPa.",
            "The ideal gas law is p = n R T / V.\np = 2 * 8.314 * 300 / 0.05 = 99768 Pa\n"
            "The answer is \\boxed{99.8}.",
            "99.8",
        ),
        (
            "What force accelerates 4 kg by 2.5 m/s^2? The unit of the answer should be N.",
            "Newton's second law is F = m a.\n4 * 2.5 = 10\nThe answer is \\boxed{10}.",
            "10",
        ),
    )
