"""Countdown: combine all the numbers, each exactly once, with + - * / into the target.

A question is `numbers 3, 7, 12; target 24`. A completion has one operation a line and what is left after
it; the last line leaves one number, so it shows none:

    12 - 7 = 5, left 3, 5
    5 * 3 = 15

Every result is a whole number between 1 and `largest`; division must come out even. The larger operand
stands first by custom, but either order of + and * is legal. The extracted answer is the list of operations
(`12 - 7 = 5, 5 * 3 = 15`), and `correct` replays it by integers on the question's numbers, so a right value
by an illegal way is wrong. A wrong `left` list does not make the answer wrong; the step oracle reports it
(a trace error under a right answer).

The hint, for rationalization, is the first operation of a solution: `...; hint 12 - 7`. The embedded seed
has seen that form.

The defaults give 12,229 solvable questions; four numbers give 320,577. It does not score closeness to the
target.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.rows import Problem
from pipeline.tasks import BaseTask, TaskSettings, _dialect, split_of
from pipeline.tasks._acts import Conversation
from pipeline.tasks._moves import LINE, OPERATION, QUESTION, Move, Numbers, apply, moves, question_of, ways

LONGEST = 200  #: characters of a question that a model proposes


class Settings(TaskSettings):
    """Countdown's settings."""

    numbers: int = Field(3, ge=2, le=5, description="how many numbers a problem has")
    range: tuple[int, int] = Field((1, 20), description="[smallest, largest] number")
    target: tuple[int, int] = Field((10, 100), description="[smallest, largest] target")
    largest: int = Field(200, ge=1, le=9999, description="largest result on the way")
    max_tokens: int = Field(64, ge=1, description="tokens a completion may have")

    @property
    def typical_tokens(self) -> float:
        """Of a whole play, where a number is one token: `19 - 7 = 12, left 20, 12`."""
        moves = range(self.numbers - 1, 0, -1)  # numbers left after each
        return min(self.max_tokens, sum(7 + 2 * left if left > 1 else 6 for left in moves))

    @property
    def typical_steps(self) -> float:
        return self.numbers - 1

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        for name in ("range", "target"):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= self.largest:
                raise ValueError(
                    f"{name}: [{low}, {high}] must be two whole numbers, 1 <= low <= high <= {self.largest}"
                )
        return self


