"""Word problems of one and two steps, from templates of our own; nothing has to be fetched.

People, things and numbers vary, numbers and results stay within `largest`, and some stories hold a number too
many, as SVAMP's do (arXiv:2103.07191). A solution is one calculation a line:

    Ben has 4 boxes of 12 pins and gives 9 pins away. How many pins are left?

    4 * 12 = 48
    48 - 9 = 39

The step oracle is exact: it takes every way that means the same. With `templates: disjoint` a template
belongs to one split, so a test question is a sentence that no training question had; with `shared` only names
and numbers are new. Either way a question's hash says its split, as everywhere.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.rows import Problem
from pipeline.tasks import BaseTask, Message, TaskSettings, _word_talk, split_of
from pipeline.tasks import _equations as equations
from pipeline.tasks import _word_problems as word_problems
from pipeline.tasks._acts import Conversation
from pipeline.tasks._word_templates import BOXES, EXTRAS, NAMES, TEMPLATES, THINGS, Template

SPLITS = ("train", "dev", "test")
TRIES = 200  #: draws a problem before the settings are said to be too narrow
SMALL = 12  #: the largest factor of a product, and the largest divisor


class Settings(TaskSettings):
    """The settings of our own word problems."""

    train: int | None = Field(2_000, ge=1, description="training problems")
    dev: int | None = Field(200, ge=0, description="problems that feed the gate")
    test: int | None = Field(500, ge=0, description="problems read once, in `finally`")
    steps: tuple[int, int] = Field((1, 2), description="[fewest, most] calculations a problem takes")
    largest: int = Field(100, ge=20, le=1000, description="the largest number, results too")
    extra: float = Field(0.3, ge=0, le=1, description="share of stories with a number too many")
    templates: Literal["disjoint", "shared"] = Field(
        "disjoint", description="may a test question use a training question's template?"
    )
    max_tokens: int = Field(64, ge=1, description="tokens a completion may have")
    instruction: str = Field(word_problems.INSTRUCTION, description="said after the question, with `chat`")

    @model_validator(mode="after")
    def _usable(self) -> Settings:
        low, high = self.steps
        if not 1 <= low <= high <= 2:
            raise ValueError(f"steps: [{low}, {high}] must be two whole numbers, 1 <= low <= high <= 2")
        if None in (self.train, self.dev, self.test):
            raise ValueError("train, dev, test: words has no end of problems, so each count must be given")
        if self.shots() > len(word_problems.EXAMPLES):
            raise ValueError(
                f"few_shot: {self.shots()}: words has {len(word_problems.EXAMPLES)} worked examples: lower it"
            )
        return self


class Task(BaseTask):
    """Word problems from templates, with their exact oracle."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.stop = () if settings.chat else ("\n\n",)

    @cached_property
    def templates(self) -> dict[str, list[Template]]:
        """Those of each split: of each equation the last fifth is for test, the fifth before it for dev."""
        low, high = self.settings.steps
        usable = [template for template in TEMPLATES if low <= template.num_steps <= high]
        if self.settings.templates == "shared":
            return dict.fromkeys(SPLITS, usable)
        found: dict[str, list[Template]] = {split: [] for split in SPLITS}
        kinds: dict[str, list[Template]] = {}
        for template in usable:
            kind = template.equation if template.num_steps == 1 else "two"
            kinds.setdefault(kind, []).append(template)
        for same in kinds.values():
            held = max(1, round(len(same) / 5))
            found["train"] += same[: -2 * held]
            found["dev"] += same[-2 * held : -held]
            found["test"] += same[-held:]
        return found

    def problems(self) -> Iterator[Problem]:
        for split in SPLITS:
            wanted, number, seen = getattr(self.settings, split), 0, set[str]()
            for attempt in range(TRIES * wanted):
                if number == wanted:
                    break
                problem = self.problem(random.Random(f"words {split} {attempt}"), split)
                if problem is not None and problem.split == split and problem.id not in seen:
                    seen.add(problem.id)
                    number += 1
                    yield problem
            if number < wanted:
                raise RecipeError(
                    f"task.{split}: {wanted} word problems asked, {number} found in {TRIES * wanted:,} draws "
                    f"with numbers to {self.settings.largest}: raise `largest` or ask for fewer"
                )

    def problem(self, draw: random.Random, split: str) -> Problem | None:
        """A drawn problem; None where its numbers do not fit."""
        template = draw.choice(self.templates[split])
        expression = equations.parse(template.equation)
        names = sorted(set(equations.leaves(expression)))
        numbers = {name: draw.randint(2, self.settings.largest) for name in names}
        for factor in re.findall(r"[*/] ([a-z])", template.equation):
            numbers[factor] = draw.randint(2, SMALL)
        equation = re.sub(r"[a-z]", lambda found: str(numbers[found[0]]), template.equation)
        solution = self._solution(equation)
        if solution is None:
            return None
        question = self._told(template, numbers, draw)
        return Problem(
            id=f"words-{hashlib.sha256(question.encode()).hexdigest()[:16]}",
            question=question,
            answer=solution[-1].rpartition("= ")[2],
            difficulty=word_problems.num_steps(len(solution)),
            split=split_of(question),
            source=self.name,
            solution="\n".join(solution),
            meta=json.dumps({"equation": equation, "template": template.name}),
        )

    def _solution(self, equation: str) -> list[str] | None:
        """The steps, where every result is a whole number within the limits."""
        steps = equations.lines(equations.parse(equation))
        results = [Fraction(step.rpartition("= ")[2]) for step in steps]
        fits = all(r.denominator == 1 and 1 <= r <= self.settings.largest for r in results)
        return steps if fits else None

    def _told(self, template: Template, numbers: dict[str, int], draw: random.Random) -> str:
        """The story with people, things and perhaps a number too many."""
        a, b, c = draw.sample(NAMES, 3)
        things, others = draw.sample(THINGS, 2)
        boxes, box = draw.choice(BOXES).split()
        said = {"a": a, "b": b, "things": things, "boxes": boxes, "box": box, **numbers}
        story = template.story
        if draw.random() < self.settings.extra:
            extra = draw.choice(EXTRAS)
            said |= {"who": c, "others": others, "d": draw.randint(2, self.settings.largest)}
            story = f"{story} {extra}" if draw.random() < 0.5 else f"{extra} {story}"
        return f"{story} {template.asked}".format(**said)

    def prompt(self, question: str) -> str:
        return f"Q: {question}\nA:"

    def messages(self, question: str) -> list[Message]:
        said = self.settings.instruction
        return super().messages(f"{question}\n\n{said}" if said else question)

    def completion(self, text: str) -> str:
        """A worked solution as the model would write it after the prompt."""
        return text if self.settings.chat else f" {text}"

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        shown = word_problems.EXAMPLES[: self.settings.shots()]
        return [(question, self.completion(solution)) for question, solution, _ in shown]

    def hinted(self, problem: Problem) -> str | None:
        return f"{problem.question} (answer: {problem.answer})"

    def leaks(self, problem: Problem, text: str) -> str | None:
        return "mentions the hint" if "answer:" in text.casefold() else None

    def extract(self, text: str) -> str | None:
        return word_problems.answer_of(text)

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return word_problems.is_right(answer, problem)

    def same(self, one: str, other: str) -> bool:
        return word_problems.equal(one, other, kind="numeric")

    def gold_completion(self, problem: Problem) -> str | None:
        return self.completion(problem.solution)

    def conversation(
        self, draw: random.Random, holed: bool = False, within: int = 0, pairs: bool = False
    ) -> Conversation:
        return _word_talk.conversation(self, draw, holed, within, pairs)

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        equation = json.loads(problem.meta)["equation"]
        return equations.verdicts(equations.parse(equation), steps)
