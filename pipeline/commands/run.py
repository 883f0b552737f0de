"""`run RECIPE`: a recipe from its start, or a run from where it stopped.

With --launch each stage runs in a fresh process group, which the parent watches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import HERE, LogJson, Overrides, Quiet, console_for
from pipeline.loop import close_round, write_metrics
from pipeline.processes.group import Processes
from pipeline.processes.launch import read_launch, run_group
from pipeline.recipe.shape import Recipe, Stage
from pipeline.report.summary import closing_words
from pipeline.report.wandb.mirror import mirrored
from pipeline.run.run import Run
from pipeline.run.session import announce, session

MANY_ROUNDS = 20


def run_launched(recipe: Recipe, launch: Path, until: str | None, console: Any) -> int:
    """The whole run, a process group a stage. Returns the exit code.

    Raises:
        WorkerLost: a rank died, or hangs. Any other error of a stage is raised as its own kind.
    """
    config = read_launch(launch)
    last = recipe.stage(until).name if until else None
    with session(recipe, console, Processes()) as run:
        announce(run)
        if recipe.rounds > MANY_ROUNDS:
            console.note(f"{recipe.rounds} rounds: one process group does the whole run")
            run_group(
                run.folder,
                console,
                launch,
                config,
                ["run", recipe.name, *(["--until", last] if last else [])],
            )
            return 0
        with mirrored(run):
            for number in range(recipe.rounds + 1):
                for stage in run.stages_in(number):
                    fresh = not done(run, stage, number)
                    if fresh:
                        run_group(
                            run.folder,
                            console,
                            launch,
                            config,
                            ["stage", recipe.name, stage.name, "--round", str(number)],
                        )
                    if fresh and stage.name == last:
                        return 0
                close_round(run, number)  # nothing is left of it, unless a launch was killed just before
            for stage in recipe.section("finally"):
                if not done(run, stage, recipe.rounds):
                    words = ["stage", recipe.name, stage.name, "--round", str(recipe.rounds)]
                    run_group(run.folder, console, launch, config, words)
                if stage.name == last:
                    return 0
            write_metrics(run)
        console.finished(closing_words(run))
    return 0


def done(run: Run, stage: Stage, number: int) -> bool:
    """Is nothing left of a stage? Looks at names only; whoever reads it checks the hashes."""
    folder = run.stage_folder(stage, number)
    if folder.plan() is None or not folder.is_complete():
        return False
    record = folder.require().extra.get("weights")
    if not record:
        return True
    weights = run.versions.weights_from(record)
    return ((weights.adapter or weights.base) / "manifest.json").exists()


def command(
    target: Annotated[str, typer.Argument(help="A recipe file, or the name of a run to go on with.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name; the recipe's own where absent.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop when this stage is done.")] = None,
    launch: Annotated[
        Path | None, typer.Option(help="An accelerate config: each stage in a fresh group.")
    ] = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a recipe, or go on with a run.

    A run that exists goes on at the first chunk that is not done.

    - `ratchet run recipes/quickstart.yaml`
    - `ratchet run recipes/quickstart.yaml seed=1 --name quickstart-s1`
    - `ratchet run quickstart rounds=5` (continues a finished run)
    """
    from pipeline.loop import run_loop
    from pipeline.processes.group import join
    from pipeline.run.session import find, session

    recipe = find(target, overrides or [], name, HERE.data)
    if launch is not None:
        raise typer.Exit(run_launched(recipe, launch, until, console_for(quiet, log_json)))
    world = join()
    console = console_for(quiet, log_json, world.main)
    with session(recipe, console, world, HERE) as working, mirrored(working):
        announce(working)
        if run_loop(working, until):
            console.finished(closing_words(working))
