r"""Units after a number: which of them are the same, and by what factor they differ.

`5 kg` is 5,000 g and never 5 g; 16 hours are not 16 minutes; `km/h`, `km h^{-1}` and `\mathrm{~km}
\mathrm{~h}^{-1}` are one unit. A word that is no known unit (`marbles`) is kept as that word. A unit on one
side only is dropped: the question asked for it. It knows no offsets (degrees Celsius are not converted to
kelvin).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from pipeline.answers.looks import MONEY

MAX_UNIT = 80  #: characters


class Unit(NamedTuple):
    """`dims` (name, power) of a known unit and its size in them; of an unknown one only its words."""

    dims: tuple[tuple[str, int], ...]
    factor: Fraction
    words: tuple[str, ...] = ()


F = Fraction
_PREFIXED = {  # symbols and names that take SI prefixes: in metres, grams, seconds, amperes, kelvins, moles
    "m meter metre": ({"m": 1}, F(1)),
    "g gram gramme": ({"g": 1}, F(1)),
    "s second": ({"s": 1}, F(1)),
    "A ampere amp": ({"A": 1}, F(1)),
    "K kelvin": ({"K": 1}, F(1)),
    "mol mole": ({"mol": 1}, F(1)),
    "L l liter litre": ({"m": 3}, F(1, 1000)),
    "N newton": ({"g": 1, "m": 1, "s": -2}, F(1000)),
    "J joule": ({"g": 1, "m": 2, "s": -2}, F(1000)),
    "W watt": ({"g": 1, "m": 2, "s": -3}, F(1000)),
    "Pa pascal": ({"g": 1, "m": -1, "s": -2}, F(1000)),
    "bar": ({"g": 1, "m": -1, "s": -2}, F(10**8)),
    "C coulomb": ({"A": 1, "s": 1}, F(1)),
    "V volt": ({"g": 1, "m": 2, "s": -3, "A": -1}, F(1000)),
    "ohm": ({"g": 1, "m": 2, "s": -3, "A": -2}, F(1000)),
    "F farad": ({"g": -1, "m": -2, "s": 4, "A": 2}, F(1, 1000)),
    "T tesla": ({"g": 1, "s": -2, "A": -1}, F(1000)),
    "H henry": ({"g": 1, "m": 2, "s": -2, "A": -2}, F(1000)),
    "Hz hertz": ({"s": -1}, F(1)),
    "eV electronvolt": ({"eV": 1}, F(1)),
    "cal calorie": ({"g": 1, "m": 2, "s": -2}, F(4184)),
    "B byte": ({"byte": 1}, F(1)),
}
_PREFIXES = {
    "k": F(1000),
    "M": F(10**6),
    "G": F(10**9),
    "c": F(1, 100),
    "d": F(1, 10),
    "m": F(1, 1000),
    "u": F(1, 10**6),
    "n": F(1, 10**9),
    "p": F(1, 10**12),
    "f": F(1, 10**15),
}
_LONG_PREFIXES = {
    "kilo": F(1000),
    "mega": F(10**6),
    "giga": F(10**9),
    "centi": F(1, 100),
    "deci": F(1, 10),
    "milli": F(1, 1000),
    "micro": F(1, 10**6),
    "nano": F(1, 10**9),
    "pico": F(1, 10**12),
}
_OTHERS = {
    "in inch inches": ({"m": 1}, F(254, 10000)),
    "ft foot feet": ({"m": 1}, F(3048, 10000)),
    "yd yard": ({"m": 1}, F(9144, 10000)),
    "mi mile": ({"m": 1}, F(1609344, 1000)),
    "angstrom": ({"m": 1}, F(1, 10**10)),
    "lb lbs pound": ({"g": 1}, F(45359237, 100000)),
    "oz ounce": ({"g": 1}, F(45359237, 1600000)),
    "sec": ({"s": 1}, F(1)),
    "min minute": ({"s": 1}, F(60)),
    "h hr hour": ({"s": 1}, F(3600)),
    "day": ({"s": 1}, F(86400)),
    "week wk": ({"s": 1}, F(604800)),
    "month": ({"month": 1}, F(1)),
    "yr year": ({"month": 1}, F(12)),
    "mph": ({"m": 1, "s": -1}, F(1609344, 3600000)),
    "kmh kmph kph": ({"m": 1, "s": -1}, F(1000, 3600)),
    "atm": ({"g": 1, "m": -1, "s": -2}, F(101325000)),
    "torr mmHg": ({"g": 1, "m": -1, "s": -2}, F(101325000, 760)),
    "gal gallon": ({"m": 3}, F(3785411784, 10**12)),
    "cc": ({"m": 3}, F(1, 10**6)),
    "dollar usd buck": ({"dollar": 1}, F(1)),
    "cent": ({"dollar": 1}, F(1, 100)),
    "euro eur": ({"euro": 1}, F(1)),
    "rupee inr": ({"rupee": 1}, F(1)),
    "deg degree": ({"degree": 1}, F(1)),
    "rad radian": ({"radian": 1}, F(1)),
    "degC celsius": ({"degC": 1}, F(1)),
    "degF fahrenheit": ({"degF": 1}, F(1)),
    "am": ({"am": 1}, F(1)),
    "pm": ({"pm": 1}, F(1)),
}
#: no unit begins with these: a number with one of them is an expression or a sentence
NOT_UNITS = {
    "pi",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "theta",
    "and",
    "or",
    "over",
    "to",
    "mod",
    "choose",
    "than",
    "plus",
    "minus",
    "times",
    "is",
    "are",
    "if",
    "when",
    "where",
    "with",
    "divided",
    "squared",
    "cubed",
    "base",
    "not",
    "but",
    "for",
    "infinity",
    "inf",
    "frac",
    "else",
    "then",
    "because",
    "since",
    "so",
    "more",
    "less",
}
#: letters that mean a unit after a number and a blank; without the blank they are variables
LETTERS = frozenset("mgshKJNWVACFTHL")


def _table() -> dict[str, tuple[dict[str, int], Fraction]]:
    table: dict[str, tuple[dict[str, int], Fraction]] = {}
    for names, (dims, factor) in _PREFIXED.items():
        for name in names.split():
            long = len(name) > 3 and name not in ("gramme",)
            for prefix, times in (_LONG_PREFIXES if long else _PREFIXES).items():
                table[prefix + name] = (dims, factor * times)
            table[name] = (dims, factor)
    for names, (dims, factor) in _OTHERS.items():
        for name in names.split():
            table[name] = (dims, factor)
    return table


_KNOWN = _table()
_WORD = re.compile(
    r"([A-Za-z]+)(?:\s?(?:\^|\*\*)\s?(?:\{\s?([+-]?\d)\s?\}|([+-]?\d)(?!\d))|(\d)(?!\d))?|\s+|([/*.-])"
)
_CLEAN = (
    (re.compile(r"\\(?:text[a-z]*|math(?:rm|bf|it|sf)|mbox|operatorname)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\{\s*\}"), ""),
    (re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?\s*"), " deg"),
    (re.compile(r"\bdeg\s*([CF])(?![A-Za-z])"), r"deg\1"),
    (re.compile(r"\\mu\s*"), "u"),
    (re.compile(r"\\Omega|Ω"), "ohm"),
    (re.compile(r"\\AA|[Åå]"), "angstrom"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\b([ap])\.\s?m\.?(?![A-Za-z])", re.I), r"\1m"),
    (re.compile(r"\\?\$"), " dollar "),
    (re.compile(r"€"), " euro "),
    (re.compile(r"¢"), " cent "),
    *((re.compile(sign), f" {unit} ") for sign, unit in MONEY.items() if not sign.isascii()),
    (re.compile(r"[{}~]|\\[,;:! ]"), " "),
)


_POWER = r"\$?\s*(?:\\times\s*)?(?:\\mathrm\s?\{\s?)?10\s?\^\s?(?:\{\s?([+-]?\d{1,3})\s?\}|([+-]?\d))"
_ASKED = re.compile(rf"\bunits? of (?:the |your )?answer (?:should be|must be|is|are|in)\s*{_POWER}", re.I)
_LED = re.compile(_POWER)


def asked_power(question: str) -> int:
    r"""The power of ten that a question makes part of its unit (`The unit of the answer should be $10^6
    \mathrm{~m}$`, as in SciBench, arXiv:2307.10635), else 0.
    """
    found = _ASKED.search(question)
    return int(found[1] or found[2]) if found else 0


def without_power(unit: str) -> tuple[str, int]:
    r"""A unit column's `$10^6 \mathrm{~m}$` as its unit and 6."""
    unit = unit.strip()
    found = _LED.match(unit)
    rest = unit[found.end() :] if found else unit
    return rest.strip(" $\n\t"), int(found[1] or found[2]) if found else 0


