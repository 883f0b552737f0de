"""`run --launch FILE`: each stage in a fresh process group, through `accelerate launch`.

The parent holds the run's lock and never loads torch, so DeepSpeed state and memory cannot leak between
stages; its ranks act under its lock, are watched by it (`supervisor.py`) and die with it. Above 20 rounds one
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
from pipeline.processes.group import CURE
from pipeline.processes.pulse import FOLDER
from pipeline.processes.supervisor import ERRORS, Observer, fresh_folder
from pipeline.store.lock import parent_environment
from pipeline.store.outcome import read_outcome

MAX_BYTES = 1 << 16  #: of a launch file


def read_launch(path: Path) -> dict[str, Any]:
    """An accelerate config, looked at before anything starts.

    Raises:
        RecipeError: it is not there, asks for two CPU processes in the way that starts one, or for
            several machines.
    """
    if not path.is_file():
        raise RecipeError(f"--launch {path}: no such file; see recipes/launch/")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
        if len(text) > MAX_BYTES or "<<" in text:  # merged maps may unfold without end
            raise ValueError
        config = yaml.safe_load(text)
        kind, processes = str(config.get("distributed_type")), int(config.get("num_processes") or 1)
        machines = int(config.get("num_machines") or 1)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        raise RecipeError(f"--launch {path}: not an accelerate config; see recipes/launch/") from None
    if config.get("use_cpu") and processes > 1 and kind in ("NO", "MULTI_CPU", "None"):
        raise RecipeError(
            f"--launch {path}: distributed_type {kind} with use_cpu starts one process, not {processes}: "
            f"{CURE}"
        )
    if "distributed_type" not in config:
        raise RecipeError(
            f"--launch {path}: no distributed_type (accelerate asks for one); see recipes/launch/"
        )
    if machines > 1:
        raise RecipeError(
            f"--launch {path}: num_machines is {machines}, and --launch starts processes of this machine "
            "only: use `accelerate launch ... -m pipeline run` on each, or the job scripts of scripts/slurm"
        )
    return config


def run_group(run_dir: Path, console: Any, launch: Path, config: dict[str, Any], words: list[str]) -> None:
    """One process group under accelerate, ended whole when it ends badly.

    Raises:
        WorkerLost: a rank died or hangs. RatchetError: what a rank said.
    """
    size = int(config.get("num_processes") or 1)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
    if size > 1 and not config.get("main_process_port"):
        command += ["--main_process_port", "0"]  # a free one: two runs may share a machine
    folder = fresh_folder(run_dir)
    environment = os.environ | parent_environment()
    environment |= {"RATCHET_NUM_PROCESSES": str(size), FOLDER: str(folder.resolve())}
    modes = [flag for flag, on in (("--quiet", console.quiet), ("--log-json", console.log_json)) if on]
    before = read_outcome(run_dir)
    process = subprocess.Popen(
        [*command, "-m", "pipeline", *words, *modes],
        env=environment,
        start_new_session=True,
        preexec_fn=dies_with_us(),  # the launcher; its ranks see to themselves
    )
    observer = Observer(folder, size)
    try:
        while (code := process.poll()) is None:
            if lost := observer.look():
                raise observer.cause() or lost.error(" ".join(words))
            time.sleep(0.2)
        if code == 0:
            return
        outcome = read_outcome(run_dir)
        if outcome and outcome != before and outcome["error"] in ERRORS:
            raise ERRORS[outcome["error"]](outcome["message"])
        raise observer.cause() or WorkerLost(
            f"{' '.join(words)}: a process of the group ended with code {code} and said nothing; nothing of "
            "the stage's open chunks is committed. Start the run again"
        )
    finally:
        observer.kill()
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
