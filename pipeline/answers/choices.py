r"""The letter of the chosen option: `the answer is (b)`, `Option B is correct`, `B because (A) is wrong`.

What a text claims is read before what it only mentions; a letter that is denied, or that stands beside
another one (`(A) or (B)`), is no choice. The time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque

from pipeline.answers.looks import ending

LETTERS = "abcdefghij"
MAX_MATCHES = 60  #: claims or letters that are looked at, from the end
WINDOW = 120  #: characters after `the answer is` in which its letter stands

_MARKS = str.maketrans({"*": "", "`": "", "$": "", "“": '"', "”": '"', "‘": "'", "’": "'", "\\": " \\"})
_COMMANDS = re.compile(
    r"\\(?:text[a-z]*|math[a-z]+|mbox|boxed|fbox|left|right)(?![A-Za-z])|\\[()\[\]]|[{}]|__"
)
_QUOTED = re.compile(r"""["'\[<]\s?\(?([A-Za-z])\)?\s?["'\]>]""")
_TAG = re.compile(r"<answer>\s?([^<]{1,200})</answer>", re.I)
_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_HEAD = re.compile(
    r"\b(?:answers?|choice|option|solution)(?: (?:letter|choice|option|here))?\b ?"
    r"(?:(?:is|are|was|would be|will be|should be|must be|has to be|seems to be)\b|[:=-]|->)?"
    r"[ :\n]{0,3}(?:(?:therefore|thus|clearly|probably|most likely|likely|simply|indeed|only),? ?)?"
    r"(?:(?:the )?(?:option|choice|letter|answer)\b ?:? ?)?",
    re.I,
)
_REASON = r"(?:because|since|as|for|due|while|whereas|which|so|and not|not|rather|unlike|but)\b"
_DENIED = re.compile(
    r"(?:\bnot|n't(?: be)?|\bneither|\bnor|\bcannot be|\bnever|\bexclud\w+|\beliminat\w+"
    r"|\brules? out|\binstead of"
    r"|\brather than|\bunlike|\bthan)(?: (?:option|choice|answer|letter))? ?$",
    re.I,
)
_WRONG = re.compile(
    r" ?(?:,? ?(?:and|or) \([A-Za-z]\) ?)?"
    r"(?:is|are|was|does|do|makes?|would|cannot|can't|isn't|doesn't|seems?|has|have)\b"
    r"(?! (?:the |clearly |definitely |most |more )?(?:correct|right|best|better|answer|true|likely|fits))",
    re.I,
)
_SAYS = re.compile(
    r"\b(?:it(?:'s| is| must be| has to be| should be| would be)"
    r"|(?:i|we)(?:'d| would| will|'ll)? ?(?:think|believe|guess|say|choose|chose"
    r"|pick|select|go with|go for)(?: it(?:'s| is| must be))?(?: that)?|must be|has to be|should be|would be"
    r"|go with|choose|select|pick|therefore|thus|hence|so|conclusion)[ ,:]{0,2}"
    r"(?:(?:the )?(?:option|choice|answer|letter) )?",
    re.I,
)


_ASIDE = re.compile(
    r"\b(?:because|since|while|whereas|and not|rather|unlike|but"
    r"|(?:definitely|certainly|clearly|surely|obviously|probably) not)\b",
    re.I,
)
_GIVEN = re.compile(r"\b(?:because|since|whereas|while)\b", re.I)
_BESIDE = re.compile(r"\(([A-Za-z])\) ?(?:,|/|or|and|&)? ?(?:or |and )?$", re.I)


def _one(letters: str) -> str:
    return f"[{letters.lower()}{letters.upper()}]"


def _prepared(text: str) -> str:
    """Without markdown, dollars, TeX's commands, quotation marks around a letter and repeated blanks."""
    text = _COMMANDS.sub("", unicodedata.normalize("NFKC", text).translate(_MARKS))
    text = _QUOTED.sub(r"(\1)", text)
    return "\n".join(line for line in (" ".join(raw.split()) for raw in text.splitlines()) if line)


class _Reader:
    """Reads one prepared text, for options with these letters."""

    def __init__(self, text: str, letters: str) -> None:
        one = _one(letters)
        self.text = text
        self.marked = re.compile(rf"\(({one})\)")
        self.at_once = re.compile(
            rf"\(({one})\)|({one})(?=[,;:)\]\"!]|[.'](?![A-Za-z])|\n|$)"
            rf"|([{letters.upper()}])(?= ?(?:-|/|{_REASON}))"
        )
        self.later = re.compile(rf"[^()\n.:;]{{0,{WINDOW}}}\(({one})\)")
        self.then_words = re.compile(rf"(?!I )([{letters.upper()}]) (?=\S)")
        self.other = re.compile(
            rf" ?(?:,|/|&|(?:or|and)\b) ?(?:or |and )?(?:\(({one})\)|([{letters.upper()}])\b"
            rf"|([{letters.lower()}])(?=[,;)\n]|\.?$))"
        )
        self.right = re.compile(
            rf"(?:\(({one})\)|\b([{letters.upper()}]))(?:[.:)] ?[\w ]{{1,40}}?)? "
            r"(?:is|was|must be|would be|seems|looks)(?: clearly| definitely| therefore| thus)?"
            r"(?: the)?(?: only| most| single| one)? ?"
            r"(?:correct|right|best|true|answer|likely|logical|appropriate|suitable)\b",
        )
        self.alone = re.compile(
            rf"(?:(?:option|choice|answer)[ :]{{0,2}})?[(\[]?({one})[)\]]?[.:]?(?=\n|$)|\(({one})\)[ :.-]"
            rf"|([{letters.upper()}])(?:[).:]|,(?= ?{_REASON})| -)(?= ?\S)"
            rf"|([{letters.upper()}])(?= (?:{_REASON}))",
        )

    def claim(self) -> str | None:
        """What the last `the answer is` chooses; '' where it chooses two."""
        for head in _last(_HEAD, self.text):
            found = self._after(head.end(), direct=not re.search(r"[:=>-]|is|are|was|be", head[0][6:], re.I))
            if found is not None:
                return found
        return None

    def _after(self, start: int, *, direct: bool) -> str | None:
        near = self.text[start : start + WINDOW]
        if re.match(r"(?:either|between|both) ", near, re.I):
            return ""
        if re.match(r"(?:not|n't|never|neither)\b", near, re.I):
            instead = re.match(r"not \(?[A-Za-z]\)?,? (?:but|rather) ", near)
            return self._after(start + instead.end(), direct=direct) if instead else None
        match = self.at_once.match(near)
        if match is None and not direct:
            reason = _ASIDE.search(near)
            match = self.later.match(
                near, 0, reason.start() if reason else len(near)
            ) or self.then_words.match(near)
        if match is None:
            return None
        letter = next(filter(None, match.groups())).lower()
        other = self.other.match(near, match.end())
        if other and next(filter(None, other.groups())).lower() != letter:
            return ""
        return letter

    def verdict(self) -> str | None:
        """`Option C is correct`, `it is (e)`, `I choose B`: the last one."""
        for match in _last(self.right, self.text):
            if not self._denied(match.start()):
                return next(filter(None, match.groups())).lower()
        for head in _last(_SAYS, self.text):
            letter = self._after(head.end(), direct=True)
            if letter:
                return letter
        return None

    def _denied(self, start: int) -> bool:
        return bool(_DENIED.search(self.text[max(0, start - 40) : start]))

    def begins(self) -> str | None:
        """A letter that stands alone in a line (the last), or begins the text: `B. because ...`."""
        lines = self.text.split("\n")
        for line in reversed(lines):
            match = self.alone.fullmatch(line)
            if match:
                return next(filter(None, match.groups())).lower()
        match = self.alone.match(self.text)
        if match is None or _WRONG.match(self.text, match.end()):
            return None
        letter = next(filter(None, match.groups())).lower()
        end = match.end() - (self.text[match.end() - 1] == " ")
        return "" if self.other.match(self.text, end) else letter

    def mentioned(self) -> str | None:
        """The last letter in brackets that is not denied; None where it stands beside another one."""
        spare = None
        for match in _last(self.marked, self.text):
            if self._denied(match.start()) or _WRONG.match(self.text, match.end()):
                continue
            before = re.split(r"[.\n;]", self.text[max(0, match.start() - WINDOW) : match.start()])[-1]
            if _GIVEN.search(before):
                spare = spare or match[1].lower()
                continue
            beside = _BESIDE.search(before)
            if beside and beside[1].lower() != match[1].lower():
                return None if not self._denied(match.start() - len(beside[0])) else match[1].lower()
            return match[1].lower()
        return spare


def _last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """A pattern's last matches, the last one first."""
    return list(deque(pattern.finditer(text), maxlen=MAX_MATCHES))[::-1]


def _inner(text: str, letters: str) -> str | None:
    """The letter that all of a box or tag is, with or without its option's text."""
    prepared = _prepared(text)
    match = re.match(
        rf"(?:(?:the )?(?:final |correct )?(?:answer|option|choice)\b ?(?:is)? ?:? ?)?"
        rf"(?:\(({_one(letters)})\)|({_one(letters)})(?=[).:,\n]|$| ?-)"
        rf"|([{letters.upper()}])(?= \S))",
        prepared,
        re.I if prepared[:1].islower() and len(prepared) > 1 and prepared[1:2] not in " " else 0,
    )
    if not match:
        return None
    reader = _Reader(prepared, letters)
    other = reader.other.match(prepared, match.end())
    return None if other else next(filter(None, match.groups())).lower()


def choice(text: str, letters: str = LETTERS) -> str | None:
    """The chosen option's letter, lower case, or None where none or several are chosen; the last claim
    counts.
    """
    tail = ending(text)
    tags = _TAG.findall(tail)
    if tags and (found := _inner(tags[-1], letters)):
        return found
    boxes = list(_BOX.finditer(tail))
    if boxes and (found := _inner(tail[boxes[-1].end() : boxes[-1].end() + 200].split("\n")[0], letters)):
        return found
    reader = _Reader(_prepared(tail), letters)
    for read in (reader.claim, reader.verdict, reader.begins, reader.mentioned):
        found = read()
        if found is not None:
            return found or None
    return None
