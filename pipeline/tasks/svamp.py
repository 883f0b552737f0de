"""SVAMP: a thousand short word problems, varied so that patterns mislead (arXiv:2103.07191).

Many hold a number too many, or ask the story's question another way round. A solution is one calculation a
line, made from the data set's equation, and the step oracle is exact: it takes every way that means the same.
The authors' file has no split; its last `held_out` problems are the test split (variants of one story stand
side by side, so few stories are on both sides), dev comes from the others. The Hub's copy has a split of its
own.

    task: {use: svamp, path: SVAMP.json, chat: true}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.rows import Problem
from pipeline.tasks import _equations as equations
from pipeline.tasks import _sources as sources
from pipeline.tasks import _word_problems as word_problems
from pipeline.tasks._files import FileSettings, FileTask

NUMBER = re.compile(r"chal-(\d+)")
SIZE = 1000  #: problems of the authors' file


class Settings(FileSettings):
    """SVAMP's settings."""

    hub: str = Field("ChilleD/SVAMP", description="its name on the Hub")
    held_out: int = Field(300, ge=0, le=SIZE, description="the file's last problems are the test split")
    max_tokens: int = Field(64, ge=1, description="tokens a completion may have")


class Task(FileTask):
    """Short word problems with a number as answer."""

    settings: Settings
    licence = "MIT"
    instruction = word_problems.INSTRUCTION
    built_in = word_problems.EXAMPLES

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.stop = () if settings.chat else ("\n\n",)

    def hub_rows(self) -> Iterator[sources.Found]:
        splits = {"train": "train", "test": "test"}
        return sources.hub(self.settings.hub, None, splits, self.settings.revision, self.settings.cache)

    def read(self, row: dict[str, Any]) -> Problem:
        body, asked = sources.text(row, "Body").strip(), sources.text(row, "Question").strip()
        # a condition that the question completes keeps its comma; a whole sentence gets its full stop
        joined = (
            body if body.endswith((".", "!", "?", ",")) else f"{body}{',' if asked[:1].islower() else '.'}"
        )
        answer = extract.number(sources.text(row, "Answer", numbers=True))
        if answer is None:
            raise sources.BadRow(f"'Answer' is no number: {row['Answer']!r}"[:120])
        equation = sources.text(row, "Equation")
        try:
            expression = equations.parse(equation)
            steps = equations.solution(expression)
            value = equations.value(expression, [*map(equations.Fraction, equations.leaves(expression))])
        except ValueError as error:
            raise sources.BadRow(f"'Equation' cannot be read: {error}") from None
        if value != answer:  # one row: the published answer counts, and nobody knows its steps
            steps, equation = [], ""
        number = NUMBER.fullmatch(str(row.get("ID", "")))
        held = number is not None and int(number[1]) > SIZE - self.settings.held_out
        return Problem(
            id="",
            question=f"{joined} {asked}",
            answer=extract.spell(answer),
            difficulty=word_problems.num_steps(len(equations.leaves(expression)) - 1),
            split="test" if held and self.settings.path else "",
            solution="\n".join(steps),
            meta=json.dumps({"equation": equation}),
        )

    def extract(self, text: str) -> str | None:
        return word_problems.answer_of(text)

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return word_problems.is_right(answer, problem)

    def same(self, one: str, other: str) -> bool:
        return word_problems.equal(one, other, kind="numeric")

    def gold_completion(self, problem: Problem) -> str | None:
        return self.completion(problem.solution or str(problem.answer))

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        equation = json.loads(problem.meta or "{}").get("equation")
        return None if not equation else equations.verdicts(equations.parse(equation), steps)
