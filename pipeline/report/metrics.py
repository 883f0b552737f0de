"""metrics.jsonl: the record of what was measured. One line a stage of a round: {"round", "stage",
"metrics": {...}}.

Derived: rewritten whole from manifests and gates, so nothing is appended across a crash and wandb can be
rebuilt from it. A row may carry `history`, a list of {"step", ...}: a training stage's own curve. Not here:
how the numbers come about (`evaluate/`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.store.disk import DISK, Disk

MetricsRow = dict[str, Any]


def line(row: Mapping[str, Any]) -> str:
    """One row as JSON text: keys sorted inside, numbers that are not finite as null (JSON has no NaN)."""
    head = [key for key in ("round", "stage") if key in row]
    ordered = {key: row[key] for key in [*head, *sorted(set(row) - set(head))]}
    ordered = {key: _plain(value) for key, value in ordered.items()}
    return json.dumps(ordered, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(line(row) + "\n" for row in rows).encode("utf-8", "replace")


def to_json(value: Mapping[str, Any]) -> bytes:
    """One object as an indented JSON file, keys sorted."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode("utf-8", "replace")


def write(path: Path, rows: Iterable[Mapping[str, Any]], disk: Disk = DISK) -> None:
    """The whole file, at once, durably."""
    disk.write(path, to_lines(rows))


def read(path: Path) -> list[MetricsRow]:
    """Every row; none where the file is not there yet.

    Raises:
        DamagedData: a line that is not a row. The file is derived: starting the run again rewrites it.
    """
    if not path.exists():
        return []
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
            if not isinstance(row["metrics"], dict) or not isinstance(row["round"], int):
                raise TypeError("metrics or round of another type")
        except (ValueError, KeyError, TypeError) as problem:
            raise DamagedData(
                f"{path}:{number}: not a metrics row ({problem}). Start the run again: the file is made anew"
            ) from problem
        rows.append(row)
    return rows


def by_round(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Every metric of each round, whatever stage wrote it; a later row wins."""
    merged: dict[int, dict[str, float]] = {}
    for row in rows:
        known = {name: value for name, value in row["metrics"].items() if value is not None}
        merged.setdefault(row["round"], {}).update(known)
    return dict(sorted(merged.items()))
