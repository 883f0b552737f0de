"""The real loop on a tiny model, in processes that are forked from one that has imported everything and get SIGKILL.

The world: every stage of recipes/rest_mcts_countdown.yaml, 2 rounds, 2 chunks a stage, a 2-layer Llama that was trained
on the spot. A fork is a process like any other, so a kill is a real one; what it saves is some seconds of imports.

The run is cut at its borders: border i is the moment at which the loop comes to its i-th stage, the last one is its
end. The state of the disk there is known from a run that nobody killed (`golden`).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "house")]

from pipeline.models.environment import prepare as prepare_environment  # noqa: E402

prepare_environment(threads=1)

import yaml  # noqa: E402
from tiny_world import make_policy, recipe_data  # noqa: E402

import pipeline.loop as loop  # noqa: E402
from pipeline.processes.group import Processes  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.recipe.shape import Recipe  # noqa: E402
from pipeline.report.console import Console  # noqa: E402
from pipeline.run.session import session  # noqa: E402
from pipeline.store.disk import Disk  # noqa: E402
from pipeline.store.documents import hash_file  # noqa: E402
from pipeline.store.outcome import exit_code_of  # noqa: E402
from pipeline.store.run_folder import tree_files  # noqa: E402

NAME = "rest_mcts_countdown"
RUN, WEIGHTS = Path("data") / NAME, Path("checkpoints") / NAME
STUCK = 1800.0  #: seconds after which a resumed run counts as stuck; it needs a few where nothing else runs
SMALL = {
    "task": {"train": 8, "dev": 6, "test": 6, "max_tokens": 60},
    "models.policy": {"lora": "{r: 4}"},
    "models.prm": {"lora": "{r: 4}"},
}  # fmt: skip
#: a reward model of four steps says nothing worth a check
NO_HEALTH = {"min_auc": 0, "min_sd": 0, "max_length_correlation": 1, "split": "train"}


def labels_data(base: Path, name: str = NAME) -> dict[str, Any]:
    """Labellers that search, in several chunks, and what selects and measures their rows; nothing is trained. At this
    temperature the tiny policy is sometimes right and sometimes wrong."""
    sampling = {"from": "sample", "n": 4, "temperature": 1.5}
    return recipe_data(base, name=name, rounds=0) | {
        "task": {"use": "countdown", "train": 12, "dev": 2, "test": 2, "max_tokens": 60},
        "models": {"policy": {"base": str(base)}},
        "stages": {},
        "before": {
            "sample": {"generate": "sample", "by": "policy", "n": 3, "temperature": 1.5, "chunk": 4},
            "tree": {"label": "omega", "filter": 0, "searches": 4, "split": "tokens", **sampling},
            "pivots": {"label": "pivotal", "within": [0, 1], **sampling},
            "steps": {"select": "step_values", "from": "tree"},
            "pairs": {"select": "sibling_pairs", "from": "pivots", "tokens": 1, "on_empty": "continue"},
        },
        "finally": {"truth": {"evaluate": "label_quality", "from": "tree"}},
    }


def gradient_recipe(base: Path, rounds: int) -> Recipe:
    """recipes/grpo_countdown.yaml, small, under this world's name: its optimizer is carried from round to round. At
    this size few groups are mixed, so all of them train.
    """
    words = [
        f"name={NAME}",
        f"rounds={rounds}",
        "save_every=1",
        "wandb.mode=disabled",
        "problems_per_round=6",
    ]
    words += [f"models.policy.base={base}", "models.policy.lora={r: 4}"]
    words += [f"task.{key}={value}" for key, value in SMALL["task"].items()]
    words += ["before.probe.problems=8", "before.probe.n=2", "before.probe.chunk=4"]
    words += ["before.warm.steps=2", "before.warm.batch_size=8", "stages.sample.n=4", "stages.sample.chunk=3"]
    words += ["stages.episodes.where=all", f"stages.learn.schedule_rounds={rounds}"]
    words += ["stages.measure.every=2", "stages.measure.chunk=3", "finally.final.samples=2"]
    return load(ROOT / "recipes" / "grpo_countdown.yaml", words)


def tiny_recipe(
    base: Path, rounds: int = 2, *, brief: bool = False, labels: bool = False, gradient: bool = False
) -> Recipe:
    """rest_mcts_countdown, small: two chunks a stage, four steps a training with a checkpoint after the second.

    brief: five stages of plain ReST-EM and labels by roll-outs, under the same name, where seconds count. labels:
    `labels_data`. gradient: `gradient_recipe`.
    """
    if gradient:
        return gradient_recipe(base, rounds)
    if labels:
        path = base.with_name("labels.yaml")
        path.write_text(yaml.safe_dump(labels_data(base), sort_keys=False))
        return load(path)
    if brief:
        stages = {
            "sample": {"generate": "sample", "by": "policy", "n": 3, "chunk": 20},
            "gained": {"label": "advantage", "from": "sample", "n": 2, "scout": 1},
            **{name: made for name, made in recipe_data(base)["stages"].items() if name != "sample"},
        }
        more = {"wandb": {"mode": "disabled"}, "save_every": 2, "stages": stages}
        path = base.with_name("brief.yaml")
        path.write_text(yaml.safe_dump(recipe_data(base, name=NAME, rounds=rounds, **more), sort_keys=False))
        return load(path)
    path = ROOT / "recipes" / f"{NAME}.yaml"
    words = [f"rounds={rounds}", "save_every=2", "wandb.mode=disabled"]
    words += [f"models.{model}.base={base}" for model in ("policy", "prm")]
    words += [f"{where}.{key}={value}" for where, keys in SMALL.items() for key, value in keys.items()]
    for stage in load(path).stages:
        keys: dict[str, Any] = {}
        if stage.room == "train":
            keys = {"steps": 4, "batch_size": 8, "learning_rate": "1e-3"}
        elif stage.room == "generate":
            keys = {"chunk": 4, **({"iterations": 3} if stage.method == "mcts_star" else {"n": 4})}
        elif stage.method == "prm_quality":
            keys = {"samples": 2, "problems": 8, "chunk": 4, **NO_HEALTH}
        elif stage.room == "evaluate":
            keys = {"chunk": 3, **({"search.iterations": 3} if stage.settings.search else {"samples": 2})}
        words += [f"{stage.section}.{stage.name}.{key}={value}" for key, value in keys.items()]
    return load(path, words)


class Enough(Exception):
    """A run came to the border at which it was to be left."""


#: told each border the loop comes to; in a child that is to die there or leave
Observer = Callable[[int, str], None]


def run(recipe: Recipe, watch: Observer = lambda border, name: None) -> None:
    """The run of this folder, or what is left of it."""
    borders, run_stage = iter(range(10**6)), loop.run_stage

    def counted(working: Any, stage: Any, number: int) -> Any:
        watch(next(borders), f"round {number}, {stage.section}.{stage.name}")
        return run_stage(working, stage, number)

    loop.run_stage = counted
    try:
        with session(recipe, Console(quiet=True, main=False), Processes()) as working:
            loop.run_loop(working)
        watch(next(borders), "the end")
    finally:
        loop.run_stage = run_stage


def leave_at(border: int | None) -> Observer:
    """Leaves a run when it comes to a border; None: never."""

    def watch(number: int, name: str) -> None:
        if number == border:
            raise Enough

    return watch


# --- what stands on the disk


def promised(place: Path) -> dict[str, str]:
    """The oracle (store.run.tree_hash, file by file): path -> SHA-256 of all that is promised of a run."""
    return {
        f"{root}/{path}": found for root in (RUN, WEIGHTS) for path, found in tree_files(place / root).items()
    }


def different(one: dict[str, str], other: dict[str, str]) -> str:
    """The files that differ, a few of them by name."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f"{len(names)} files differ: {', '.join(names[:4])}" if names else ""


