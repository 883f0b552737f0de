"""Is an answer the gold one? Text first, then exact rational numbers, and only then sympy, in the jail.

    same("1/2", "0.5")                      True, without a jail
    same("x+1", "1 + x")                    True, by math-verify in a worker process
    same("18 dollars", "18", kind="numeric")

"Cannot compare" counts as not the same. This module never imports sympy and never evaluates text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pipeline.answers import extract, jail

Kind = Literal["exact", "numeric", "math"]

MAX_ANSWER = 1_000  #: characters; a longer answer goes to no parser
MAX_NESTING = 60
MAX_DIGITS = 300  #: of one number
_ACTIVE = re.compile(
    r"\\(?:write|input|include|openin|openout|read|immediate|def|edef|gdef|let|catcode|csname|special|loop|newcommand"
    r"|usepackage|directlua|futurelet|expandafter)"
)


def same(answer: str | None, gold: str | None, *, kind: Kind = "math", tolerance: float = 0.0) -> bool:
    """Does the answer equal the gold one?

    exact: equal once looks are taken away (`extract.plain`), letter case kept. numeric: equal as numbers,
    units after a number ignored, `10%` equal to 10 and to 0.1, within the relative `tolerance` (absolute
    where gold is 0). math: exact, numeric, or equal to math-verify.
    """
    verdict = _quick(answer, gold, kind, tolerance)
    if verdict is None:
        assert answer is not None
        assert gold is not None
        return bool(_jailed(answer, gold))
    return verdict


def same_many(
    pairs: Sequence[tuple[str | None, str | None]], *, kind: Kind = "math", tolerance: float = 0.0
) -> list[bool]:
    """`same` of each (answer, gold); those that need the jail are sent to it together."""
    verdicts = [_quick(answer, gold, kind, tolerance) for answer, gold in pairs]
    open_pairs = list(
        {
            (a, g)
            for (a, g), v in zip(pairs, verdicts, strict=True)
            if v is None and a is not None and g is not None
        }
    )
    known = dict(zip(open_pairs, jail.default_jail().same_many(open_pairs), strict=True))
    return [bool(known[pair]) if v is None else v for pair, v in zip(pairs, verdicts, strict=True)]  # type: ignore[index]


def comparable(text: str) -> bool:
    """May a parser see this at all? Short, printable, braces balanced, not deep, no TeX that acts, no huge
    number.
    """
    if not text or len(text) > MAX_ANSWER or not text.isprintable() or "__" in text or _ACTIVE.search(text):
        return False
    if re.search(rf"\d{{{MAX_DIGITS},}}", text):
        return False
    depth = deepest = 0
    braces = 0
    for char in re.sub(r"\\[\\{}]", "", text):
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
        braces += (char == "{") - (char == "}")
        if braces < 0:
            return False
    return braces == 0 and deepest <= MAX_NESTING


@lru_cache(maxsize=1 << 16)
def _jailed(answer: str, gold: str) -> bool | None:
    return jail.default_jail().same_math(answer, gold)


def _quick(answer: str | None, gold: str | None, kind: Kind, tolerance: float) -> bool | None:
    """The verdict where no jail is needed, else None."""
    if not answer or not gold or not answer.strip() or not gold.strip():
        return False
    if extract.plain(answer) == extract.plain(gold):
        return True
    if kind == "exact":
        return False
    units = kind == "numeric"
    found, wanted = extract.number(answer, units=units), extract.number(gold, units=units)
    if found is not None and wanted is not None:
        shares = {"%" in answer, "%" in gold} == {True, False}
        return _equal(answer, found, gold, wanted, tolerance) or (
            shares
            and _equal(
                answer,
                found / 100 if "%" in answer else found,
                gold,
                wanted / 100 if "%" in gold else wanted,
                tolerance,
            )
        )
    if kind == "numeric" or not (comparable(answer) and comparable(gold)):
        return False
    return None


def _equal(answer: str, found: Fraction, gold: str, wanted: Fraction, tolerance: float) -> bool:
    if found == wanted:
        return True
    distance = abs(found - wanted)
    if tolerance > 0:
        return distance <= Fraction(tolerance) * (abs(wanted) or 1)
    # a number written to six decimals or more stands for what it rounds (1/3 and 0.333333), as in math-verify
    rounded = any(re.search(r"\.\d{6,}", text) for text in (answer, gold))
    return rounded and distance < Fraction(1, 1_000_000)
