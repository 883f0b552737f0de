"""Worlds of made-up kinds for the deduction task: drawn, written as text, and read again.

A world is a fact (`Rex is a bramax`), what is asked, and rules (`Every bramax is a dolvax`, `Each dolvax is
red`), in the manner of PrOntoQA (Saparov and He 2022, arXiv:2210.01240, section 3); kinds, properties and
wording are our own. One chain of rules leads from the fact to what is asked. Beside it stand wrong turns,
which leave the chain at each kind but the last and end in nothing, and for every wrong answer a chain of the
same length that the fact does not reach. So no rule is odd by itself: neither the last one of a chain nor
the number of a kind's rules tells the right answer.

What a rule concludes is kept as it is written after `is`: `a dolvax`, `red`, `not red`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

STEMS = (
    *("bram", "dolv", "fenn", "gorl", "hask", "jint", "korb", "lump", "mosk", "nard", "plev", "quon"),
    *("rimb", "skal", "turv", "vosk", "wemp", "yarn", "zilk", "drus", "flom", "grel", "krav", "snib"),
)
ENDINGS = ("ax", "el", "id", "op", "us", "it")
KINDS = tuple(  # no two of the first 24 have one stem
    stem + ENDINGS[(number + turn) % len(ENDINGS)]
    for turn in range(len(ENDINGS))
    for number, stem in enumerate(STEMS)
)
PROPERTIES = (
    *("red", "calm", "loud", "small", "warm", "brave", "green", "shy"),
    *("round", "quick", "bitter", "dark", "heavy", "smooth", "proud", "clever"),
)
NAMES = ("Rex", "Ada", "Max", "Fae", "Sam", "Wren", "Otto", "Polly")
EACH = ("Every", "Each", "Any")  #: what a rule may begin with

ASKED = r"(?:Is \w+ (?P<choices>[a-z]+(?:, [a-z]+)* or [a-z]+)\?|True or false: \w+ is (?P<truth>[a-z]+)\.)"
QUESTION = re.compile(
    rf"\w+ is (?P<start>a \w+)\. {ASKED}(?P<rules>(?: (?:{'|'.join(EACH)}) \w+ is [a-z ]+\.)+)"
    r"(?: Hint: \w+ is [a-z ]+\.)?"
)
RULE = re.compile(rf" (?:{'|'.join(EACH)}) (\w+) is ([a-z ]+)\.")


@dataclass(frozen=True)
class World:
    """A fact, what is asked and the rules.

    start: the kind of the fact. rules: what each kind is, in the order of the text. answers: what may be
    concluded in the end -> the answer that it stands for (`red` -> `red`; `not red` -> `false`).
    """

    start: str
    rules: Mapping[str, tuple[str, ...]]
    answers: Mapping[str, str]

    def leads(self, conclusion: str) -> bool:
        """Does a conclusion lead to what is asked, by some rules?"""
        seen, ahead = set[str](), [conclusion]
        while ahead:
            each = ahead.pop()
            if each in self.answers:
                return True
            if each not in seen:
                seen.add(each)
                ahead += self.rules.get(each.removeprefix("a "), ())
        return False

    def path(self) -> list[tuple[str, str]]:
        """The chain: (kind, what it is), from the fact to what is asked.

        Raises:
            ValueError: there is none.
        """
        kind, found = self.start, list[tuple[str, str]]()
        while len(found) <= len(self.rules):
            onward = next((each for each in self.rules.get(kind, ()) if self.leads(each)), None)
            if onward is None:
                break
            found.append((kind, onward))
            if onward in self.answers:
                return found
            kind = onward.removeprefix("a ")
        raise ValueError(f"no chain leads from {self.start} to any of {', '.join(self.answers)}")


@dataclass(frozen=True)
class Shape:
    """How a world is drawn; the task's settings say what each part means."""

    hops: int
    branches: int
    branch: tuple[int, int]
    choices: int  #: 0: true or false
    kinds: int

    @property
    def needed(self) -> int:
        """The most kinds that such a world has."""
        turns = (self.hops - 1) * self.branches * self.branch[1]
        return self.hops * max(2, self.choices) + turns


def draw_question(shape: Shape, draw: random.Random) -> str:
    """A world as text."""
    kinds = draw.sample(KINDS[: shape.kinds], shape.needed)
    if shape.choices:
        asked = draw.sample(PROPERTIES, shape.choices)
        ends = list(asked)
        draw.shuffle(ends)
    else:
        asked = [draw.choice(PROPERTIES)]
        ends = [asked[0], f"not {asked[0]}"]
        draw.shuffle(ends)
    rules: list[tuple[str, str]] = []
    start = kinds[-1]
    for number, end in enumerate(ends):  # the first one's chain is the true one
        chain = [kinds.pop() for _ in range(shape.hops)]
        rules += [(a, f"a {b}") for a, b in zip(chain, chain[1:], strict=False)] + [(chain[-1], end)]
        for kind in chain[:-1] if number == 0 else []:
            for _ in range(shape.branches):
                turn = [kind, *(kinds.pop() for _ in range(draw.randint(*shape.branch)))]
                rules += [(a, f"a {b}") for a, b in zip(turn, turn[1:], strict=False)]
    draw.shuffle(rules)
    name = draw.choice(NAMES)
    asks = f"Is {name} {', '.join(asked[:-1])} or {asked[-1]}?" if shape.choices else (
        f"True or false: {name} is {asked[0]}.")  # fmt: skip
    return " ".join(
        [f"{name} is a {start}.", asks, *(f"{draw.choice(EACH)} {kind} is {what}." for kind, what in rules)]
    )


@lru_cache(maxsize=4096)
def read_question(question: str) -> World:
    """The world of a question, hinted or not.

    Raises:
        ValueError: it is no question of this task.
    """
    match = QUESTION.fullmatch(question)
    if match is None:
        raise ValueError(f"not a deduction question: {question[:200]!r}")
    rules: dict[str, tuple[str, ...]] = {}
    for kind, what in RULE.findall(match["rules"]):
        rules[kind] = (*rules.get(kind, ()), what)
    if match["truth"]:
        answers = {match["truth"]: "true", f"not {match['truth']}": "false"}
    else:
        answers = {each: each for each in re.split(", | or ", match["choices"])}
    return World(match["start"].removeprefix("a "), rules, answers)