def disk_state(place: Path) -> str:
    """One hash over everything on the disk that a next start can see. Two kills that leave the same lead to the same."""
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        name = re.sub(r"\.tmp-\d+-", ".tmp-PID-", path.relative_to(place).as_posix())
        if path.name in ("LOCK", "LOCK-ranks", "outcome.json"):  # times and process ids
            continue
        if path.name == "timing.jsonl":
            content = str(path.read_bytes().count(b"\n"))
        else:
            content = hash_file(path) if path.is_file() else "folder"
        digest.update(f"{len(name)}:{name}:{content}\n".encode())
    return digest.hexdigest()


def copy(place: Path, to: Path) -> Path:
    """All of a project folder."""
    shutil.copytree(place, to, symlinks=True)
    return to


# --- points at which a process may die


def arm(at: int) -> None:
    """From now on this process counts the steps of its writes, and kills itself at step `at`: the store's own, and each
    file or folder that somebody else (a trainer, the lock, timing.jsonl) opens for writing, renames or removes."""
    points = 0

    def hit() -> None:
        nonlocal points
        points += 1
        if points == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            if not (isinstance(arguments[2], int) and arguments[2] & writes):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        path = str(arguments[0])
        if f".tmp-{os.getpid()}-" not in path and re.search(r"(^|/)(data|checkpoints)/", path):
            hit()

    Disk.point = lambda self, step, path: hit()  # type: ignore[method-assign]
    Disk.sync, Disk.sync_folder = _no_sync, _no_sync_folder  # type: ignore[method-assign]
    sys.addaudithook(listen)


