"""The process that owns wandb: follows metrics.jsonl until its standard input closes. Started by
`mirror.py`; see there.

    python -m pipeline.report.wandb.child FOLDER '{"mode": "offline", "project": "ratchet", ...}'
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.report.wandb.mirror import best_round, follow, run_id
from pipeline.run import record as record
from pipeline.store.disk import DISK

POLL, RETRY = 1.0, 60.0  #: seconds between looks at the record, and between tries to reach wandb
LAST = 30.0  #: seconds that a child may still take when nobody waits for it any more
NICE = 10  #: its priority, or its parent's where that is lower
SHARE = 0.6  #: of the time at the end that tables and plots may take
CONNECTION = ("mode", "project", "entity", "tags", "group")  #: what of the wanted is wandb.init's


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def _one(make: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
    yield "", make()


def closed(seconds: float) -> bool:
    """Did standard input close within this time? Nobody ever writes to it, so readable means closed."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """The mirror of an earlier launch may still be finishing; it takes at most `LAST` seconds."""
    fd = os.open(folder / "mirror.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Session:
    """One wandb session: begun, fed, finished."""

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        self.folder = folder
        self.wanted = {key: wanted[key] for key in CONNECTION if wanted.get(key)}
        self.checkpoints, self.grace = Path(wanted["checkpoints"]), float(wanted["grace"])
        self.ending: float | None = None  # when standard input closed
        self.missed: set[str] = set()  # rounds whose tables and plots are not all there
        self.path = folder / "metrics.jsonl"
        self.state = folder / "wandb" / "mirror.json"
        self.root = Path(os.environ.setdefault("WANDB_DIR", str(folder)))
        self.root.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))
        self.id = run_id(folder.name)
        self.run: Any = None
        self.next = 0
        self.defined: set[str] = set()
        self.stamp: tuple[int, ...] = ()

    def begin(self) -> None:
        import wandb

        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_code=True)
        self.run = wandb.init(
            id=self.id,
            name=self.folder.name,
            resume="allow",
            config=self._config(),
            settings=quiet,
            **self.wanted,
        )
        self.began = time.time()
        self.run.define_metric("round")
        self.next = self.run.step if self.wanted["mode"] == "online" else self._synced()

    def feed(self) -> int:
        """Log what is new; returns how many records."""
        fresh = 0
        if (stamp := self._stamp()) == self.stamp:
            return 0
        self.stamp = stamp
        found = follow(self.path, self.next)
        for place, (step, kind, values) in enumerate(found):
            self._define(values)
            self.run.log(values, step=step)
            self._alert(values)
            if kind == "round" or (kind == "final" and place == len(found) - 1):
                self._show(step, values["round"], kind == "final")
            self.next, fresh = step + 1, fresh + 1
        return fresh

    def _show(self, step: int, number: int, final: bool) -> None:
        """A round's tables, artifacts and plots, with its record; as many as there is time for."""
        from pipeline.report.wandb.media import media

        name = f"{'final after ' if final else ''}round {number}"
        if not (self.folder / "recipe.yaml").is_file():
            return  # metrics without a run: there is nothing to look at
        for key, make in self._each(name, lambda: media(self.folder, self.checkpoints, number, final)):
            if self._hurried():
                self.missed.add(name)
                return
            for _, made in self._each(f"{name}: {key}", partial(_one, make)):
                if hasattr(made, "add_reference"):
                    self.run.log_artifact(made, aliases=[key.partition(":")[2]])
                elif made is not None:
                    self._define({key: None})
                    self.run.log({key: made}, step=step)

    def _each(self, name: str, begin: Callable[[], Iterable[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        """The items that can be made: a damaged shard or a chart that fails may not cost the numbers."""
        try:
            yield from begin()
        except Exception as problem:  # whatever it is, the record stands and the run goes on
            self.missed.add(name)
            say(f"{name}: left out: {type(problem).__name__}: {problem}")

    def _hurried(self) -> bool:
        """Has standard input closed, and is the time for tables and plots over?"""
        if self.ending is None and closed(0):
            self.ending = time.monotonic()
        return self.ending is not None and time.monotonic() - self.ending > SHARE * self.grace

    def finish(self) -> None:
        """Everything is with wandb (or in its folder); only then the older folders go."""
        self.run.summary.update(best_round(record.read(self.path)))
        own = Path(self.run.dir).parent
        self.run.finish()
        if self.wanted["mode"] == "offline":
            DISK.write(self.state, record.to_json({**self._sessions(), own.name: self.next}))
            for other in self._folders():
                if other != own and not self._is_synced(other):
                    shutil.rmtree(other, ignore_errors=True)
            self._sweep()
        if self.missed:
            names = ", ".join(sorted(self.missed))
            say(f"not all tables and plots are there: {names}: `ratchet sync` makes them again")
        say(f"mirrored {self.next} records ({self.wanted['mode']}, id {self.id})")

    def _sweep(self) -> None:
        """Tables of earlier sessions, whose folders are gone."""
        for staged in (self.folder / "wandb" / "data").glob("artifacts/staging/*"):
            if staged.is_file() and staged.stat().st_mtime < self.began:
                staged.unlink(missing_ok=True)

    def _stamp(self) -> tuple[int, ...]:
        """Changes whenever the record is rewritten: it gets a new file each time."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return ()

    def _config(self) -> dict[str, Any]:
        import yaml

        path = self.folder / "recipe.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _define(self, values: dict[str, Any]) -> None:
        """`round` is the step of what is measured once a round, a stage's own steps are its curve's."""
        for name in values:
            parts = name.split("/")
            curve = parts[0] == "curve"
            front = "/".join(parts[: 2 if curve else 1])
            if len(parts) > 1 and front not in self.defined:
                self.defined.add(front)
                self.run.define_metric(f"{front}/*", step_metric=f"{front}/step" if curve else "round")

    def _alert(self, values: dict[str, Any]) -> None:
        """The gate refused a model: a warning, with the gate's own reasons where it left them."""
        for name, value in values.items():
            if name.startswith("gate/") and name.endswith("/promoted") and not value:
                model, number = name.split("/")[1], values["round"]
                path = self.folder / f"round-{number:03d}" / "gate.json"
                gate = json.loads(path.read_text()) if path.is_file() else {"decisions": {}}
                reasons = gate["decisions"].get(model, {}).get("reasons", [])
                text = f"round {number}: the gate kept the old one. {' '.join(reasons)}".rstrip()
                self.run.alert(title=f"{model} refused", text=text, level="WARN")

    # --- what earlier launches left (offline) -----------------------------------------------------

    def _folders(self) -> list[Path]:
        return sorted((self.root / "wandb").glob(f"offline-run-*-{self.id}"))

    def _is_synced(self, folder: Path) -> bool:
        """`wandb sync` leaves a mark beside what it has sent."""
        return any(folder.glob("*.synced"))

    def _sessions(self) -> dict[str, int]:
        """Folder -> the step after its last record, as far as the folders are still there."""
        known: dict[str, int] = json.loads(self.state.read_text()) if self.state.exists() else {}
        return {folder.name: known[folder.name] for folder in self._folders() if folder.name in known}

    def _synced(self) -> int:
        """The first step that was not synced yet."""
        sessions = self._sessions()
        sent = [sessions[f.name] for f in self._folders() if f.name in sessions and self._is_synced(f)]
        return max(sent, default=0)


def watch(session: Session) -> int:
    """Feeds a session until standard input closes. 0: everything is mirrored."""
    begun, last = False, False
    while True:
        try:
            if not begun:
                session.begin()
                begun = True
            if session.ending is None and closed(POLL):
                session.ending = time.monotonic()
            last = session.ending is not None
            session.feed()
            if last:
                session.finish()
                return 0
        except DamagedData as problem:
            say(f"not mirrored: {problem}")
            return 1
        except Exception as problem:
            # wandb raises many kinds of things when it cannot be reached; none of them may matter to the run
            say(f"wandb: {type(problem).__name__}: {problem}")
            if isinstance(problem, ImportError) or begun or last or closed(RETRY):
                return 1


def main() -> int:
    folder, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))

    def leave() -> None:
        while os.getppid() == parent and not closed(POLL):
            pass
        time.sleep(max(LAST, wanted["grace"]))
        os.killpg(0, signal.SIGKILL)

    parent = os.getppid()
    threading.Thread(target=leave, daemon=True).start()
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    with only_one(folder / "wandb"):
        return watch(Session(folder, wanted))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # wandb's own exit hooks may wait for a network that is not there
