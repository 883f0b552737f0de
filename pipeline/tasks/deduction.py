"""Deduction over made-up kinds, in the manner of PrOntoQA (Saparov and He 2022, arXiv:2210.01240): a fact,
rules in any order, and one rule applied a line.

    Rex is a bramax. Is Rex red, calm, loud or shy? Every dolvax is calm. Each fennax is red. Any bramax is
    a fennax. Every bramax is a dolvel. Each korbax is loud. Any moskax is shy.

    bramax is a fennax
    fennax is red
    answer: red

`bramax is a dolvel` would be as true and leads nowhere: which rule to apply is the whole problem. One answer
of `choices` is right, so a chain that got lost may still end right by luck: final answers say little here of
the reasoning, which the paper found by reading chains step by step (its section 4). The step oracle is exact:
a step is right where its rule is in the question and applies to what was concluded last, where it leads on to
what is asked (else the paper calls it misleading), and where everything before it was right. An answer is
right as a step only where it was concluded. `evaluate: accuracy` with `chains: true` makes `valid` (a right
answer by right steps) and `trace_error` (wrong steps among right answers, Uesato et al. 2022,
arXiv:2211.14275) its headlines.

`choices: 4` asks for one of four properties; `form: truth` asks whether one is true or false, as the paper
does. The hint, for rationalization, is the first rule of the chain: `... Hint: bramax is a fennax.` The
embedded seed has seen that form; it applies any rule that fits and, where none does, guesses.

It does not go back: a chain that took a wrong turn stays lost. The paper's other rules of deduction (and, or,
proof by contradiction) are not here.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from pydantic import Field, model_validator

from pipeline.rows import Problem
from pipeline.tasks import BaseTask, TaskSettings, split_of
from pipeline.tasks._kinds import EACH, KINDS, NAMES, PROPERTIES, Shape, World, draw_question, read_question

SPLITS = ("train", "dev", "test")
ANSWER = re.compile(r"answer: ([a-z]+)")
LINE = re.compile(rf"(?:(?:{'|'.join(EACH)}) )?(\w+) is ([a-z ]+?)\.?")
PLAIN = 0.3  #: of the seed's examples: no wrong turns, few rules, so that it learns to look a rule up


class Settings(TaskSettings):
    """Deduction's settings."""

    train: int | None = Field(8000, ge=1, description="training problems")
    dev: int | None = Field(500, ge=0, description="problems that feed the gate")
    test: int | None = Field(1000, ge=0, description="problems read once, in `finally`")
    hops: tuple[int, int] = Field((2, 4), description="[fewest, most] rules of the chain to the answer")
    form: Literal["choice", "truth"] = Field(
        "choice", description="choice: which of some properties; truth: true or false"
    )
    choices: int = Field(4, ge=2, le=8, description="properties asked about: luck is one in so many")
    branches: int = Field(1, ge=0, le=4, description="wrong turns at each kind of the chain but the last")
    branch: tuple[int, int] = Field((1, 2), description="[shortest, longest] wrong turn, in rules")
    kinds: int | None = Field(
        None,
        ge=2,
        le=len(KINDS),
        description="made-up kinds there are; none: as many as a problem needs, 24 at least",
    )
    max_tokens: int = Field(64, ge=1, description="tokens a completion may have")

    @property
    def typical_steps(self) -> float:
        """Of a chain of middling length, with the line of the answer."""
        return 1 + sum(self.hops) / 2

    @property
    def typical_tokens(self) -> float:
        """A kind, what is concluded of it and the line's end are a token each."""
        return min(self.max_tokens, 3 * self.typical_steps)

    def shape(self, hops: int, branches: int | None = None) -> Shape:
        """How a world with so many hops is drawn."""
        choices = self.choices if self.form == "choice" else 0
        turns = self.branches if branches is None else branches
        most = Shape(self.hops[1], self.branches, self.branch, choices, 0).needed
        return Shape(hops, turns, self.branch, choices, self.kinds or max(24, most))

    @model_validator(mode="after")
    def _usable(self) -> Settings:
        for name, most in (("hops", 10), ("branch", 5)):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= most:
                raise ValueError(
                    f"{name}: [{low}, {high}] must be two whole numbers, 1 <= low <= high <= {most}"
                )
        if None in (self.train, self.dev, self.test):
            raise ValueError(
                "train, dev, test: deduction has no end of problems, so each count must be given"
            )
        needed, there = self.shape(self.hops[1]).needed, self.kinds or len(KINDS)
        if needed > there:
            raise ValueError(
                f"a problem may need {needed} made-up kinds and there are {there}: "
                + (
                    "raise kinds"
                    if self.kinds and needed <= len(KINDS)
                    else "lower hops, branches or choices"
                )
            )
        return self


