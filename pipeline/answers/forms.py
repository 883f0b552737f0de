r"""What kind of thing an answer is: a number with its unit, a list, a tuple, a set, an interval, a word.

`read` cuts a text into such forms and evaluates nothing; formulas stay text. `sameness.py` says which forms
are equal. The time is linear in the text for each of at most `MAX_DEPTH` levels of brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.answers import units
from pipeline.answers.looks import plain, tidy, undress, unfence, untext
from pipeline.answers.numbers import NAME, Quantity, quantity, unit_after

MAX_DEPTH = 12  #: brackets within brackets that are read; deeper ones stay a formula
MAX_PARTS = 100  #: of a list


@dataclass(frozen=True, slots=True)
class Form:
    """One answer, or a part of one. `kind` says which of the other fields count."""

    kind: str  #: number base time ratio list tuple set interval union named relation word formula
    text: str  #: as written, tidied
    parts: tuple[
        Form, ...
    ] = ()  #: elements; of an interval its ends; of `named` its value; of a relation its sides
    marks: tuple[
        str, ...
    ] = ()  #: of an interval its brackets; of a relation its signs; of a base numeral (digits, base)
    name: str = ""  #: of `named`, and of an interval that was an inequality
    number: Quantity | None = None
    unit: units.Unit | None = None  #: of a formula


_OPEN, _CLOSE = "([{", ")]}"
_BRACES = re.compile(r"\\([lr])brace(?![A-Za-z])")
_BASE = re.compile(
    r"\(?\s?([0-9A-Za-z]{1,200})\s?\)?\s?_\s?(?:\{\s?(?:\\text\s?\{)?\s?(\w+)\s?\}?\s?\}|(\d+))"
)
_BASE_NAMES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "sixteen": 16,
    "hex": 16,
}
_IN_BASE = re.compile(r"([0-9]+)\s(?:in |\()?base[ -]?(\w+)\)?", re.I)
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?:\s*([ap])\.?\s?m\.?)?", re.I)
_AND = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s?\{\s*,?\s*(and|or)\s*\}|\\(?:lor|land|vee|wedge)(?![A-Za-z])"
)
_SPLIT = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![a-z])")
_RELATION = re.compile(
    r"\\(leqslant|geqslant|leq|geq|le|ge|lt|gt|neq|ne|not=|in|approx)(?![A-Za-z])|(<=|>=|!=|==|<|>|=)"
)
_SIGN = {
    "leqslant": "<=",
    "leq": "<=",
    "le": "<=",
    "geqslant": ">=",
    "geq": ">=",
    "ge": ">=",
    "lt": "<",
    "gt": ">",
    "neq": "!=",
    "ne": "!=",
    "not=": "!=",
    "==": "=",
    "approx": "~",
}
_REALS = re.compile(
    r"\\mathbb\s?\{?\s?R\s?\}?|\\Reals|\\R|all reals?|(?:the )?(?:set of )?(?:all )?real numbers",
    re.I,
)
_EMPTY = re.compile(r"\\(?:emptyset|varnothing|empty)|\\\{\s*\\\}|\{\s*\}")
_SUCH_THAT = re.compile(r"\\mid(?![A-Za-z])|\||:|\\colon")
_TRIG = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")
_UNIT_COMMAND = re.compile(
    r"\s?(?:\\(?:text|mathrm|mbox|textrm|textnormal|textit|rm)\s?\{|\^\s?\{?\s?\\circ)"
)
_UNIT_WORDS = re.compile(r"(?:(?<=[\d})])\s?|(?<=\\pi)\s)([A-Za-z][A-Za-z./^0-9{} -]*)$")
_MATH_WORDS = {"pi", "infinity", "inf", "infty"}


def read(text: str, depth: int = 0) -> Form:
    """The form of an answer."""
    text = undress(unfence(tidy(text))).strip()
    text = _AND.sub(lambda found: f" {found[1] or 'and'} ", text).strip().rstrip(",;").rstrip()
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = _BRACES.sub(lambda found: "\\{" if found[1] == "l" else "\\}", text)
    simple = _simple(text)
    if simple is not None:
        return simple
    if depth < MAX_DEPTH:
        for reader in (_list, _related, _union, _bracketed, _plus_minus, _ratio):
            found = reader(text, depth + 1)
            if found is not None:
                return found
    return _formula(text)


def _simple(text: str) -> Form | None:
    """A number, a numeral with a base, a time of day, a word."""
    number = quantity(text)
    if number is not None:
        return Form("number", text, number=number)
    time = _TIME.fullmatch(untext(text, " ").strip())
    if time:
        return Form("time", text, marks=(str(int(time[1])), time[2], (time[3] or "").lower()))
    base = _BASE.fullmatch(text)
    if base and (not base[1].isalpha() or (base[2] or base[3]) == "16"):
        radix = _BASE_NAMES.get((base[2] or base[3]).lower(), base[2] or base[3])
        if str(radix).isdigit():
            return _in_base(text, base[1], int(radix))
    spoken = _IN_BASE.fullmatch(untext(text))
    if spoken:
        radix = _BASE_NAMES.get(spoken[2].lower(), spoken[2])
        if str(radix).isdigit():
            return _in_base(text, spoken[1], int(radix))
    if _REALS.fullmatch(text):
        return Form("interval", text, (_formula("-\\infty"), _formula("\\infty")), ("(", ")"))
    if _EMPTY.fullmatch(text):
        return Form("set", text)
    word = " ".join(untext(text).strip(" ()\"'.").split())
    letters = word.replace("'", "").replace("-", "").replace(".", "").replace(" ", "")
    known = word.lower() in _MATH_WORDS or _SPLIT.search(word) or word.startswith("-")
    if letters.isalpha() and not known and ("-" not in word or max(map(len, re.split("[ -]", word))) > 1):
        return Form("word", word)
    return None


def _in_base(text: str, digits: str, base: int) -> Form | None:
    try:
        value = int(digits, base) if 2 <= base <= 36 and len(digits) < 200 else None
    except ValueError:  # a digit that this base does not have
        value = None
    return None if value is None else Form("base", text, marks=(str(value), str(base)))


def _level(text: str) -> list[int]:
    """How many brackets are open at each character; empty where they do not match."""
    depth, levels = 0, []
    for char in text:
        if char in _OPEN:
            levels.append(depth)
            depth += 1
            continue
        if char in _CLOSE:
            depth -= 1
            if depth < 0:
                return []
        levels.append(depth)
    return levels if depth == 0 else []


def _cut(text: str, levels: list[int], places: list[tuple[int, int]]) -> list[str]:
    """The pieces between these places, which are outside all brackets."""
    pieces, end = [], 0
    for start, stop in places:
        if levels[start] == 0:
            pieces.append(text[end:start].strip())
            end = stop
    return [*pieces, text[end:].strip()]


def _commas(text: str, *, inside: bool) -> list[tuple[int, int]]:
    """Commas that separate: where one has a blank after it, a comma between digits is part of a number."""
    found = [at for at, char in enumerate(text) if char == ","]
    spaced = any(text[at + 1 : at + 2].isspace() for at in found)
    grouped = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
    if not spaced and (inside or not grouped.search(text)):
        return [(at, at + 1) for at in found]
    return [(at, at + 1) for at in found if not (grouped.match(text, at) and (spaced or not inside))]


def _list(text: str, depth: int) -> Form | None:
    """Things separated by `;`, by `and` or `or`, or by commas."""
    levels = _level(text)
    if not levels:
        return None
    marks = [(at, at + 1) for at, char in enumerate(text) if char == ";"]
    for places in (marks, [found.span() for found in _SPLIT.finditer(text)], _commas(text, inside=False)):
        pieces = [piece.strip(" ,") for piece in _cut(text, levels, places)]
        pieces = [piece for piece in pieces if piece]
        if len(pieces) > 1:
            if len(pieces) > MAX_PARTS:
                return None
            parts = tuple(read(piece, depth) for piece in pieces)
            return Form("list", text, _flat(parts) if places is not marks else parts)
    return None


def _flat(parts: tuple[Form, ...]) -> tuple[Form, ...]:
    """`1, 2 and 3` is one list of three; `x = 1 \\pm 2` in a list is two of its elements."""
    flat: list[Form] = []
    for part in parts:
        if part.kind == "list":
            flat += part.parts
        elif part.kind == "named" and part.parts[0].kind == "list":
            flat += [Form("named", p.text, (p,), name=part.name) for p in part.parts[0].parts]
        else:
            flat.append(part)
    return tuple(flat)


def _related(text: str, depth: int) -> Form | None:
    """`x = 5`, `0 < x < 3`, `x \\in [2, 3)`, `2x + 3 = 0`."""
    levels = _level(text)
    found = [match for match in _RELATION.finditer(text) if levels and levels[match.start()] == 0]
    if not found:
        return None
    signs = [_SIGN.get(match[1] or match[2], match[1] or match[2]) for match in found]
    sides = _cut(text, levels, [match.span() for match in found])
    while "~" in signs:  # what is written exactly counts, not its rounding
        at = signs.index("~")
        if at == 0 and NAME.fullmatch(sides[0]):
            signs[0] = "="
        else:
            signs, sides = signs[:at], sides[: at + 1]
    if not signs:
        return read(sides[0], depth)
    if not all(sides):
        return None
    if set(signs) <= {"=", "in"}:
        names = [side for side in sides[:-1] if NAME.fullmatch(side)]
        if names:
            return Form("named", text, (read(sides[-1], depth),), name=plain(names[0]))
        return Form("relation", text, tuple(_formula(side) for side in sides[-2:]), ("=",))
    return _interval_of(text, sides, signs, depth) or Form(
        "relation", text, tuple(_formula(side) for side in sides), tuple(signs)
    )


def _interval_of(text: str, sides: list[str], signs: list[str], depth: int) -> Form | None:
    """The interval that an inequality of one name is."""
    if set(signs) <= {">", ">="}:
        sides, signs = sides[::-1], ["<" if sign == ">" else "<=" for sign in signs[::-1]]
    if not set(signs) <= {"<", "<="}:
        return None
    if any(side.startswith("|") for side in sides):
        return None
    low, high, name = "-\\infty", "\\infty", ""
    marks = ["(", ")"]
    if len(sides) == 3 and NAME.fullmatch(sides[1]):
        low, name, high = sides
        marks = ["[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")"]
    elif len(sides) == 2 and NAME.fullmatch(sides[0]) and not _variables(sides[1]):
        name, high = sides
        marks[1] = "]" if signs[0] == "<=" else ")"
    elif len(sides) == 2 and NAME.fullmatch(sides[1]) and not _variables(sides[0]):
        low, name = sides
        marks[0] = "[" if signs[0] == "<=" else "("
    else:
        return None
    return Form("interval", text, (read(low, depth), read(high, depth)), tuple(marks), name=plain(name))


def _variables(text: str) -> bool:
    return bool(
        re.search(
            r"(?<![A-Za-z\\])(?!e(?![A-Za-z])|pi(?![A-Za-z])|sqrt)[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)
        )
    )


def _union(text: str, depth: int) -> Form | None:
    levels = _level(text)
    places = [match.span() for match in re.finditer(r"\\cup(?![A-Za-z])|(?<=[)\]}])\s?U\s?(?=[(\[\\])", text)]
    if not levels or not places:
        return None
    pieces = _cut(text, levels, places)
    if len(pieces) < 2 or not all(pieces):
        return None
    return Form("union", text, tuple(read(piece, depth) for piece in pieces))


def _bracketed(text: str, depth: int) -> Form | None:
    """All of it in one pair of brackets: a tuple, an interval, a set, or brackets that only group."""
    is_set = text.startswith("\\{") and text.endswith("\\}")
    if is_set:
        text = "\\{" + text[2:-2].strip() + "\\}"
    levels = _level(text)
    start = 1 if is_set else 0
    end = len(text) - 1
    if (
        len(text) < 3
        or not levels
        or text[start] not in _OPEN
        or text[end] not in _CLOSE
        or 0 in levels[start + 1 : end]
    ):
        return None
    inner = text[start + 1 : end - (1 if is_set else 0)].strip()
    if text[start] == "{" and not is_set:
        return read(inner, depth)
    if is_set and (mark := _SUCH_THAT.search(inner)):
        return read(inner[mark.end() :], depth)
    inside = _level(inner)
    marks = [(at, at + 1) for at, char in enumerate(inner) if char == ";"] or _commas(inner, inside=True)
    pieces = [piece for piece in _cut(inner, inside, marks) if piece] if inside else []
    if not pieces or len(pieces) > MAX_PARTS:
        return None
    parts = tuple(read(piece, depth) for piece in pieces)
    if is_set:
        return Form("set", text, _flat(parts))
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2 and (text[start], text[end]) != ("(", ")"):
        return Form("interval", text, parts, (text[start], text[end]))
    return Form("tuple", text, parts)


def _plus_minus(text: str, depth: int) -> Form | None:
    if not re.search(r"\\pm(?![A-Za-z])", text):
        return None
    both = []
    for plus, minus in (("+", "-"), ("-", "+")):
        one = re.sub(r"\\pm(?![A-Za-z])", plus, text)
        both.append(re.sub(r"\\mp(?![A-Za-z])", minus, one).strip().removeprefix("+").strip())
    return Form("list", text, tuple(read(one, depth) for one in both))


def _ratio(text: str, depth: int) -> Form | None:
    levels = _level(text)
    places = [(at, at + 1) for at, char in enumerate(text) if char == ":"]
    if not levels or not places or "=" in text:
        return None
    pieces = _cut(text, levels, places)
    return Form("ratio", text, tuple(_formula(piece) for piece in pieces)) if all(pieces) else None


def _formula(text: str) -> Form:
    """A formula, and the unit that stands after it."""
    number = quantity(text)
    if number is not None:
        return Form("number", text, number=number)
    for start in (
        *(m.start() for m in _UNIT_COMMAND.finditer(text)),
        *(m.start() for m in _UNIT_WORDS.finditer(text)),
    ):
        before, after = text[:start].rstrip(), text[start:].strip()
        if not before or not (before[-1].isalnum() or before[-1] in "})]!"):
            continue
        unit = (
            unit_after(after) if len(after) <= units.MAX_UNIT and _level(before) and _level(after) else None
        )
        if unit is None or (not after.startswith(("\\", "^")) and unit.words):
            continue
        if unit.dims == (("degree", 1),) and _TRIG.search(before):
            break
        return Form("formula", before, unit=unit)
    return Form("formula", text)
