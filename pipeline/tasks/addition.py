"""Addition with a scratchpad, as in STaR (arXiv:2203.14465, section 4.1): two numbers of equal length, one
line a digit.

    Input:
    6 2 4 + 2 5 9
    Target:
    <scratch>
    6 2 4 + 2 5 9 , C: 0
    6 2 + 2 5 , 3 C: 1
    6 + 2 , 8 3 C: 0
    , 8 8 3 C: 0
    0 8 8 3
    </scratch>
    8 8 3

A scratch line shows what is left of both numbers, the sum so far and the carry; a step is a line. The
answer is what stands after `</scratch>`. The hint, for rationalization, is the sum after `Target:`. The
embedded seed has seen that form up to five digits, and without it one and two digits and a few of three.

Problems are drawn in a fixed order, evenly over the lengths as far as a length has problems (one digit: 100
sums in all). It does not do the paper's later rounds with ever longer sums by itself: run another recipe on
the same model with other `digits`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from itertools import count, product

from pydantic import Field, model_validator

from pipeline.errors import RecipeError
from pipeline.rows import Problem
from pipeline.tasks import BaseTask, TaskSettings, split_of

QUESTION = re.compile(r"^(\d(?: \d)*) \+ (\d(?: \d)*)(?:\nTarget:.*)?$")
END = re.compile(r"</scratch>\n(\d(?: \d)*)\s*$")
SPLITS = ("train", "dev", "test")
RULE_DIGITS = (1, 2)  #: lengths of the sums that the embedded seed has seen
HINTED_DIGITS = 5  #: up to this length it has seen sums with their answer shown


def spaced(digits: str) -> str:
    """'624' as '6 2 4'."""
    return " ".join(digits)


def question_of(a: int, b: int) -> str:
    return f"{spaced(str(a))} + {spaced(str(b))}"


def parse(question: str) -> tuple[str, str]:
    """The digits of both numbers of a question, hinted or not."""
    match = QUESTION.match(question)
    if match is None:
        raise ValueError(f"not an addition question: {question!r}")
    return match[1].replace(" ", ""), match[2].replace(" ", "")


def scratchpad(a: str, b: str) -> str:
    """The whole right completion for two strings of digits of equal length."""
    carry, done, lines = 0, "", ["<scratch>"]
    for left in range(len(a), -1, -1):
        remaining = f"{spaced(a[:left])} + {spaced(b[:left])} " if left else ""
        so_far = f"{spaced(done)} " if done else ""
        lines.append(f"{remaining}, {so_far}C: {carry}")
        if left:
            carry, digit = divmod(int(a[left - 1]) + int(b[left - 1]) + carry, 10)
            done = f"{digit}{done}"
    return "\n".join([*lines, spaced(f"{carry}{done}"), "</scratch>", spaced(str(int(f"{carry}{done}")))])


class Settings(TaskSettings):
    """Addition's settings."""

    train: int | None = Field(10_000, ge=1, description="training problems")
    dev: int | None = Field(500, ge=0, description="problems that feed the gate")
    test: int | None = Field(1_000, ge=0, description="problems read once, in `finally`")
    digits: tuple[int, int] = Field((1, 5), description="[fewest, most] digits a number has")
    max_tokens: int = Field(256, ge=1, description="tokens a completion may have")

    @property
    def typical_steps(self) -> float:
        """Of sums of a middling length: a line a digit, and five around them."""
        return 5 + sum(self.digits) / 2

    @model_validator(mode="after")
    def _usable(self) -> Settings:
        low, high = self.digits
        if not 1 <= low <= high <= 20:
            raise ValueError(f"digits: [{low}, {high}] must be two whole numbers, 1 <= low <= high <= 20")
        if None in (self.train, self.dev, self.test):
            raise ValueError("train, dev, test: addition has no end of problems, so each count must be given")
        return self


