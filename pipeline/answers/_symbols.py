r"""Are two formulas equal? The sympy side of a comparison; only the jail's workers import this.

Formulas are read by latex2sympy's grammar, which math-verify uses too. Two numbers are equal if they agree
to 250 digits or sympy shows that their difference is 0, so 1/2^75 is not 1/2^74; two expressions if they
agree at several points; two equations if one is a multiple of the other. No text is evaluated.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

from pipeline.answers.forms import Form
from pipeline.answers.sameness import rounded_to

FEW, MANY = 30, 300  #: digits
MAX_DIGITS = 100_000  #: of a number that may be computed
_LOOKS = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")  # type: ignore[arg-type]
_CASED = ConversionConfig(lowercase_symbols=False)
_WORDS = re.compile(
    r"(?<![\\A-Za-z])(pi|sqrt|theta|alpha|beta|gamma|lambda|infty|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp)(?![A-Za-z])"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ)")
_DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)(?![\d.])")
_RECURRING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s?\{(\d+)\}")
#: positive, then of both signs: no two are in a simple ratio
_POINTS = [
    [
        sympy.Rational(7 + 3 * n + 11 * k + (k * k + 5 * n * n) % 13, 10 + 1 * n) + sympy.Rational(1, 97 + n)
        for n in range(12)
    ]
    for k in range(4)
] + [[(-1) ** (n + k) * sympy.Rational(13 + 5 * n + 7 * k, 17 + n) for n in range(12)] for k in range(3)]
_HARD = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit)


def _braced(text: str, command: str, opening: str) -> str:
    """`sqrt(a(b))` as `sqrt{a(b)}`: the brackets that belong together, after this command."""
    while (at := text.find(command + "(")) >= 0:
        depth = 0
        for place in range(at + len(command), len(text)):
            depth += (text[place] == "(") - (text[place] == ")")
            if depth == 0:
                text = (
                    text[:at] + opening + "{" + text[at + len(command) + 1 : place] + "}" + text[place + 1 :]
                )
                break
        else:
            return text
    return text


def _prepared(text: str) -> str:
    """The formula as the grammar reads it: what Python and plain text write as TeX, decimals exact."""
    text = (
        text.replace("**", "^")
        .replace("\\varnothing", "\\emptyset")
        .replace("\\lvert", "|")
        .replace("\\rvert", "|")
    )
    text = re.sub(r"\\begin\s?\{array\}\s?\{[^{}]*\}", r"\\begin{pmatrix}", text)
    text = text.replace("\\end{array}", "\\end{pmatrix}")
    text = re.sub(r"\s?\^\s?", "^", _WORDS.sub(r"\\\1 ", text))
    text = re.sub(r"\\(sqrt|pi|theta)\s+", r"\\\1 ", text).replace("\\sqrt (", "\\sqrt(")
    text = _braced(_braced(text, "^", "^"), "\\sqrt", "\\sqrt")
    text = re.sub(r"\^([+-]?\d+(?:\.\d+)?|[+-][A-Za-z])", r"^{\1}", text)
    text = re.sub(r"(\\sqrt\s?\[[^\[\]]*\])\s?(\w|\\pi)", r"\1{\2}", text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = re.sub(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)", "", text)
    text = _RECURRING.sub(_recurring, text)
    text = _DECIMAL.sub(lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return normalize_latex(text, _LOOKS)


def _recurring(match: re.Match[str]) -> str:
    whole, fixed, again = match[1] or "0", match[2], match[3]
    value = Fraction(
        int(whole + fixed + again) - int(whole + fixed), 10 ** len(fixed + again) - 10 ** len(fixed)
    )
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _size(found: Any) -> float:
    """About the logarithm to base 10 of a number, before anything computes it. Raises OverflowError for
    towers of powers and factorials of giants: a worker would only die of them.
    """
    if found.is_Rational:
        return len(str(abs(found.p))) - len(str(found.q)) + 0.0
    parts = [_size(part) for part in found.args]
    if found.is_Pow:
        power = float(abs(found.exp)) if found.exp.is_Rational else 10.0 ** min(parts[1] + 1, 12.0)
        digits = power * max(abs(parts[0]), 1.0)
    elif isinstance(found, sympy.factorial):
        digits = 10.0 ** min(parts[0], 12.0) * max(parts[0], 1.0)
    else:
        digits = sum(parts) if found.is_Mul else max(parts, default=1.0)
    if digits > MAX_DIGITS:
        raise OverflowError("a number with too many digits")
    return digits


def parse(text: str) -> Any:
    """The formula as sympy's object, unevaluated; raises what the grammar raises."""
    found = latex2sympy(_prepared(text), is_real=True, normalization_config=None, conversion_config=_CASED)
    if not isinstance(found, (sympy.Basic, sympy.MatrixBase)):
        raise TypeError("the grammar found no formula")
    known = {}
    for symbol in found.free_symbols:
        if symbol.name in ("i", "e"):
            known[symbol] = sympy.I if symbol.name == "i" else sympy.E
    bound = {
        s
        for part in (found.atoms(*_HARD) if isinstance(found, sympy.Basic) else ())
        for s in part.bound_symbols
    }
    known = {symbol: value for symbol, value in known.items() if symbol not in bound}
    if isinstance(found, sympy.Expr):
        _size(found)
    if isinstance(found, sympy.Basic):
        calls = found.atoms(sympy.core.function.AppliedUndef)
        known |= {call: sympy.Symbol(str(call).replace(" ", ""), real=True) for call in calls}
        return found.xreplace(known) if known else found
    return found.subs(known) if known else found


