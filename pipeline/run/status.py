"""How far a run is, and its rows for people. Reads gates, metrics.jsonl and what of the disk it does not
hold yet; writes nothing and loads no torch. Not here: every run in a line (`overview.py`), how it is said
(`commands/status.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.recipe.shape import Stage
from pipeline.run import activity
from pipeline.run.record import known_rows
from pipeline.run.run import Run
from pipeline.run.session import open_run
from pipeline.store.lock import is_held
from pipeline.store.outcome import read_outcome
from pipeline.store.run_folder import size_of
from pipeline.store.workspace import Workspace


def _state(run: Run, stage: Stage, number: int, closed: bool = False) -> str:
    """Of a round whose gate has decided, the manifest's being there is enough: a look costs what is new."""
    folder = run.stage_folder(stage, number)
    if closed and (folder.path / "manifest.json").exists():
        return "done"
    if folder.manifest() is not None:
        return "done"
    plan = folder.plan()
    if plan is None:
        return "waiting"
    done = sum((folder.path / f"{plan.chunk_name(i)}.json").exists() for i in range(len(plan.chunks)))
    return f"{done} of {len(plan.chunks)} chunks" if plan.chunks else "begun"


def run_status(name: str, workspace: Workspace) -> dict[str, Any]:
    """One run, as `status --json` gives it; round 0 is the seed policy."""
    run = open_run(name, workspace)
    timings = seconds_by_stage(run)
    rows = known_rows(run)
    by_round: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if not row.get("final"):
            by_round.setdefault(row["round"], []).append(row)
    rounds = []
    for number in range(run.recipe.rounds + 1):
        gate = run.gate(number)
        rounds.append(
            {
                "round": number,
                "done": gate is not None,
                "stages": {
                    stage.name: {
                        "state": _state(run, stage, number, gate is not None),
                        "seconds": timings.get((number, stage.name), 0.0),
                    }
                    for stage in run.stages_in(number)
                },
                "metrics": _merged(by_round.get(number, [])),
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
        "now": activity.look(activity.place(run.folder)) if running else None,
        "seconds_left": seconds_left(rounds) if not complete else 0.0,
        "rounds": rounds,
        "final": {"round": last, "metrics": final, "test_read": len(list(run.folder.glob("final-*")))},
        "seconds": round(sum(timings.values()), 3),
        "outcome": read_outcome(run.folder),
        "disk_bytes": size_of(run.folder),
        "weights_bytes": size_of(workspace.checkpoints / name),
    }


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


def _merged(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
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


def state_of(status: dict[str, Any]) -> str:
    """complete, running, or stopped, with the exit code where a launch left one."""
    if status["complete"]:
        return "complete"
    if status["running"]:
        return "running"
    outcome = status["outcome"]
    return f"stopped ({outcome['exit_code']})" if outcome and not outcome["ok"] else "stopped"
