"""Finding the final answer in a completion, and reading plain numbers, without ever evaluating text.

Every function takes time linear in the text, looks at its last `MAX_TEXT` characters only, and returns None
rather than guess. What two answers mean is `compare.py`'s business.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Literal

How = Literal["boxed", "hashes", "last_number", "choice", "any"]

MAX_TEXT = 20_000  #: characters from the end in which an answer is sought
MAX_NUMBER = 200  #: characters that a plain number may have
MAX_EXPONENT = 400

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_NUMBER = re.compile(
    r"(?<![\w.)\]}])[-\u2212]?\\?\$?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:\s?/\s?\d[\d,]*)?%?"
    r"|\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d[\d,]*)?%?"
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([+-]?)({_DIGITS}?)(?:\.(\d*))?(?:[eE]([+-]?\d{{1,4}}))?")
_POWER = re.compile(
    r"(.+?)\s*(?:\\times|\\cdot|\*|x|×)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([+-]?\d{1,4})\s*\}|([+-]?\d{1,4}))"
)
_TEX_FRACTION = re.compile(
    r"([+-]?)\s*(\d*)\s*\\[dtc]?frac\s*(?:\{\s*([+-]?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d+))"
)
_FRACTION = re.compile(r"([+-]?)\s*(?:(\d+)\s+)?([\d.,]+)\s*/\s*([\d.,]+)")
_CLOSERS = {"{": "}", "[": "]"}
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_NOT_UNITS = {
    "pi",
    "sqrt",
    "sin",
    "cos",
    "tan",
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
}


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (braces balanced), also of `\boxed 5`; None if there is none or
    it never closes.
    """
    tail = text[-MAX_TEXT:]
    matches = list(_BOX.finditer(tail))
    if not matches:
        return None
    rest = tail[matches[-1].end() :].lstrip()
    if not rest.startswith("{"):
        return (re.match(r"[^\s$.,;}\\]+|\\[A-Za-z]+", rest) or [None])[0]
    depth, escaped = 0, False
    for place, char in enumerate(rest):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return rest[1:place].strip() or None
    return None


def after_hashes(text: str) -> str | None:
    """What stands after the last `####`, up to the end of its line."""
    head, mark, rest = text[-MAX_TEXT:].rpartition("####")
    if not mark:
        return None
    answer = rest.lstrip(" \t#:").split("\n", 1)[0].strip()
    return answer.removesuffix(".").strip() or None


def last_number(text: str) -> str | None:
    """The last number written in the text, with its sign and fraction, without commas, currency and percent
    signs.
    """
    last = None
    for match in _NUMBER.finditer(text[-MAX_TEXT:]):
        last = match.group()
    if last is None:
        return None
    return re.sub(r"[\s,$%\\]", "", last.replace("\u2212", "-")) or None


def choice(text: str, letters: str = "abcde") -> str | None:
    """The chosen option's letter, lower case: `the answer is (b)`, `(b).`, `Answer: B`, `\\boxed{B}`; the
    last one counts.
    """
    tail = unicodedata.normalize("NFKC", text[-MAX_TEXT:])
    one = f"[{re.escape(letters.lower() + letters.upper())}]"
    box = boxed(tail)
    inside = box and re.fullmatch(rf"\W*(?:\\text\w*\W*)?({one})\W*", box)
    if inside:
        return inside.group(1).lower()
    # a letter alone must be followed by an end, or "the answer is a dog" would choose (a)
    said = rf"(?:answer|choice|option)\s*(?:is|:)\s*:?\s*[^()\n.]{{0,60}}\(({one})\)"
    bare = rf"(?:answer|choice|option)\s*(?:is|:)?\s*:?\s*[*\"'\[]*({one})(?=\s*(?:[.,;:)*\]\"']|$))"
    for pattern, flags in (
        (f"{said}|{bare}", re.I | re.M),
        (rf"\(({one})\)", 0),
        (rf"^\W*({one})\W*$", re.M),
    ):
        found = [next(filter(None, match.groups())) for match in re.finditer(pattern, tail, flags)]
        if found:
            return found[-1].lower()
    return None


def final(text: str, how: How) -> str | None:
    """The final answer by one convention; `any` tries box, hashes and last number in this order."""
    if how == "any":
        return boxed(text) or after_hashes(text) or last_number(text)
    return {"boxed": boxed, "hashes": after_hashes, "last_number": last_number, "choice": choice}[how](text)


def plain(text: str) -> str:
    """An answer without what changes its looks only: dollars, `\\left`, spacing commands, `\\text{}`,
    closing dots, spaces.
    """
    text = unicodedata.normalize("NFKC", text[:MAX_TEXT]).replace("\u2212", "-").strip().removesuffix(".")
    while len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    for start, end in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(start) and text.endswith(end) and len(text) > 3:
            text = text[2:-2].strip()
    text = text.replace("\\left", "").replace("\\right", "").replace("{,}", ",")
    text = re.sub(r"\\[!,;: ]", "", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _TEXT_COMMAND.sub(lambda found: found.group(1), text)
    text = re.sub(r"(?<=[A-Za-z])\s+(?=[A-Za-z])", "\x00", text)  # spaces count between words only
    text = re.sub(r"\s+", "", text).replace("\x00", " ")
    return text.removesuffix(".")


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


def number(text: str, *, units: bool = False) -> Fraction | None:
    """A plain number's exact value: `1,200`, `-.5`, `3/4`, `2 1/2`, `\\frac{3}{4}`, `1.5e3`, `3 \\times
    10^4`; else None.

    Currency and percent signs are ignored. `units` also allows a word after the number (`18 dollars`),
    which only a comparison that is known to be of numbers may do.
    """
    if len(text) > MAX_NUMBER:
        return None
    text = (
        unicodedata.normalize("NFKC", text.replace("½", "1/2"))
        .replace("\u2212", "-")
        .replace("\u2044", "/")
        .strip()
    )
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text)
    text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "").replace("$", "").replace("\\%", "%")
    text = re.sub(r"\\[,;: ]", " ", text)
    text = re.sub(r"[€£¥]", "", text).strip()
    if not text.isascii():
        return None
    if units:
        text = re.sub(
            r"\s*(\^\s*\{?\s*\\circ\s*\}?|\\(?:text|mathrm|mbox)\s*\{[^{}]*\}\s*(\^\{?\d\}?)?)$", "", text
        )
        word = re.fullmatch(r"(.*\d)\s+([A-Za-z]{2,}[A-Za-z .]*)", text)
        if word and word[2].split()[0].lower() not in _NOT_UNITS:
            text = word[1]
    text = text.rstrip().removesuffix(".").removesuffix("%").strip()
    text = re.sub(r"^([+-])\s+", r"\1", text)
    value = _decimal(text)
    if value is not None:
        return value
    power = _POWER.fullmatch(text)
    if power:
        base, exponent = _decimal(power[1].strip()), int(power[2] or power[3])
        return None if base is None or abs(exponent) > MAX_EXPONENT else base * Fraction(10) ** exponent
    tex = _TEX_FRACTION.fullmatch(text)
    if tex:
        sign, whole, above, above_short, below, below_short = tex.groups()
        value = _ratio(above or above_short, below or below_short)
    else:
        slash = _FRACTION.fullmatch(text)
        if not slash:
            return None
        sign, whole = slash[1], slash[2] or ""
        value = _ratio(slash[3], slash[4])
    if value is None or (whole and value < 0):
        return None
    value += int(whole) if whole else 0
    return -value if sign == "-" else value


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
