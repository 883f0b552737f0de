r"""Competition mathematics (MATH, arXiv:2103.03874). The answer stands in `\boxed{}`; difficulty is the
level.

Rows are in the shape of the Hub's data sets (`problem`, `answer` or `solution`, `level`), of PRM800K's
files, or `content` and `answer`. Without files the training rows are MATH's own train split and the test
rows MATH-500, which shares no problem with it. Two answers are compared as mathematics, in the jail. It
does not draw figures (`[asy]` code stays in the question).

    task: {use: math, path: math_train.jsonl, test_path: math_500.json, steps: "\n\n"}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import same
from pipeline.rows import Problem
from pipeline.tasks import _sources as sources
from pipeline.tasks._files import FileSettings, FileTask

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


class Settings(FileSettings):
    """MATH's settings."""

    hub: str = Field("HuggingFaceH4/MATH-500", description="the test rows on the Hub")
    train_hub: str = Field(
        "EleutherAI/hendrycks_math", description="the training rows on the Hub; none: test only"
    )
    steps: Literal["\n\n", "\n"] = Field("\n\n", description="what separates the steps of a solution")
    extract: Literal["boxed", "any"] = Field("boxed", description="any: also after #### or the last number")
    max_tokens: int = Field(1024, ge=1, description="tokens a completion may have")


def _first(row: dict[str, Any], *keys: str) -> str:
    """The first of these fields that the row has."""
    return next((key for key in keys if row.get(key) is not None), keys[0])


class Task(FileTask):
    """Problems whose answer is a mathematical object."""

    settings: Settings
    licence = "MIT"
    instruction = "Reason step by step and put the final answer into \\boxed{}."

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.step_separator = settings.steps
        self.stop = () if settings.chat else ("\nQ:",)

    def hub_rows(self) -> Iterator[sources.Found]:
        s = self.settings
        for subject in SUBJECTS if s.train_hub else ():
            yield from sources.hub(s.train_hub, subject, {"train": "train"}, s.revision, s.cache)
        yield from sources.hub(s.hub, None, {"test": "test"}, "" if s.train_hub else s.revision, s.cache)

    def read(self, row: dict[str, Any]) -> Problem:
        question = sources.text(row, _first(row, "problem", "question", "content")).strip()
        solution = (
            sources.text(row, "solution", empty=True).strip() if row.get("solution") is not None else ""
        )
        if row.get("answer") is not None:
            answer: str | None = sources.text(row, "answer", numbers=True).strip()
        elif solution:
            answer = extract.boxed(solution)
        else:
            raise sources.BadRow("no field 'answer' and none 'solution'")
        if not answer:
            raise sources.BadRow(f"'solution' has no \\boxed{{}}: {solution[-40:]!r}")
        level = row.get("level")
        return Problem(
            id=sources.text(row, "unique_id") if row.get("unique_id") is not None else "",
            question=question,
            answer=answer,
            difficulty=sources.checked(str(level), "level").removeprefix("Level ")
            if level is not None
            else "",
            split="",
            solution=solution,
        )

    def extract(self, text: str) -> str | None:
        return extract.boxed(text) if self.settings.extract == "boxed" else extract.final(text, "any")

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return same(answer, problem.answer, kind="math")

    def same(self, one: str, other: str) -> bool:
        return same(one, other, kind="math")

    def completion(self, text: str) -> str:
        return super().completion(text.replace("\n\n", self.settings.steps))

    def gold_completion(self, problem: Problem) -> str | None:
        if extract.boxed(problem.solution) is not None:
            return self.completion(problem.solution)
        return self.completion(f"The answer is \\boxed{{{problem.answer}}}.")

    built_in = (
        (
            "Find all real $x$ with $x^2 - 7x + 12 = 0$ and $x > 3$.",
            "The quadratic factors as $x^2 - 7x + 12 = (x - 3)(x - 4)$.\n\nIts roots are $3$ and $4$.\n\n"
            "Only $4$ is larger than $3$, so $x = \\boxed{4}$.",
            "4",
        ),
        (
            "A fair die is thrown twice. What is the probability that the sum is $5$?",
            "There are $6 \\cdot 6 = 36$ equally likely throws.\n\n"
            "The sum is $5$ for $(1,4), (2,3), (3,2), (4,1)$, which are $4$ throws.\n\n"
            "The probability is $\\frac{4}{36} = \\boxed{\\frac{1}{9}}$.",
            "\\frac{1}{9}",
        ),
        (
            "A right triangle has legs $2$ and $6$. How long is its hypotenuse, in simplest radical form?",
            "By the theorem of Pythagoras the square of the hypotenuse is $2^2 + 6^2 = 40$.\n\n"
            "Since $40 = 4 \\cdot 10$, its length is $\\sqrt{40} = \\boxed{2\\sqrt{10}}$.",
            "2\\sqrt{10}",
        ),
        (
            "What is the remainder of $7^{10}$ on division by $12$?",
            "We have $7^2 = 49 = 4 \\cdot 12 + 1$, so $7^2$ leaves the remainder $1$.\n\n"
            "Then $7^{10} = (7^2)^5$ leaves $1^5 = 1$.\n\nThe remainder is $\\boxed{1}$.",
            "1",
        ),
    )
