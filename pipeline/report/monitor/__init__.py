"""Monitors: what shows a run's numbers elsewhere. wandb, TensorBoard or none; one is a file here.

A process of its own follows metrics.jsonl (`follow.py`, started and let go by `mirror.py`) and tells a
monitor each record once: numbers, then a round's tables, pictures and curves (`media.py`). No monitor can
hold a run up or end it. The recipe's `monitor:` chooses; another one is a file with a class `Monitor` that
keeps the Protocol below, and its name in `NAMES`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

NAMES = ("wandb", "tensorboard")  #: the files here that are monitors; `none` is no process at all
Values = Mapping[str, Any]  #: one record: {"round": 2, "measure/accuracy/greedy": 0.31, ...}
#: what is read off a panel of its own (an interval, a curve of many points), not as a panel each
PARTS = re.compile(r"/(low|high)$|@incumbent|/calibration/|/roc/")


@dataclass(frozen=True)
class Table:
    """Columns, and rows of plain values in their order."""

    columns: tuple[str, ...]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Picture:
    """A chart of the report, as a Vega-Lite specification."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Lines:
    """A curve a round: {round: [{x: ..., y: ...}]}."""

    points: Mapping[int, list[dict[str, Any]]]
    x: str
    y: str
    x_title: str
    title: str


@dataclass(frozen=True)
class Reference:
    """One folder of a run as an artifact: where it lies and what it was made from. Nothing is copied."""

    name: str
    kind: str  #: shards or model
    alias: str
    folder: Path
    made_by: str
    made_from: list[str]  #: artifacts, as NAME:ALIAS
    models: list[str]
    digest: str
    rows: dict[str, int] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """What stands beside it in a monitor."""
        return {
            "made_by": self.made_by,
            "made_from": self.made_from,
            "models": self.models,
            "rows": self.rows,
            "hash": self.digest,
            **self.more,
        }

    def line(self) -> list[Any]:
        """Its row in the table of lineage."""
        rows = ", ".join(f"{count:,} {kind}" for kind, count in self.rows.items())
        sources, models = ", ".join(self.made_from), ", ".join(self.models)
        where = self.folder.as_posix()
        return [
            f"{self.name}:{self.alias}",
            self.kind,
            self.made_by,
            sources,
            models,
            rows,
            self.digest,
            where,
        ]


Media = Table | Picture | Lines | Reference


class Monitor(Protocol):
    """One session of one monitor, made as `Monitor(folder, wanted)`. Any error ends it, never the run."""

    def begin(self) -> int:
        """Open it. Returns the first step that it has not been told yet, 0 for all of them."""
        ...

    def log(self, step: int, values: Values) -> None:
        """The numbers of a step: a round's, or a point of a training's own curve (`curve/STAGE/...`)."""
        ...

    def show(self, step: int, key: str, made: Media) -> None:
        """A round's table, picture, curves or artifact, with the record of its step."""
        ...

    def alert(self, title: str, text: str) -> None:
        """Something a person should know: the gate refused a model."""
        ...

    def finish(self, best: Values, step: int) -> None:
        """All is told up to `step`, which comes next. best: the best round's numbers."""
        ...


def monitor_of(folder: Path, wanted: dict[str, Any]) -> Monitor:
    """A session of the monitor that is wanted.

    Raises:
        ImportError: its package is not installed.
    """
    name = wanted["monitor"]
    assert name in NAMES, name
    return importlib.import_module(f"pipeline.report.monitor.{name}").Monitor(folder, wanted)


def is_part(name: str) -> bool:
    """Is a metric an interval's end, an incumbent's copy or a point of a curve, so that it needs no panel?"""
    return PARTS.search(name) is not None
