"""The upkeep of runs: `verify`, `verify --repair`, `fork`, `gc`.

Everything that a run holds is hashed or derived, so all of it can be checked, and what is damaged can be made
again to the same bytes or the run stops with a sentence. Nothing here loads torch until something has to be
made again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pipeline import recipe as recipes
from pipeline.errors import DamagedData, Diverged, RecipeError
from pipeline.loop import (
    close_round,
    decide,
    gate_bytes,
    metrics_rows,
    prepare,
    prepare_settings,
    write_metrics,
)
from pipeline.recipe import Stage
from pipeline.report import metrics as records
from pipeline.report.console import Console
from pipeline.rows import SCHEMA_VERSION
from pipeline.run import Run
from pipeline.session import session
from pipeline.stages import plan_stage, run_stage
from pipeline.status import open_run
from pipeline.store.adopt import adopt_stage, adopt_weights
from pipeline.store.folder import Plan, StageFolder
from pipeline.store.lock import RunLock
from pipeline.store.repair import prepare_repair
from pipeline.store.run import gc, run_name_ok, verify_run
from pipeline.store.weights import read_weights
from pipeline.world import World

ATTEMPTS = 6  #: a damaged plan takes one, its chunks the next, their readers another


# --- what a run has done


def stages_done(run: Run) -> Iterator[tuple[int, Stage]]:
    """Every stage whose manifest stands (damaged or not), in the order in which they ran."""
    for number in round_numbers(run):
        for stage in run.stages_in(number):
            if (run.stage_folder(stage, number).path / "manifest.json").exists():
                yield number, stage
    for folder in sorted(run.folder.glob("final-*")):
        number = int(folder.name.split("-")[1])
        for stage in run.recipe.section("finally"):
            if (folder / stage.name / "manifest.json").exists():
                yield number, stage


def round_numbers(run: Run) -> list[int]:
    """The rounds that have a folder."""
    return sorted(int(path.name.split("-")[1]) for path in run.folder.glob("round-*") if path.is_dir())


# --- verify


def verify(name: str, repair: bool, console: Console, data: Path, checkpoints: Path) -> str:
    """Check every hash of a run, and that its gates and metrics are what its manifests give.

    Raises:
        DamagedData: with everything that is wrong, or with what could not be made again to the same bytes.
    """
    run = open_run(name, data, checkpoints)
    if repair:
        repair_run(run, console)
        run = open_run(name, data, checkpoints)
    problems = wrong(run)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        cure = "" if repair else f"\nMake it again to the same bytes: ratchet verify {name} --repair"
        raise DamagedData(f"{run.folder}: {len(problems)} wrong{lines}{cure}")
    files = sum(1 for path in run.folder.rglob("*") if path.is_file())
    return f"{name}: every hash is right ({len(list(stages_done(run)))} stages done, {files} files)"


def wrong(run: Run) -> list[str]:
    """Everything wrong with a run, one sentence each."""
    own = run.checkpoints / run.name
    problems = verify_run(run.folder, own)
    if not problems:  # what follows reads manifests, so they have to be right
        problems = [*_wrong_weights(run), *_wrong_derived(run)]
    return problems


def _wrong_weights(run: Run) -> Iterator[str]:
    """Weights that a train stage committed and that are gone, or are others."""
    for number, stage in stages_done(run):
        record = run.stage_folder(stage, number).require().extra.get("weights")
        if not record:
            continue
        weights = run.weights_from(record)
        place = weights.adapter or weights.base
        try:
            found = read_weights(place).hash
        except DamagedData as error:
            yield f"round {number}: {stage.name}: {error}"
            continue
        if found != record["hash"]:
            yield f"{place}: not what round {number}'s {stage.name} made: {found}, not {record['hash']}"


def _wrong_derived(run: Run) -> Iterator[str]:
    """gate.json and metrics.jsonl that are not what the manifests give."""
    looking = _quiet(run)
    for number in round_numbers(run):
        path = run.gate_file(number)
        if not path.exists():
            continue
        try:
            right = path.read_bytes() == gate_bytes(decide(looking, number))
        except (
            DamagedData,
            Diverged,
            KeyError,
            TypeError,
        ) as problem:  # edited: reads as anything
            yield f"{path}: cannot be derived from the manifests: {problem!r}"
            return
        if not right:
            yield f"{path}: is not what the round's manifests give"
            return  # later gates stand on it
    path = run.folder / "metrics.jsonl"
    derived = set(records.to_lines(metrics_rows(run)).splitlines())
    if path.exists() and not derived.issuperset(path.read_bytes().splitlines()):
        yield f"{path}: is not what the manifests give"  # an open round may be missing in it


def repair_run(run: Run, console: Console) -> None:
    """Take away what is damaged and make it again, to the same bytes.

    Only what was done before is done again: an unfinished run stays where it was.

    Raises:
        DamagedData: something made again is not what its manifest says.
    """
    with session(run.recipe, console, World(), run.data, run.checkpoints) as working:
        done = list(stages_done(working))
        gated = [number for number in round_numbers(working) if working.gate_file(number).exists()]
        for said in _drop_apart(working):
            console.note(said)
        for _ in range(ATTEMPTS):
            removed = prepare_repair(working.folder, working.checkpoints / working.name)
            for said in removed:
                console.note(said)
            fresh = dataclasses.replace(working, engines={})  # nothing remembered of what was damaged
            if not removed and not wrong(fresh):
                return
            _make_again(fresh, done, gated)
    raise DamagedData(
        f"{run.folder}: still not whole after {ATTEMPTS} attempts: {'; '.join(wrong(working)[:3])}"
    )


def _make_again(run: Run, done: list[tuple[int, Stage]], gated: list[int]) -> None:
    """The stages and gates that were there before, in order; those that are whole cost nothing."""
    prepare(run)
    quiet = _quiet(run)
    rounds = [number for number, stage in done if stage.section != "finally"]
    for number in sorted(set(rounds) | set(gated)):
        for at, stage in done:
            if at == number and stage.section != "finally":
                run_stage(run, stage, number)
        if number in gated:
            right = gate_bytes(decide(quiet, number))
            path = run.gate_file(number)
            if not path.exists() or path.read_bytes() != right:
                run.disk.write(path, right)
    for number, stage in done:
        if stage.section == "finally":
            run_stage(run, stage, number)
    if (run.folder / "metrics.jsonl").exists():
        write_metrics(run)


def _quiet(run: Run) -> Run:
    return dataclasses.replace(run, console=Console(quiet=True, main=False))


def _drop_apart(run: Run) -> Iterator[str]:
    """Measurements of `eval` are no part of the loop: a damaged one goes, and is made again when asked."""
    for path in sorted(run.folder.glob("eval-*")):
        if problems := StageFolder(path).verify():
            run.disk.remove(path)
            yield f"removed {path} ({problems[0]}): `ratchet eval {run.name}` measures it again"


# --- fork


def fork(
    name: str, new_name: str, overrides: list[str], console: Console, data: Path, checkpoints: Path
) -> str:
    """A new run from an old one, with changed settings; what is still valid is taken over under hard links.

    A stage is valid where its plan under the new recipe has the old fingerprint. A fork that was killed is
    started again with the same command.

    Raises:
        RecipeError: no such run, the new name is taken by a run with other settings, or a bad override.
    """
    old = open_run(name, data, checkpoints)
    run_name_ok(new_name, data, checkpoints)
    if new_name == name:
        raise RecipeError(f"fork {name} {new_name}: a fork needs a name of its own")
    recipe = recipes.load(old.folder / "recipe.yaml", overrides, new_name)
    with session(recipe, console, World(), data, checkpoints) as run:
        taken = _take_over(old, run)
        goes_on = run.resumed_from() or "prepare"
    changed = [line for line in sum(recipes.changes(old.recipe, recipe), []) if not line.startswith("name:")]
    lines = [f"{new_name}: forked from {name}" + (f", {len(changed)} keys changed" if changed else "")]
    lines += [f"  {line}" for line in changed]
    lines.append(f"  taken over: {', '.join(taken) or 'nothing: every stage depends on what changed'}")
    lines.append(f"Go on from {goes_on}: ratchet run {new_name}")
    return "\n".join(lines)


def _take_over(old: Run, run: Run) -> list[str]:
    """Every stage that stays valid, in order. Returns their names."""
    if not _take_prepare(old, run):
        return []
    taken, quiet = ["prepare"], _quiet(run)
    for number in range(run.recipe.rounds + 1):
        stages = run.stages_in(number)
        whole = [name for stage in stages if (name := _take_stage(old, run, stage, number))]
        taken += whole
        if len([name for name in whole if "(" not in name]) < len(stages):
            return taken
        with contextlib.suppress(Diverged):  # under a new gate nothing may stand: the run says so itself
            close_round(quiet, number)
        if run.gate(number) is None:
            return taken
    for stage in run.recipe.section("finally"):
        if name := _take_stage(old, run, stage, run.recipe.rounds):
            taken.append(name)
    if all(run.stage_folder(s, run.recipe.rounds).manifest() for s in run.recipe.section("finally")):
        write_metrics(run)
    return taken


def _take_prepare(old: Run, run: Run) -> bool:
    theirs = old.prepare_folder.plan()
    if theirs is None:
        return False
    wanted = Plan.make(
        run=run.name,
        round=theirs.round,
        stage=theirs.stage,
        room=theirs.room,
        method=theirs.method,
        main=theirs.main,
        settings=prepare_settings(run),
        inputs={},
        models={},
        schema=SCHEMA_VERSION,
        seed=run.recipe.seed,
        chunks=theirs.chunks,
        recorded=theirs.recorded,
    )
    if wanted.fingerprint != theirs.fingerprint:
        return False
    rejected = old.folder / "rejected.jsonl"
    if rejected.exists() and not (run.folder / "rejected.jsonl").exists():
        run.disk.link(rejected, run.folder / "rejected.jsonl")
    return adopt_stage(old.prepare_folder, run.prepare_folder, wanted, run.disk)[1]


def _take_stage(old: Run, run: Run, stage: Stage, number: int) -> str:
    """One stage, its weights first. Returns its name where something of it was taken, with the number of
    chunks where it is not whole."""
    source, target = old.stage_folder(stage, number), run.stage_folder(stage, number)
    theirs = source.plan()
    if theirs is None:
        return ""
    try:
        plan, _ = plan_stage(run, stage, number)
    except RecipeError:  # what it reads was not taken over
        return ""
    if plan.fingerprint != theirs.fingerprint:
        return ""
    manifest = source.manifest()
    if manifest is not None and (record := manifest.extra.get("weights")):
        theirs_at, ours_at = old.weights_from(record), run.weights_from(record)
        adopt_weights(theirs_at.adapter or theirs_at.base, ours_at.adapter or ours_at.base, run.disk)
    if manifest is None and not theirs.chunks:
        return ""
    plan = dataclasses.replace(plan, recorded=theirs.recorded)  # made under those versions
    chunks, whole = adopt_stage(source, target, plan, run.disk)
    shown = f"{target.path.parent.name}/{stage.name}"
    return shown if whole else f"{shown} ({chunks} of {len(plan.chunks)} chunks)" if chunks else ""


# --- gc


def collect(name: str, data: Path, checkpoints: Path) -> str:
    """Remove a run's trainer checkpoints and what dead processes left; what is committed stays.

    Raises:
        RecipeError: no such run.
        RunInUse: somebody works on it.
    """
    run = open_run(name, data, checkpoints)
    scratch = sum(path.stat().st_size for path in (run.folder / "scratch").rglob("*") if path.is_file())
    lock = RunLock(run.folder, [checkpoints / name])
    with lock:
        freed = gc(run.folder, checkpoints / name)
    left = "an open training stage begins again at its first step" if scratch else "there was no scratch"
    return f"{name}: {freed:,} bytes freed, {lock.swept} unfinished files removed; {left}"