class Task(BaseTask):
    """Countdown problems, their rules and their exact oracle."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # a model that was shown examples goes on with the next question; the embedded seed ends by itself
        self.stop = (self.example_separator,) if settings.shots() and not settings.chat else ()

    def problems(self) -> Iterator[Problem]:
        wanted = {"train": self.settings.train, "dev": self.settings.dev, "test": self.settings.test}
        for split, count in wanted.items():
            found = self._pool()[split]
            if count is not None and count > len(found):
                raise RecipeError(
                    f"task.{split}: {count} countdown problems asked, {len(found)} exist with "
                    f"{self.settings.numbers} numbers of {list(self.settings.range)} and targets "
                    f"{list(self.settings.target)}: widen `range` or raise `numbers`"
                )
            yield from (self.problem(numbers, target) for numbers, target in found[:count])

    def _pool(self) -> dict[str, list[tuple[Numbers, int]]]:
        s = self.settings
        return _pool(s.numbers, s.range, s.target, s.largest)

    def problem(self, numbers: Numbers, target: int) -> Problem:
        """The Problem row of solvable numbers and target."""
        question, largest = question_of(numbers, target), self.settings.largest
        solution = self.solve(tuple(sorted(numbers)), target)
        num_ways = ways(tuple(sorted(numbers)), largest)[target]
        return Problem(
            id=f"countdown-{'.'.join(map(str, sorted(numbers)))}-{target}",
            question=question,
            answer=", ".join(move.text for move in solution),
            difficulty="1 way" if num_ways == 1 else "2-3 ways" if num_ways <= 3 else "4+ ways",
            split=split_of(question),
            source=self.name,
            solution="\n".join(move.line for move in solution),
            meta=json.dumps({"ways": num_ways}),
        )

    def solve(self, numbers: Numbers, target: int) -> list[Move]:
        """The first solution in move order. Raises ValueError where there is none."""
        found: list[Move] = []
        while len(numbers) > 1:
            legal = moves(numbers, self.settings.largest)
            move = next((m for m in legal if target in ways(m.left, self.settings.largest)), None)
            if move is None:
                raise ValueError(f"{numbers} cannot make {target}")
            found.append(move)
            numbers = move.left
        return found

    def parse(self, question: str) -> tuple[Numbers, int]:
        """Numbers (sorted) and target of a question, hinted or not."""
        match = QUESTION.match(question)
        if match is None:
            raise ValueError(f"not a countdown question: {question!r}")
        return tuple(sorted(map(int, match[1].split(", ")))), int(match[2])

    def prompt(self, question: str) -> str:
        return question + "\n"

    def messages(self, question: str) -> list[dict[str, str]]:
        rules = (
            "Combine all the numbers, each exactly once, with + - * / into the target. "
            "Write one operation a line, then what is left, like this: 12 - 7 = 5, left 3, 5\n"
        )
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, {"role": "user", "content": rules + question}]

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        train = self._pool()["train"]
        shown: list[tuple[str, str]] = []
        for numbers, target in reversed(train):  # from the far end: `train: N` takes the near one
            if len(shown) == self.settings.shots():
                break
            example = self.problem(numbers, target)
            if example.id != problem.id:
                shown.append((example.question, example.solution))
        return shown

    def hinted(self, problem: Problem) -> str | None:
        numbers, target = self.parse(problem.question)
        if len(numbers) < 3:  # the first operation would be the whole answer
            return None
        first = self.solve(numbers, target)[0]
        return f"{problem.question}; hint {first.a} {first.sign} {first.b}"

    def leaks(self, problem: Problem, text: str) -> str | None:
        return "mentions the hint" if "hint" in text else None

    def extract(self, text: str) -> str | None:
        """The operations, joined by ", "; None where a line is no operation or its arithmetic is wrong."""
        lines = text.strip().split("\n")
        matches = [LINE.fullmatch(line.strip()) for line in lines]
        found: list[str] = []
        for match in matches:
            if match is None:
                return None
            a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
            if apply(a, sign, b, self.settings.largest) != result:
                return None
            if sign in "+*":
                a, b = max(a, b), min(a, b)  # so that equal answers are equal texts when they vote
            found.append(f"{a} {sign} {b} = {result}")
        return ", ".join(found)

    def why_no_answer(self, text: str) -> str:
        lines = [LINE.fullmatch(line.strip()) for line in text.strip().split("\n")]
        return "invalid arithmetic" if all(lines) else ""

    def correct(self, answer: str | None, problem: Problem) -> bool:
        if answer is None:
            return False
        numbers, target = self.parse(problem.question)
        left: Numbers | None = numbers
        for operation in answer.split(", "):
            match = OPERATION.fullmatch(operation)
            left = self.play(left, match) if match and left else None
            if left is None:
                return False
        return left == (target,)

    def same(self, one: str, other: str) -> bool:
        """Equal operations in another order are one computation (`extract` has ordered the operands)."""
        return sorted(one.split(", ")) == sorted(other.split(", "))

    def play(self, numbers: Numbers, match: re.Match[str]) -> Numbers | None:
        """The sorted numbers after an operation, or None where it is illegal here."""
        a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
        rest = list(numbers)
        for operand in (a, b):
            if operand not in rest:
                return None
            rest.remove(operand)
        if apply(a, sign, b, self.settings.largest) != result:
            return None
        return tuple(sorted((*rest, result)))

    def gold_completion(self, problem: Problem) -> str | None:
        numbers, target = self.parse(problem.question)
        return "\n".join(move.line for move in self.solve(numbers, target))

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        """Exact: was every step so far legal, its `left` list true, and can the target still be reached?"""
        _, target = self.parse(problem.question)
        played = self._played(problem.question, steps)
        return [left is not None and target in ways(left, self.settings.largest) for left in played]

    def legal(self, question: str, steps: list[str]) -> list[bool] | None:
        """Is every step so far an operation on numbers that are left, its result and its `left` list true?"""
        return [left is not None for left in self._played(question, steps)]

    def _played(self, question: str, steps: list[str]) -> Iterator[Numbers | None]:
        """The sorted numbers after each step; None from the first one on that is illegal or states what is
        not so.
        """
        left: Numbers | None = self.parse(question)[0]
        for step in steps:
            match = LINE.fullmatch(step.rstrip("\n"))
            left = self.play(left, match) if match and left else None
            if left is not None and match is not None:
                shown = tuple(map(int, match[5].split(", "))) if match[5] else ()
                left = left if tuple(sorted(shown)) == (left if len(left) > 1 else ()) else None
            yield left

    def feedback(self, problem: Problem, text: str, detail: Literal["verdict", "first", "all"]) -> str:
        """In the seed's dialect where the task does not chat: the check's last word, the check, or that and
        how far off its end is.
        """
        if self.settings.chat:
            return super().feedback(problem, text, detail)
        numbers, target = self.parse(problem.question)
        checked = _dialect.check(numbers, target, text, self.settings.largest)
        if detail == "verdict":
            return checked.text.rpartition(" ")[2]
        ends = LINE.fullmatch(text.strip().rpartition("\n")[2])
        if detail == "all" and checked.fault and ends and int(ends[4]) != target:
            return f"{checked.text}, {_dialect.difference(target, int(ends[4]))} wrong"
        return checked.text

    def proposed(self, question: str) -> Problem | None:
        """A well-formed question of the recipe's own rules, its numbers sorted; whether they can make the
        target stays unknown.
        """
        match = QUESTION.fullmatch(question.strip())
        if match is None or "hint" in match[0] or len(match[0]) > LONGEST:
            return None
        s, (numbers, target) = self.settings, self.parse(match[0])
        inside = all(s.range[0] <= number <= s.range[1] for number in numbers)
        if len(numbers) != s.numbers or not inside or not s.target[0] <= target <= s.target[1]:
            return None
        return super().proposed(question_of(numbers, target))

    def step_verdicts(self, text: str, num: int) -> list[bool | None]:
        """In the seed's dialect where the task does not chat."""
        return super().step_verdicts(text, num) if self.settings.chat else _dialect.step_verdicts(text, num)

    def step_result(self, step: str) -> str | None:
        match = LINE.fullmatch(step.strip())
        return match[4] if match else None

    def random_play(self, draw: random.Random) -> tuple[str, str]:
        """(question, completion) by the rules alone: uniform legal moves, whatever the target.

        Never a dev or test question. In one of eight the question carries a hint, which the first move obeys.
        """
        s = self.settings
        while True:
            numbers = tuple(sorted(draw.randint(*s.range) for _ in range(s.numbers)))
            question, played = question_of(numbers, draw.randint(*s.target)), list[Move]()
            if split_of(question) != "train":
                continue
            while len(numbers) > 1 and (legal := moves(numbers, s.largest)):
                played.append(draw.choice(legal))
                numbers = played[-1].left
            if len(numbers) == 1:  # else stuck: every move would pass `largest`
                if s.numbers > 2 and draw.random() < 1 / 8:
                    question += f"; hint {played[0].a} {played[0].sign} {played[0].b}"
                return question, "\n".join(move.line for move in played)

    def rule_example(self, draw: random.Random) -> tuple[str, list[tuple[str, bool]]]:
        """(question, pieces of a completion, each learned or not): what the embedded seed learns from."""
        question, played = self.random_play(draw)
        return question, [(played, True)]

    def conversation(
        self, draw: random.Random, holed: bool = False, within: int = 0, pairs: bool = False
    ) -> Conversation:
        return _dialect.conversation(self, draw, _dialect.Critic(holed, within), pairs)

    @property
    def vocabulary(self) -> list[str]:
        """The pieces that its texts are made of: whole numbers, and signs that carry their spaces."""
        signs = ["numbers ", "; target ", "; hint ", ", left ", ", ", " + ", " - ", " * ", " / ", " = ", "\n"]
        return [*signs, *(str(number) for number in range(self.settings.largest + 1))]


@lru_cache(maxsize=4)
def _pool(
    count: int, within: tuple[int, int], targets: tuple[int, int], largest: int
) -> dict[str, list[tuple[Numbers, int]]]:
    """Every solvable (numbers, target) by split, in the order of the question's hash."""
    found: dict[str, list[tuple[bytes, Numbers, int]]] = {"train": [], "dev": [], "test": []}
    for numbers in combinations_with_replacement(range(within[0], within[1] + 1), count):
        for target in ways(numbers, largest):
            if targets[0] <= target <= targets[1]:
                question = question_of(numbers, target)
                key = hashlib.sha256(b"order " + question.encode()).digest()
                found[split_of(question)].append((key, numbers, target))
    return {split: [row[1:] for row in sorted(rows)] for split, rows in found.items()}
