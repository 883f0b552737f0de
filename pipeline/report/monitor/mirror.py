"""A monitor as a mirror of metrics.jsonl: one session for the whole loop, and training never waits for it.

    with mirrored(run):   # rank 0 only
        ...

A child process follows metrics.jsonl and owns the monitor altogether; the parent holds only the child's
standard input. When that closes, because the run ended or died, the child tells what is new and leaves. The
parent waits `grace` seconds; then it kills a child that is online, and leaves one that only writes to the
disk half a minute of its own. Whatever did not get through stands in metrics.jsonl and is told at the next
start, or by `sync`. No duplicates: every record has a step of its own, its place in the record (`records`).

wandb: the run's id comes from its name. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_TAGS, WANDB_RUN_GROUP
and WANDB_DIR win over the recipe. Tables, artifacts and plots of a round (`media.py`) go to its record where
there is time; those of the last moment that do not fit into `grace` are added by `sync`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError, nearest
from pipeline.recipe.measures import Measure, main_measure
from pipeline.run import record as record

if TYPE_CHECKING:
    from pipeline.run.run import Run

MODES = ("offline", "online", "disabled", "shared", "dryrun", "run")  #: the last two are older names
GRACE = 5.0  #: seconds that the end of a run waits for its mirror


def run_id(name: str) -> str:
    """wandb's id of a run, the same after every restart."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def environment_wins(settings: Any) -> dict[str, Any]:
    """Mode, project, entity, tags and group: from the environment, else from the recipe's `wandb:`."""
    env = os.environ
    group = env.get("WANDB_RUN_GROUP") or env.get("WANDB_GROUP")
    tags = tuple(tag for tag in env.get("WANDB_TAGS", "").split(",") if tag)
    return {
        "mode": env.get("WANDB_MODE") or getattr(settings, "mode", "offline"),
        "project": env.get("WANDB_PROJECT") or getattr(settings, "project", "") or "ratchet",
        "entity": env.get("WANDB_ENTITY") or getattr(settings, "entity", "") or None,
        "tags": tags or tuple(getattr(settings, "tags", ())),
        "group": group or getattr(settings, "group", "") or None,
    }


