r"""OlympiadBench: problems of mathematics and physics olympiads (He et al. 2024, arXiv:2402.14008).

Rows in the published form: `question`, `final_answer` (a list), `context`, `unit`, `error`, `subfield`. Taken
are open-ended problems in words alone; proofs and problems with pictures are left out and counted. Where a
row says an `error`, a number this near is right; several answers are one list. A test split as a whole.

    task: {use: olympiadbench, path: OE_TO_maths_en_COMP.parquet, chat: true}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources
from pipeline.tasks import math


class Settings(presets.Settings):
    """OlympiadBench's settings."""

    hub: str = Field("Hothan/OlympiadBench", description="its name on the Hub")
    config: str = Field("OE_TO_maths_en_COMP", description="its configuration on the Hub")
    held_out: bool = Field(True, description="all rows are the test split; false: by the question's hash")
    step_separator: str = Field("\n\n", min_length=1, description="what separates the steps")
    max_tokens: int = Field(2048, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Olympiad problems whose answer is a mathematical object."""

    settings: Settings
    licence = "Apache-2.0"
    instruction = math.Task.instruction
    built_in = math.Task.built_in
    hub_splits = {"train": "test"}
    forms = (presets.Form("question", "final_answer", "id", "subfield"),)

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        if row.get("image_1") or row.get("modality") == "Multimodal":
            raise sources.LeftOut("its question has a picture")
        answers = plain["answer"]
        if not answers:
            raise sources.LeftOut("a proof, whose end is no answer")
        written = [str(each) for each in answers] if isinstance(answers, list) else [str(answers)]
        found = {**plain, "answer": ", ".join(each.strip().strip("$").strip() for each in written)}
        question = sources.text(plain, "question").strip()
        if context := row.get("context"):
            question = f"{sources.checked(str(context), 'context').strip()}\n\n{question}"
        if unit := row.get("unit"):
            question += f" The unit of the answer should be {sources.checked(str(unit), 'unit').strip()}."
        return {**found, "question": question}

    def known(self, row: dict[str, Any]) -> dict[str, Any]:
        error = extract.number(str(row.get("error") or "").strip("$ "))
        return {} if error is None else {"absolute": float(error)}