class Task(BaseTask):
    """Addition problems with STaR's scratchpad and its exact oracle."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # a model that was shown examples goes on with the next sum; the embedded seed ends by itself
        self.stop = (self.example_separator,) if settings.shots() and not settings.chat else ()

    def problems(self) -> Iterator[Problem]:
        low, high = self.settings.digits
        for split in SPLITS:
            wanted, streams = (
                getattr(self.settings, split),
                [_sums_of(d, split) for d in range(low, high + 1)],
            )
            num_found = 0
            while num_found < wanted:
                if not streams:
                    raise RecipeError(
                        f"task.{split}: {wanted} addition problems asked, {num_found} exist with {low} to "
                        f"{high} digits: raise `digits` or ask for fewer"
                    )
                for stream in list(streams):  # one of each length in turn, so that lengths stay even
                    pair = next(stream, None)
                    if pair is None:
                        streams.remove(stream)
                    elif num_found < wanted:
                        num_found += 1
                        yield self.problem(*pair)

    def problem(self, a: int, b: int) -> Problem:
        """The Problem row of a sum."""
        question = question_of(a, b)
        return Problem(
            id=f"addition-{a}+{b}",
            question=question,
            answer=str(a + b),
            difficulty=f"{len(str(a)):02d} digits",
            split=split_of(question),
            source=self.name,
            solution=scratchpad(str(a), str(b)),
        )

    def prompt(self, question: str) -> str:
        return f"Input:\n{question}\n" if "\nTarget:" in question else f"Input:\n{question}\nTarget:\n"

    def messages(self, question: str) -> list[dict[str, str]]:
        rules = "Add with a scratchpad, digit by digit from the right, exactly in this form:\n"
        shown = self.prompt("6 2 4 + 2 5 9") + scratchpad("624", "259") + "\n\n"
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, {"role": "user", "content": rules + shown + self.prompt(question)}]

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        """Train sums of the problem's own length, as in the paper; never the problem."""
        shown: list[tuple[str, str]] = []
        for a, b in sums(len(parse(problem.question)[0]), stream="examples"):
            if len(shown) == self.settings.shots():
                break
            question = question_of(a, b)
            if question != problem.question and split_of(question) == "train":
                shown.append((question, scratchpad(str(a), str(b))))
        return shown

    def hinted(self, problem: Problem) -> str | None:
        return self.with_target(problem.question)

    def with_target(self, question: str) -> str:
        """The question with its sum after `Target:`."""
        a, b = parse(question)
        return f"{question}\nTarget: {spaced(str(int(a) + int(b)))}"

    def leaks(self, problem: Problem, text: str) -> str | None:
        return "mentions the target" if "target" in text.casefold() else None

    def extract(self, text: str) -> str | None:
        """The number after `</scratch>`, without spaces."""
        match = END.search(text)
        return str(int(match[1].replace(" ", ""))) if match else None

    def correct(self, answer: str | None, problem: Problem) -> bool:
        a, b = parse(problem.question)
        return answer is not None and answer.isdecimal() and int(answer) == int(a) + int(b)

    def gold_completion(self, problem: Problem) -> str | None:
        return scratchpad(*parse(problem.question))

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        """Exact: a line is right where it and every line before it are the scratchpad's own."""
        gold = scratchpad(*parse(problem.question)).split("\n")
        verdicts: list[bool] = []
        for number, step in enumerate(steps):
            so_far = verdicts[-1] if verdicts else True
            verdicts.append(so_far and number < len(gold) and step.rstrip("\n") == gold[number])
        return verdicts

    def rule_example(self, draw: random.Random) -> tuple[str, list[tuple[str, bool]]]:
        """(question, pieces of a completion, each learned or not): what the embedded seed learns from.

        Three fifths are sums of one or two digits, a fifth of them with the target shown, and one in twelve
        is a sum of three. Longer ones stand there only with their target shown, so the seed can follow a hint
        and cannot add them. Never a dev or test question."""
        kind = draw.random()
        if kind < 3 / 5:
            digits, hint = draw.choice(RULE_DIGITS), draw.random() < 1 / 5
        elif kind < 3 / 5 + 1 / 12:
            digits, hint = RULE_DIGITS[-1] + 1, False
        else:
            digits, hint = draw.randint(RULE_DIGITS[-1] + 1, HINTED_DIGITS), True
        low = 0 if digits == 1 else 10 ** (digits - 1)
        while True:
            a, b = str(draw.randrange(low, 10**digits)), str(draw.randrange(low, 10**digits))
            question = question_of(int(a), int(b))
            if split_of(question) == "train":
                break
        return self.with_target(question) if hint else question, [(scratchpad(a, b), True)]

    @property
    def vocabulary(self) -> list[str]:
        """The pieces that its texts are made of; a digit that follows a digit carries the space before it."""
        words = ["Input:", "Target:", "Target: ", "<scratch>", "</scratch>", "\n"]
        signs = [" + ", " , ", " , C: ", ", ", " C: "]
        digits = [str(digit) for digit in range(10)]
        return [*words, *signs, *digits, *(f" {digit}" for digit in digits)]


def sums(digits: int, stream: str = "problems") -> Iterator[tuple[int, int]]:
    """Pairs of numbers with so many digits, each once, in a fixed shuffled order; all where there are few."""
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
    draw = random.Random(f"{stream} {digits}")
    if digits <= 2:
        pairs = list(product(range(low, high), range(low, high)))
        draw.shuffle(pairs)
        yield from pairs
        return
    seen: set[bytes] = set()
    for _ in count():
        pair = (draw.randrange(low, high), draw.randrange(low, high))
        key = hashlib.blake2b(repr(pair).encode(), digest_size=8).digest()
        if key not in seen:
            seen.add(key)
            yield pair


def _sums_of(digits: int, split: str) -> Iterator[tuple[int, int]]:
    return (pair for pair in sums(digits) if split_of(question_of(*pair)) == split)