def records(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a monitor is told, one record a step: `told` without the kinds."""
    return [values for _, values in told(rows)]


def told(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(kind, record) of each step, in an order that only grows as a run goes on. Kinds: point, round, final.

    A round's record comes when its gate has decided (the row whose stage is `gate`); the points of its
    training curves (`history`) come before it, their steps counted on over the rounds.
    """
    rounds: dict[int, list[Mapping[str, Any]]] = {}
    ends: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        (ends if row.get("final") else rounds).setdefault(row["round"], []).append(row)
    found: list[tuple[str, dict[str, Any]]] = []
    offsets: dict[str, int] = {}
    for number, done in sorted(rounds.items()):
        if any(row.get("stage") == "gate" for row in done):
            found += [("point", point) for row in done for point in _curve(row, offsets)]
            found.append(("round", {"round": number, **record.by_round(done)[number]}))
        for row in ends.get(number, []):
            found.append(("final", {"round": number, **record.by_round([row])[number]}))
    return found


def _curve(row: Mapping[str, Any], offsets: dict[str, int]) -> list[dict[str, Any]]:
    """A training stage's points; moves the stage's offset to its last step."""
    stage, offset = row.get("stage", "train"), offsets.get(row.get("stage", "train"), 0)
    points = []
    for number, point in enumerate(row.get("history", []), 1):
        step = offset + int(point.get("step", number))
        values = {f"curve/{stage}/{key}": value for key, value in point.items() if key != "step"}
        points.append({"round": row["round"], f"curve/{stage}/step": step, **values})
        offsets[stage] = step
    return points


def best_round(rows: Iterable[Mapping[str, Any]], known: Sequence[Measure]) -> dict[str, float]:
    """{"best/round", "best/METRIC"}: the round that is best by the main metric. known: what is declared."""
    rounds = record.by_round(row for row in rows if not row.get("final"))
    heads = [(head, number) for number, metrics in rounds.items() if (head := main_measure(metrics, known))]
    if not heads:
        return {}

    def rank(each: tuple[Measure, int]) -> tuple[float, int]:
        value = rounds[each[1]][each[0].name]
        return (-value if each[0].metric.less else value), -each[1]

    head, number = max(heads, key=rank)
    return {"best/round": number, f"best/{head.name}": rounds[number][head.name]}


def require_mode() -> None:
    """Refuse a WANDB_MODE that wandb does not know, before anything runs.

    Raises:
        RecipeError: naming the nearest.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in MODES:
        raise RecipeError(f"WANDB_MODE={mode}: no mode of wandb{nearest(mode, MODES)}")


class Mirror:
    """The parent's side: starts the child, and lets go of it in time. Never raises, waits at the end only."""

    def __init__(
        self,
        folder: Path,
        settings: Any = None,
        grace: float = GRACE,
        checkpoints: Path | None = None,
        monitor: str = "wandb",
    ) -> None:
        self.folder, self.grace = folder, grace
        self.wanted = wanted_of(monitor, settings, checkpoints, grace)
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> Mirror:
        """Starts the child, unless there is no monitor."""
        if self.wanted["monitor"] == "none" or self.child is not None:
            return self
        with contextlib.suppress(OSError):  # no process to be had, or no place for its log: no mirror then
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
            with (self.folder / "logs" / f"{self.wanted['monitor']}.log").open("ab") as log:
                self.child = _spawn(self.folder, self.wanted, log)
        return self

    def close(self) -> bool:
        """Lets the child finish within `grace` seconds. True where it said that everything is mirrored."""
        if self.child is None:
            return False
        child, self.child = self.child, None
        with contextlib.suppress(OSError):  # it is gone already
            assert child.stdin is not None
            child.stdin.close()
        try:
            return child.wait(self.grace) == 0
        except subprocess.TimeoutExpired:
            if self.wanted["mode"] == "online":  # a network may never answer
                _end(child)
                child.wait()
            return False

    def __enter__(self) -> Mirror:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.close()


def wanted_of(monitor: str, settings: Any, checkpoints: Path | None, grace: float) -> dict[str, Any]:
    """What the child has to know: which monitor and how, where the weights are, how long it may take at the
    end. wandb that is disabled is no monitor.
    """
    wanted = environment_wins(settings)
    if monitor == "wandb" and wanted["mode"] == "disabled":
        monitor = "none"
    elif monitor != "wandb":
        wanted["mode"] = "offline"
    where = str((checkpoints or Path("checkpoints")).resolve())
    return wanted | {"monitor": monitor, "checkpoints": where, "grace": grace}


def sync(
    folder: Path,
    settings: Any = None,
    timeout: float = 600.0,
    checkpoints: Path | None = None,
    monitor: str = "wandb",
) -> tuple[bool, str]:
    """Bring the monitor up to metrics.jsonl now, and wait for it: (done?, what the child said last)."""
    wanted = wanted_of(monitor, settings, checkpoints, timeout)
    if wanted["monitor"] == "none":
        return False, "no monitor: monitor is none, or wandb is disabled (wandb.mode, WANDB_MODE)"
    child = _spawn(folder, wanted, subprocess.PIPE)
    try:
        said, _ = child.communicate(b"", timeout)
    except subprocess.TimeoutExpired:
        _end(child)
        child.communicate()
        return False, f"{wanted['monitor']} did not finish within {timeout:.0f} s"
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return child.returncode == 0, lines[-1] if lines else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended just now
        os.killpg(child.pid, signal.SIGKILL)


def _spawn(folder: Path, wanted: Mapping[str, Any], log: Any) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.report.monitor.follow", str(folder.resolve())]
    return subprocess.Popen(
        [*command, json.dumps(dict(wanted))],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **quiet},
        start_new_session=True,  # Ctrl-C is the run's, and the whole group can be ended
    )


def follow(path: Path, seen: int) -> list[tuple[int, str, dict[str, Any]]]:
    """(step, kind, record) of every record from `seen` on."""
    found = told(record.read(path))
    return [(step, *found[step]) for step in range(seen, len(found))]


def mirrored(run: Run) -> contextlib.AbstractContextManager[Any]:
    """The recipe's monitor follows metrics.jsonl while the block lasts: rank 0 alone, and only where one is
    wanted."""
    header = run.recipe.header
    mirror = Mirror(run.folder, header.wandb, checkpoints=run.workspace.checkpoints, monitor=header.monitor)
    return mirror if run.processes.main else contextlib.nullcontext()
