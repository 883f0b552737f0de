"""What a run says while it works, as a type: the console says it to people, `Silent` to nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Tick = Callable[..., None]  #: progress(done, total, **facts)


class Reporter(Protocol):
    """The hooks that the loop and its stages call; `report.console.Console` is the one for people."""

    quiet: bool
    log_json: bool
    now: Path | None  #: the file that tells other terminals what is done at this moment

    def run_started(self, name: str, recipe: str, resumed_from: str = "") -> None: ...

    def changed(self, lines: Sequence[str]) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def stage_started(self, round_number: int, stage: str, sentence: str) -> None: ...

    def stage_done(self, round_number: int, stage: str, facts: Mapping[str, Any], seconds: float) -> None: ...

    def round_done(self, number: int, rounds: Any, gate: Any = None, known: Any = ()) -> None: ...

    def gate(self, round_number: int, model: str, decision: Any) -> None: ...

    def finished(self, summary: Mapping[str, Any]) -> None: ...

    def progress(self, name: str, total: int | None) -> contextlib.AbstractContextManager[Any]: ...

    def task(self, name: str) -> contextlib.AbstractContextManager[Any]: ...


class Share(float):
    """A number from 0 to 1 that people read in per cent."""


class Silent:
    """Says nothing: for those who look at a run."""

    quiet = True
    log_json = False
    now: Path | None = None

    def run_started(self, name: str, recipe: str, resumed_from: str = "") -> None: ...

    def changed(self, lines: Sequence[str]) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def stage_started(self, round_number: int, stage: str, sentence: str) -> None: ...

    def stage_done(self, round_number: int, stage: str, facts: Mapping[str, Any], seconds: float) -> None: ...

    def round_done(self, number: int, rounds: Any, gate: Any = None, known: Any = ()) -> None: ...

    def gate(self, round_number: int, model: str, decision: Any) -> None: ...

    def finished(self, summary: Mapping[str, Any]) -> None: ...

    @contextlib.contextmanager
    def progress(self, name: str, total: int | None) -> Iterator[Tick]:
        yield _nothing

    @contextlib.contextmanager
    def task(self, name: str) -> Iterator[Tick]:
        yield _nothing


def _nothing(*done: Any, **facts: Any) -> None:
    """A tick that nobody hears."""
