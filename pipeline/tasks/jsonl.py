"""Any file of questions: JSON Lines, a JSON array or Parquet, with settings that say which field is what.

    task:
      use: jsonl
      name: physics
      path: problems.jsonl
      question: content            # a dot looks inside: question.stem
      answer: answer
      template: "Problem: {question}\\nSolution:"
      extract: last_number
      compare: numeric
      tolerance: 0.02

A user's extraction regex runs in the answer jail, because on a model's text it may backtrack for ever. It
does not download; give `path`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.answers import extract, units
from pipeline.answers.compare import Kind, same
from pipeline.answers.extract import How
from pipeline.answers.jail import default_jail
from pipeline.rows import Problem
from pipeline.settings import added
from pipeline.tasks import _sources as sources
from pipeline.tasks._files import FileSettings, FileTask

Extract = Literal["any", "boxed", "hashes", "last_number", "choice", "regex"]


class Settings(FileSettings):
    """Which field is what, how a prompt looks, how an answer is found and compared."""

    question: str = Field("question", min_length=1, description="the field with the question")
    answer: str = Field("answer", description="the field with the gold answer; none: nobody knows it")
    id: str = Field("", description="the field with the id; none: made from the question")
    difficulty: str = Field("", description="the field with the difficulty")
    solution: str = Field("", description="the field with a gold rationale")
    split: str = Field("", description="the field that says train, dev or test")
    gold: Literal["field", "boxed", "hashes", "last_number"] = Field(
        "field", description="where the answer stands within its field"
    )
    pair: str = added(
        "", description="the field that questions share which must get one answer (consistency)"
    )
    group: str = added("", description="with `pair`: the field with what is swapped between them")
    unit: str = Field("", description="the field with the answer's unit (SciBench), with `compare: numeric`")
    template: str = Field("Q: {question}\nA:", description="the prompt, with {question} in it")
    step_separator: str = Field("\n", min_length=1, description="what separates the steps")
    stop: tuple[str, ...] = Field(("\nQ:",), description="texts that end a completion, without `chat`")
    extract: Extract = Field(
        "any", description="how the final answer is found; any: box, then ####, then the last number"
    )
    regex: str = Field("", description="with `extract: regex`: the last match's first group is the answer")
    compare: Kind = Field("math", description="when two answers are the same")
    tolerance: float = Field(0.0, ge=0, lt=1, description="relative, with `compare: numeric`")
    hint: str = Field("{question} (answer: {answer})", description="how a hint is given; none: no hints")

    @model_validator(mode="after")
    def _usable(self) -> Settings:
        if "{question}" not in self.template:
            raise ValueError(f"template: {self.template!r} must hold {{question}}")
        if self.hint and not ("{question}" in self.hint and "{answer}" in self.hint):
            raise ValueError(f"hint: {self.hint!r} must hold {{question}} and {{answer}}")
        if (self.extract == "regex") != bool(self.regex):
            raise ValueError("regex: give it with `extract: regex`, and only then")
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"regex: {self.regex!r} is not a regular expression: {error}") from error
        if self.tolerance and self.compare != "numeric":
            raise ValueError(f"tolerance: {self.tolerance} means something with `compare: numeric` only")
        if self.group and not self.pair:
            raise ValueError(f"group: {self.group!r} means something with `pair` only")
        if self.unit and self.compare != "numeric":
            raise ValueError(f"unit: {self.unit!r} means something with `compare: numeric` only")
        return self


def _raised(number: str, power: int) -> str:
    """`2.4 m` with its power of ten."""
    value, _, unit = number.partition(" ")
    return rf"{value} \times 10^{{{power}}} {unit}".strip()


class Task(FileTask):
    """A file of questions."""

    settings: Settings
    origin = "your file"
    licence = "yours"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.step_separator = settings.step_separator
        self.stop = () if settings.chat else settings.stop

    def fields(self) -> dict[str, str]:
        named = ("question", "answer", "id", "difficulty", "solution", "split", "pair", "group")
        return {key: name for key in named if (name := getattr(self.settings, key))}

    def read(self, row: dict[str, Any], named: Settings | None = None) -> Problem:
        """named: settings that say which field is what in this row, where they are not the recipe's."""
        s = named or self.settings
        question = sources.text(row, s.question).strip()
        split = str(sources.field(row, s.split)).strip().lower() if s.split else ""
        if s.split and split not in sources.SPLITS:
            raise sources.BadRow(f"{s.split!r} is {split[:20]!r}: train, dev or test is wanted")
        new_id = sources.text(row, s.id, numbers=True).strip() if s.id else ""
        if not new_id.isprintable():
            raise sources.BadRow(f"{s.id!r} holds characters that cannot be shown")
        answer: str | None = None
        if s.answer:
            written = sources.text(row, s.answer, numbers=True).strip()
            answer = written if s.gold == "field" else self._reading(written, s.gold)
            if not answer:
                raise sources.BadRow(f"{s.answer!r} has no answer by `gold: {s.gold}`: {written[-40:]!r}")
        unit, power = "", units.asked_power(question)
        if s.unit and answer:
            unit, in_unit = units.without_power(sources.text(row, s.unit, empty=True))
            answer = f"{answer} {unit}" if units.read_unit(unit) else answer
            power = in_unit or power
        meta: dict[str, Any] = {"power": power} if power and s.compare == "numeric" else {}
        for key, name in (("pair", s.pair), ("group", s.group)):
            if name:
                meta[key] = sources.text(row, name, numbers=True).strip()
        return Problem(
            id=new_id,
            question=question,
            answer=answer,
            meta=json.dumps(meta) if meta else "",
            difficulty=sources.text(row, s.difficulty, numbers=True) if s.difficulty else "",
            split=sources.SPLITS.get(split, ""),
            solution=sources.text(row, s.solution, empty=True).strip() if s.solution else "",
        )

    def split_key(self, problem: Problem) -> str:
        """A pair stands in one split."""
        pair = json.loads(problem.meta).get("pair") if problem.meta else None
        return problem.question if pair is None else f"pair {pair}"

    def prompt(self, question: str) -> str:
        return self.settings.template.replace("{question}", question)

    def extract(self, text: str) -> str | None:
        how = self.settings.extract
        if how == "regex":
            return default_jail().search(self.settings.regex, text[-extract.MAX_TEXT :])
        return self._reading(text, how)

    def _reading(self, text: str, how: How) -> str | None:
        found = extract.final(text, how)
        if found and how == "hashes" and self.settings.compare == "numeric":
            value = extract.first_number(found)  # `#### 12 apples (3 per child)`
            return found if value is None else extract.spell(value)
        return found

    def correct(self, answer: str | None, problem: Problem) -> bool:
        if answer is None or problem.answer is None:
            return False
        if self.same(answer, problem.answer):
            return True
        # the gold number counts in its unit's power of ten: `2.4` in $10^6$ m is also 2.4 x 10^6 m
        power = json.loads(problem.meta).get("power", 0) if problem.meta else 0
        return bool(power) and self.same(answer, _raised(problem.answer, power))

    def same(self, one: str, other: str) -> bool:
        if self.settings.extract == "choice":  # keys are letters of either case, `B` or `(b)`
            letters = [extract.choice(text) for text in (one, other)]
            if None not in letters:
                return letters[0] == letters[1]
        return same(one, other, kind=self.settings.compare, tolerance=self.settings.tolerance)

    def gold_completion(self, problem: Problem) -> str | None:
        if problem.solution and self.extract(problem.solution) is not None:
            return self.completion(problem.solution)
        how, answer = self.settings.extract, problem.answer
        if answer is None or how == "regex":
            return None
        letter = extract.choice(answer) if how == "choice" else None
        if letter:  # `B`, `(B)` or `B.`, in its own case
            answer = letter.upper() if letter.upper() in answer else letter
        end = {"hashes": f"#### {answer}", "choice": f"The answer is ({answer})."}.get(
            how, f"\\boxed{{{answer}}}"
        )
        return self.completion(answer if how == "last_number" else end)

    def hinted(self, problem: Problem) -> str | None:
        return super().hinted(problem) if self.settings.hint else None

    def with_hint(self, question: str, answer: str) -> str:
        # in two pieces, so that a question that holds "{answer}" keeps it
        before, _, after = self.settings.hint.partition("{question}")
        return before.replace("{answer}", answer) + question + after.replace("{answer}", answer)

    def hint_marker(self, answer: str) -> str:
        """Any piece of the hint's own wording, four characters or longer."""
        words = re.split(r"\{question\}|\{answer\}", self.settings.hint)
        return "|".join(re.escape(word.strip()) for word in words if len(word.strip()) > 3) or r"(?!)"
