"""GPQA: graduate-level biology, physics and chemistry that a search does not answer (Rein et al. 2023,
arXiv:2311.12022).

Rows in the published form (`Question`, `Correct Answer`, `Incorrect Answer 1` to `3`). The options' order
comes from a question's own hash, so it is the same in every run. The authors ask that no question stands on
the open web: keep the files to yourself; the Hub's copy is gated. A test split as a whole.

    task: {use: gpqa, path: gpqa_diamond.parquet, chat: true}
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources
from pipeline.tasks import jsonl
from pipeline.tasks.csqa import question_of

WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


class Settings(presets.Settings):
    """GPQA's settings."""

    hub: str = Field("Idavidrein/gpqa", description="its name on the Hub; gated: accept its terms first")
    config: str = Field(
        "gpqa_diamond", description="its configuration: gpqa_diamond, gpqa_main, gpqa_extended"
    )
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    extract: jsonl.Extract = Field("choice", description="how the final answer is found")
    compare: Kind = Field("exact", description="when two answers are the same")
    max_tokens: int = Field(768, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Multiple choice of four."""

    settings: Settings
    licence = "CC BY 4.0, gated"
    instruction = (
        "Reason step by step. Then end with the words: The answer is, and the option's letter in brackets."
    )
    hub_splits = {"train": "test"}
    forms = (presets.Form("Question", "Correct Answer", "Record ID", "Subdomain"),)

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        question = sources.text(plain, "question").strip()
        right = " ".join(sources.text(plain, "answer", numbers=True).split())
        options = [right, *(" ".join(sources.text(row, key, numbers=True).split()) for key in WRONG)]
        order = sorted(range(4), key=lambda i: hashlib.sha256(f"{question}\n{i}".encode()).digest())
        shown = question_of(question, [options[i] for i in order])
        return {**plain, "question": shown, "answer": extract.LETTERS[order.index(0)]}

    built_in = (
        (
            question_of(
                "Which of these particles has no electric charge?",
                ["proton", "electron", "neutron", "positron"],
            ),
            "Proton and positron are positive, the electron is negative. The neutron is neutral. The"
            " answer is (c).",
            "c",
        ),
        (
            question_of(
                "At constant temperature the volume of an ideal gas is halved. What happens to its pressure?",
                ["It doubles", "It is halved", "It stays", "It is four times as large"],
            ),
            "At constant temperature p V is constant. Half the volume needs twice the pressure. The"
            " answer is (a).",
            "a",
        ),
        (
            question_of(
                "What does an enzyme change in a reaction?",
                ["The equilibrium", "The activation energy", "The reaction's free energy", "The products"],
            ),
            "An enzyme is a catalyst: it lowers the barrier and leaves start and end as they are."
            " The answer is (b).",
            "b",
        ),
    )
