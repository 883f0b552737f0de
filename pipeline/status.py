"""How far a run is, and its rows for people. Reads manifests, gates and metrics; writes nothing and loads no
torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.loop import metrics_rows
from pipeline.recipe import Stage, nearest
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
    return {
        "run": name,
        "complete": complete,
        "running": is_held(run.folder),
        "rounds": rounds,
        "final": {"round": last, "metrics": final, "test_read": len(list(run.folder.glob("final-*")))},
        "seconds": round(sum(timings.values()), 3),
        "outcome": read_outcome(run.folder),
        "disk_bytes": sum(p.stat().st_size for p in run.folder.rglob("*") if p.is_file()),
    }


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
    """Every run, a short line each."""
    found = []
    for name in run_names(data):
        one = run_status(name, data, checkpoints)
        done = sum(entry["done"] for entry in one["rounds"])
        found.append(
            {
                "run": name,
                "complete": one["complete"],
                "running": one["running"],
                "rounds_done": f"{max(done - 1, 0)} of {len(one['rounds']) - 1}",
                "seconds": one["seconds"],
            }
        )
    return found


def to_text(found: Any) -> str:
    """A status for people."""
    if isinstance(found, list):
        if not found:
            return "No runs yet. Start one: ratchet run recipes/quickstart.yaml"
        width = max(len(one["run"]) for one in found)
        return "\n".join(
            f"{one['run']:<{width}}  rounds {one['rounds_done']:<9} "
            f"{'complete' if one['complete'] else 'running' if one['running'] else 'stopped':<9} "
            f"{one['seconds'] / 60:6.1f} min"
            for one in found
        )
    state = "complete" if found["complete"] else "running" if found["running"] else "stopped"
    lines = [f"{found['run']}: {state}, {found['seconds'] / 60:.1f} min, {found['disk_bytes'] / 1e6:.1f} MB"]
    for entry in found["rounds"]:
        heads = {k: v for k, v in entry["metrics"].items() if "accuracy/" in k and k.count("/") == 2}
        said = "  ".join(f"{key} {value:.3f}" for key, value in list(heads.items())[:3])
        gate = "  ".join(f"{n} {'promoted' if ok else 'REFUSED'}" for n, ok in entry["promoted"].items())
        lines.append(
            f"round {entry['round']}: {'done' if entry['done'] else 'open'}  {said}  {gate}".rstrip()
        )
        if not entry["done"]:
            lines += [f"    {name}: {one['state']}" for name, one in entry["stages"].items()]
    for key, value in found["final"]["metrics"].items():
        if key.count("/") <= 2 and ("accuracy" in key or "gain" in key):
            lines.append(f"final after round {found['final']['round']}: {key} {value:.3f}")
    if found["final"]["test_read"] > 1:
        lines.append(f"note: test was read {found['final']['test_read']} times (the run was extended)")
    if (outcome := found["outcome"]) and not outcome["ok"] and not found["running"]:
        lines.append(f"last launch ended with exit code {outcome['exit_code']}: {outcome['message']}")
    return "\n".join(lines)


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
