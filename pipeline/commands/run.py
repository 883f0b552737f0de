"""`run RECIPE`: a recipe from its start, or a run from where it stopped.

With --launch or --processes it runs in a process group under accelerate, which this process watches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline.commands import HERE, LogJson, Overrides, Quiet, console_for
from pipeline.errors import RecipeError, WorkerLost
from pipeline.loop import close_round, write_metrics
from pipeline.processes.group import Processes
from pipeline.processes.launch import read_launch, run_group
from pipeline.recipe.shape import Recipe, Stage
from pipeline.report.monitor.mirror import mirrored, require_mode
from pipeline.report.summary import closing_words
from pipeline.run.run import Run
from pipeline.run.session import announce, session

CONFIG = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "mixed_precision": "no"}


class Groups:
    """Starts process groups, and a group again where a worker was lost: what is committed stays, so the same
    bytes follow.

    launch: an accelerate config. restarts: how often in the whole launch.
    """

    def __init__(self, run: Run, launch: Path, restarts: int) -> None:
        self.run, self.launch, self.left = run, launch, restarts
        self.config = read_launch(launch)

    @property
    def by_stage(self) -> bool:
        """Does each stage get a group of its own? Then DeepSpeed's state never leaks between stages."""
        return str(self.config.get("distributed_type")) == "DEEPSPEED"

    def start(self, *words: str) -> None:
        """One group to its end.

        Raises:
            WorkerLost: a rank died or hangs, and no restart is left.
            RatchetError: what a stage said.
        """
        while True:
            try:
                return run_group(self.run.folder, self.run.console, self.launch, self.config, list(words))
            except WorkerLost as lost:
                if not self.left:
                    raise
                self.left -= 1
                self.run.console.warn(f"{lost}. Starting it again by itself; restarts left: {self.left}")


def refuse_launch(recipe: Recipe, config: dict[str, Any]) -> None:
    """Say before anything is made what a recipe asks for and a launch cannot do.

    Raises:
        RecipeError: an optimizer is carried, and the launch cuts its state into pieces.
    """
    kind = str(config.get("distributed_type"))
    carrying = [s for s in recipe.stages if s.room == "train" and s.built and s.settings.carry_optimizer]
    if kind in ("DEEPSPEED", "FSDP") and carrying:
        raise RecipeError(
            [
                f"{recipe.path}: {s.section}.{s.name}.carry_optimizer: under {kind} its state lies in "
                "pieces on the ranks; use one process or recipes/launch/ddp.yaml"
                for s in carrying
            ]
        )


def run_launched(
    recipe: Recipe, launch: Path | int, until: str | None, console: Any, restarts: int = 0
) -> int:
    """The whole run under accelerate: one process group, with DeepSpeed one a stage. Returns the exit code.

    launch: an accelerate config, or a number of local processes.

    Raises:
        WorkerLost: a rank died, or hangs, more often than `restarts`. Any other error of a stage is raised as
            its own kind.
    """
    if isinstance(launch, Path):
        refuse_launch(recipe, read_launch(launch))
    last = recipe.stage(until).name if until else None
    with session(recipe, console, Processes()) as run:
        file = launch if isinstance(launch, Path) else local_group(run.folder, launch)
        groups = Groups(run, file, restarts)
        if complete(run):
            console.finished(closing_words(run))
            return 0
        if not groups.by_stage:
            groups.start("run", recipe.name, *(["--until", last] if last else []))
            return 0
        announce(run)
        with mirrored(run):
            if not _stage_by_stage(run, groups, last):
                return 0
        console.finished(closing_words(run))
    return 0


def _stage_by_stage(run: Run, groups: Groups, last: str | None) -> bool:
    """A group a stage. False where `--until` ended it."""
    recipe = run.recipe
    for number in range(recipe.rounds + 1):
        for stage in run.stages_in(number):
            fresh = not done(run, stage, number)
            if fresh:
                groups.start("stage", recipe.name, stage.name, "--round", str(number))
            if fresh and stage.name == last:
                return False
        close_round(run, number)  # nothing is left of it, unless a launch was killed just before
    for stage in recipe.section("finally"):
        if not done(run, stage, recipe.rounds):
            groups.start("stage", recipe.name, stage.name, "--round", str(recipe.rounds))
        if stage.name == last:
            return False
    write_metrics(run)
    return True


def complete(run: Run) -> bool:
    """Is nothing left of the whole run? Looks at names only."""
    if not all((run.gate(number) is not None) for number in range(run.recipe.rounds + 1)):
        return False
    return all(done(run, stage, run.recipe.rounds) for stage in run.recipe.section("finally"))


def local_group(run_dir: Path, processes: int) -> Path:
    """An accelerate config for `processes` ranks of this machine, on its GPUs where there are as many."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    config = CONFIG | {"distributed_type": "MULTI_GPU", "num_processes": processes}
    if gpus < processes:
        config |= {"use_cpu": True}
    path = run_dir / "scratch" / "processes.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


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
        Path | None,
        typer.Option(help="An accelerate config; with DeepSpeed each stage gets a group of its own."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="So many local processes for the whole run: cores, or GPUs.")
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option(min=0, help="With a process group: how often one that lost a worker starts anew."),
    ] = 0,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a recipe, or go on with a run.

    A run that exists goes on at the first chunk that is not done.

    - `ratchet run recipes/quickstart.yaml`
    - `ratchet run recipes/quickstart.yaml seed=1 --name quickstart-s1`
    - `ratchet run quickstart rounds=5` (continues a finished run)
    - `ratchet run quickstart --processes 2 --max-restarts 3`
    """
    from pipeline.loop import run_loop
    from pipeline.processes.group import join
    from pipeline.run.session import find, require_sound, session

    if launch is not None and processes is not None:
        raise RecipeError("--launch and --processes: the launch file says num_processes; give one of the two")
    recipe = find(target, overrides or [], name, HERE.data)
    require_mode()
    if until:
        recipe.stage(until)  # a misspelt one is said before anything is made
    group = launch or (processes if processes and processes > 1 else None)
    if group is not None:
        told = console_for(quiet, log_json)
        if launch is not None:
            read_launch(launch)
        require_sound(recipe, told, HERE)
        raise typer.Exit(run_launched(recipe, group, until, told, max_restarts))
    world = join()
    console = console_for(quiet, log_json, world.main)
    world.together(lambda: require_sound(recipe, console, HERE))
    with session(recipe, console, world, HERE) as working, mirrored(working):
        announce(working)
        if run_loop(working, until):
            console.finished(closing_words(working))
