"""The process that tells a monitor: follows metrics.jsonl until its standard input closes. Started by
`mirror.py`; see there.

    python -m pipeline.report.monitor.follow FOLDER '{"monitor": "wandb", "mode": "offline", ...}'

It knows no monitor: what each does with a record is its own file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, RatchetError
from pipeline.recipe.measures import Measure, measures
from pipeline.report.monitor import Monitor, monitor_of
from pipeline.report.monitor.mirror import best_round, follow
from pipeline.run import record as record
from pipeline.run.session import open_run
from pipeline.store.workspace import Workspace

POLL, RETRY = 1.0, 60.0  #: seconds between looks at the record, and between tries to reach a monitor
LAST = 30.0  #: seconds that a child may still take when nobody waits for it any more
NICE = 10  #: its priority, or its parent's where that is lower
SHARE = 0.6  #: of the time at the end that tables and plots may take


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
    """One monitor, told the record of one run: begun, fed, finished."""

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        self.folder, self.wanted = folder, wanted
        self.checkpoints, self.grace = Path(wanted["checkpoints"]), float(wanted["grace"])
        self.ending: float | None = None  # when standard input closed
        self.missed: set[str] = set()  # rounds whose tables and plots are not all there
        self.path = folder / "metrics.jsonl"
        self.monitor: Monitor
        self.next = 0
        self.stamp: tuple[int, ...] = ()

    def begin(self) -> None:
        self.monitor = monitor_of(self.folder, self.wanted)
        self.next = self.monitor.begin()

    def feed(self) -> int:
        """Tell what is new; returns how many records."""
        fresh = 0
        if (stamp := self._stamp()) == self.stamp:
            return 0
        self.stamp = stamp
        found = follow(self.path, self.next)
        for place, (step, kind, values) in enumerate(found):
            self.monitor.log(step, values)
            self._alert(values)
            if kind == "round" or (kind == "final" and place == len(found) - 1):
                self._show(step, values["round"], kind == "final")
            self.next, fresh = step + 1, fresh + 1
        return fresh

    def _show(self, step: int, number: int, final: bool) -> None:
        """A round's tables, artifacts and plots, with its record; as many as there is time for."""
        from pipeline.report.monitor.media import media

        name = f"{'final after ' if final else ''}round {number}"
        if not (self.folder / "recipe.yaml").is_file():
            return  # metrics without a run: there is nothing to look at
        for key, make in self._each(name, lambda: media(self.folder, self.checkpoints, number, final)):
            if self._hurried():
                self.missed.add(name)
                return
            for _, made in self._each(f"{name}: {key}", partial(_one, make)):
                if made is not None:
                    for _ in self._each(
                        f"{name}: {key}", partial(_one, partial(self.monitor.show, step, key, made))
                    ):
                        pass

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
        """Everything is with the monitor, or in its folder."""
        self.monitor.finish(best_round(record.read(self.path), self._declared()), self.next)
        if self.missed:
            names = ", ".join(sorted(self.missed))
            say(f"not all tables and plots are there: {names}: `ratchet sync` makes them again")
        say(f"mirrored {self.next} records ({self.wanted['monitor']})")

    def _declared(self) -> Sequence[Measure]:
        """What the run's evaluations declare; nothing where its recipe cannot be read any more."""
        with contextlib.suppress(RatchetError):
            return measures(open_run(self.folder.name, Workspace(self.folder.parent, Path())).recipe)
        return ()

    def _stamp(self) -> tuple[int, ...]:
        """Changes whenever the record is rewritten: it gets a new file each time."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return ()

    def _alert(self, values: dict[str, Any]) -> None:
        """The gate refused a model: a warning, with the gate's own reasons where it left them."""
        for name, value in values.items():
            if name.startswith("gate/") and name.endswith("/promoted") and not value:
                model, number = name.split("/")[1], values["round"]
                path = self.folder / f"round-{number:03d}" / "gate.json"
                gate = json.loads(path.read_text()) if path.is_file() else {"decisions": {}}
                reasons = gate["decisions"].get(model, {}).get("reasons", [])
                text = f"round {number}: the gate kept the old one. {' '.join(reasons)}".rstrip()
                self.monitor.alert(f"{model} refused", text)


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
            # a monitor out of reach raises many kinds of things, and none of them may matter to the run
            say(f"{session.wanted['monitor']}: {type(problem).__name__}: {problem}")
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
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with only_one(folder / "logs"):
        return watch(Session(folder, wanted))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a monitor's own exit hooks may wait for a network that is not there
