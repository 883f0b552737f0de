"""What the tasks share whose problems come from files or the Hub: splits, ids, worked examples, hints, leaks.

Splits: a source's own dev and test rows stay what they are; of the others a question's hash makes dev and
test, where the source has none of its own (so GSM8K's test split is the published one, and dev comes from
its train rows). A problem's id is the source's own, or its split and the hash of its normalised question.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pipeline.errors import DamagedData, RecipeError, nearest
from pipeline.rows import Dropped, Problem
from pipeline.tasks import BaseTask, Message, TaskSettings, normalise, split_of
from pipeline.tasks import _sources as sources
from pipeline.tasks._sources import BadRow, Found, LeftOut

_TELLS = re.compile(
    r"\bhint(?:s|ed)?\b|\bgiven (?:final )?answer\b|\banswer (?:is|was) (?:already )?(?:given|provided)\b"
    r"|\b(?:in|inside|from) (?:the )?(?:parenthes[ei]s|brackets)\b|\b(?:marked|labell?ed) (?:as )?correct\b",
    re.IGNORECASE,
)
FIRST_ROWS = 20  #: of a file, that `look` reads


class FileSettings(TaskSettings):
    """What every task with a source takes."""

    train: int | None = Field(None, ge=0, description="training problems; none: all, 0: it is measured only")
    name: str = Field("", description="what tables call it; needed where two parts of a mix use one task")
    path: str = Field(
        "", description="a file or folder with the rows (.jsonl, .json, .parquet); none: the Hub"
    )
    test_path: str = Field("", description="a file or folder whose rows are the test split")
    revision: str = Field("", description="of the data set on the Hub")
    few_shot_file: str = Field("", description="worked examples: question, completion (and answer) a line")
    instruction: str = Field("", description="said after the question, with `chat`; none: the task's own")

    @property
    def countable(self) -> bool:
        return bool(self.path) and Path(self.path).expanduser().exists()


def has_field(row: dict[str, Any], name: str) -> bool:
    """Does a row have a field, `question.stem` looking inside?"""
    try:
        sources.field(row, name)
    except BadRow:
        return False
    return True


class FileTask(BaseTask):
    """Reads its source row by row; a subclass says what a row is, and where the Hub has it."""

    built_in: ClassVar[tuple[tuple[str, str, str], ...]] = ()  #: (question, completion, answer)
    instruction: ClassVar[str] = ""
    own_splits: ClassVar[dict[str, str]] = {}  #: where a source's own split is another one here

    settings: FileSettings

    def __init__(self, settings: FileSettings) -> None:
        super().__init__(settings)
        self.name = settings.name or settings.use
        self._rejected: list[dict[str, Any]] = []
        self._dropped: list[Dropped] = []
        self._examples: list[tuple[str, str, str]] | None = None
        if not settings.few_shot_file and settings.shots() > len(self.built_in):
            raise RecipeError(
                f"task.few_shot: {settings.shots()}: {settings.use} has {len(self.built_in)} worked examples"
                " of its own: lower it, or give few_shot_file"
            )

    # --- problems ---

    def hub_rows(self) -> Iterator[Found]:
        """The rows on the Hub, for a task that has a home there."""
        raise RecipeError(f"task.path: {self.settings.use} needs a file or folder to read")
        yield  # pragma: no cover

    def read(self, row: dict[str, Any]) -> Problem:
        """A row as a Problem; id and split may stay empty. Raises BadRow."""
        raise NotImplementedError

    @property
    def rejected(self) -> list[dict[str, Any]]:
        return self._rejected

    @property
    def dropped(self) -> list[Dropped]:
        return self._dropped

    def problems(self) -> Iterator[Problem]:
        self._rejected, self._dropped = [], []
        read: list[tuple[Problem, str]] = []
        for found in self._found():
            try:
                if isinstance(found.row, BadRow):
                    raise found.row
                problem = self.read(found.row)
            except LeftOut as why:
                place = f"{found.file}:{found.line}"
                named = f"{self.name}-{Path(found.file).name}:{found.line}"
                self._dropped.append(Dropped(problem_id=named, what=place, reason=f"{place}: {why}"))
                continue
            except BadRow as bad:
                self._rejected.append({"file": found.file, "line": found.line, "reason": str(bad)})
                continue
            split = problem.split or self.own_splits.get(found.split, found.split)
            read.append((dataclasses.replace(problem, split=split), f"{found.file}:{found.line}"))
        yield from self._placed(read)

    def _found(self) -> Iterator[Found]:
        if not self.settings.path and not self.settings.test_path:
            yield from self.hub_rows()
            return
        for key in ("path", "test_path"):
            where = getattr(self.settings, key)
            for file, split in sources.files(where, f"task.{key}") if where else ():
                yield from sources.rows(file, "test" if key == "test_path" else split)

    def split_key(self, problem: Problem) -> str:
        """What the split of a problem is the hash of: its question; equal keys stand in one split."""
        return problem.question

    def _placed(self, read: list[tuple[Problem, str]]) -> Iterator[Problem]:
        """Give every problem its split and id; a question met twice in a split is dropped."""
        own = {problem.split for problem, _ in read}
        seen: dict[str, tuple[str, str | None]] = {}
        for problem, place in read:
            split = problem.split
            if split not in ("dev", "test"):
                by_hash = split_of(self.split_key(problem))
                split = "train" if by_hash in own else by_hash
            key = normalise(problem.question)
            made = f"{self.name}-{split}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
            new_id = problem.id or made
            if new_id in seen:
                first, answer = seen[new_id]
                if problem.id:
                    raise DamagedData(
                        f"{place}: id {new_id!r} stands also at {first}: ids must be unique: remove one"
                    )
                other = "" if answer == problem.answer else ", with another answer"
                reason = f"{place}: the same question as {first}{other}"
                self._dropped.append(Dropped(problem_id=new_id, what=place, reason=reason))
                continue
            seen[new_id] = (place, problem.answer)
            extra = json.loads(problem.meta) if problem.meta else {}
            meta = json.dumps({"place": Path(place).name, **extra}, ensure_ascii=False)
            yield dataclasses.replace(problem, id=new_id, split=split, source=self.name, meta=meta)

    # --- a look before anything runs ---

    def source_bytes(self) -> int | None:
        s = self.settings
        if not s.path and not s.test_path:
            return None
        places = [Path(place).expanduser() for place in (s.path, s.test_path) if place]
        found = [f for p in places for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
        return sum(file.stat().st_size for file in found)

    def _first_rows(self) -> Iterator[Found]:
        for key in ("path", "test_path"):
            where = getattr(self.settings, key)
            for file, split in sources.files(where, f"task.{key}") if where else ():
                yield from itertools.islice(sources.rows(file, split), FIRST_ROWS)

    def first(self) -> list[Problem]:
        found: list[Problem] = []
        with contextlib.suppress(DamagedData):  # `look` says it
            for each in self._first_rows():
                with contextlib.suppress(BadRow):
                    if isinstance(each.row, dict):
                        found.append(self.read(each.row))
        return found

    def look(self) -> list[str]:
        """Files that are not there, fields that their first rows lack, worked examples that are none."""
        wrong: list[str] = []
        seen: list[tuple[str, dict[str, Any]]] = []
        try:
            seen = [(each.file, each.row) for each in self._first_rows() if isinstance(each.row, dict)]
        except DamagedData as error:
            wrong.append(str(error))
        wrong += self._missing_fields(seen)
        if self.settings.few_shot_file:
            try:
                sources.examples(self.settings.few_shot_file)
            except (RecipeError, DamagedData) as error:
                wrong += str(error).split("\n")
        return wrong

    def fields(self) -> dict[str, str]:
        """Key of the settings -> the field of a row that it names, for `look`."""
        return {}

    def _missing_fields(self, seen: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
        """Fields that none of the first rows has."""
        if not seen:
            return
        file, first = seen[0]
        missing = [k for k, name in self.fields().items() if not any(has_field(row, name) for _, row in seen)]
        for key in missing:
            name, there = self.fields()[key], ", ".join(list(first)[:8]) or "nothing"
            near = nearest(name, first)
            cure = near if "did you mean" in near else ""
            yield f"task.{key}: no field {name!r} in the first rows of {file}; they have {there}{cure}"
        if not missing and not self.first():
            try:
                self.read(first)
            except BadRow as bad:
                yield f"task.path: {file}: none of its first {len(seen)} rows can be used: {bad}"

    # --- prompts ---

    def prompt(self, question: str) -> str:
        return f"Q: {question}\nA:"

    def messages(self, question: str) -> list[Message]:
        said = self.settings.instruction or self.instruction
        return super().messages(f"{question}\n\n{said}" if said else question)

    def _shown(self, problem: Problem) -> list[tuple[str, str, str]]:
        itself, wanted = normalise(problem.question), self.settings.shots()
        known = self._all_examples()
        others = [e for e in known if normalise(e[0]) != itself]
        if len(others) < wanted and len(known) < wanted:
            raise RecipeError(
                f"task.few_shot: {wanted}: {self.settings.few_shot_file} has {len(known)} examples: lower it,"
                " or add some"
            )
        return [(q, self.completion(c), a) for q, c, a in others[:wanted]]

    def _all_examples(self) -> list[tuple[str, str, str]]:
        if self._examples is None:
            file = self.settings.few_shot_file
            self._examples = sources.examples(file) if file else list(self.built_in)
        return self._examples

    def shown(self) -> list[str]:
        wanted = self.settings.shots()  # one more: it stands in for one that is the problem itself
        return [question for question, _, _ in self._all_examples()[: wanted + 1]] if wanted else []

    def completion(self, text: str) -> str:
        """A worked solution as the model would write it after the prompt."""
        return text.strip() if self.settings.chat else " " + text.strip()

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        return [(question, completion) for question, completion, _ in self._shown(problem)]

    # --- hints ---

    def with_hint(self, question: str, answer: str) -> str:
        """The question with its answer given away."""
        return f"{question} (answer: {answer})"

    def hint_marker(self, answer: str) -> str:
        """A regex for the hint itself in a completion."""
        return r"\(answer:"

    def hinted(self, problem: Problem) -> str | None:
        return None if problem.answer is None else self.with_hint(problem.question, problem.answer)

    def hinted_examples(self, problem: Problem) -> list[tuple[str, str]]:
        return [(self.with_hint(q, a) if a else q, c) for q, c, a in self._shown(problem)]

    def leaks(self, problem: Problem, text: str) -> str | None:
        answer = problem.answer or ""
        if re.search(self.hint_marker(answer), text, re.IGNORECASE):
            return "repeats the hint"
        tell = _TELLS.search(text)
        if tell and tell.group().lower() not in problem.question.lower():
            return f"mentions the hint: {tell.group()!r}"
        lines = [line for line in text.strip().split("\n") if line.strip()]
        if lines and lines[0].strip(" ()#.$") == answer:
            return "begins with the answer" if len(lines) > 1 else "is the answer alone, without a reason"
        return None
