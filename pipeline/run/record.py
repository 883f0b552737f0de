"""metrics.jsonl: the record of what was measured. One line a stage of a round: {"round", "stage",
"metrics": {...}}.

Derived: rewritten whole from manifests and gates, so nothing is appended across a crash and wandb can be
rebuilt from it. A row may carry `history`, a list of {"step", ...}: a training stage's own curve. Not here:
how the numbers come about (`evaluate/`).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.recipe.shape import Stage
from pipeline.run.run import Run
from pipeline.store.disk import DISK, Disk

#: a filter's counters, by reason: its Dropped rows that name no row which it was given, but a tree's node
NOT_GIVEN = "not_given"

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


def stage_metrics(run: Run, stage: Stage, number: int) -> Iterator[tuple[str, float]]:
    """The numbers of one committed stage, its name in front."""
    manifest = run.stage_folder(stage, number).manifest()
    if manifest is None:
        return
    measured = manifest.extra.get("metrics", {})
    for key, value in measured.items():
        yield f"{stage.name}/{key}", value
    if stage.room == "train":
        yield from ((f"{stage.name}/dropped/{reason}", n) for reason, n in manifest.extra["dropped"].items())
        return
    counts = manifest.counts
    for kind, rows in counts.rows.items():
        if kind != "Dropped":
            yield f"{stage.name}/{kind.lower()}s", rows
    for reason, rows in counts.dropped.items():
        yield f"{stage.name}/dropped/{reason}", rows
    for name, value in counts.counters.items():
        if name not in measured:  # what a stage measures and what is counted of its rows may share a name
            yield f"{stage.name}/{name}", value
    if stage.room == "select" and (read := counts.counters.get("given")):
        others = sum(value for name, value in counts.counters.items() if name.startswith(f"{NOT_GIVEN}/"))
        yield f"{stage.name}/kept_share", 1 - (sum(counts.dropped.values()) - others) / read


def round_metrics(run: Run, number: int) -> Iterator[tuple[str, float]]:
    """The numbers of a round's committed stages."""
    for stage in run.stages_in(number):
        yield from stage_metrics(run, stage, number)


def metrics_rows(run: Run) -> list[dict[str, Any]]:
    """One row a stage of a round, one for each round's gate, and one a stage of each `finally` that was
    done."""
    rows: list[dict[str, Any]] = []
    number, closed = 0, run.kept.metrics
    while number in closed or (run.folder / f"round-{number:03d}").is_dir():
        rows += closed.get(number) or _round_rows(run, number)
        number += 1
    for folder in sorted(run.folder.glob("final-*")):
        ended = int(folder.name.split("-")[1])
        for stage in run.recipe.section("finally"):
            rows += [row | {"final": True} for row in _rows_of(run, stage, ended)]
    return rows


def _round_rows(run: Run, number: int) -> list[dict[str, Any]]:
    """The rows of one round; once its gate has decided they are kept."""
    rows = [row for stage in run.stages_in(number) for row in _rows_of(run, stage, number)]
    gate = run.gate(number)
    if gate is not None:
        decided = {f"gate/{n}/promoted": float(d["promote"]) for n, d in gate["decisions"].items()}
        rows.append({"round": number, "stage": "gate", "metrics": decided})
        run.kept.metrics[number] = rows
    return rows


def known_rows(run: Run) -> list[MetricsRow]:
    """What `metrics_rows` gives, for those who look: rounds that metrics.jsonl holds up to their gate are
    taken from there, so that a look at a long run costs what is new. A damaged file is passed over."""
    with contextlib.suppress(DamagedData):
        found: dict[int, list[MetricsRow]] = {}
        for row in read(run.folder / "metrics.jsonl"):
            if not row.get("final"):
                found.setdefault(row["round"], []).append(row)
        closed = {n: rows for n, rows in found.items() if rows[-1].get("stage") == "gate"}
        run.kept.metrics.update(closed)
    return metrics_rows(run)


def _rows_of(run: Run, stage: Stage, number: int) -> list[dict[str, Any]]:
    manifest = run.stage_folder(stage, number).manifest()
    if manifest is None:
        return []
    row: dict[str, Any] = {
        "round": number,
        "stage": stage.name,
        "metrics": dict(stage_metrics(run, stage, number)),
    }
    if history := manifest.extra.get("history"):
        row["history"] = history
    return [row]
