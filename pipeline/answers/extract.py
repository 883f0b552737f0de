r"""Finding the final answer in a completion, without ever evaluating text.

Every function takes time linear in the text, looks at its last `MAX_TEXT` characters only, and returns None
rather than guess. What stands inside `<think>` is no answer. What two answers mean is `compare.py`'s
business; `docs/answers.md` shows what is read.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal

from pipeline.answers.choices import LETTERS, choice
from pipeline.answers.looks import MAX_TEXT, ending, plain, tidy, undress, unfence, unpriced
from pipeline.answers.numbers import DECIMAL, EXPONENT, NAME, first_number, number, spell

__all__ = [
    "LETTERS",
    "MAX_TEXT",
    "How",
    "after_hashes",
    "boxed",
    "choice",
    "final",
    "first_number",
    "last_number",
    "number",
    "plain",
    "spell",
]

How = Literal["boxed", "hashes", "last_number", "choice", "any"]

NEAR = 2_000  #: characters from the end in which a number is looked for first
MAX_BOXES = 50  #: side by side
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_TAGGED = re.compile(r"<answer>([^<]*(?:<(?!/?answer>)[^<]*)*)</answer>", re.I)

# between two boxes of one list: at most a few words, then a comma, `and` or `or`, then at most a name and `=`
_NOISE = re.compile(r"\\[()\[\],;:! ]|\\q?quad|\\text\s?\{|[$}{\s]+|\\\\")
_BETWEEN = re.compile(
    rf"(?:[A-Za-z'()]{{1,15}} ){{0,5}}(?:,|;|&|,? ?and|,? ?or) ?(?:(?:{NAME.pattern}) ?=)?"
    rf"|(?:(?:{NAME.pattern}) ?=)?"
)
_GOES_ON = re.compile(
    r"\b(?:not|wait|but|then|so|is|thus|hence|therefore|gives|get|becomes|actually|no)\b", re.I
)

_STEP = re.compile(
    r"(?:step|part|case|problem|question|section|example|exercise|solution|stage|phase|equation|figure|table)s?"
    r"\s?\.?\s?(?:#|no\.?)?\s?\(?(?:\d+|[ivx]+)\b",
    re.I,
)
_NUMBERED = re.compile(r"(\d{1,2})[.)]\s+[A-Za-z][a-z]+\s+\S")

# what a number looks like within a text
_ARGUMENT = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_TEX = (
    rf"(?:\\[dtc]?frac\s?(?:{_ARGUMENT}|\d)\s?(?:{_ARGUMENT}|\d)"
    rf"|\\sqrt\s?(?:\[\w{{1,3}}\])?\s?(?:{_ARGUMENT}|\d|[A-Za-z](?![A-Za-z]))"
    rf"|\\d?binom\s?{_ARGUMENT}\s?{_ARGUMENT}|\\(?:pi|infty)(?![A-Za-z]))"
)
_WORTH = r"(?:\s(?:hundred|thousand|million|billion|trillion|dozen)s?(?![A-Za-z])){0,2}"
_TOKEN = re.compile(
    rf"[_^]\s?(?:\{{[^{{}}]*\}}|[+-]?\d+)"  # an index or power by itself is no number
    rf"|(?<=[A-Za-z]){DECIMAL}(?:/{DECIMAL})?"  # nor is a piece of a name, `v2.0`
    rf"|(?P<tex>(?:(?<![\w.)\]}}\\])[+-]\s?)?(?:(?<![\w.]){DECIMAL}\s?)?{_TEX}(?:\s?{_TEX}|\s?\^\s?(?:{_ARGUMENT}|\d+))*)"
    rf"|(?P<number>(?:(?<![\w.)\]}}\\])[+-](?:\\?\$)?)?(?<![A-Za-z_^\\\d])(?:"
    rf"\d+\s\d+\s?/\s?\d+(?![\d/])|{DECIMAL}(?:\s?(?:\\times|\\cdot|[*x])\s?10\s?{EXPONENT}|\s?{EXPONENT}"
    rf"|\s?/\s?{DECIMAL})?)(?:\s?\\?%|{_WORTH})?)"
)
_GLUED = re.compile(r"\\(?:leq?|geq?|neq?|times|cdot|div|approx|equiv|sim|pm|mp|to)(?=\.?\d)")
_JOINT = re.compile(r"\s?(?:[+\-*/]|\\cdot|\\times|\\pm|\\mp)?\s?")
_WORD = re.compile(r"\\[A-Za-z]+\s?(?:\{[^{}]*\})?|([A-Za-z]{3,})")
_CLAIM = re.compile(r"\banswer\b['\"*_ ]{0,4}(?:is|are|:|=)['\"*_: ]{0,6}", re.I)
_TAKEN_BACK = re.compile(r"\b(?:wait|actually|instead|mistake|correction|not|apologi[sz]e|recheck)\b", re.I)
_ENDS = re.compile(
    r"\s*(?:$|[.,;)!\n*]|\\[)\]]|(?!or\b|and\b|to\b|times\b|plus\b|minus\b|more\b|less\b|over\b)[A-Za-z°])"
)


def _closing(text: str, start: int, stop: int) -> int:
    """Where the brace that opens at `start` closes, before `stop`; -1: nowhere."""
    depth, escaped = 0, False
    for place in range(start, stop):
        char = text[place]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return place
    return -1


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (braces balanced), also of `\boxed 5`; None if there is none or
    it never closes. Boxes side by side (`\boxed{1}, \boxed{2} and \boxed{3}`) are one list.
    """
    tail = ending(text)
    found: list[str] = []
    next_start = len(tail)
    for match in reversed(list(_BOX.finditer(tail))):
        start = match.end()
        while start < next_start and tail[start].isspace():
            start += 1
        if start >= len(tail) or tail[start] != "{":
            if not found:
                return (re.match(r"[^\s$.,;}\\]+|\\[A-Za-z]+", tail[start : start + 200]) or [None])[0]
            break
        end = _closing(tail, start, next_start)
        content = tail[start + 1 : end].strip() if end > 0 else ""
        if not content or (found and not _one_list(tail[end + 1 : next_start])):
            break
        if not (found and content == found[-1] and not tail[end + 1 : next_start].strip(" \n$\\()[]")):
            found.append(content)
        next_start = match.start()
        if len(found) == MAX_BOXES:
            break
    return ", ".join(reversed(found)) or None


