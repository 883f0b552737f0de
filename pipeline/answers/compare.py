"""Is an answer the gold one? Text first, then exact numbers and forms, and only then sympy, in the jail.

    same("1/2", "0.5")                      True, without a jail
    same("x+1", "1 + x")                    True, by sympy in a worker process
    same("18 dollars", "18", kind="numeric")

`same` is symmetric. "Cannot compare" counts as not the same. This module never imports sympy and never
evaluates text. What counts as equal is told in `docs/answers.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pipeline.answers import forms, jail, sameness
from pipeline.answers.looks import plain, tidy
from pipeline.answers.numbers import quantity

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

    exact: equal once looks are taken away (`looks.plain`), letter case kept. numeric: equal as numbers, a
    name before (`x = 5`) and a unit after them dropped unless both have one and they differ, `10%` equal to
    10 and to 0.1, within the relative `tolerance` (of the larger; absolute where one is 0). math: exact,
    numeric, or the same mathematical object.
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
            _ordered(a, g)
            for (a, g), v in zip(pairs, verdicts, strict=True)
            if v is None and a is not None and g is not None
        }
    )
    known = dict(zip(open_pairs, jail.default_jail().same_many(open_pairs), strict=True))
    return [
        bool(known[_ordered(str(a), str(g))]) if v is None else v
        for (a, g), v in zip(pairs, verdicts, strict=True)
    ]


def _ordered(answer: str, gold: str) -> tuple[str, str]:
    """The jail sees a pair in one order, whichever of the two is gold."""
    return (answer, gold) if answer <= gold else (gold, answer)


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
def _asked(one: str, other: str) -> bool | None:
    return jail.default_jail().same_math(one, other)


def _jailed(answer: str, gold: str) -> bool | None:
    return _asked(*_ordered(answer, gold))


def _quick(answer: str | None, gold: str | None, kind: Kind, tolerance: float) -> bool | None:
    """The verdict where no jail is needed, else None."""
    if not answer or not gold or not answer.strip() or not gold.strip():
        return False
    if answer == gold or plain(answer) == plain(gold):
        return True
    if kind == "exact":
        return False
    loose = kind == "numeric"
    found, wanted = quantity(answer, loose=loose), quantity(gold, loose=loose)
    if found is not None and wanted is not None:
        return sameness.same_quantity(found, wanted, (answer, gold), tolerance=tolerance, strict=not loose)
    if loose or not (comparable(tidy(answer[: MAX_ANSWER + 1])) and comparable(tidy(gold[: MAX_ANSWER + 1]))):
        return False
    try:
        return bool(sameness.same(forms.read(answer), forms.read(gold), sameness.NoAlgebra()))
    except sameness.Undecided:
        return None
