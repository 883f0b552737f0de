"""Small JSON documents that know when they were edited, and text that any writer can take.

A document carries the SHA-256 of everything else in it. That catches damage and careless edits, not an enemy
who recomputes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical(value: Any) -> bytes:
    """One byte string for equal values: sorted keys, no spaces, ASCII. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null, tuples lists, numpy numbers Python's."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def seal(document: dict[str, Any]) -> bytes:
    """The document as readable JSON, with the hash of its content as its last key."""
    body = {key: value for key, value in document.items() if key != "sealed"}
    return (
        json.dumps({**body, "sealed": sha256(canonical(body))}, indent=1, allow_nan=False) + "\n"
    ).encode()


def unseal(path: Path) -> dict[str, Any]:
    """A sealed document, checked.

    Raises:
        FileNotFoundError: there is none.
        DamagedData: it is empty, torn, edited, or not JSON.
    """
    data = path.read_bytes()
    try:
        document = json.loads(data)
        stated = document.pop("sealed")
        found = sha256(canonical(document))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        state = "is empty" if not data else f"cannot be read ({type(error).__name__}: {error})"
        raise DamagedData(
            f"{path} {state}. Run `verify RUN --repair`, or remove the stage's folder."
        ) from error
    if stated != found:
        raise DamagedData(
            f"{path} was edited or damaged: its content has SHA-256 {found}, it says {stated}. "
            "Run `verify RUN --repair`."
        )
    return document


def clean_text(value: Any) -> tuple[Any, int]:
    """The value with lone surrogates in its texts replaced by U+FFFD, and how many there were. NUL and the
    rest are kept.
    """
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value, 0
        whole = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)
        return _SURROGATE.subn("\ufffd", whole)
    if isinstance(value, (list, tuple)) and any(isinstance(item, str) for item in value):
        cleaned = [clean_text(item) for item in value]
        return [item for item, _ in cleaned], sum(count for _, count in cleaned)
    return value, 0
