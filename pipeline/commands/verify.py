"""`verify RUN`: every hash of a run, and that its gates and metrics follow; --repair makes it again.

Everything that a run holds is hashed or derived, so all of it can be checked, and what is damaged can be made
again to the same bytes or the run stops with a sentence. Nothing here loads torch until something has to be
made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import typer

from pipeline.commands import HERE, Quiet, RunName, console_for
from pipeline.errors import DamagedData, Diverged
from pipeline.loop import prepare, write_metrics
from pipeline.processes.group import Processes
from pipeline.recipe.shape import Stage
from pipeline.report.console import Console
from pipeline.run import record as records
from pipeline.run.gates import decide, foresee, gate_bytes
from pipeline.run.record import metrics_rows
from pipeline.run.run import Run
from pipeline.run.session import open_run, session
from pipeline.stages.run import run_stage
from pipeline.store.folder import StageFolder
from pipeline.store.repair import prepare_repair
from pipeline.store.run_folder import tree_hash, verify_run
from pipeline.store.weights import read_weights
from pipeline.store.workspace import Workspace

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


def verify(name: str, repair: bool, console: Console, workspace: Workspace) -> str:
    """Check every hash of a run, and that its gates and metrics are what its manifests give.

    Raises:
        DamagedData: with everything that is wrong, or with what could not be made again to the same bytes.
    """
    run = open_run(name, workspace)
    if repair:
        repair_run(run, console)
        run = open_run(name, workspace)
    problems = wrong(run)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        cure = "" if repair else f"\nMake it again to the same bytes: ratchet verify {name} --repair"
        raise DamagedData(f"{run.folder}: {len(problems)} wrong{lines}{cure}")
    files = sum(1 for path in run.folder.rglob("*") if path.is_file())
    whole = tree_hash(run.folder, run.weights)  # what two machines compare that made the same run
    done = len(list(stages_done(run)))
    return f"{name}: every hash is right ({done} stages done, {files} files); of all together: {whole}"


def wrong(run: Run) -> list[str]:
    """Everything wrong with a run, one sentence each."""
    own = run.weights
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
        weights = run.versions.weights_from(record)
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
    with session(run.recipe, console, Processes(), run.workspace) as working:
        done = list(stages_done(working))
        gated = [number for number in round_numbers(working) if working.gate_file(number).exists()]
        for said in _drop_apart(working):
            console.note(said)
        for _ in range(ATTEMPTS):
            removed = prepare_repair(working.folder, working.weights)
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
        else:  # a fork may hold stages of rounds behind one that is not whole
            run.versions.foreseen[number] = foresee(run, number)
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


# --- gc


def command(
    name: RunName,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make what is damaged again, to the same hash.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check every hash of a run: rows, weights, and that its gates and metrics follow from them. Exit 3 with
    a list where something is wrong.

    - `ratchet verify quickstart`
    - `ratchet verify quickstart --repair`
    """

    typer.echo(verify(name, repair, console_for(quiet, False), HERE))
