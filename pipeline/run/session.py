"""One launch of a command that writes to a run: lock, signals, recipe on disk, outcome.

    with session(recipe, console) as run: run_loop(run)

The kernel holds the lock; `outcome.json` says how it ended, whatever the launcher makes of the exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from pipeline.errors import DamagedData, RecipeError, StorageError, UnsafeFile, nearest
from pipeline.processes.group import Processes
from pipeline.processes.pulse import FOLDER
from pipeline.processes.supervisor import Supervision
from pipeline.recipe import read as recipes
from pipeline.recipe.look import look
from pipeline.recipe.plan import disk_needed
from pipeline.recipe.shape import Recipe
from pipeline.recipe.shipped import shipped
from pipeline.run import activity
from pipeline.run.reporter import Silent
from pipeline.run.run import Run
from pipeline.store.disk import DISK, Disk, probe, storage_told
from pipeline.store.lock import RankLock, RunLock, is_child
from pipeline.store.outcome import write_outcome
from pipeline.store.workspace import HERE, Workspace

#: after which a launch that did nothing yet leaves nothing: the next one may have other settings
MISTAKES = (RecipeError, DamagedData, UnsafeFile, StorageError)
LEAST_FREE = 64 * 2**20  #: bytes that a run wants whatever it estimates: weights, plans, a wandb log


class Terminated(SystemExit):
    """SIGTERM: stop at once, with the disk as after a crash."""


class Termination:
    """What SIGTERM does while a run is worked on: it raises. Python throws an exception away that comes up in
    a `__del__` or in the callback of a weak reference, and goes on; so the signal is sent again each second
    until one was heard.
    """

    def __init__(self) -> None:
        self.again: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.again = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
        self.again.daemon = True
        self.again.start()
        raise Terminated(143)

    def heard(self) -> None:
        """No more of it: the last word comes first."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.again is not None:
            self.again.cancel()
            self.again.join()


def stored(run_folder: Path) -> Recipe:
    """The recipe of a run that exists, as resolved.

    Raises:
        RecipeError: there is no such run.
    """
    path = run_folder / "recipe.yaml"
    if not path.is_file():
        raise RecipeError(
            f"{run_folder}: no such run: it has no recipe.yaml; `ratchet status` lists the runs"
        )
    return recipes.load(path)


def find(target: str, overrides: list[str], name: str | None, data: Path) -> Recipe:
    """A recipe from what a user typed: a recipe file, or the name of a run that exists.

    Raises:
        RecipeError: it is neither.
    """
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return recipes.load(path, overrides, name)
    if (data / target / "recipe.yaml").is_file():
        if name is not None and name != target:
            raise RecipeError(f"--name {name}: run {target} has its name; fork it to give a copy another")
        return recipes.load(data / target / "recipe.yaml", overrides, target)
    raise RecipeError(f"{target}: neither a recipe file nor a run in {data}/{_meant(target, data)}")


def _meant(target: str, data: Path) -> str:
    """What a name that is neither may stand for: a recipe beside it, a run, a recipe that is shipped."""
    for folder in (Path(), Path("recipes")):
        path = (folder / target).with_name(Path(target).name + ".yaml")
        if path.is_file():
            return f" (did you mean {path}?)"
    name, runs = Path(target).stem, run_names(data)
    near = recipes.nearest(target, runs)
    if "did you mean" not in near and (known := recipes.nearest(name, shipped())):
        if name in shipped():
            return f" (`ratchet recipes copy {name}` gives you that recipe)"
        if "did you mean" in known:
            return f"{known.rstrip(')')} `ratchet recipes` lists the recipes)"
    return near


def run_names(data: Path) -> list[str]:
    """The runs that exist."""
    return sorted(path.parent.name for path in data.glob("*/recipe.yaml"))


def settle_recipe(recipe: Recipe, folder: Path, disk: Disk = DISK) -> list[str]:
    """Write the resolved recipe, or hold it against the one that stands. Returns what changed and may.

    Until a stage is committed everything may change; what was begun under other settings is removed.

    Raises:
        RecipeError: a data key changed; one line a key.
    """
    path = folder / "recipe.yaml"
    taken: list[str] = []
    if path.is_file():
        refused, taken = recipes.changes(stored(folder), recipe)
        if refused and not any(folder.glob("*-[0-9]*/*/manifest.json")):
            taken = [*refused, *taken]
            for begun in begun_otherwise(folder, refused):
                disk.remove(begun)
                taken.append(f"begun under other settings, so removed: {begun}")
        elif refused:
            raise RecipeError(
                [
                    *(f"{recipe.name}: {line}" for line in refused),
                    f"run {recipe.name} was started with other settings, and these change its data: undo "
                    f"them, choose another --name, or `ratchet fork {recipe.name} NEW_NAME key=value`",
                ]
            )
    text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=100)
    if not path.is_file() or path.read_text() != text:
        disk.write(path, text.encode())
    return taken


def begun_otherwise(folder: Path, changed: list[str]) -> list[Path]:
    """What of a run without a committed stage cannot stay when these keys changed: `stages.learn.steps: ...`.

    A stage's chunks stay where only other stages changed, the problems where neither task nor seed did."""
    named = {tuple(line.partition(":")[0].split(".")[:2]) for line in changed}
    stages_alone = all(where[0] in recipes.SECTIONS for where in named)
    read_anew = any(where[0] in ("task", "seed") for where in named)
    gone = [folder / "prepare", folder / "rejected.jsonl", folder / "files"] if read_anew else []
    for place in sorted(folder.glob("*-[0-9]*/*/")):
        if not stages_alone or place.name in {where[1] for where in named if len(where) > 1}:
            gone.append(place)
    return [path for path in gone if path.exists()]