def _known(word: str) -> tuple[dict[str, int], Fraction] | None:
    found = _KNOWN.get(word)
    if found is None and len(word) > 2:
        low = word.lower()
        for candidate in (low, low.removesuffix("s"), word.removesuffix("s")):
            if candidate in _KNOWN and (len(candidate) > 2 or candidate == word):
                return _KNOWN[candidate]
    if found is None and word.upper() in ("AM", "PM"):
        return _KNOWN[word.lower()]
    return found


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """The unit that this text is, or None where it is none (it holds a number, an operator, a formula)."""
    if len(text) > MAX_UNIT:
        return None
    for pattern, new in _CLEAN:
        text = pattern.sub(new, text)
    text = text.strip().rstrip(".,;").strip()
    dims: dict[str, int] = {}
    factor, words, end, sign, power_before = Fraction(1), [], 0, 1, 1
    for found in _WORD.finditer(text):
        if found.start() != end:
            return None
        end = found.end()
        word, *powers, mark = found.groups()
        if mark == "/" or (word and word.lower() == "per"):
            sign = -1
        elif word in ("square", "sq", "cubic", "cu"):
            power_before = 2 if word.startswith("s") else 3
        elif word:
            power = sign * int(next(filter(None, powers), None) or power_before)
            power_before = 1
            known = _known(word)
            if known is None:
                words.append(word.lower() if len(word) > 1 else word)
            else:
                for name, times in known[0].items():
                    dims[name] = dims.get(name, 0) + times * power
                factor *= known[1] ** power
                words.append(word)
    first = [word.lower() for word in words[:2]]
    if end != len(text) or not first or first[0] in NOT_UNITS or first == ["in", "base"]:
        return None
    if all(_known(word) for word in words):
        return Unit(tuple(sorted((k, v) for k, v in dims.items() if v)), factor)
    return Unit((), Fraction(1), tuple(re.sub(r"s$", "", w.lower()) for w in words))


def common(one: Unit | None, other: Unit | None, *, strict: bool) -> tuple[Fraction, Fraction] | None:
    """What to multiply the two numbers with before they are compared; None: no quantity has both units.

    A unit on one side only says nothing. `strict`: two words that are no known units must be the same
    words, or one's words be among the other's.
    """
    if one is None or other is None:
        return Fraction(1), Fraction(1)
    if not one.words and not other.words:
        return (one.factor, other.factor) if one.dims == other.dims else None
    if strict and not (set(one.words) <= set(other.words) or set(other.words) <= set(one.words)):
        return None
    if strict and (bool(one.words) != bool(other.words)):
        return None
    return Fraction(1), Fraction(1)
