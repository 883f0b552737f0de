"""The papers' outer loop, on one page: prepare, round 0, rounds of stages and a gate, finally.

Each round the current policy writes traces, they are checked and labelled, the good ones become training
rows, the models are fine-tuned on them, and the new ones are measured and take over only if the gate lets
them. Starting a run that exists goes on at the first chunk that is not done: everything asks the disk what is
committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DamagedData, RecipeError
from pipeline.recipe.measures import measures
from pipeline.recipe.shape import Stage, data_settings
from pipeline.report.card import run_card
from pipeline.rows import SCHEMA_VERSION
from pipeline.run import record as records
from pipeline.run.conditions import same_conditions
from pipeline.run.gates import decide, gate_bytes
from pipeline.run.record import metrics_rows
from pipeline.run.run import Run
from pipeline.stages.files import bring_in
from pipeline.stages.inputs import slices
from pipeline.stages.run import run_stage, together
from pipeline.store.plan import Plan
from pipeline.tasks.prepare import gather


@dataclass(frozen=True)
class Stop:
    """Where `--until` ends a run."""

    stage: str | None = None

    def after(self, stage: Stage) -> bool:
        return stage.name == self.stage


def run_loop(run: Run, until: str | None = None) -> list[dict[str, Any]] | None:
    """The whole run, or what is left of it. Returns every metrics row, None where `until`
    ended it earlier."""
    stop = Stop(until and run.recipe.stage(until).name)
    prepare(run)
    for number in range(run.recipe.rounds + 1):
        if not one_round(run, number, stop):
            return None
    for stage in run.recipe.section("finally"):
        run_stage(run, stage, run.recipe.rounds)
        if stop.after(stage):
            return None
    return write_metrics(run)


def one_round(run: Run, number: int, stop: Stop) -> bool:
    """One round: its stages in the order written, then its gate. False where `--until` ended it."""
    for stage in run.stages_in(number):
        fresh = run.stage_folder(stage, number).manifest() is None
        run_stage(run, stage, number)
        if fresh and stop.after(stage):
            return False
    close_round(run, number)
    return True


def close_round(run: Run, number: int) -> None:
    """Derive the round's gate and the metrics from what is committed; rank 0 writes them, every rank
    waits."""

    def close() -> None:
        if run.gate(number) is None:
            decision = decide(run, number)
            run.disk.write(run.gate_file(number), gate_bytes(decision))
            run.console.round_done(number, by_round(write_metrics(run)), decision, measures(run.recipe))
        elif not recorded(run, number):
            write_metrics(run)  # a launch died between the gate and the record

    together(run, close)


def prepare(run: Run) -> None:
    """Bring the tasks' problems into the run: counted, split, checked for overlap. Done once; the run then
    owns its problems."""
    together(run, lambda: _prepare(run))
    if (
        run.processes.size > 1
    ):  # rank 0 alone will ask for some of them, and looking one up waits for every rank
        for name in run.recipe.models:
            run.versions.base(name)
    together(run, lambda: bring_in(run))


def prepare_settings(run: Run) -> dict[str, Any]:
    """What of the recipe decides which problems a run has, beside its seed."""
    return {"task": [data_settings(task) for task in run.recipe.tasks]}


def _prepare(run: Run) -> None:
    folder = run.prepare_folder
    begun = folder.plan() is not None
    if begun and folder.manifest() is not None:
        same_conditions(run)
    if not (begun and folder.is_complete()):
        found = gather(list(run.tasks.values()))
        if found.rejected:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rejected)
            run.disk.write(run.folder / "rejected.jsonl", lines.encode())
            run.console.warn(
                f"{len(found.rejected)} input rows rejected: {run.folder}/rejected.jsonl says which and why"
            )
        ids = [problem.id for problem in found.problems]
        plan = Plan.make(
            run=run.name,
            round=-1,
            stage="prepare",
            room="prepare",
            method="gather",
            main="Problem",
            settings=prepare_settings(run),
            inputs={},
            models={},
            schema=SCHEMA_VERSION,
            seed=run.recipe.seed,
            chunks=slices(ids, 4096),
            recorded=run.recorded(),
        )
        folder.begin(plan)
        rows = {problem.id: problem for problem in found.problems}
        for number, chunk in enumerate(plan.chunks):
            if number in folder.done():
                continue
            with folder.writing(number) as part:
                part.add(rows[i] for i in chunk.ids)
        counts = {split: sum(p.split == split for p in found.problems) for split in ("train", "dev", "test")}
        folder.commit({"splits": counts, "dropped": len(found.dropped)})
        run.console.note(
            "prepared " + ", ".join(f"{n:,} {split}" for split, n in counts.items()) + " problems"
        )


# --- metrics: derived from manifests and gates, rewritten whole


def by_round(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a round, its stages' numbers together; `finally` is left out."""
    merged = records.by_round(row for row in rows if not row.get("final"))
    return [{"round": number, "metrics": values} for number, values in merged.items()]


def stage_alone(run: Run, name: str, number: int) -> None:
    """One stage of one round as its own job, and the round's gate where it was the last.

    Raises:
        RecipeError: the stage does not run in that round, or what it reads is not finished.
    """
    stage = run.recipe.stage(name)
    prepare(run)
    if stage.section == "finally":
        run_stage(run, stage, number)
        write_metrics(run)
        return
    if stage not in run.stages_in(number):
        raise RecipeError(f"run {run.name}: stage {name} does not run in round {number}")
    run_stage(run, stage, number)
    if all(run.stage_folder(other, number).manifest() is not None for other in run.stages_in(number)):
        close_round(run, number)


def recorded(run: Run, number: int) -> bool:
    """Does metrics.jsonl hold a round's gate?"""
    try:
        rows = records.read(run.folder / "metrics.jsonl")
    except DamagedData:
        return False
    return any(row["stage"] == "gate" and row["round"] == number for row in rows)


def write_metrics(run: Run) -> list[dict[str, Any]]:
    """Rewrite metrics.jsonl and the run's card from what is committed."""
    rows = metrics_rows(run)
    if run.processes.main:
        run.disk.write(run.folder / "README.md", run_card(run, rows).encode("utf-8", "replace"))
        records.write(run.folder / "metrics.jsonl", rows)  # last: `recorded` asks it
    return rows
