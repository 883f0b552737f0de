"""The rules of countdown, as plain functions of numbers: what a question and a line look like, which moves
are legal, in how many ways a value is reached. The task is `countdown.py`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

Numbers = tuple[int, ...]

QUESTION = re.compile(r"^numbers (\d+(?:, \d+)*); target (\d+)(?:; hint .*)?$")
OPERATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
LINE = re.compile(OPERATION.pattern + r"(?:, left (\d+(?:, \d+)*))?")


class Move(NamedTuple):
    """One legal operation: `a sign b = result`, and the numbers left after it, sorted."""

    a: int
    sign: str
    b: int
    result: int
    left: Numbers

    @property
    def text(self) -> str:
        return f"{self.a} {self.sign} {self.b} = {self.result}"

    @property
    def line(self) -> str:
        """As a completion writes it, without the line end; the new number stands last in the list."""
        if len(self.left) == 1:
            return self.text
        untouched = list(self.left)
        untouched.remove(self.result)
        return f"{self.text}, left {', '.join(map(str, [*untouched, self.result]))}"


def apply(a: int, sign: str, b: int, largest: int) -> int | None:
    """The result of an operation, or None where the rules forbid it."""
    if sign == "/":
        result = a // b if b and a % b == 0 else 0
    else:
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return result if 1 <= result <= largest else None


def moves(numbers: Numbers, largest: int) -> list[Move]:
    """Every legal operation on sorted numbers, larger operand first, each once, in a fixed order."""
    found: dict[tuple[int, str, int], Move] = {}
    for i, b in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            a, rest = numbers[j], numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for sign in "+-*/":
                result = apply(a, sign, b, largest)
                if result is not None and (a, sign, b) not in found:
                    found[a, sign, b] = Move(a, sign, b, result, tuple(sorted((*rest, result))))
    return list(found.values())


@lru_cache(maxsize=1_000_000)
def ways(numbers: Numbers, largest: int) -> dict[int, int]:
    """For each value that uses up all the (sorted) numbers: in how many ways it is reached."""
    if len(numbers) == 1:
        return {numbers[0]: 1}
    total: dict[int, int] = {}
    for move in moves(numbers, largest):
        for value, count in ways(move.left, largest).items():
            total[value] = total.get(value, 0) + count
    return total


def question_of(numbers: Numbers, target: int) -> str:
    """The question's text; numbers are shown sorted, so that a problem has one question."""
    return f"numbers {', '.join(map(str, sorted(numbers)))}; target {target}"
