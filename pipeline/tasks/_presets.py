"""What the tasks that are named after a published set share: thin presets over `jsonl`.

A preset says in which forms its rows were published (the authors' files, the Hub's), how a question is
worded, where the answer stands and when two are the same. A row in any of these forms is read without a
setting; a user's own file may name its fields as with `jsonl`. Sets that were published for measuring are a
test split as a whole, so that no loop trains on them by accident; `held_out: false` splits them by hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from pydantic import Field

from pipeline.answers import extract
from pipeline.rows import Problem
from pipeline.tasks import _sources as sources
from pipeline.tasks import jsonl
from pipeline.tasks._files import has_field


@dataclass(frozen=True)
class Form:
    """One form that a set was published in: our name of a field -> the published one; "": not there."""

    question: str
    answer: str
    id: str = ""
    difficulty: str = ""
    solution: str = ""


UNIT = re.compile(r"\s*\([^();]*\)$")  #: after a number: (apples)
KEYS = tuple(each.name for each in fields(Form))


class Settings(jsonl.Settings):
    """What every preset takes: those of `jsonl`, whose fields need no name, and where the Hub has the set."""

    question: str = Field("", description="the field with the question; none: as the set was published")
    answer: str = Field("", description="the field with the gold answer; none: as the set was published")
    hub: str = Field("", description="its name on the Hub")
    config: str = Field("", description="its configuration on the Hub")
    held_out: bool = Field(False, description="all rows are the test split; false: as published, or by hash")
    absolute: float = Field(0.0, ge=0, description="numbers this near to gold are right")


class Task(jsonl.Task):
    """A published set."""

    settings: Settings
    origin = ""
    licence = ""
    forms: ClassVar[tuple[Form, ...]] = ()  #: the first whose question a row has is the row's
    hub_splits: ClassVar[dict[str, str]] = {"test": "test"}

    def hub_rows(self) -> Iterator[sources.Found]:
        s = self.settings
        return sources.hub(s.hub, s.config or None, self.hub_splits, s.revision, s.cache)

    def fields(self) -> dict[str, str]:
        return {key: name for key in KEYS if (name := getattr(self.settings, key))}

    def read(self, row: dict[str, Any], named: jsonl.Settings | None = None) -> Problem:
        plain = self.worded(row, self._plain(row))
        given = {key: key if key in plain else "" for key in (*KEYS, "unit")}
        problem = super().read(plain, self.settings.model_copy(update=given))
        meta = json.loads(problem.meta or "{}") | self.known(row)
        split = "test" if self.settings.held_out else problem.split
        return replace(problem, split=split, meta=json.dumps(meta) if meta else "")

    def _plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row under our names; what a form only may have is left out where it is missing or empty."""
        own = self.fields()
        form = next((f for f in self.forms if has_field(row, own.get("question", f.question))), self.forms[0])
        names = {key: own.get(key) or getattr(form, key) for key in KEYS}
        sure = ("question", "answer", *own)
        plain = {
            key: sources.field(row, name)
            for key, name in names.items()
            if name and (key in sure or has_field(row, name))
        }
        return {key: value for key, value in plain.items() if key in sure or value not in (None, "")}

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        """The row under our names, its question and answer as they are shown. Raises BadRow, LeftOut."""
        return plain

    def known(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the answer's check has to know of a row."""
        return {}

    def correct(self, answer: str | None, problem: Problem) -> bool:
        if super().correct(answer, problem):
            return True
        near = json.loads(problem.meta or "{}").get("absolute", self.settings.absolute)
        one, other = (extract.number(text or "", units=True) for text in (answer, problem.answer))
        return bool(near) and one is not None and other is not None and abs(one - other) <= near


def number_of(row: dict[str, Any], key: str) -> str:
    """The number of a field, its unit in brackets left out (`9 (apples)`). Raises BadRow."""
    written = sources.text(row, key, numbers=True).strip()
    value = extract.number(UNIT.sub("", written))
    if value is None:
        raise sources.BadRow(f"{key!r} is no number: {written!r}"[:120])
    return extract.spell(value)
