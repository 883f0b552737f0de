"""A store of texts that a stage looks things up in: a text file, whose paragraphs are its passages, or JSON
lines with a `text` each.

    store.txt     paragraphs, an empty line between two
    store.jsonl   {"id": "river-7", "text": "The Nile flows north."}

`leak` is what no store may hold: a problem that is measured later, by its question, its gold solution or a
long answer, word for word. Short answers (a number, a word) stand in any text and prove nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DamagedData
from pipeline.rows import Problem

LEAST_QUESTION, LEAST_SOLUTION, LEAST_ANSWER = 5, 8, 4  #: words from which a text is taken for itself


@dataclass(frozen=True, slots=True)
class Passage:
    """One text and what it is called."""

    id: str
    text: str


def words_of(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def read_passages(path: Path) -> tuple[Passage, ...]:
    """The passages of a file, in its order.

    Raises:
        DamagedData: no such file, a line that is no passage, or none at all.
    """
    if not path.is_file():
        raise DamagedData(f"store: {path}: no such file")
    state = path.stat()
    return _read(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _size: int, _changed: int) -> tuple[Passage, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DamagedData(f"store: {path}: cannot be read as UTF-8 text: {problem}") from None
    if path.suffix == ".jsonl":
        found = tuple(_of_lines(path, text))
    else:
        parts = [part.strip() for part in re.split(r"\n\s*\n", text)]
        found = tuple(Passage(str(number), part) for number, part in enumerate(filter(None, parts), 1))
    found = tuple(one for one in found if words_of(one.text))
    if not found:
        raise DamagedData(f"store: {path}: holds no passage: write paragraphs, or lines with a text each")
    return found


def _of_lines(path: Path, text: str) -> Iterable[Passage]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            said = row["text"]
        except (ValueError, KeyError, TypeError):
            said = None
        if not isinstance(said, str):
            raise DamagedData(f'store: {path}:{number}: not of the form {{"text": "..."}}: {line[:60]!r}')
        yield Passage(str(row.get("id", number)), said)


def hash_of(path: Path) -> str:
    """Names what a store says, for the fingerprint of what is made with it."""
    said = [[one.id, one.text] for one in read_passages(path)]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def leak(passages: Sequence[Passage], problems: Iterable[Problem]) -> str:
    """The first of these problems that stands in a passage, as a sentence; empty if none does."""
    texts = [" ".join(["", *words_of(one.text), ""]) for one in passages]
    whole = "\n".join(texts)
    for problem in problems:
        parts = {
            "question": (problem.question.strip().split("\n")[0], LEAST_QUESTION),
            "solution": (problem.solution, LEAST_SOLUTION),
            "answer": (problem.answer or "", LEAST_ANSWER),
        }
        for what, (text, least) in parts.items():
            said = words_of(text)
            wanted = f" {' '.join(said)} "
            if len(said) >= least and wanted in whole:
                place = next(n for n, one in enumerate(texts) if wanted in one)
                return (
                    f"passage {passages[place].id} holds the {what} of the {problem.split} problem "
                    f"{problem.id} ({text.strip()[:60]!r}): what is measured may not be looked up. Take it "
                    "out of the store"
                )
    return ""