def fill(at: int) -> None:
    """From now on this process has a disk that is full from its `at`-th write on. Half of that write still fits."""
    points = 0
    put = Disk.put

    def full(self: Disk, fd: int, data: Any, path: Path) -> None:
        nonlocal points
        points += 1
        if points < at:
            put(self, fd, data, path)
            return
        if points == at:
            os.write(fd, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Disk.put = full  # type: ignore[method-assign]


def _no_sync(self: Disk, fd: int, path: Path) -> None:
    """A killed process needs no fsync, and the machine has better things to do."""
    self.point("fsync", path)


def _no_sync_folder(self: Disk, folder: Path) -> None:
    self.point("fsync folder", folder)


# --- processes


def beside(place: Path, what: str) -> Path:
    """A file of the harness, outside of what is looked at."""
    return place.with_name(f"{place.name}.{what}")


def fork(place: Path, act: Callable[[], None]) -> int:
    """A child that works in `place` and ends without a goodbye: 0 where `act` came through, else the code of its
    error, which stands in `place`.error. Returns its pid."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(place)
        with contextlib.suppress(Enough):
            act()
        code = 0
    except BaseException as error:  # nothing may leave a child but its exit code
        code = exit_code_of(error)
        beside(Path.cwd(), "error").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def wait(child: int, limit: float = STUCK) -> int | None:
    """The exit code of a child, negative for a signal; None, and the child is killed, after so many seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def processor_seconds(child: int) -> float:
    """What a child has used so far; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_after(child: int, seconds: float) -> bool:
    """Kill a child -9 once it has used so many seconds of a processor: a time that does not depend on what else the
    machine does. False: it had ended before."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0, "a run that nobody killed yet failed"
            return False
        if processor_seconds(child) >= seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.007)


def quiet_disk() -> None:
    """For a child that nobody will kill by power cut."""
    arm(-1)


def warm(recipe: Recipe, scratch: Path) -> None:
    """Bring this process to where its children need no imports: some stages of a run, in a folder of its own."""
    scratch.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(scratch)
    try:
        run(recipe, leave_at(6))
    except Enough:
        pass
    finally:
        os.chdir(before)
        shutil.rmtree(scratch)
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None  # a child has no business with what stands here: each collection would walk it


def policy(folder: Path) -> Path:
    """The base of the tiny world, made once."""
    if not (folder / "config.json").exists():
        make_policy(folder)
    return folder.resolve()


def golden(recipe: Recipe, place: Path) -> tuple[list[tuple[str, dict[str, str]]], float]:
    """A run that nobody kills, in a child: (name, what is promised) at each border, the last one its end; its seconds of
    processor."""
    place.mkdir(parents=True)

    def act() -> None:
        quiet_disk()

        def watch(border: int, name: str) -> None:
            with beside(Path.cwd(), "borders").open("a") as file:
                file.write(json.dumps([name, promised(Path())]) + "\n")

        run(recipe, watch)

    begun = os.times()
    code = wait(fork(place, act))
    assert code == 0, beside(place, "error").read_text()
    ended = os.times()
    used = ended.children_user - begun.children_user + ended.children_system - begun.children_system
    lines = map(json.loads, beside(place, "borders").read_text().splitlines())
    return [(name, found) for name, found in lines], used