def _close(one: Any, other: Any, digits: int) -> bool | None:
    """Do two evaluated numbers agree to so many digits? None: they are no finite numbers."""
    if (
        not (one.is_number and other.is_number)
        or one.has(sympy.nan, sympy.zoo)
        or other.has(sympy.nan, sympy.zoo)
    ):
        return None
    if one.is_infinite or other.is_infinite:
        return bool(one == other)
    size = max(abs(one), abs(other))
    return bool(size == 0 or abs(one - other) <= size * sympy.Float(10, digits) ** -digits)


def _numbers(one: Any, other: Any) -> bool | None:
    near = _close(one.evalf(FEW), other.evalf(FEW), FEW - 8)
    if not near:
        return near
    difference = sympy.simplify(one.doit() - other.doit())
    if difference == 0:
        return True
    return _close(one.evalf(MANY), other.evalf(MANY), MANY - 50)


def _at_points(one: Any, other: Any, symbols: list[Any]) -> bool | None:
    """Do two expressions agree wherever both are real? At some points, to many digits."""
    agreed = 0
    for point in _POINTS:
        values = dict(zip(symbols, point, strict=False))
        a, b = (side.xreplace(values).evalf(FEW) for side in (one, other))
        near = _close(a, b, FEW - 10)
        if near is False and (point in _POINTS[:4] or (a.is_real and b.is_real)):
            return False
        agreed += bool(near)
    if agreed < 2:
        return None
    values = dict(zip(symbols, _POINTS[0], strict=False))
    a, b = (side.xreplace(values).evalf(MANY) for side in (one, other))
    return _close(a, b, MANY - 60) is not False


def _same(one: Any, other: Any) -> bool | None:
    if isinstance(one, sympy.MatrixBase | sympy.MatrixExpr) or isinstance(
        other, sympy.MatrixBase | sympy.MatrixExpr
    ):
        return _matrices(one, other)
    if one == other:
        return True
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        if isinstance(one, sympy.Set) and isinstance(other, sympy.Set):
            return bool(one.symmetric_difference(other).is_empty)
        return False
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _numbers(one, other)
    if one.has(*_HARD) or other.has(*_HARD):
        return bool(one.doit() == other.doit() or sympy.simplify(one - other) == 0)
    return _at_points(one, other, symbols) if len(symbols) <= len(_POINTS[0]) else None