def _one_list(between: str) -> bool:
    """Do two boxes with this between them belong to one list?"""
    if len(between) > 120 or _GOES_ON.search(between):
        return False
    return bool(_BETWEEN.fullmatch(" ".join(_NOISE.sub(" ", between).split())))


def after_hashes(text: str) -> str | None:
    """What stands after the last `####` that carries a number, up to the end of its line; after the last one
    that carries anything, where no line has a number. A heading (`#### Step 2`) carries nothing.
    """
    tail = ending(text)
    words = None
    lines = tail.split("####")[1:]
    for place in range(len(lines) - 1, -1, -1):
        line = lines[place].lstrip(" \t#:").split("\n", 1)[0].strip()
        line = line[:-1].rstrip() if line.endswith(".") else line
        bare = line.lstrip("*_ ")
        if not line or _STEP.match(bare):
            continue
        item = _NUMBERED.match(bare)
        if item and (int(item[1]) == 1 or f"#### {int(item[1]) - 1}{bare[item.end(1)]}" in tail):
            continue
        if line.isdigit() or any(char.isdigit() or char in "½¼¾⅓⅔" for char in line):
            return line
        words = words or line
    return words


def _spans(text: str) -> list[tuple[int, int]]:
    """Where mathematics between `$`, `\\(` or `\\[` stands. A dollar sign before a price opens none."""
    found = [
        (match.start(1), match.end(1))
        for match in re.finditer(r"\\[(\[]((?:[^\\]|\\(?![()\[\]]))*)\\[)\]]", text)
    ]
    signs = [match.end() for match in re.finditer(r"(?<!\\)\$\$?", text)]
    place = 0
    while place + 1 < len(signs):
        start = signs[place]
        end = signs[place + 1] - (2 if text.startswith("$$", signs[place + 1] - 2) else 1)
        inside = text[start:end].strip() if end - start <= 400 else ""
        if inside and inside[-1] not in "+-*/=,(" and not any(m[1] for m in _WORD.finditer(inside)):
            found.append((start, end))
            place += 2
        else:
            place += 1
    return sorted(found)


def _last_token(text: str) -> tuple[int, int, bool] | None:
    """Start, end and whether it is TeX, of the last number or expression of numbers."""
    chain: tuple[int, int, bool] | None = None
    for match in _TOKEN.finditer(text):
        if match.lastgroup is None and not match["tex"] and not match["number"]:
            continue
        tex = match["tex"] is not None
        if chain:
            gap = text[chain[1] : match.start()]
            joined = len(gap) < 12 and _JOINT.fullmatch(gap) and (gap.strip() or match[0][0] in "+-")
            if joined and (tex or chain[2]):
                chain = (chain[0], match.end(), True)
                continue
        chain = (match.start(), match.end(), tex)
    return chain


def _right_side(text: str) -> str:
    r"""What stands after the last `=` (or before `\approx`) of `x = 2 + 3 = 5`; `2x + y = 0` whole."""
    exact = text.split("\\approx", 1)[0] if "=" in text.split("\\approx", 1)[0] else text
    if "=" not in exact or re.search(r"[<>!]=|,", exact):
        return exact.strip()
    first, _, rest = exact.partition("=")
    right = rest.rpartition("=")[2].strip()
    named = "=" in rest or NAME.fullmatch(first.strip()) is not None
    number = right != "0" and not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", right))
    return right if named or number or not re.search(r"[A-Za-z]", first) else exact.strip()


