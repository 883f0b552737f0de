"""How far a run is, and its rows for people. Reads manifests, gates and metrics; writes nothing and loads no
torch. Not here: how it is said (`telling.py`)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pipeline.errors import RatchetError, RecipeError
from pipeline.loop import metrics_rows
from pipeline.recipe import Stage, nearest
from pipeline.report import now, summary, wording
from pipeline.report.console import Console
from pipeline.run import Run
from pipeline.session import run_names, stored
from pipeline.store.lock import is_held
from pipeline.store.outcome import read_outcome


def open_run(name: str, data: Path, checkpoints: Path) -> Run:
    """A run to look at.

    Raises:
        RecipeError: there is none of that name; the message names the nearest.
    """
    if not (data / name / "recipe.yaml").is_file():
        raise RecipeError(f"no run {name!r} in {data}/{nearest(name, run_names(data))}")
    return Run(stored(data / name), Console(quiet=True), data, checkpoints)


def _state(run: Run, stage: Stage, number: int) -> str:
    folder = run.stage_folder(stage, number)
    if folder.manifest() is not None:
        return "done"
    plan = folder.plan()
    if plan is None:
        return "waiting"
    done = sum((folder.path / f"{plan.chunk_name(i)}.json").exists() for i in range(len(plan.chunks)))
    return f"{done} of {len(plan.chunks)} chunks" if plan.chunks else "begun"


def run_status(name: str, data: Path, checkpoints: Path) -> dict[str, Any]:
    """One run, as `status --json` gives it; round 0 is the seed policy."""
    run = open_run(name, data, checkpoints)
    timings = seconds_by_stage(run)
    rows = metrics_rows(run)
    rounds = []
    for number in range(run.recipe.rounds + 1):
        gate = run.gate(number)
        rounds.append(
            {
                "round": number,
                "done": gate is not None,
                "stages": {
                    stage.name: {
                        "state": _state(run, stage, number),
                        "seconds": timings.get((number, stage.name), 0.0),
                    }
                    for stage in run.stages_in(number)
                },
                "metrics": _merged(row for row in rows if row["round"] == number and not row.get("final")),
                "promoted": {n: d["promote"] for n, d in gate["decisions"].items()} if gate else {},
            }
        )
    last = max((row["round"] for row in rows if row.get("final")), default=None)
    final = _merged(row for row in rows if row.get("final") and row["round"] == last)
    wanted = run.recipe.section("finally")
    complete = all(entry["done"] for entry in rounds) and all(
        run.stage_folder(stage, run.recipe.rounds).manifest() is not None for stage in wanted
    )
    running = is_held(run.folder)
    return {
        "run": name,
        "complete": complete,
        "running": running,
        "now": now.look(now.place(run.folder)) if running else None,
        "seconds_left": seconds_left(rounds) if not complete else 0.0,
        "rounds": rounds,
        "final": {"round": last, "metrics": final, "test_read": len(list(run.folder.glob("final-*")))},
        "seconds": round(sum(timings.values()), 3),
        "outcome": read_outcome(run.folder),
        "disk_bytes": size_of(run.folder),
        "weights_bytes": size_of(checkpoints / name),
    }


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; what goes away meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def seconds_left(rounds: list[dict[str, Any]]) -> float | None:
    """A guess: each round left takes as long as the last whole one; `finally` is not counted. None where
    no round is whole yet."""
    whole = [entry for entry in rounds[1:] if entry["done"]]
    left = [entry for entry in rounds[1:] if not entry["done"]]
    if not whole:
        return None

    def spent(entry: dict[str, Any]) -> float:
        return sum(one["seconds"] for one in entry["stages"].values())

    last = spent(whole[-1])
    return sum(max(last - spent(entry), 0.0) for entry in left)


def last_result(status: dict[str, Any]) -> str:
    """`greedy 32.6 % [29.8, 35.6] (final)`: the newest accuracy that a run measured; empty where none."""
    final = status["final"]
    places = [(final["metrics"], "test, final")] if final["metrics"] else []
    places += [(entry["metrics"], f"round {entry['round']}") for entry in reversed(status["rounds"])]
    for metrics, where in places:
        if head := wording.find(metrics, *summary.HEADS):
            kind = head.partition("accuracy/")[2]
            return f"{kind} {wording.within(metrics, head)} ({where})"
    return ""


def _merged(rows: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        found.update(row["metrics"])
    return found


def seconds_by_stage(run: Run) -> dict[tuple[int, str], float]:
    """Wall seconds of each stage, over every launch that worked on it."""
    found: dict[tuple[int, str], float] = {}
    for entry in run.timings():
        key = (entry["round"], entry["stage"])
        found[key] = found.get(key, 0.0) + entry["seconds"]
    return found


def all_runs(data: Path, checkpoints: Path) -> list[dict[str, Any]]:
    """Every run, a short line each; one that cannot be read says why."""
    found = []
    for name in run_names(data):
        try:
            one = run_status(name, data, checkpoints)
        except RatchetError as problem:
            found.append({"run": name, "state": "unreadable", "result": str(problem).split("\n")[0]})
            continue
        done = sum(entry["done"] for entry in one["rounds"])
        found.append(
            {
                "run": name,
                "state": state_of(one),
                "complete": one["complete"],
                "running": one["running"],
                "rounds_done": f"{max(done - 1, 0)} of {len(one['rounds']) - 1}",
                "result": last_result(one),
                "seconds": one["seconds"],
                "disk_bytes": one["disk_bytes"] + one["weights_bytes"],
            }
        )
    return found


def state_of(status: dict[str, Any]) -> str:
    """complete, running, or stopped, with the exit code where a launch left one."""
    if status["complete"]:
        return "complete"
    if status["running"]:
        return "running"
    outcome = status["outcome"]
    return f"stopped ({outcome['exit_code']})" if outcome and not outcome["ok"] else "stopped"


def show_rows(
    name: str, number: int, stage_name: str, row: int | None, limit: int, data: Path, checkpoints: Path
) -> str:
    """A stage's rows for people.

    Raises:
        RecipeError: no such run, stage or round, or the stage has written nothing yet.
    """
    from pipeline.inputs import Reader
    from pipeline.report.show import render_rows

    run = open_run(name, data, checkpoints)
    stage = run.recipe.stage(stage_name)
    folder = run.stage_folder(stage, number)
    plan = folder.plan()
    if plan is None or folder.manifest() is None:
        raise RecipeError(
            f"run {name}: round {number}: {stage_name} has written nothing yet ({_state(run, stage, number)})"
        )
    rows: list[Any] = []
    reader = Reader(data)
    wanted = limit if row is None else row + 1
    for chunk_number, chunk in enumerate(plan.chunks):
        if stage.room == "label":
            for group in reader.groups(chunk).values():
                rows += group.traces
        for kind in folder.require().kinds:
            rows += folder.read_chunk(kind, chunk_number)
        mains = sum(type(r).__name__ == (plan.main if stage.room != "label" else "Trace") for r in rows)
        if mains >= wanted:
            break
    return render_rows(rows, limit=limit, number=row, problems=run.problems)
