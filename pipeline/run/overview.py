"""Every run in a line: state, rounds, work, disk, last result; a few tenths of a millisecond for a run that
nobody has touched since the last look.

A line is made from recipe.yaml, metrics.jsonl, timing.jsonl and outcome.json, never from manifests, and kept
in the run's logs/overview.json with the stamps of these files (scratch, outside what a run promises); while
they stand as they stood, it is read back. Whether somebody works on a run is asked of its lock each time. Not
here: one run in full (`status.py`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline import __version__
from pipeline.errors import DamagedData, RatchetError
from pipeline.recipe.glance import glance
from pipeline.recipe.measures import Measure, measures_of
from pipeline.run import activity
from pipeline.run.record import MetricsRow, metrics_rows, read
from pipeline.run.run import timings_of
from pipeline.run.session import open_run, run_names
from pipeline.store.lock import is_held
from pipeline.store.outcome import read_outcome
from pipeline.store.run_folder import size_of
from pipeline.store.workspace import Workspace

WATCHED = ("recipe.yaml", "metrics.jsonl", "timing.jsonl", "outcome.json", "")  #: "": the folder itself
#: ([(metrics, where)], what the recipe declares) -> the newest in words
Result = Callable[[Iterable[tuple[dict[str, float], str]], Sequence[Measure]], str]


def overview(workspace: Workspace, result: Result) -> list[dict[str, Any]]:
    """Every run: {run, state, complete, running, rounds_done, result, seconds, disk_bytes}; one that cannot
    be read says why in `result`. The state of a run at work is `running`, whatever its files say.
    """
    found = []
    for name in run_names(workspace.data):
        line = _line(name, workspace, result)
        if is_held(workspace.rows_of(name)) and line["state"] != "unreadable":
            line |= {"state": "running", "running": True}
        found.append(line)
    return found


def _line(name: str, workspace: Workspace, result: Result) -> dict[str, Any]:
    """One run's line, kept from the last look or made anew."""
    folder = workspace.rows_of(name)
    place, stamps = folder / "logs" / "overview.json", _stamps(name, workspace)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(place.read_text())
        if kept["stamps"] == stamps:
            return dict(kept["line"])
    try:
        line = _made(name, workspace, result)
    except RatchetError as problem:
        return {"run": name, "state": "unreadable", "result": str(problem).split("\n")[0]}
    activity.tell(place, {"stamps": stamps, "line": line})  # nothing where the disk does not take it
    return line


def _stamps(name: str, workspace: Workspace) -> list[Any]:
    """What changes whenever a line would."""
    found: list[Any] = [__version__]
    for path in (*(workspace.rows_of(name) / part for part in WATCHED), workspace.weights_of(name)):
        try:
            stat = path.stat()
            found.append([stat.st_ino, stat.st_mtime_ns, stat.st_size])
        except OSError:
            found.append(None)
    return found


def _made(name: str, workspace: Workspace, result: Result) -> dict[str, Any]:
    folder = workspace.rows_of(name)
    seen = glance(folder / "recipe.yaml")
    if seen is None:  # what is wrong with it is said in full
        recipe = open_run(name, workspace).recipe
        seen = recipe.header, recipe.stages, tuple(stage.name for stage in recipe.section("finally"))
    header, stages, ends = seen
    rows = _rows(name, workspace)
    done = {row["round"] for row in rows if row.get("stage") == "gate"}
    last = header.rounds
    ended = {row["stage"] for row in rows if row.get("final") and row["round"] == last}
    complete = done >= set(range(last + 1)) and ended >= set(ends)
    outcome = read_outcome(folder)
    failed = f"stopped ({outcome['exit_code']})" if outcome and not outcome["ok"] else "stopped"
    return {
        "run": name,
        "state": "complete" if complete else failed,
        "complete": complete,
        "running": False,
        "rounds_done": f"{max(len(done) - 1, 0)} of {last}" if last else "none asked",
        "result": result(_newest(rows), measures_of(stages)),
        "seconds": round(sum(entry["seconds"] for entry in timings_of(folder)), 3),
        "disk_bytes": size_of(folder) + size_of(workspace.weights_of(name)),
    }


def _rows(name: str, workspace: Workspace) -> list[MetricsRow]:
    """metrics.jsonl; derived anew where it is not there or damaged."""
    path = workspace.rows_of(name) / "metrics.jsonl"
    if path.is_file():
        with contextlib.suppress(DamagedData):
            return read(path)
    return metrics_rows(open_run(name, workspace))


def _newest(rows: list[MetricsRow]) -> Iterable[tuple[dict[str, float], str]]:
    """(metrics, where) of what was measured: the end first, then round by round backwards."""
    finals = [row for row in rows if row.get("final")]
    if finals:
        newest = max(row["round"] for row in finals)
        merged: dict[str, float] = {}
        for row in finals:
            merged |= row["metrics"] if row["round"] == newest else {}
        yield merged, "test, final"
    for number in sorted({row["round"] for row in rows if not row.get("final")}, reverse=True):
        merged = {}
        for row in rows:
            merged |= row["metrics"] if row["round"] == number and not row.get("final") else {}
        yield merged, f"round {number}"
