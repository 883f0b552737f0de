r"""Do two forms mean the same? Order, counts, brackets, names and units are judged here, formulas by an
`Algebra`.

The rules: a bare list has no order but counts (`6` is not `6, 6`), a tuple has one, a set is no tuple. `x =
5` is `5`, because its left side is a name; `x + y = 5` is not. A unit on one side only is dropped. In the
asking process there is no algebra, and what would need one raises `Undecided`; the jail has sympy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

from pipeline.answers import units
from pipeline.answers.forms import Form
from pipeline.answers.looks import plain
from pipeline.answers.numbers import Quantity


class Undecided(Exception):
    """Formulas would have to be compared, and there is nothing here that can."""


class Algebra(Protocol):
    """What sympy is asked; None: cannot tell."""

    def equal(self, one: str, other: str) -> bool | None: ...

    def relations(self, one: Form, other: Form) -> bool | None: ...

    def sets(self, one: Form, other: Form) -> bool | None: ...


class NoAlgebra:
    """Of the asking process."""

    def equal(self, one: str, other: str) -> bool | None:
        raise Undecided

    def relations(self, one: Form, other: Form) -> bool | None:
        raise Undecided

    def sets(self, one: Form, other: Form) -> bool | None:
        raise Undecided


_ROUNDED = re.compile(r"(?<![\d.])(\d*)\.(\d{6,})")
#: two letters that are a word rather than a product of two variables
_SHORT_WORDS = (
    " ad ah am an as at ax be by do ed eh ex go ha he hi ho id if in is it lo ma me mu my no of oh on or ow"
    " ox pa so to uh up us we ye yo "
)


def rounded_to(text: str) -> Fraction | None:
    """What a number's last digit is worth, if it is written to six decimals that count or more: it then
    stands for all that it rounds (1/3 and 0.333333).
    """
    found = _ROUNDED.search(text)
    if found is None:
        return None
    counting = found[2] if found[1].strip("0") else found[2].lstrip("0")
    return Fraction(1, 10 ** len(found[2])) if len(counting) >= 6 else None


def same_value(one: Fraction, other: Fraction, texts: Sequence[str], tolerance: float = 0.0) -> bool:
    """Equal, or within the relative tolerance (absolute beside 0), or one the other's rounding."""
    if one == other:
        return True
    distance = abs(one - other)
    if tolerance > 0:
        return distance <= Fraction(tolerance) * (max(abs(one), abs(other)) if one and other else 1)
    return any(distance < step for step in map(rounded_to, texts) if step is not None)


def same_quantity(
    one: Quantity, other: Quantity, texts: tuple[str, str], *, tolerance: float = 0.0, strict: bool = True
) -> bool:
    """Equal numbers of equal units; `10%` is 10 as well as 0.1."""
    sizes = units.common(one.unit, other.unit, strict=strict)
    if sizes is None:
        return False
    a, b = one.value * sizes[0], other.value * sizes[1]
    if same_value(a, b, texts, tolerance):
        return True
    if one.percent == other.percent:
        return False
    a, b = (a / 100, b) if one.percent else (a, b / 100)
    return same_value(a, b, texts, tolerance)


def same(one: Form, other: Form, algebra: Algebra) -> bool | None:
    """Do they mean the same? None: cannot tell."""
    if (
        one.kind == other.kind
        and plain(one.text) == plain(other.text)
        and one.name == other.name
        and one.unit == other.unit
    ):
        return True
    one, other = (_unwrapped(form) for form in (one, other))
    kinds = {one.kind, other.kind}
    if "named" in kinds:
        return _named(one, other, algebra)
    for wanted, judge in _JUDGES:
        if wanted & kinds:
            return judge(one, other, algebra) if one.kind in wanted or other.kind in wanted else False
    return _formulas(one, other, algebra)


def _unwrapped(form: Form) -> Form:
    """A list or set of one thing is that thing."""
    while form.kind in ("list", "set") and len(form.parts) == 1:
        form = form.parts[0]
    return form


