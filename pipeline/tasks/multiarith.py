"""MultiArith: 600 word problems of two steps (Roy and Roth 2015, arXiv:1608.01413).

Rows in the authors' form (`sQuestion`, `lSolutions`) or the Hub's (`question`, `final_ans`), whose split of
420 and 180 is taken; the authors' file has none of its own: by the question's hash.

    task: {use: multiarith, path: MultiArith.json, few_shot: 4}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.answers.compare import Kind
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources
from pipeline.tasks import _word_problems as word_problems


class Settings(presets.Settings):
    """MultiArith's settings."""

    hub: str = Field("ChilleD/MultiArith", description="its name on the Hub")
    compare: Kind = Field("numeric", description="when two answers are the same")
    max_tokens: int = Field(96, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Word problems with a number as answer."""

    settings: Settings
    licence = "not stated by its authors"
    instruction = word_problems.INSTRUCTION
    built_in = word_problems.EXAMPLES
    hub_splits = {"train": "train", "test": "test"}
    forms = (presets.Form("sQuestion", "lSolutions", "iIndex"), presets.Form("question", "final_ans"))

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        given = plain["answer"]
        if isinstance(given, list):
            if len(given) != 1:
                raise sources.BadRow(f"'lSolutions' must hold one number: {given!r}"[:120])
            plain = {**plain, "answer": given[0]}
        return {**plain, "answer": presets.number_of(plain, "answer")}
