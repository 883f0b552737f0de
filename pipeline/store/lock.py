"""Who works on a run: a lock that the kernel holds and frees, so a dead holder never blocks anyone.

Two files. LOCK is held exclusively by whoever drives the run: the launcher, the parent of `--launch`, or rank
0. LOCK-ranks is held shared by every rank; a new start must see it free, so that ranks which outlived their
launcher cannot write beside it. The text inside LOCK only tells a reader who holds it; it decides nothing.

A forked child would keep a lock alive after its parent's SIGKILL (it shares the open file), so children close
it right after fork; a program that is executed never inherits it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pipeline.errors import RecipeError, RunInUse
from pipeline.store.disk import DISK, sweep_temporaries

PARENT = "RATCHET_PARENT"  #: environment of a child of `--launch`: "pid@host" of the holder of LOCK
RANKS_WAIT = 0.7  #: seconds that ranks of a launcher which was just killed get to die
STATUS_WAIT = 0.1  #: seconds: `is_held` has a lock for an instant while it looks
_POLL = 0.02
_held: set[_LockFile] = set()


class _LockFile:
    """One open lock file."""

    def __init__(self, path: Path) -> None:
        self.path, self.fd = path, -1

    def take(self, *, shared: bool = False) -> bool:
        """Takes or changes the lock without waiting. False: someone else holds it."""
        while True:
            if self.fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
                self.fd = os.open(self.path, flags, 0o644)
                _held.add(self)
            try:
                fcntl.flock(self.fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                return False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.fd), os.stat(self.path)):
                    return True
            self.close()  # the file was replaced between open and lock: lock the one that stands

    def take_within(self, seconds: float, *, shared: bool = False) -> bool:
        """Takes the lock, trying again for a while."""
        deadline = time.monotonic() + seconds
        while not self.take(shared=shared):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def free(self) -> None:
        """Frees the lock, also where a forked child still has the file open."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Forgets the file. The lock is free once no process has this opening of it any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _held.discard(self)


def _forget_locks() -> None:
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_forget_locks)