def _each(a: Sequence[Form], b: Sequence[Form], judge: Callable[[Form, Form], bool | None]) -> bool | None:
    """Of all pairs: False if one is, else None if one is, else True."""
    known: bool | None = True
    for x, y in zip(a, b, strict=True):
        verdict = judge(x, y)
        if verdict is False:
            return False
        known = None if verdict is None else known
    return known


def _named(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.kind == other.kind:
        if _same_name(one.name, other.name):
            return same(one.parts[0], other.parts[0], algebra)
        return algebra.relations(_equation(one), _equation(other))
    named, bare = (one, other) if one.kind == "named" else (other, one)
    if bare.kind == "relation":
        if bare.marks != ("=",) and named.parts[0].kind in ("interval", "union", "set", "tuple"):
            return algebra.sets(named.parts[0], bare)
        return algebra.relations(_equation(named), bare)
    if bare.kind == "interval" and bare.name and not _same_name(bare.name, named.name):
        return False
    return same(named.parts[0], bare, algebra)


def _equation(form: Form) -> Form:
    value = form.parts[0]
    return Form("relation", form.text, (Form("formula", form.name), value), ("=",))


def _same_name(one: str, other: str) -> bool:
    """`f(x)` and `f(n)` are one function's name; other names are what is written."""

    def bare(name: str) -> str:
        return re.sub(r"\([a-z]\)$", "()", re.sub(r"[{}\s]", "", name))

    return not one or not other or bare(one) == bare(other)


def _collections(one: Form, other: Form, algebra: Algebra) -> bool | None:
    a, b = (form.parts if form.kind in ("list", "set", "tuple") else (form,) for form in (one, other))
    kinds = {one.kind, other.kind}
    if kinds == {"tuple", "set"} or len(a) != len(b):
        return False
    if not kinds <= {"list", "set", "tuple"}:
        return False
    if "tuple" in kinds:
        return _each(a, b, lambda x, y: same(x, y, algebra))
    return _matched(list(a), list(b), algebra)


def _matched(a: list[Form], b: list[Form], algebra: Algebra) -> bool | None:
    """Has every one of `a` its own one in `b`?"""
    known: bool | None = True
    left: list[Form] = []
    for form in a:  # those written alike first: they need no algebra
        twin = next(
            (
                other
                for other in b
                if other.kind == form.kind and other.text == form.text and other.name == form.name
            ),
            None,
        )
        if twin is None:
            left.append(form)
        else:
            b.remove(twin)
    for form in left:
        unsure = False
        for place, other in enumerate(b):
            verdict = same(form, other, algebra)
            if verdict:
                del b[place]
                break
            unsure = unsure or verdict is None
        else:
            if not unsure:
                return False
            known = None
    return known


def _intervals(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.kind == other.kind == "interval":
        if one.marks != other.marks or not _same_name(one.name, other.name):
            return False
        return _each(one.parts, other.parts, lambda x, y: same(x, y, algebra))
    interval, bare = (one, other) if one.kind == "interval" else (other, one)
    pair = bare.kind in ("tuple", "list") and len(bare.parts) == 2 and bare.parts[0].kind != "interval"
    if pair and interval.marks == ("(", ")"):
        return _each(interval.parts, bare.parts, lambda x, y: same(x, y, algebra))
    if bare.kind in ("union", "relation"):
        return algebra.sets(interval, bare)
    return False


def _unions(one: Form, other: Form, algebra: Algebra) -> bool | None:
    a, b = (list(form.parts) if form.kind in ("union", "list") else [form] for form in (one, other))
    alike = one.kind == other.kind or {one.kind, other.kind} == {"union", "list"}
    if alike and len(a) == len(b) and _matched(a, b, algebra):
        return True
    if {one.kind, other.kind} <= {"union", "interval", "tuple", "relation", "set", "formula", "list"}:
        return algebra.sets(one, other)
    return False


def _relations(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.kind == other.kind == "relation":
        return algebra.relations(one, other)
    relation, bare = (one, other) if one.kind == "relation" else (other, one)
    if relation.marks != ("=",) and bare.kind in ("tuple", "set"):
        return algebra.sets(relation, bare)
    return False


def _bases(one: Form, other: Form, algebra: Algebra) -> bool | None:
    return one.kind == other.kind and one.marks[0] == other.marks[0]


def _times(one: Form, other: Form, algebra: Algebra) -> bool | None:
    def clock(form: Form) -> tuple[str, ...] | None:
        if form.kind == "time":
            return form.marks
        number = form.number
        dims = dict(number.unit.dims) if number and number.unit else {}
        half = "a" if dims == {"am": 1} else "p" if dims == {"pm": 1} else ""
        return (str(number.value), "00", half) if number and half else None

    a, b = clock(one), clock(other)
    return a is not None and b is not None and a[:2] == b[:2] and (a[2] == b[2] or not a[2] or not b[2])


def _ratios(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.kind == other.kind and len(one.parts) == len(other.parts):
        first, second = one.parts[0].text, other.parts[0].text
        return _each(
            one.parts[1:],
            other.parts[1:],
            lambda x, y: algebra.equal(rf"({x.text}) \cdot ({second})", rf"({y.text}) \cdot ({first})"),
        )
    ratio, bare = (one, other) if one.kind == "ratio" else (other, one)
    if len(ratio.parts) == 2 and bare.kind in ("number", "formula"):
        return algebra.equal(rf"\frac{{{ratio.parts[0].text}}}{{{ratio.parts[1].text}}}", bare.text)
    return False


def _words(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.kind == other.kind:
        a, b = one.text, other.text
        if len(a) > 1 and len(b) > 1 and _spoken(a) == _spoken(b):
            return True
        if _is_product(a) and _is_product(b):
            return sorted(a) == sorted(b)
        return a == b
    word, bare = (one, other) if one.kind == "word" else (other, one)
    if bare.kind == "formula" and bare.unit is None and (len(word.text) == 1 or _is_product(word.text)):
        return algebra.equal(word.text, bare.text)
    return False


def _spoken(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", word.casefold()).strip() or word.casefold()


def _is_product(word: str) -> bool:
    """May these letters be a product of variables (`xy`, `abc`)? Words are not."""
    if len(word) == 2:
        return (
            word.islower() and word.isalpha() and word not in _SHORT_WORDS and word[::-1] not in _SHORT_WORDS
        )
    return len(word) == 3 and "".join(sorted(word)) in ("abc", "xyz", "pqr", "rst", "uvw", "klm", "def")


def _formulas(one: Form, other: Form, algebra: Algebra) -> bool | None:
    if one.number and other.number:
        return same_quantity(one.number, other.number, (one.text, other.text))
    unit_a, unit_b = (form.number.unit if form.number else form.unit for form in (one, other))
    sizes = units.common(unit_a, unit_b, strict=True)
    if sizes is None:
        return False
    texts = []
    for form, size in zip((one, other), sizes, strict=True):
        text = form.text
        if form.number:
            value = form.number.value
            text = (
                f"\\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value)
            )
            text = form.text if rounded_to(form.text) and form.number.unit is None else text
        texts.append(
            text if sizes[0] == sizes[1] else rf"\frac{{{size.numerator}}}{{{size.denominator}}}({text})"
        )
    return algebra.equal(*texts)


_JUDGES: tuple[tuple[set[str], Callable[[Form, Form, Algebra], bool | None]], ...] = (
    ({"union"}, _unions),
    ({"interval"}, _intervals),
    ({"relation"}, _relations),
    ({"list", "set", "tuple"}, _collections),
    ({"base"}, _bases),
    ({"time"}, _times),
    ({"ratio"}, _ratios),
    ({"word"}, _words),
)
