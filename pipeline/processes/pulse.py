"""A rank's sign of life: what its main thread is at, published in a small file.

The process group's own time-out does not serve for this (tried with two gloo ranks and 6 s): it ends the wait
for a rank that is 12 s late as it ends that for one that is stopped, since it sees the wait and not what the
other does; and it sees nothing outside of a collective. So it stays at its long default, behind this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "RATCHET_WATCH"  #: environment of a child of `--launch`: where its ranks publish


UNIT_SECONDS = "RATCHET_UNIT_SECONDS"  #: environment: the least limit of a unit, where 90 s are too few


WAITING = "waiting for the other ranks"


HOST = socket.gethostname()


@dataclass(frozen=True)
class Limits:
    """Seconds. A rank that hangs shall be gone within 120, a dead one's fellows within 30."""

    unit: float = float(os.environ.get(UNIT_SECONDS, "90"))
    still: float = 45.0  #: a file that nobody writes any more: the process is stopped, or its machine is gone
    dead: float = 5.0  #: after a death its fellows may say more themselves
    ended: float = 20.0  #: after one rank left with an error
    start: float = 900.0  #: imports and rendezvous
    together: float = 300.0  #: all of them wait for one another
    every: float = 1.0


LIMITS = Limits()


class Pulse:
    """What this process's main thread is at. Costs two clock reads a beat, so every unit may beat."""

    def __init__(self) -> None:
        self.count, self.what, self.limit = 0, "starting", LIMITS.start
        self._longest, self._since = 0.0, time.monotonic()

    def beat(self) -> None:
        """A unit is finished."""
        now = time.monotonic()
        if not self.what:
            self._longest = max(self._longest, now - self._since)
        self.what, self._since = "", now
        self.limit = max(LIMITS.unit, 5 * self._longest)
        self.count += 1

    def long(self, what: str, seconds: float = 1800.0) -> None:
        """Something that takes long begins; the next beat ends it."""
        self.what, self.limit, self._since = what, seconds, time.monotonic()
        self.count += 1


PULSE = Pulse()


beat, long = PULSE.beat, PULSE.long


@dataclass
class Post:
    """A rank's own file, and the thread that keeps it fresh. `supervise`: what to do with each look at the
    others (under accelerate), None where a parent watches."""

    folder: Path
    rank: int
    supervise: Callable[[], None] | None = None
    pulse: Pulse = PULSE
    limits: Limits = LIMITS
    ended: dict[str, str] | None = None
    _tick: int = 0
    _starved: tuple[int, dict[str, float]] = (-1, {})  #: count, and what each thread had waited when it began
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.publish()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """The file, whole or not at all. It is scratch: no fsync."""
        self._tick += 1
        state = {
            "rank": self.rank,
            "pid": os.getpid(),
            "host": HOST,
            "tick": self._tick,
            "count": self.pulse.count,
            "what": self.pulse.what,
            "limit": self.pulse.limit,
            "starved": self._starving(),
            "ended": self.ended,
        }
        path = self.folder / f"rank-{self.rank:03d}.json"
        temporary = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk is told by whoever writes rows
            temporary.write_text(json.dumps(state))
            temporary.replace(path)

    def _starving(self) -> float:
        """Seconds in which a thread of this process was ready and got no core, since the unit began."""
        waits = waited()
        if self._starved[0] != self.pulse.count:
            self._starved = (self.pulse.count, waits)
        before = self._starved[1]
        return max((seconds - before.get(thread, 0.0) for thread, seconds in waits.items()), default=0.0)

    def _run(self) -> None:
        while not self._stop.wait(self.limits.every):
            self.publish()
            if self.supervise is not None:
                self.supervise()

    def end(self, error: BaseException | None) -> None:
        """The last word of this rank."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)
        self.ended = {"error": type(error).__name__ if error else "", "message": str(error or "")}
        self.publish()


def waited() -> dict[str, float]:
    """Thread -> seconds that it has waited for a core so far. Linux; elsewhere nothing is known."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that ended this instant
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


def pid_alive(pid: int) -> bool:
    """Is this process of this host there, and more than a corpse that nobody has fetched?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):  # no /proc here, or gone this instant
        return not Path("/proc/self").exists()
