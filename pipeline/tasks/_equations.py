"""Problems whose solution is an equation of a few whole numbers: its steps, and an exact judge of others.

    expression = parse("( ( 8 - 3 ) * 2 )")
    lines(expression)  ->  ["8 - 3 = 5", "5 * 2 = 10"]

A solution is one calculation a line. Which other ways are right is decided by algebra, not by luck: every
way to use each number once is held against the equation at other numbers. So `2 * 3 = 6` is on no right way
to `9 - 2 - 3`, though it is true, and `9 - 3 = 6` is. Numbers that stand in the question and not in the
equation belong to no right way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()]|[a-z]\b)")
LINE = re.compile(
    r"[^\d=]*?(-?\d[\d,]*(?:\.\d+)?) *([-+*/x×÷]) *(-?\d[\d,]*(?:\.\d+)?) *= *(-?\d[\d,]*(?:\.\d+)?)[^\d=]*"
)
SIGNS = {"x": "*", "×": "*", "÷": "/"}
TRIALS = 3  #: other numbers at which two ways are compared


class Op(NamedTuple):
    """`left sign right`; a leaf is a number or the name of one."""

    left: Expression
    sign: str
    right: Expression


Expression = Op | str
Way = tuple[tuple[int, str, int], ...]  #: steps over values: leaves first, then each step's result


def parse(text: str) -> Expression:
    """An expression in brackets or by the usual precedence.

    Raises:
        ValueError: it is none.
    """
    tokens = TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text) or not tokens:
        raise ValueError(f"not an equation: {text!r}")
    found, rest = _sum(tokens)
    if rest:
        raise ValueError(f"not an equation: {text!r}")
    return found


def _sum(tokens: list[str]) -> tuple[Expression, list[str]]:
    found, rest = _product(tokens)
    while rest and rest[0] in "+-":
        right, after = _product(rest[1:])
        found, rest = Op(found, rest[0], right), after
    return found, rest


def _product(tokens: list[str]) -> tuple[Expression, list[str]]:
    found, rest = _leaf(tokens)
    while rest and rest[0] in "*/":
        right, after = _leaf(rest[1:])
        found, rest = Op(found, rest[0], right), after
    return found, rest


def _leaf(tokens: list[str]) -> tuple[Expression, list[str]]:
    if not tokens or tokens[0] in "+-*/)":
        raise ValueError("not an equation: a number is missing")
    if tokens[0] != "(":
        return tokens[0], tokens[1:]
    found, rest = _sum(tokens[1:])
    if not rest or rest[0] != ")":
        raise ValueError("not an equation: a bracket is open")
    return found, rest[1:]


def leaves(expression: Expression) -> list[str]:
    """Its numbers, from the left."""
    if isinstance(expression, str):
        return [expression]
    return [*leaves(expression.left), *leaves(expression.right)]


def apply(left: Fraction, sign: str, right: Fraction) -> Fraction | None:
    """The value of one calculation; None where it divides by zero."""
    if sign == "/":
        return left / right if right else None
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def value(expression: Expression, numbers: Sequence[Fraction]) -> Fraction | None:
    """Its value with these numbers in the places of its leaves; None where it divides by zero."""
    found, _ = _value(expression, list(numbers))
    return found


def _value(expression: Expression, numbers: list[Fraction]) -> tuple[Fraction | None, list[Fraction]]:
    if isinstance(expression, str):
        return numbers[0], numbers[1:]
    left, rest = _value(expression.left, numbers)
    right, rest = _value(expression.right, rest)
    return (None if left is None or right is None else apply(left, expression.sign, right)), rest


def lines(expression: Expression) -> list[str]:
    """One calculation a line, inner ones first. Raises ValueError where it divides by zero."""
    written: list[str] = []

    def walk(part: Expression) -> Fraction:
        if isinstance(part, str):
            return Fraction(part)
        left, right = walk(part.left), walk(part.right)
        result = apply(left, part.sign, right)
        if result is None:
            raise ValueError("divides by zero")
        written.append(f"{spelt(left)} {part.sign} {spelt(right)} = {spelt(result)}")
        return result

    walk(expression)
    return written


def solution(expression: Expression) -> list[str]:
    """Its steps; where one of them is no whole number, those of a way that means the same and has none, if
    there is one. Raises ValueError where it divides by zero.
    """
    plain = lines(expression)
    numbers = [Fraction(leaf) for leaf in leaves(expression)]
    if all("." not in line for line in plain) or len(numbers) < 2:
        return plain
    for way in ways(expression):
        known, written = list(numbers), []
        for a, sign, b in way:
            result = apply(known[a], sign, known[b])
            if result is None or result.denominator != 1:
                break
            written.append(f"{spelt(known[a])} {sign} {spelt(known[b])} = {spelt(result)}")
            known.append(result)
        else:
            return written
    return plain


def spelt(number: Fraction) -> str:
    """A whole number as such, another as a decimal."""
    return str(number.numerator) if number.denominator == 1 else f"{float(number):.10g}"


@lru_cache(maxsize=4096)
def ways(shape: Expression) -> tuple[Way, ...]:
    """Every way to use each leaf once that means the same as the expression, whatever the numbers are. A
    shape's leaves are places: their names do not count.
    """
    count = len(leaves(shape))
    draw = random.Random(count)  # noqa: S311  fixed trials, no secret
    trials = [[Fraction(draw.randrange(10**6, 10**7)) for _ in range(count)] for _ in range(TRIALS)]
    wanted = [value(shape, numbers) for numbers in trials]
    return tuple(way for way, found in _all_ways(trials) if found == wanted)


def _all_ways(trials: list[list[Fraction]]) -> Iterator[tuple[Way, list[Fraction | None]]]:
    """(steps, values in each trial), over every order of pairs and signs."""

    def grow(
        open_places: tuple[int, ...], known: list[list[Fraction]], steps: Way
    ) -> Iterator[tuple[Way, list[Fraction | None]]]:
        if len(open_places) == 1:
            yield steps, [numbers[open_places[0]] for numbers in known]
            return
        for a in open_places:
            for b in open_places:
                for sign in "+-*/" if a != b else "":
                    results = [apply(numbers[a], sign, numbers[b]) for numbers in known]
                    if any(result is None for result in results):
                        continue
                    more = [[*numbers, r] for numbers, r in zip(known, results, strict=True) if r is not None]
                    rest = tuple(place for place in open_places if place not in (a, b))
                    yield from grow((*rest, len(known[0])), more, (*steps, (a, sign, b)))

    yield from grow(tuple(range(len(trials[0]))), trials, ())


def calculation(line: str) -> tuple[Fraction, str, Fraction, Fraction] | None:
    """(left, sign, right, result) of a line that holds one calculation, in whatever words."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        return None
    left, right, result = (Fraction(match[place].replace(",", "")) for place in (1, 3, 4))
    return left, SIGNS.get(match[2], match[2]), right, result


def verdicts(expression: Expression, steps: Sequence[str]) -> list[bool]:
    """Of each step: is it true, and is it, after the steps before it, the next one of a right way? Empty
    lines and a last line without a calculation (`#### 5`) are right where all before them is.
    """
    numbers = [Fraction(leaf) for leaf in leaves(expression)]
    left = [(way, list(numbers)) for way in ways(expression)] if len(numbers) > 1 else []
    found: list[bool] = []
    done = 0
    for step in steps:
        so_far = found[-1] if found else True
        said = calculation(step)
        if said is None:
            found.append(so_far and (not step.strip() or done == len(numbers) - 1))
            continue
        left = list(_after(left, done, said)) if so_far else []
        done += 1
        found.append(bool(left))
    return found


def _after(
    open_ways: list[tuple[Way, list[Fraction]]], done: int, said: tuple[Fraction, str, Fraction, Fraction]
) -> Iterator[tuple[Way, list[Fraction]]]:
    """The ways of which a calculation is step number `done`."""
    for way, known in open_ways:
        if done >= len(way):
            continue
        a, sign, b = way[done]
        result = apply(known[a], sign, known[b])
        if result is not None and said == (known[a], sign, known[b], result):
            yield way, [*known, result]