class Task(BaseTask):
    """Deduction problems, their chains and their exact oracle."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # a model that was shown examples goes on with the next question; the embedded seed ends by itself
        self.stop = (self.example_separator,) if settings.shots() and not settings.chat else ()

    def problems(self) -> Iterator[Problem]:
        s = self.settings
        counts = {split: getattr(s, split) for split in SPLITS}
        lengths = range(s.hops[0], s.hops[1] + 1)
        most = {split: -(-count // len(lengths)) for split, count in counts.items()}
        found = [_questions(s.shape(hops), tuple(most.items())) for hops in lengths]
        for split, count in counts.items():
            for number in range(count):  # a length in turn, so that they stay even
                yield self.problem(found[number % len(lengths)][split][number // len(lengths)])

    def first(self) -> list[Problem]:
        lengths = range(self.settings.hops[0], self.settings.hops[1] + 1)
        return [self.problem(next(_stream(self.settings.shape(hops)))) for hops in lengths]

    def problem(self, question: str) -> Problem:
        """The Problem row of a question."""
        world = read_question(question)
        path = world.path()
        answer = world.answers[path[-1][1]]
        return Problem(
            id=f"deduction-{hashlib.sha256(question.encode()).hexdigest()[:16]}",
            question=question,
            answer=answer,
            difficulty=f"{len(path):02d} hops",
            split=split_of(question),
            source=self.name,
            solution=_written(path, answer),
        )

    def prompt(self, question: str) -> str:
        return question + "\n"

    def messages(self, question: str) -> list[dict[str, str]]:
        rules = (
            "Apply one rule a line, beginning with the kind that you are told, until you reach one of the "
            "properties asked about; then write the answer. Exactly in this form:\n"
            "bramax is a fennax\nfennax is red\nanswer: red\n\n"
        )
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, {"role": "user", "content": rules + question}]

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        """Train questions with as many hops as the problem's; never the problem."""
        shown: list[tuple[str, str]] = []
        hops = len(read_question(problem.question).path())
        for question in _stream(self.settings.shape(hops), "examples"):
            if len(shown) == self.settings.shots():
                break
            if question != problem.question and split_of(question) == "train":
                shown.append((question, self.problem(question).solution))
        return shown

    def hinted(self, problem: Problem) -> str | None:
        path = read_question(problem.question).path()
        if len(path) < 2:  # the first rule would be the whole answer
            return None
        return f"{problem.question} Hint: {path[0][0]} is {path[0][1]}."

    def leaks(self, problem: Problem, text: str) -> str | None:
        return "mentions the hint" if "hint" in text.casefold() else None

    def extract(self, text: str) -> str | None:
        """What the last line answers."""
        match = ANSWER.fullmatch(text.strip().rpartition("\n")[2].strip())
        return match[1] if match else None

    def why_no_answer(self, text: str) -> str:
        return "no line `answer:` at the end"

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return answer is not None and answer == problem.answer

    def gold_completion(self, problem: Problem) -> str | None:
        world = read_question(problem.question)
        path = world.path()
        return _written(path, world.answers[path[-1][1]])

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        """Exact: is the rule there, does it apply, does it lead on, and was everything before it right?"""
        world, verdicts = read_question(problem.question), list[bool]()
        at: str | None = f"a {world.start}"  #: what was concluded last; None after a wrong step or the answer
        for step in steps:
            at, right = follow(world, at, step.rstrip("\n")) if at is not None else (None, False)
            verdicts.append(right)
        return verdicts

    def step_result(self, step: str) -> str | None:
        """What a line concludes: `bramax is a fennax` comes to `a fennax`."""
        line = step.strip()
        match = ANSWER.fullmatch(line)
        if match is None and (match := LINE.fullmatch(line)):
            return match[2]
        return match[1] if match else None

    def rule_example(self, draw: random.Random) -> tuple[str, list[tuple[str, bool]]]:
        """(question, pieces of a completion, each learned or not): what the embedded seed learns from."""
        question, [walk] = self.rule_walks(draw, 1)
        return question, [(walk, True)]

    def rule_walks(self, draw: random.Random, num: int, small: bool = False) -> tuple[str, list[str]]:
        """(question, completions) by the rules alone: any rule that fits, whatever is asked; a guess where
        none does.

        Never a dev or test question. Some have no wrong turns and may be shorter and ask for fewer
        properties; there one completion says all. In one of eight of the others the question carries a hint,
        which the first step of each completion obeys. small: of few rules, to begin with.
        """
        s = self.settings
        plain = not small and draw.random() < PLAIN
        if small:
            hops, turns = draw.randint(1, min(2, s.hops[1])), draw.randint(0, min(1, s.branches))
            shape = replace(s.shape(hops, branches=turns), branch=(1, 1))
            if shape.choices:
                shape = replace(shape, choices=draw.randint(2, min(3, shape.choices)))
        else:
            hops = draw.randint(1 if plain else s.hops[0], s.hops[1])
            shape = s.shape(hops, branches=0 if plain else None)
        if plain:
            num = 1
            if shape.choices:
                shape = replace(shape, choices=draw.randint(2, shape.choices))
        while split_of(question := draw_question(shape, draw)) != "train":
            pass
        world = read_question(question)
        first = ""
        if not (plain or small) and shape.hops > 1 and draw.random() < 1 / 8:
            first = draw.choice(world.rules[world.start])
            question += f" Hint: {world.start} is {first}."
        return question, [_walk(world, draw, first) for _ in range(num)]

    def rule_looks(self, draw: random.Random, question: str) -> list[tuple[str, str]]:
        """Each rule of a question as (what a step begins with, what it goes on with), in any order."""
        rules = read_question(question).rules
        looks = [(kind, f" is {what}") for kind, all_ in rules.items() for what in all_]
        draw.shuffle(looks)
        return looks

    @property
    def vocabulary(self) -> list[str]:
        """The pieces that its texts are made of. What a rule concludes is one piece, so that it stands right
        behind the kind that it is said of."""
        kinds = KINDS[: self.settings.shape(1).kinds]
        signs = [". Is ", "? ", ", ", " or ", ". True or false: ", ". ", ".", "\n", "answer: ", " Hint: "]
        begins = [f"{sign}{each} " for each in EACH for sign in ("", ". ", "? ")]
        said = [f" is {how}{each}" for each in PROPERTIES for how in ("", "not ")]
        said += [f" is a {kind}" for kind in kinds]
        return [*signs, *begins, *said, "true", "false", *NAMES, *PROPERTIES, *kinds]