def _last_thing(text: str, *, whole: bool) -> str | None:
    """The last number, or the expression that it is in: `\\frac{3}{4}` and `5\\sqrt{3}` are not their digits.

    `whole`: an expression with letters between dollars too.
    """
    near = text.find("\n", len(text) - NEAR) if len(text) > NEAR else -1
    if near >= 0 and (found := _last_thing(text[near:], whole=whole)) is not None:
        return found
    text = _GLUED.sub(r"\g<0> ", unpriced(undress(tidy(text))[-MAX_TEXT:]))
    token = _last_token(text)
    spans = _spans(text) if "$" in text or "\\" in text else []
    for place in range(len(spans) - 1, -1, -1):
        start, end = spans[place]
        inside = text[start:end]
        if token and token[0] >= end:
            break
        if any(char.isdigit() or char in "\\+-^=<>" for char in inside):
            side = _right_side(inside)
            if whole or re.search(r"\\(?:[dtc]?frac|sqrt|binom|pi)|\^", side):
                local = _last_token(side)
                alone = local is not None and not re.search(r"[A-Za-z\\+*/(|]", side[: local[0]])
                if whole:
                    return _with_neighbours(text, spans, place, side)
                if not alone:
                    return side if not local else _shown(side, local, alone)
            break
    if token is None:
        return (text[spans[-1][0] : spans[-1][1]].strip(" .,;") or None) if spans and whole else None
    return _clean(text[token[0] : token[1]])


def _with_neighbours(text: str, spans: list[tuple[int, int]], place: int, side: str) -> str:
    """`$-2$, $1$ and $3$` are one list."""
    found = [side.rstrip(" .,;")]
    while place > 0 and len(found) < MAX_BOXES:
        between = text[spans[place - 1][1] : spans[place][0]].strip("$\\()[] \n")
        if not re.fullmatch(r",|;|,? ?and|,? ?or", between):
            break
        place -= 1
        found.append(_right_side(text[spans[place][0] : spans[place][1]]).rstrip(" .,;"))
    return ", ".join(reversed(found))


def _shown(side: str, token: tuple[int, int, bool], alone: bool) -> str:
    return _clean(side[token[0] : token[1]]) if alone or not token[2] else side


def _clean(found: str) -> str:
    if re.fullmatch(r"[-+]?\\?\$?[\d,]*\.?\d*(?:\s?/\s?[\d,.]+)?\s?\\?%?", found):
        return re.sub(r"[\s,$%\\]", "", found).removeprefix("+").removesuffix(".")
    return found.strip()


def last_number(text: str) -> str | None:
    """The last number written in the text, with its sign, fraction, root or power of ten; without commas,
    currency and percent signs. A power, an index or a piece of an expression is no number.
    """
    return _last_thing(ending(text), whole=False)


def _claimed(text: str) -> str | None:
    """What `the answer is` says, where a number or mathematics follows it at once."""
    rest = _after_claim(text)
    if rest is None:
        return None
    for start, end in _spans(rest)[:1]:
        if not rest[:start].strip(" $\\([*"):
            return rest[start:end].strip().rstrip(".,;")
    sentence = re.split(r"\.(?:\s|$)|\n", rest, maxsplit=1)[0].strip()
    if (
        len(sentence) <= 100
        and re.search(r"[\\+^_=,(/-]", sentence)
        and not any(m[1] for m in _WORD.finditer(sentence))
    ):
        return unfence(sentence) or None
    match = _TOKEN.match(rest)
    if match and (match["number"] or match["tex"]) and _ENDS.match(rest, match.end()):
        return _clean(match[0])
    return None


def _after_claim(text: str) -> str | None:
    last = next(iter(deque(_CLAIM.finditer(text), maxlen=1)), None)
    if last is None or _TAKEN_BACK.search(text, last.end()):
        return None
    return undress(tidy(text[last.end() : last.end() + 400])).lstrip()


def _claimed_word(text: str) -> str | None:
    """One to four words that `the answer is` says: `the answer is east.`"""
    found = re.match(
        r"(?:\\text\s?\{)?['\"*]{0,2}([^\W\d_][\w'-]*(?: [\w'-]+){0,3})['\"*]{0,2}\}?\.?\s*(?:\n|$)",
        _after_claim(text) or "",
    )
    return found[1].removesuffix("'") if found else None  # `'east'`: the claim has taken the first mark


def final(text: str, how: How) -> str | None:
    """The final answer by one convention; `any` tries box, hashes, `the answer is`, and the last number or
    expression, in this order.
    """
    if how == "any":
        text = ending(text)
        tagged = _TAGGED.findall(text)
        if tagged and tagged[-1].strip():
            text = tagged[-1]
            if len(text) < 200 and not _BOX.search(text) and "####" not in text:
                return unfence(text) or None
        box = boxed(text)
        if (
            box is not None
            and (at := text.lower().rfind("final answer is")) > text.rfind("boxed{")
            and at >= 0
        ):
            box = _claimed(text[at:].removeprefix("final ").removeprefix("Final ")) or box
        return (
            box
            or after_hashes(text)
            or _claimed(text)
            or _last_thing(text, whole=True)
            or _claimed_word(text)
        )
    return {"boxed": boxed, "hashes": after_hashes, "last_number": last_number, "choice": choice}[how](text)