class RunLock:
    """The driver's lock on `data/<run>/`. `with RunLock(run_dir): ...`, or `acquire` and `release`.

    While it briefly holds both files nobody else can be writing, so it removes every temporary file there and
    in `sweep`.
    """

    def __init__(self, run_dir: Path, sweep: Sequence[Path] = ()) -> None:
        self._run_dir, self._sweep = Path(run_dir), tuple(sweep)
        self._lock, self._ranks = _LockFile(self._run_dir / "LOCK"), _LockFile(self._run_dir / "LOCK-ranks")
        self.swept = 0  #: temporaries of dead processes that the start removed

    def acquire(self) -> None:
        """Takes the lock or says who has it, within a second.

        Raises:
            RunInUse: naming pid, host and since when.
        """
        DISK.make_folder(self._run_dir)
        if not self._lock.take_within(STATUS_WAIT):
            raise RunInUse(
                f"{self._run_dir}: in use by {holder(self._run_dir)}. Wait for it, or end that process."
            )
        before = os.pread(self._lock.fd, 4096, 0)
        self._write_holder(ready=False)
        if not self._ranks.take_within(RANKS_WAIT):
            self._write(before)  # it says who started those that are left
            self._lock.free()
            raise RunInUse(
                f"{self._run_dir}: a process of an earlier launch still works on it (launched by "
                f"{holder(self._run_dir)}). End the processes that were started by it, then start again."
            )
        for folder in (self._run_dir, *self._sweep):
            self.swept += sweep_temporaries(folder, everything=True)
        self._ranks.free()
        self._write_holder(ready=True)

    def _write_holder(self, *, ready: bool) -> None:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        found = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "ready": ready}
        self._write((json.dumps(found) + "\n").encode())

    def _write(self, text: bytes) -> None:
        os.pwrite(self._lock.fd, text, 0)
        os.ftruncate(self._lock.fd, len(text))

    def release(self) -> None:
        self._ranks.free()
        self._lock.free()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class RankLock:
    """A rank's shared lock. Many hold it at once; a new start waits for none to be left."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = Path(run_dir)
        self._ranks = _LockFile(self._run_dir / "LOCK-ranks")

    def acquire(self, limit: float = 30.0) -> None:
        """Takes the shared lock, once a driver holds the run and has finished its start.

        Raises:
            RunInUse: nobody drives the run within the limit, or not the launcher named in the environment.
        """
        deadline = time.monotonic() + limit
        while not self._driven():
            if time.monotonic() > deadline:
                raise RunInUse(
                    f"{self._run_dir}: no process drives this run: rank 0 or the launcher did not start, or "
                    "ended. Start the run again as a whole."
                )
            time.sleep(_POLL)
        check_parent(self._run_dir)
        if not self._ranks.take_within(limit, shared=True):
            raise RunInUse(f"{self._run_dir}: held by {holder(self._run_dir)}.")

    def _driven(self) -> bool:
        """Is LOCK held by someone who has finished starting?"""
        lock = _LockFile(self._run_dir / "LOCK")
        if not lock.path.exists():
            return False
        if lock.take(shared=True):
            lock.free()
            return False
        return bool((_read_holder(self._run_dir, tries=1) or {}).get("ready"))

    def release(self) -> None:
        self._ranks.free()

    def __enter__(self) -> RankLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read_holder(run_dir: Path, tries: int = 10) -> dict[str, object] | None:
    for _ in range(tries):  # it may be writing its name right now
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((run_dir / "LOCK").read_text())
            if isinstance(found, dict):
                return found
        time.sleep(_POLL)
    return None


def holder(run_dir: Path) -> str:
    """Who LOCK names, in words. It may be gone by now."""
    found = _read_holder(run_dir)
    if found is None:
        return "an unknown process (LOCK cannot be read)"
    return f"process {found.get('pid')} on {found.get('host')} since {found.get('since')}"


def is_held(run_dir: Path) -> bool:
    """Does someone work on this run just now? For `status`; it takes nothing."""
    for name in ("LOCK", "LOCK-ranks"):
        lock = _LockFile(run_dir / name)
        if lock.path.exists():
            if not lock.take():
                return True
            lock.free()
    return False


def parent_environment() -> dict[str, str]:
    """What the parent of `--launch` adds to its children's environment."""
    return {PARENT: f"{os.getpid()}@{socket.gethostname()}"}


def is_child() -> bool:
    """Was this process started by a parent that holds the lock for it?"""
    return bool(os.environ.get(PARENT))


def check_parent(run_dir: Path) -> None:
    """A child of `--launch` works only for the launcher that holds the run now. Without such a parent this
    does nothing.

    Raises:
        RunInUse: another launcher holds it: this child is a left-over.
        RecipeError: the variable was set by hand to something else.
    """
    named = os.environ.get(PARENT)
    if not named:
        return
    pid, _, host = named.partition("@")
    if not pid.isdigit() or not host:
        raise RecipeError(f"{PARENT}={named}: is set by `--launch` for its own children. Unset it.")
    found = _read_holder(run_dir) or {}
    if (str(found.get("pid")), found.get("host")) != (pid, host):
        raise RunInUse(
            f"{run_dir}: this process was launched by {named}, but the run is held by {holder(run_dir)}."
        )


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Linux: the kernel ends this process when the thread that started it ends. Elsewhere it does nothing.

    Call it first thing in a child. A parent that died before the call is noticed through `RATCHET_PARENT`
    where it is set.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(1, int(signal_number), 0, 0, 0) != 0:  # 1 = PR_SET_PDEATHSIG
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    pid, _, host = os.environ.get(PARENT, "").partition("@")
    if pid.isdigit() and host == socket.gethostname():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            os._exit(8)  # the parent is gone already; there is nobody to tell


@contextlib.contextmanager
def waiting(path: Path) -> Iterator[None]:
    """A lock file of its own: waits for whoever builds the same thing; the kernel frees it when a process
    dies.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
