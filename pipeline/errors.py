"""Every error a user can meet, with its exit code.

A message says what, where, the value seen and what to do. `__main__` prints it as one line (or a short list)
and leaves with `exit_code`; the same sentence goes to `data/<run>/outcome.json`, because accelerate's
launcher loses both."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])?", re.DOTALL)


def printable(text: str, most: int = 300) -> str:
    """Words from outside (a server, a file) in one line that a terminal only prints: no escape sequences,
    control or invisible characters, at most `most` characters."""
    told = "".join(c if c.isprintable() else " " for c in _ESCAPES.sub(" ", text[: 20 * most]))
    told = " ".join(told.split())
    return told if len(told) <= most else f"{told[: most - 3]}..."


def lines(text: str) -> str:
    """A message as a terminal may print it: its lines and spaces kept, without escape sequences and control
    characters (names of files, and words of a stranger's files, may hold some)."""
    cleaned = _ESCAPES.sub("", text).expandtabs()
    return "".join(c if c.isprintable() or c == "\n" else " " for c in cleaned)


class RatchetError(Exception):
    """The root of all errors meant for a user. Never raised itself."""

    exit_code = 1


class RecipeError(RatchetError):
    """A recipe, a command-line value or a changed run that cannot be used: one or many problems, all said at
    once."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DamagedData(RatchetError):
    """A file that does not match its hash, or input data that cannot be read."""

    exit_code = 3


class RunInUse(RatchetError):
    """Another process works on this run."""

    exit_code = 4


class NothingKept(RatchetError):
    """A filter kept nothing, so there is nothing to train on. The message counts the rows by reason."""

    exit_code = 5


class Diverged(RatchetError):
    """NaN or infinite loss, a collapsed policy, a first reward model that fails its health check."""

    exit_code = 6


class StorageError(RatchetError):
    """The disk is full, or the storage has no atomic rename or no working lock."""

    exit_code = 7


class WorkerLost(RatchetError):
    """A process of the group died, hangs or has no memory left."""

    exit_code = 8


class UnsafeFile(RatchetError):
    """A pickle, a model folder that carries code, a path that leaves its folder."""

    exit_code = 9


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)`, or the known ones where none is near and they are few."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(sorted(known))})" if 0 < len(known) <= 12 else ""
