"""`run --launch FILE`: each stage in a fresh process group, through `accelerate launch`.

The parent holds the run's lock and never loads torch, so DeepSpeed state and memory cannot leak between
stages; its ranks act under its lock, are watched by it (`watch.py`) and die with it. Above 20 rounds one
group does the whole run, because a group costs 5 to 10 s of imports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RecipeError, WorkerLost
from pipeline.loop import close_round, write_metrics
from pipeline.recipe import Recipe, Stage
from pipeline.run import Run
from pipeline.session import session
from pipeline.store.lock import parent_environment
from pipeline.store.outcome import read_outcome
from pipeline.watch import ERRORS, FOLDER, Watcher, fresh_folder
from pipeline.world import CURE, World

MANY_ROUNDS = 20


def read_launch(path: Path) -> dict[str, Any]:
    """An accelerate config, looked at before anything starts.

    Raises:
        RecipeError: it is not there, asks for two CPU processes in the way that starts one (STACK 4), or for
            several machines.
    """
    if not path.is_file():
        raise RecipeError(f"--launch {path}: no such file; see recipes/launch/")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind, processes = str(config.get("distributed_type")), int(config.get("num_processes") or 1)
        machines = int(config.get("num_machines") or 1)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, ValueError):
        raise RecipeError(f"--launch {path}: not an accelerate config; see recipes/launch/") from None
    if config.get("use_cpu") and processes > 1 and kind in ("NO", "MULTI_CPU", "None"):
        raise RecipeError(
            f"--launch {path}: distributed_type {kind} with use_cpu starts one process, not {processes}: "
            f"{CURE}"
        )
    if machines > 1:
        raise RecipeError(
            f"--launch {path}: num_machines is {machines}, and --launch starts processes of this machine "
            "only: use `accelerate launch ... -m pipeline run` on each, or the job scripts of scripts/slurm"
        )
    return config


def run_launched(recipe: Recipe, launch: Path, until: str | None, console: Any) -> int:
    """The whole run, a process group a stage. Returns the exit code.

    Raises:
        WorkerLost: a rank died, or hangs. Any other error of a stage is raised as its own kind.
    """
    config = read_launch(launch)
    last = recipe.stage(until).name if until else None
    with session(recipe, console, World()) as run:
        run.announce()
        if recipe.rounds > MANY_ROUNDS:
            console.note(f"{recipe.rounds} rounds: one process group does the whole run")
            group(run, launch, config, ["run", recipe.name, *(["--until", last] if last else [])])
            return 0
        with run.mirrored():
            for number in range(recipe.rounds + 1):
                for stage in run.stages_in(number):
                    fresh = not done(run, stage, number)
                    if fresh:
                        group(run, launch, config, ["stage", recipe.name, stage.name, "--round", str(number)])
                    if fresh and stage.name == last:
                        return 0
                close_round(run, number)  # nothing is left of it, unless a launch was killed just before
            for stage in recipe.section("finally"):
                if not done(run, stage, recipe.rounds):
                    words = ["stage", recipe.name, stage.name, "--round", str(recipe.rounds)]
                    group(run, launch, config, words)
                if stage.name == last:
                    return 0
            write_metrics(run)
        console.finished(run.summary())
    return 0


def done(run: Run, stage: Stage, number: int) -> bool:
    """Is nothing left of a stage? Looks at names only; whoever reads it checks the hashes."""
    folder = run.stage_folder(stage, number)
    if folder.plan() is None or not folder.is_complete():
        return False
    record = folder.require().extra.get("weights")
    if not record:
        return True
    weights = run.weights_from(record)
    return ((weights.adapter or weights.base) / "manifest.json").exists()


def group(run: Run, launch: Path, config: dict[str, Any], words: list[str]) -> None:
    """One process group under accelerate, ended whole when it ends badly.

    Raises:
        WorkerLost: a rank died or hangs. RatchetError: what a rank said.
    """
    size = int(config.get("num_processes") or 1)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    if size > 1 and not config.get("main_process_port"):
        command += ["--main_process_port", "0"]  # a free one: two runs may share a machine
    folder = fresh_folder(run.folder)
    environment = os.environ | parent_environment()
    environment |= {"RATCHET_NUM_PROCESSES": str(size), FOLDER: str(folder.resolve())}
    modes = [
        flag for flag, on in (("--quiet", run.console.quiet), ("--log-json", run.console.log_json)) if on
    ]
    before = read_outcome(run.folder)
    process = subprocess.Popen(
        [*command, "-m", "pipeline", *words, *modes],
        env=environment,
        start_new_session=True,
        preexec_fn=dies_with_us(),  # the launcher; its ranks see to themselves
    )
    watcher = Watcher(folder, size)
    try:
        while (code := process.poll()) is None:
            if lost := watcher.look():
                raise watcher.cause() or lost.error(" ".join(words))
            time.sleep(0.2)
        if code == 0:
            return
        outcome = read_outcome(run.folder)
        if outcome and outcome != before and outcome["error"] in ERRORS:
            raise ERRORS[outcome["error"]](outcome["message"])
        raise watcher.cause() or WorkerLost(
            f"{' '.join(words)}: a process of the group ended with code {code} and said nothing; nothing of "
            "the stage's open chunks is committed. Start the run again"
        )
    finally:
        watcher.kill()
        _end(process)


def dies_with_us() -> Callable[[], None] | None:
    """Runs in the launcher's process before accelerate does: the kernel ends it when this one ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def ask() -> None:
        prctl(1, int(signal.SIGKILL), 0, 0, 0)  # 1 = PR_SET_PDEATHSIG

    return ask


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a group outlives it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