def _matrices(one: Any, other: Any) -> bool | None:
    a, b = (side.doit() if hasattr(side, "doit") else side for side in (one, other))
    if getattr(a, "shape", None) != getattr(b, "shape", ()):
        return False
    verdicts = [_same(x, y) for x, y in zip(a, b, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _within(text: str, value: Any) -> bool | None:
    """Is this number, written to six decimals or more, the rounding of that value?"""
    step = rounded_to(text)
    if step is None or value.free_symbols:
        return False
    exact = parse(text).evalf(FEW)
    return bool(abs(exact - value.evalf(FEW)) < sympy.Rational(step.numerator, step.denominator))


class Sympy:
    """The algebra of `sameness.py`."""

    def equal(self, one: str, other: str) -> bool | None:
        a, b = parse(one), parse(other)
        verdict = _same(a, b)
        written = any(re.fullmatch(r"-?\s?\d*\.\d+", text) for text in (one, other))
        if verdict is False and written and isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
            return _within(one, b) or _within(other, a)
        return verdict

    def relations(self, one: Form, other: Form) -> bool | None:
        """Is one equation or inequality a multiple of the other (a positive one, if it has a direction)?"""
        a, b = _chain(one), _chain(other)
        if len(a) != len(b):
            return False
        verdicts = [_proportional(*x, *y) for x, y in zip(a, b, strict=True)]
        if False in verdicts and len(a) > 1:  # a < b < c is c > b > a
            verdicts = [_proportional(*x, *y) for x, y in zip(a, reversed(b), strict=True)]
        return False if False in verdicts else None if None in verdicts else True

    def sets(self, one: Form, other: Form) -> bool | None:
        a, b = (_set(form) for form in (one, other))
        return bool(a == b or a.symmetric_difference(b).is_empty)


def _chain(form: Form) -> list[tuple[str, Any]]:
    """Each link as (sign, difference), all in the direction of `<`."""
    sides = [parse(part.text) for part in form.parts]
    links = []
    for sign, left, right in zip(form.marks, sides, sides[1:], strict=False):
        if sign.startswith(">"):
            sign, left, right = sign.replace(">", "<"), right, left
        links.append((sign, left - right))
    return links


def _proportional(sign: str, one: Any, sign_2: str, other: Any) -> bool | None:
    if sign != sign_2 or one.free_symbols != other.free_symbols:
        return False
    symbols = sorted(one.free_symbols, key=str)
    if not symbols:
        return bool(_numbers(one, other))
    ratios = []
    for point in _POINTS[:4]:
        values = dict(zip(symbols, point, strict=False))
        below = other.xreplace(values).evalf(FEW)
        ratio = one.xreplace(values).evalf(FEW) / below if below != 0 else sympy.nan
        if ratio.is_number and ratio.is_finite and ratio != 0:
            ratios.append(ratio)
    if len(ratios) < 2:
        return None
    if any(_close(ratio, ratios[0], FEW - 12) is not True for ratio in ratios):
        return False
    return bool(sign in ("=", "!=") or (ratios[0].is_real and ratios[0] > 0))


def _set(form: Form) -> Any:
    """The set of real numbers that a form is."""
    if form.kind == "named":
        return _set(form.parts[0])
    if form.kind in ("interval", "tuple") and len(form.parts) == 2:
        low, high = (_value(part) for part in form.parts)
        marks = form.marks or ("(", ")")
        return sympy.Interval(low, high, marks[0] == "(", marks[1] == ")")
    if form.kind == "union" or (
        form.kind == "list" and form.parts and form.parts[0].kind in ("interval", "relation")
    ):
        return sympy.Union(*(_set(part) for part in form.parts))
    if form.kind in ("set", "list"):
        return sympy.FiniteSet(*(_value(part) for part in form.parts))
    if form.kind == "relation":
        x = sympy.Symbol("x", real=True)
        links = []
        for sign, difference in _chain(form):
            [symbol] = difference.free_symbols
            difference = difference.doit().xreplace({symbol: x})
            kinds = {"<": sympy.StrictLessThan, "<=": sympy.LessThan, "=": sympy.Eq, "!=": sympy.Ne}
            links.append(kinds[sign](difference, 0).as_set())
        return sympy.Intersection(*links)
    found = parse(form.text)
    return found if isinstance(found, sympy.Set) else sympy.FiniteSet(found.doit())


def _value(form: Form) -> Any:
    return (
        parse(form.text).doit()
        if form.number is None
        else sympy.Rational(*form.number.value.as_integer_ratio())
    )
