"""The papers' outer loop, on one page: prepare, round 0, rounds of stages and a gate, finally.

Each round the current policy writes traces, they are checked and labelled, the good ones become training
rows, the models are fine-tuned on them, and the new ones are measured and take over only if the gate lets
them. Starting a run that exists goes on at the first chunk that is not done: everything asks the disk what is
committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DamagedData, Diverged, RecipeError
from pipeline.evaluate import gate as gates
from pipeline.inputs import slices
from pipeline.measuring import measured
from pipeline.recipe import Stage, data_settings
from pipeline.report import metrics as records
from pipeline.report.card import run_card
from pipeline.rows import SCHEMA_VERSION
from pipeline.run import Run
from pipeline.stages import run_stage, together
from pipeline.store.folder import Plan
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
            run.console.round_done(number, by_round(write_metrics(run)), decision)
        elif not recorded(run, number):
            write_metrics(run)  # a launch died between the gate and the record

    together(run, close)


def recorded(run: Run, number: int) -> bool:
    """Does metrics.jsonl hold a round's gate?"""
    try:
        rows = records.read(run.folder / "metrics.jsonl")
    except DamagedData:
        return False
    return any(row["stage"] == "gate" and row["round"] == number for row in rows)


def gate_bytes(decision: dict[str, Any]) -> bytes:
    """gate.json of a decision."""
    return (json.dumps(decision, indent=1) + "\n").encode()


def prepare(run: Run) -> None:
    """Bring the tasks' problems into the run: counted, split, checked for overlap. Done once; the run then
    owns its problems."""
    together(run, lambda: _prepare(run))
    if run.world.size > 1:  # rank 0 alone will ask for some of them, and looking one up waits for every rank
        for name in run.recipe.models:
            run.base(name)


def prepare_settings(run: Run) -> dict[str, Any]:
    """What of the recipe decides which problems a run has, beside its seed."""
    return {"task": [data_settings(task) for task in run.recipe.tasks]}


def _prepare(run: Run) -> None:
    folder = run.prepare_folder
    begun = folder.plan() is not None
    if begun and folder.manifest() is not None:
        run.same_conditions()
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


def decide(run: Run, number: int) -> dict[str, Any]:
    """Which versions of the models stand after a round. Reads manifests only, never rows.

    Raises:
        Diverged: a first reward model fails its health check, so nothing good could follow.
    """
    metrics = dict(round_metrics(run, number))
    earlier = run.gate(number - 1) if number else None
    assert earlier or not number, "a round is closed after the one before it"
    decisions: dict[str, Any] = {}
    standing: dict[str, Any] = {}
    for name, spec in run.recipe.models.items():
        old = earlier["standing"][name] if earlier else run.record(run.base_weights(name))
        candidate = run.trained(name, number)
        if candidate is None:
            standing[name] = old
            continue
        first = number == 0 or run.weights_from(old).fresh_head
        stages = {rule.metric.split("/")[0] for rule in spec.gate}
        ran = {stage.name for stage in run.stages_in(number)}
        unmeasured = bool(stages - ran) and not first
        rules = [rule for rule in spec.gate if rule.metric.split("/")[0] in ran]
        decision = gates.decide(() if unmeasured else rules, metrics, first, health_of(run, name, number))
        if first and not decision.promote:
            raise Diverged(f"round {number}: the first {name} is not usable: {'; '.join(decision.reasons)}")
        decisions[name] = decision.as_dict() | {"trial": unmeasured, "candidate": run.record(candidate)}
        back = old.get("measured") or {key: value for key, value in old.items() if key != "trial"}
        if decision.promote:
            standing[name] = run.record(candidate) | ({"trial": True, "measured": back} if unmeasured else {})
        else:
            standing[name] = back  # the last version that was measured and promoted
            run.console.gate(number, name, decision)
    return {"round": number, "decisions": decisions, "standing": standing}


def health_of(run: Run, name: str, number: int) -> gates.Health:
    """What the round's evaluations found wrong with a model.

    Raises:
        Diverged: a policy has collapsed; nothing that it writes could teach.
    """
    failures = []
    for stage in run.stages_in(number):
        if stage.room == "evaluate" and name in measured(stage):
            failures += run.stage_folder(stage, number).require().extra["failures"]
    if failures and run.recipe.models[name].head is None:
        raise Diverged(f"round {number}: {'; '.join(failures)}")
    return gates.Health(failures=failures)


# --- metrics: derived from manifests and gates, rewritten whole


def stage_metrics(run: Run, stage: Stage, number: int) -> Iterator[tuple[str, float]]:
    """The numbers of one committed stage, its name in front."""
    manifest = run.stage_folder(stage, number).manifest()
    if manifest is None:
        return
    for key, value in manifest.extra.get("metrics", {}).items():
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
        yield f"{stage.name}/{name}", value
    if stage.room == "select" and (read := counts.counters.get("given")):
        yield f"{stage.name}/kept_share", 1 - sum(counts.dropped.values()) / read


def round_metrics(run: Run, number: int) -> Iterator[tuple[str, float]]:
    """The numbers of a round's committed stages."""
    for stage in run.stages_in(number):
        yield from stage_metrics(run, stage, number)


def metrics_rows(run: Run) -> list[dict[str, Any]]:
    """One row a stage of a round, one for each round's gate, and one a stage of each `finally` that was
    done."""
    rows: list[dict[str, Any]] = []
    number = 0
    while (run.folder / f"round-{number:03d}").is_dir():
        for stage in run.stages_in(number):
            rows += _rows_of(run, stage, number)
        gate = run.gate(number)
        if gate is not None:
            decided = {f"gate/{n}/promoted": float(d["promote"]) for n, d in gate["decisions"].items()}
            rows.append({"round": number, "stage": "gate", "metrics": decided})
        number += 1
    for folder in sorted(run.folder.glob("final-*")):
        ended = int(folder.name.split("-")[1])
        for stage in run.recipe.section("finally"):
            rows += [row | {"final": True} for row in _rows_of(run, stage, ended)]
    return rows


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


def by_round(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a round, its stages' numbers together; `finally` is left out."""
    merged = records.by_round(row for row in rows if not row.get("final"))
    return [{"round": number, "metrics": values} for number, values in merged.items()]


def write_metrics(run: Run) -> list[dict[str, Any]]:
    """Rewrite metrics.jsonl and the run's card from what is committed."""
    rows = metrics_rows(run)
    if run.world.main:
        run.disk.write(run.folder / "README.md", run_card(run, rows).encode("utf-8", "replace"))
        records.write(run.folder / "metrics.jsonl", rows)  # last: `recorded` asks it
    return rows


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
