"""GSM8K: grade-school word problems (arXiv:2110.14168). A step is a line; the last line is `#### 42`.

The data set's calculator notes (`<<48/2=24>>`) are taken out, so gold solutions read like text. The hint is
the number in brackets after the question, as in STaR (arXiv:2203.14465), in the examples as in the problems
(its code puts the whole solution into the problems only). Difficulty is the number of steps of the gold
solution. It does not run a calculator while a model writes.

    task: {use: gsm8k, path: gsm8k/, few_shot: 6}        # a folder with train.jsonl and test.jsonl, or the
    Hub
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import same
from pipeline.rows import Problem
from pipeline.tasks import _sources as sources
from pipeline.tasks._files import FileSettings, FileTask

_NOTE = re.compile(r"<<[^<>]*>>")


class Settings(FileSettings):
    """GSM8K's settings."""

    hub: str = Field("openai/gsm8k", description="its name on the Hub, with the configuration `main`")
    extract: Literal["hashes", "any"] = Field("hashes", description="any: also a box or the last number")
    max_tokens: int = Field(320, ge=1, description="tokens a completion may have")


class Task(FileTask):
    """Word problems with a number as answer."""

    settings: Settings
    licence = "MIT"
    instruction = "Reason step by step, one short step a line. End with a last line of the form: #### number"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # few-shot models go on with the next question after an empty line
        self.stop = () if settings.chat else ("\n\n",)

    def hub_rows(self) -> Iterator[sources.Found]:
        splits = {"train": "train", "test": "test"}
        return sources.hub(self.settings.hub, "main", splits, self.settings.revision, self.settings.cache)

    def read(self, row: dict[str, Any]) -> Problem:
        question, worked = sources.text(row, "question").strip(), sources.text(row, "answer")
        gold = extract.after_hashes(worked)
        value = extract.number(gold) if gold else None
        if value is None:
            raise sources.BadRow(f"'answer' has no number after ####: {worked[-40:]!r}")
        steps = _NOTE.sub("", worked.rpartition("####")[0]).strip()
        num_steps = len(steps.splitlines())
        return Problem(
            id="",
            question=question,
            answer=extract.spell(value),
            difficulty=f"{num_steps} steps" if num_steps < 8 else "8+ steps",
            split="",
            solution=steps,
        )

    def extract(self, text: str) -> str | None:
        found = extract.after_hashes(text)
        if found is None and self.settings.extract == "any":
            found = extract.final(text, "any")
        if found is None:
            return None
        value = extract.first_number(found)
        return None if value is None else extract.spell(value)

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return same(answer, problem.answer, kind="numeric")

    def same(self, one: str, other: str) -> bool:
        return same(one, other, kind="numeric")

    def gold_completion(self, problem: Problem) -> str | None:
        return self.completion(f"{problem.solution}\n#### {problem.answer}") if problem.solution else None

    def with_hint(self, question: str, answer: str) -> str:
        return f"{question} ({answer})"

    def hint_marker(self, answer: str) -> str:
        with_commas = f"{int(answer):,}" if answer.isdigit() else answer
        return rf"(?:^|\s)\(\$?(?:{re.escape(answer)}|{with_commas})\)"

    built_in = (
        (
            "A bakery fills 6 trays with 15 rolls each. By noon 52 rolls are sold. How many rolls are left?",
            "The bakery has 6 * 15 = 90 rolls.\nAfter selling 52 it has 90 - 52 = 38 rolls left.\n#### 38",
            "38",
        ),
        (
            "Irina rents a bike for 4 hours. The first hour costs $7 and each further hour costs $3."
            " She pays with a"
            " $20 note. How many dollars does she get back?",
            "After the first hour there are 4 - 1 = 3 further hours.\nThey cost 3 * 3 = 9 dollars.\n"
            "The whole ride costs 7 + 9 = 16 dollars.\nShe gets back 20 - 16 = 4 dollars.\n#### 4",
            "4",
        ),
        (
            "A water tank holds 240 liters. One third of it is used in the morning and half of the"
            " rest in the"
            " evening. How many liters remain?",
            "In the morning 240 / 3 = 80 liters are used.\nThat leaves 240 - 80 = 160 liters.\n"
            "In the evening 160 / 2 = 80 liters are used.\nSo 160 - 80 = 80 liters remain.\n#### 80",
            "80",
        ),
        (
            "Otto is 5 years older than Pia, and Pia is twice as old as Rex, who is 9. How old is Otto?",
            "Pia is 2 * 9 = 18 years old.\nOtto is 18 + 5 = 23 years old.\n#### 23",
            "23",
        ),
        (
            "A printer makes 12 pages a minute. How many minutes does it take to print 3 copies of a"
            " booklet with 80"
            " pages?",
            "The 3 copies have 3 * 80 = 240 pages.\nAt 12 pages a minute that takes 240 / 12 = 20"
            " minutes.\n#### 20",
            "20",
        ),
        (
            "A jacket costs $150. In a sale it is 20% cheaper, and Lena has a coupon for another"
            " $15. What does she"
            " pay in dollars?",
            "The sale takes off 150 * 20 / 100 = 30 dollars.\nThe jacket then costs 150 - 30 = 120 dollars.\n"
            "With the coupon she pays 120 - 15 = 105 dollars.\n#### 105",
            "105",
        ),
    )
