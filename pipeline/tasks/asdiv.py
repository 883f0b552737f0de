"""ASDiv: 2,305 word problems of primary school, of many kinds (Miao et al. 2020, arXiv:2106.15772).

Rows in the Hub's form (`body`, `question`, `answer` as `9 (apples)`, `formula`) or with the authors' names
(`Body`, ...; their file is XML). Problems whose answer is no single number (several, a ratio, a time, a name)
are left out, as others who report on ASDiv do. The set has no split of its own: by the question's hash.

    task: {use: asdiv, path: asdiv.parquet, few_shot: 4}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources
from pipeline.tasks import _word_problems as word_problems
from pipeline.tasks._files import has_field


class Settings(presets.Settings):
    """ASDiv's settings."""

    hub: str = Field("EleutherAI/asdiv", description="its name on the Hub")
    compare: Kind = Field("numeric", description="when two answers are the same")
    max_tokens: int = Field(96, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Word problems with a number as answer."""

    settings: Settings
    licence = "CC BY-NC 4.0"
    instruction = word_problems.INSTRUCTION
    built_in = word_problems.EXAMPLES
    hub_splits = {"validation": ""}
    forms = (
        presets.Form("question", "answer", difficulty="solution_type", solution="formula"),
        presets.Form("Question", "Answer", "ID", "Grade", "Formula"),
    )

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        body = next((key for key in ("body", "Body") if has_field(row, key)), "")
        told = f"{sources.text(row, body, empty=True).strip()} ".lstrip() if body else ""
        try:
            answer = presets.number_of(plain, "answer")
        except sources.BadRow as none:
            raise sources.LeftOut(f"the answer is no single number: {plain['answer']!r}"[:120]) from none
        return {**plain, "question": told + sources.text(plain, "question").strip(), "answer": answer}
