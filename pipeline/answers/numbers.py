r"""Plain numbers, exactly: `1,200`, `-.5`, `3 1/2`, `4½`, `\frac{3}{4}`, `3 \times 10^{-4}`, `5 million`.

A blank never joins two numbers (`3 1/2` is not `31/2`, `2 4` is nothing), a superscript is a power. Nothing
is evaluated but one power, whose result must have fewer than 400 digits. What two numbers mean together is
`compare.py`'s business.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from pipeline.answers import units
from pipeline.answers.looks import MONEY, MONEY_NAME, tidy, undress, unfence, unpriced, untext

MAX_NUMBER = 200  #: characters that a plain number may have
MAX_LINE = 2_000  #: characters of a line in which a first number is sought
MAX_EXPONENT = 400  #: of ten, and digits that a power may have

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)"
DECIMAL = rf"(?:{DIGITS}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,4}}(?![A-Za-z\d]))?"
EXPONENT = r"(?:\^|\*\*)\s?(?:\{\s?([+-]?\d{1,4})\s?\}|\(\s?([+-]?\d{1,4})\s?\)|([+-]?\d{1,4}))"
_PLAIN = re.compile(r"-?\d{1,60}", re.A)
_DECIMAL = re.compile(rf"([+-]?)({DIGITS}?)(?:\.(\d*))?(?:[eE]([+-]?\d{{1,4}}))?", re.A)
_SIGN = re.compile(rf"\s*([+-]?)\s*((?:\\?\$|[€£¥]|{MONEY_NAME})?)\s*([+-]?)\s*")
_MIXED = re.compile(
    r"(\d+)(?:\s+(?:and\s+)?(\d+)\s?/\s?(\d+)|\s?\\frac\s?(?:\{\s?(\d+)\s?\}|(\d))\s?(?:\{\s?(\d+)\s?\}|(\d)))(?![\d/.,]*\d)",
    re.A,
)
_FRACTION = re.compile(
    rf"\\frac\s?(?:\{{\s?([+-]?{DECIMAL})\s?\}}|(\d))\s?(?:\{{\s?([+-]?{DECIMAL})\s?\}}|(\d))", re.A
)
_RECURRING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s?\{(\d+)\}|\((\d+)\))", re.A)
_POWER_OF_TEN = re.compile(rf"({DECIMAL})\s?(?:\\times|\\cdot|\\ast|[*x])\s?10\s?{EXPONENT}(?!\d)", re.A)
_POWER = re.compile(rf"(\d+(?:\.\d+)?)\s?{EXPONENT}(?![\d.])", re.A)
_SLASH = re.compile(rf"({DECIMAL})\s?/\s?({DECIMAL})", re.A)
_ONE = re.compile(DECIMAL, re.A)
_PERCENT = re.compile(r"\s*(?:\\?%|(?:percent(?:age)?|per\s?cent|pct)(?![A-Za-z]))", re.I)
_TIMES = re.compile(r"\s+(hundred|thousand|million|billion|trillion|dozen)s?(?![A-Za-z])", re.I)
_WORTH = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_FIRST = re.compile(r"(?<![\w.^])(?<![\^_]\{)[+-]?\s?(?:\\?\$|[€£¥])?\s?(?:\d|\.\d|\\frac)", re.A)
#: after a number, these make it a piece of a range, a list, a time, a product
_FOLLOWED = re.compile(
    r"\s?(?:[-:/+*^=<>x]|\\times|\\cdot|\\div)\s?[$\d]|\s?(?:to|or|and)\s+(?:[$\d]|an?\s|one\s|half)|\s\d|,\s?\d",
    re.A,
)
_ABOUT = re.compile(
    r"(?:approximately|approx\.?|about|roughly|around|exactly|only|nearly|\\approx|\\sim|~|=)\s*"
)
#: what may stand to the left of `=` for its right side to be the answer: one name
_ATOM = (
    r"(?:\\(?:text|mathrm|mathbf|mathit|operatorname|overline|bar|vec|hat|tilde|mathcal|mathbb|widehat)\s?\{[^{}]*\}"
    r"|\\(?!frac|sqrt|sin|cos|tan|cot|log|ln|exp|pm|mp|cdot|times|pi|infty|binom|sum|int|lim)[A-Za-z]+"
    r"|[A-Z]{1,4}|[A-Za-z])"
    r"'*(?:\s?_\s?(?:\{[^{}]*\}|\w|\\\w+)|\s?\^\s?(?:\{\s?-1\s?\}|\{?\\circ\}?|\*|\{?\\prime\}?))*(?:\s?\([^()=<>]*\))?"
)
_NAMES = (
    rf"(?:m\s?)?(?:\\(?:angle|Delta|triangle)\s?)?{_ATOM}",
    rf"\|\s?{_ATOM}\s?\|",
    rf"\(\s?{_ATOM}(?:\s?,\s?{_ATOM})*\s?\)",
    rf"{_ATOM}\s?:\s?{_ATOM}",
    r"\\frac\s?\{\s?[A-Z]{1,4}\s?\}\s?\{\s?[A-Z]{1,4}\s?\}|[A-Z]{1,4}\s?/\s?[A-Z]{1,4}",
    r"\\frac\s?\{\s?d\s?[A-Za-z]\s?\}\s?\{\s?d\s?[A-Za-z]\s?\}|d[A-Za-z]\s?/\s?d[A-Za-z]",
    r"[A-Za-z]{3,}(?: [A-Za-z]+){0,5}",
)
NAME = re.compile("|".join(f"(?:{name})" for name in _NAMES))


class Quantity(NamedTuple):
    """A number, whether it was written in percent, and its unit."""

    value: Fraction
    percent: bool = False
    unit: units.Unit | None = None


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    sign, whole, part, power = match.groups()
    exponent = int(power or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    digits = whole.replace(",", "") + (part or "")
    value = Fraction(int(digits)) * Fraction(10) ** (exponent - len(part or ""))
    return -value if sign == "-" else value


def _ratio(above: str, below: str) -> Fraction | None:
    top, bottom = _decimal(above), _decimal(below)
    return None if top is None or not bottom else top / bottom


def _raised(base: str, exponent: str) -> Fraction | None:
    value, power = _decimal(base), int(exponent)
    if value is None or abs(power) * len(base) > MAX_EXPONENT or (value == 0 and power <= 0):
        return None
    return value**power


def _value(text: str, start: int) -> tuple[Fraction, int] | None:
    """The number that begins here, without its sign, and where it ends."""
    value: Fraction | None
    if match := _MIXED.match(text, start):
        above, below = int(match[2] or match[4] or match[5]), int(match[3] or match[6] or match[7])
        return (int(match[1]) + Fraction(above, below), match.end()) if above < below else None
    if match := _FRACTION.match(text, start):
        value = _ratio(match[1] or match[2], match[3] or match[4])
    elif match := _RECURRING.match(text, start):
        whole, fixed, again = match[1] or "0", match[2], match[3] or match[4]
        value = Fraction(
            int(whole + fixed + again) - int(whole + fixed), 10 ** len(fixed + again) - 10 ** len(fixed)
        )
    elif match := _POWER_OF_TEN.match(text, start):
        base, power = _decimal(match[1]), int(match[2] or match[3] or match[4])
        value = None if base is None or abs(power) > MAX_EXPONENT else base * Fraction(10) ** power
    elif match := _POWER.match(text, start):
        value = _raised(match[1], match[2] or match[3] or match[4])
    elif match := _SLASH.match(text, start):
        value = _ratio(match[1], match[2])
    elif match := _ONE.match(text, start):
        value = _decimal(match[0])
    else:
        return None
    return None if value is None else (value, match.end())


def clean(text: str) -> str:
    """An answer as numbers are read from it: TeX and Unicode in one way, without fences and `\\text{}`."""
    text = unfence(undress(tidy(text)))
    if "\\" in text or "{" in text:
        text = untext(text, " ").strip()
        while len(text) > 2 and text[0] == "{" and text[-1] == "}" and "}" not in text[1:-1]:
            text = text[1:-1].strip()
    return text


def after_name(text: str) -> str:
    r"""The right side of `x = 5`, `v \approx 0.53`, `f(2) = 7`, `Area = 12`; else the text as it is."""
    left, mark, right = text.partition("=" if "=" in text else "\\approx")
    if mark and len(left) <= 100 and not right.startswith("=") and NAME.fullmatch(left.strip()):
        return after_name(right.strip())
    return text


def quantity(text: str, *, loose: bool = False) -> Quantity | None:
    """A plain number with its percent sign and unit, or None.

    `loose` is for a comparison known to be of numbers: a name before it (`x = 5`) and a unit of one letter
    or without a blank before it (`27km`, `5m`) are allowed there. Elsewhere `5m` is a product.
    """
    if len(text) > MAX_NUMBER:
        return None
    if _PLAIN.fullmatch(text):
        return Quantity(Fraction(int(text)))
    text = clean(text)
    if loose:
        text = after_name(text)
        about = _ABOUT.match(text)
        text = text[about.end() :] if about else text
    sign = _SIGN.match(text)
    assert sign is not None
    found = _value(text, sign.end())
    if found is None or (sign[1] and sign[3]):
        return None
    value, end = found
    times = _TIMES.match(text, end)
    while times and value.denominator < 10**MAX_EXPONENT:
        value, end = value * _WORTH[times[1].lower()], times.end()
        times = _TIMES.match(text, end)
    percent = _PERCENT.match(text, end)
    if percent:
        end = percent.end()
    value = -value if "-" in (sign[1], sign[3]) else value
    rest = text[end:]
    if not rest.strip(" .,;"):
        return Quantity(value, bool(percent), _money(sign[2]))
    unit = unit_after(rest, loose=loose)
    return None if unit is None else Quantity(value, bool(percent), unit)


def unit_after(rest: str, *, loose: bool = False) -> units.Unit | None:
    """The unit that stands after a number, or None: `t` in `9t`, `xy` in `5xy` are variables."""
    unit = units.read_unit(rest)
    if unit is None:
        return None
    attached = rest[0].isalpha()
    letters = rest.strip().rstrip("0123456789^{}-*. ")
    if len(letters) == 1 and letters.isalpha() and (letters not in units.LETTERS or (attached and not loose)):
        return None
    return None if unit.words and (attached or len(max(unit.words, key=len)) < 2) else unit


def number(text: str, *, units: bool = False) -> Fraction | None:
    """A plain number's exact value, else None. Currency and percent signs are ignored.

    `units` also allows a unit or word after the number (`18 dollars`), which only a comparison that is
    known to be of numbers may do.
    """
    found = quantity(text, loose=units)
    if found is None or (not units and found.unit is not None and not _is_money(text)):
        return None
    return found.value


def first_number(text: str) -> Fraction | None:
    """The first number of a line (`12 apples (3 per child)`, `Total: $5`, `2 + 3 = 5`), or None where it is
    only a piece of something: a range, a list, a time, a sum without its result.
    """
    found = quantity(text, loose=True)
    if found is not None:
        return found.value
    text = unpriced(clean(text[:MAX_LINE]))
    bare = re.sub(r"\([^()]*\)", "", text)
    text = bare if any(char.isdigit() for char in bare) else text
    left, mark, right = text.rpartition("=")
    if mark and not re.search(r"\d\s?[A-Za-z]{2}", left):
        text = right
    start = _FIRST.search(text)
    if start is None:
        return None
    sign = _SIGN.match(text, start.start())
    assert sign is not None
    value = _value(text, sign.end())
    if value is None:
        return None
    number, end = value
    while times := _TIMES.match(text, end):
        number, end = number * _WORTH[times[1].lower()], times.end()
    if _FOLLOWED.match(text, end):
        return None
    return -number if "-" in (sign[1], sign[3]) else number


def _money(name: str) -> units.Unit | None:
    """The unit that a sign or name of money before a number is."""
    return units.read_unit(MONEY.get(name, name)) if name else None


def _is_money(text: str) -> bool:
    sign = _SIGN.match(clean(text))
    return any(mark in text for mark in "$€£¥") or bool(sign and sign[2])


def spell(value: Fraction) -> str:
    """One way of writing a number, so that equal answers are equal texts when they vote."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest > 1:
        return f"{value.numerator}/{value.denominator}"
    places = next(n for n in range(1, 4 * MAX_NUMBER) if (value * 10**n).denominator == 1)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
