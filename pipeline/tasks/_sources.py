"""Rows from files and from the Hub, read so that a bad row is refused with its place and never crashes.

A file is JSON Lines (`.jsonl`, or `.json` that holds one object a line), one JSON array (`.json`), or
Parquet. In a folder, a file whose name has the word train, dev, valid, validation or test belongs to that
split. Memory holds one data set. It does not download anything but through `datasets`, and never runs a
loading script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DamagedData, RecipeError

MAX_CHARS = 100_000  #: of a question, an answer or a solution
MAX_LINE = 32 * 1024 * 1024  #: bytes of a line; a longer one is refused without parsing it
SUFFIXES = (".jsonl", ".json", ".parquet")
SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}
SPLITS |= {"test": "test"}


class BadRow(Exception):
    """One input row that cannot be a problem; the message is the reason."""


class LeftOut(BadRow):
    """A good input row that the task does not take (a question with a picture); the message is the reason."""


class Found(NamedTuple):
    """One input row, or the reason why it is none."""

    file: str
    line: int
    split: str  #: the source's own split, "" where it has none
    row: dict[str, Any] | BadRow


def files(path: str, key: str) -> list[tuple[Path, str]]:
    """The readable files of a path with their own splits, in name order.

    Raises:
        DamagedData: nothing is there, or nothing that can be read.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise DamagedData(
                f"{key}: {path}: cannot read {place.suffix or 'a file without suffix'}: give {_kinds()}"
            )
        return [(place, split_of_name(place))]
    if not place.is_dir():
        raise DamagedData(f"{key}: {path}: no such file or folder: check the path")
    found = sorted(f for f in place.rglob("*") if f.suffix in SUFFIXES and f.is_file())
    if not found:
        raise DamagedData(f"{key}: {path}: a folder without {_kinds()}: check the path")
    return [(f, split_of_name(f)) for f in found]


def _kinds() -> str:
    return "a .jsonl, .json or .parquet file"


def split_of_name(path: Path) -> str:
    """The split that a file's name says, or ""."""
    words = "".join(c if c.isalnum() else " " for c in path.stem.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def rows(path: Path, split: str) -> Iterator[Found]:
    """Every row of a file in order; `line` counts from 1 (items, where the file is one array).

    Raises:
        DamagedData: the file as a whole cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, split)
        elif path.suffix == ".json" and _first_byte(path) == b"[":
            yield from _array(path, split)
        else:
            yield from _lines(path, split)
    except OSError as error:
        raise DamagedData(f"{path}: cannot be read: {error.strerror or error}") from error


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _lines(path: Path, split: str) -> Iterator[Found]:
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) >= MAX_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE)
                yield Found(str(path), number, split, BadRow(f"a line of more than {MAX_LINE:,} bytes"))
            elif line.strip():
                yield Found(str(path), number, split, _parse(line))


def _parse(line: bytes) -> dict[str, Any] | BadRow:
    if b"\0" in line:
        return BadRow("holds a NUL byte")
    try:
        row = strict_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8 at byte {error.start}")
    except ValueError as error:
        return BadRow(f"not JSON: {error}")
    return row if isinstance(row, dict) else BadRow(f"not a JSON object but {_name(row)}")


def strict_json(text: str) -> Any:
    """JSON without NaN and Infinity; ValueError also where it is nested too deep."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _array(path: Path, split: str) -> Iterator[Found]:
    try:
        items = strict_json(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DamagedData(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except ValueError as error:
        raise DamagedData(f"{path}: not JSON: {error}: repair the file or give one object a line") from error
    for number, item in enumerate(items, 1):
        bad = BadRow(f"not a JSON object but {_name(item)}")
        yield Found(str(path), number, split, item if isinstance(item, dict) else bad)


def _parquet(path: Path, split: str) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Found(str(path), number, split, row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        line = str(error).split("\n")[0]
        raise DamagedData(f"{path}: not a readable Parquet file after row {number}: {line}") from error


def hub(name: str, config: str | None, splits: dict[str, str], revision: str, cache: str) -> Iterator[Found]:
    """Rows of a Hub data set. `splits` maps its splits to ours.

    Raises:
        DamagedData: it cannot be had (no network, no such data set).
    """
    import datasets

    for theirs, ours in splits.items():
        try:
            loaded = datasets.load_dataset(
                name, config, split=theirs, revision=revision or None, cache_dir=cache or None
            )
        # datasets, fsspec and the hub client raise a dozen unrelated types here; each means "not to be had"
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise DamagedData(
                f"{name} ({theirs}) cannot be loaded from the Hub: {line}: without a network,"
                " give task.path, a local file or folder with its rows"
            ) from error
        for number, row in enumerate(loaded, 1):
            yield Found(f"hub://{name}/{config or ''}/{theirs}", number, ours, dict(row))


def _name(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return "nothing" if value is None else kinds.get(type(value), "an object")


def field(row: dict[str, Any], key: str) -> Any:
    """The value of a field; `question.stem` looks inside. Raises BadRow where it is missing."""
    value: Any = row
    for part in [key] if key in row else key.split("."):
        if not isinstance(value, dict) or part not in value:
            seen = ", ".join(list(row)[:8]) or "nothing"
            raise BadRow(f"no field {key!r} (it has {seen})")
        value = value[part]
    return value


def text(row: dict[str, Any], key: str, *, numbers: bool = False, empty: bool = False) -> str:
    """A text field, checked: a string (or, with `numbers`, a number), not empty, not huge, no NUL, no half
    character.
    """
    value = field(row, key)
    if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRow(f"{key!r} is not a finite number")
        value = repr(value)
    if not isinstance(value, str):
        raise BadRow(f"{key!r} is {_name(value)}, not text")
    return checked(value, key, empty=empty)


def checked(value: str, key: str, *, empty: bool = False) -> str:
    """The text itself. Raises BadRow where no prompt can be made of it."""
    if not empty and not value.strip():
        raise BadRow(f"{key!r} is empty")
    if len(value) > MAX_CHARS:
        raise BadRow(f"{key!r} has {len(value):,} characters, more than {MAX_CHARS:,}")
    if "\0" in value:
        raise BadRow(f"{key!r} holds a NUL character")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise BadRow(f"{key!r} holds half a character (a lone surrogate)")
    return value


def examples(path: str) -> list[tuple[str, str, str]]:
    """(question, completion, answer) of a few-shot file. Raises RecipeError with the line that is wrong."""
    shown, wrong = [], []
    for place, split in files(path, "task.few_shot_file"):
        for found in rows(place, split):
            try:
                if isinstance(found.row, BadRow):
                    raise found.row
                answer = text(found.row, "answer", numbers=True) if "answer" in found.row else ""
                shown.append((text(found.row, "question"), text(found.row, "completion"), answer))
            except BadRow as bad:
                wrong.append(f"task.few_shot_file: {found.file}:{found.line}: {bad}")
    if wrong or not shown:
        raise RecipeError(
            wrong or f"task.few_shot_file: {path}: no example: give question and completion a line"
        )
    return shown
