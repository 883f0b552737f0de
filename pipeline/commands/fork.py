"""`fork RUN NEW_NAME`: a new run from an old one with changed settings; what is still valid is taken over."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Annotated

import typer

from pipeline.commands import HERE, Overrides, Quiet, RunName, console_for
from pipeline.commands.verify import _quiet
from pipeline.errors import Diverged, RecipeError
from pipeline.loop import close_round, prepare_settings, write_metrics
from pipeline.processes.group import Processes
from pipeline.recipe import read as recipes
from pipeline.recipe.shape import Stage
from pipeline.report.console import Console
from pipeline.rows import SCHEMA_VERSION
from pipeline.run.gates import foresee
from pipeline.run.run import Run
from pipeline.run.session import open_run, resumed_from, session, stored
from pipeline.stages.files import folder_of, step_files_of
from pipeline.stages.run import plan_stage
from pipeline.store.adopt import adopt_stage, adopt_weights
from pipeline.store.plan import Plan
from pipeline.store.run_folder import run_name_ok
from pipeline.store.weights import optimizer_beside
from pipeline.store.workspace import Workspace


def fork(name: str, new_name: str, overrides: list[str], console: Console, workspace: Workspace) -> str:
    """A new run from an old one, with changed settings; what is still valid is taken over under hard links.

    A stage is valid where its plan under the new recipe has the old fingerprint. A fork that was killed is
    started again with the same command.

    Raises:
        RecipeError: no such run, the new name is taken by a run with other settings, or a bad override.
    """
    old = open_run(name, workspace)
    run_name_ok(new_name, workspace.data, workspace.checkpoints)
    if new_name == name:
        raise RecipeError(f"fork {name} {new_name}: a fork needs a name of its own")
    recipe = recipes.load(old.folder / "recipe.yaml", overrides, new_name)
    if (workspace.data / new_name / "recipe.yaml").is_file():  # a killed fork has this very recipe
        theirs = stored(workspace.data / new_name)
        if recipes.changes(theirs, recipe)[0]:
            raise RecipeError(
                f"fork {name} {new_name}: there is a run {new_name} already, with other settings: choose "
                f"another name, or remove that run first (`ratchet rm {new_name}`)"
            )
    with session(recipe, console, Processes(), workspace) as run:
        taken = _take_over(old, run)
        goes_on = resumed_from(run) or "prepare"
    changed = [line for line in sum(recipes.changes(old.recipe, recipe), []) if not line.startswith("name:")]
    lines = [f"{new_name}: forked from {name}" + (f", {len(changed)} keys changed" if changed else "")]
    lines += [f"  {line}" for line in changed]
    lines.append(f"  taken over: {', '.join(taken) or 'nothing: every stage depends on what changed'}")
    lines.append(f"Go on from {goes_on}: ratchet run {new_name}")
    return "\n".join(lines)


def _take_over(old: Run, run: Run) -> list[str]:
    """Every stage that stays valid, in order, also in rounds behind one that is not whole. Returns their
    names."""
    if not _take_prepare(old, run):
        return []
    taken, quiet = ["prepare"], _quiet(run)
    for number in range(run.recipe.rounds + 1):
        stages = run.stages_in(number)
        whole = [name for stage in stages if (name := _take_stage(old, run, stage, number))]
        taken += whole
        if len([name for name in whole if "(" not in name]) == len(stages):
            with contextlib.suppress(Diverged):  # under a new gate nothing may stand: the run says so itself
                close_round(quiet, number)
        if run.gate(number) is None:  # what models act later that do not depend on what is missing
            run.versions.foreseen[number] = foresee(run, number)
    if run.gate(run.recipe.rounds) is None:
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
    taken = adopt_stage(old.prepare_folder, run.prepare_folder, wanted, run.disk)[1]
    for source in step_files_of(run.recipe):
        theirs = folder_of(old, source).plan()
        if theirs is not None:
            own = dataclasses.replace(theirs, run=run.name)
            adopt_stage(folder_of(old, source), folder_of(run, source), own, run.disk)
    return taken


def _take_stage(old: Run, run: Run, stage: Stage, number: int) -> str:
    """One stage, its weights first. Returns its name where something of it was taken, with the number of
    chunks where it is not whole."""
    source, target = old.stage_folder(stage, number), run.stage_folder(stage, number)
    theirs = source.plan()
    if theirs is None:
        return ""
    try:
        plan, _ = plan_stage(run, stage, number, theirs)
    except RecipeError:  # what it reads was not taken over
        return ""
    if plan.fingerprint != theirs.fingerprint:
        return ""
    manifest = source.manifest()
    if manifest is not None and (record := manifest.extra.get("weights")):
        theirs_at, ours_at = old.versions.weights_from(record), run.versions.weights_from(record)
        there, here = theirs_at.adapter or theirs_at.base, ours_at.adapter or ours_at.base
        adopt_weights(there, here, run.disk)
        if optimizer_beside(there).exists():
            adopt_weights(optimizer_beside(there), optimizer_beside(here), run.disk)
    if manifest is None and not theirs.chunks:
        return ""
    plan = dataclasses.replace(plan, recorded=theirs.recorded)  # made under those versions
    chunks, whole = adopt_stage(source, target, plan, run.disk)
    shown = f"{target.path.parent.name}/{stage.name}"
    return shown if whole else f"{shown} ({chunks} of {len(plan.chunks)} chunks)" if chunks else ""


def command(
    name: RunName,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="The name of the new run.")],
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Start a new run from an old one with settings changed. What is still valid is taken over, under hard
    links where the storage has them.

    `ratchet fork quickstart quickstart-slow stages.learn.learning_rate=0.0001`
    """

    typer.echo(fork(name, new_name, overrides or [], console_for(quiet, False), HERE))