def _stream(shape: Shape, name: str = "problems") -> Iterator[str]:
    """Questions of one length, each once, without an end, in an order fixed by the shape."""
    draw, seen = random.Random(f"{name} {shape}"), set[str]()
    while True:
        question = draw_question(shape, draw)
        if question not in seen:
            seen.add(question)
            yield question


@lru_cache(maxsize=32)
def _questions(shape: Shape, counts: tuple[tuple[str, int], ...]) -> dict[str, list[str]]:
    """So many questions of each split, the first of them in the stream's order."""
    found: dict[str, list[str]] = {split: [] for split, _ in counts}
    missing, wanted = sum(count for _, count in counts), dict(counts)
    stream = _stream(shape)
    while missing:
        question = next(stream)
        split = split_of(question)
        if len(found[split]) < wanted[split]:
            found[split].append(question)
            missing -= 1
    return found


def follow(world: World, at: str, line: str) -> tuple[str | None, bool]:
    """(what is concluded now, is the step right) of one line after `at` was concluded."""
    if answer := ANSWER.fullmatch(line):
        return None, world.answers.get(at) == answer[1]
    match = LINE.fullmatch(line)
    if match is None or at != f"a {match[1]}" or match[2] not in world.rules.get(match[1], ()):
        return None, False
    return (match[2], True) if world.leads(match[2]) else (None, False)


def _written(path: list[tuple[str, str]], answer: str) -> str:
    return "".join(f"{kind} is {what}\n" for kind, what in path) + f"answer: {answer}"


def _walk(world: World, draw: random.Random, first: str) -> str:
    """One completion by rules drawn evenly; first: what the first of them concludes, "" for any."""
    kind, path = world.start, list[tuple[str, str]]()
    while fitting := world.rules.get(kind, ()):
        what = first or draw.choice(fitting)
        path, kind, first = [*path, (kind, what)], what.removeprefix("a "), ""
        if what in world.answers:
            return _written(path, world.answers[what])
    return _written(path, draw.choice(sorted(world.answers.values())))