def leaves_nothing(folder: Path) -> bool:
    """Has nothing been done in a run that would be missed: no chunk and no manifest of a stage?"""
    return all(path.name == "plan.json" for path in folder.glob("*-[0-9]*/*/*.json"))


def require_sound(recipe: Recipe, console: Any, workspace: Workspace) -> None:
    """Before a run's first launch makes anything: everything that a look finds wrong, at once.

    A run that has its problems goes on without a look: it owns what it read.

    Raises:
        RecipeError, DamagedData, UnsafeFile: what cannot work.
    """
    require_methods(recipe)
    if (workspace.rows_of(recipe.name) / "prepare" / "manifest.json").exists():
        return
    seen = look(recipe, workspace)
    seen.refuse(recipe.path)
    for line in seen.odd:
        console.warn(line)


def require_methods(recipe: Recipe) -> None:
    """Refuse a recipe that names a method which is not there, before anything is made.

    Raises:
        RecipeError: with each such stage and the nearest method.
    """
    if recipe.not_built:
        raise RecipeError([f"{recipe.path}: {line}" for line in recipe.not_built])


def require_room(recipe: Recipe, folder: Path, disk: Disk = DISK) -> None:
    """Refuse a run whose rows will not fit, before any work; what it wrote already counts for it.

    Raises:
        StorageError: with the bytes wanted and those that are free.
    """
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet") if path.is_file())
    disk.require(folder, LEAST_FREE + max(disk_needed(recipe) - written, 0), f"run {recipe.name}")


@contextlib.contextmanager
def session(
    recipe: Recipe,
    console: Any,
    world: Processes,
    workspace: Workspace = HERE,
) -> Iterator[Run]:
    """A run, locked, for as long as the block lasts; its outcome is written when it ends.

    Of several ranks, rank 0 takes the lock (the parent of `--launch` has it already) and the others go on
    only when they heard that it did; each then holds a shared one. They watch each other from here on.

    Raises:
        RunInUse: somebody else works on it.
        RecipeError: its settings changed, or it names a method that is not there.
        StorageError: its disk is full, or will be.
        WorkerLost: another rank died, hangs or left.
    """
    from pipeline.store.run_folder import run_name_ok

    run_name_ok(recipe.name, workspace.data)
    require_methods(recipe)
    folder = workspace.rows_of(recipe.name)
    termination = Termination()
    old = signal.signal(signal.SIGTERM, termination)
    alone = world.main and not is_child()
    lock = RunLock(folder, [workspace.weights_of(recipe.name)]) if alone else RankLock(folder)
    taken: list[str] = []
    fresh = world.size == 1 and not is_child() and not (folder / "recipe.yaml").exists()

    def begin() -> None:
        console.now = activity.place(folder)
        require_room(recipe, folder)
        probe(folder)
        taken.extend(settle_recipe(recipe, folder))

    try:
        with storage_told(folder), _held_by_all(lock, world):
            error: BaseException | None = None
            group = Supervision.of(world, folder, os.environ.get(FOLDER) if is_child() else None)
            try:
                world.together(begin)
                yield Run(recipe, console, workspace, world, taken=taken)
            except BaseException as raised:  # outcome.json tells of every end, Ctrl-C too; it goes on
                termination.heard()  # and the launcher's is passed over
                error = raised
                error = group.cause(raised)
                if error is raised:
                    raise
                raise error from raised
            finally:
                if group.speaks():  # a full disk may not take it: then the first error is the one to say
                    with contextlib.suppress(*([StorageError] if error else [])):
                        write_outcome(folder, error)
                group.leave(error)
                if fresh and isinstance(error, MISTAKES) and leaves_nothing(folder):
                    console.now = None
                    DISK.remove(folder)
    finally:
        termination.heard()
        signal.signal(signal.SIGTERM, old)


@contextlib.contextmanager
def _held_by_all(lock: RunLock | RankLock, world: Processes) -> Iterator[None]:
    """Rank 0's lock first; the others take theirs when they heard that it has it."""
    try:
        world.together(lock.acquire)
        if not world.main:
            lock.acquire()
        yield
    finally:
        lock.release()


def open_run(name: str, workspace: Workspace) -> Run:
    """A run to look at.

    Raises:
        RecipeError: there is none of that name; the message names the nearest.
    """
    if not (workspace.data / name / "recipe.yaml").is_file():
        raise RecipeError(f"no run {name!r} in {workspace.data}/{nearest(name, run_names(workspace.data))}")
    return Run(stored(workspace.data / name), Silent(), workspace)


def announce(run: Run) -> None:
    """Say that a launch begins or from where it goes on, then which settings it takes over."""
    run.console.run_started(run.name, run.recipe.path, resumed_from(run))
    run.console.changed(run.taken)


def resumed_from(run: Run) -> str:
    """Where a launch goes on, for its first line; empty for a new run."""
    if run.prepare_folder.manifest() is None:
        return ""
    for number in range(run.recipe.rounds + 1):
        if run.gate(number) is not None:
            continue
        for stage in run.stages_in(number):
            folder = run.stage_folder(stage, number)
            if folder.manifest() is None:
                plan = folder.plan()
                chunks = f", chunk {len(folder.done())} of {len(plan.chunks)}" if plan and plan.chunks else ""
                return f"round {number}, {stage.name}{chunks}"
        return f"round {number}, gate"
    return "finally"
