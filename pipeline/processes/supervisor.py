"""The supervisor of a group of processes: a rank that died or hangs ends the others, within a minute or two.

Every rank beats when its main thread finished a unit (a decoded step, a batch, a chunk), and declares what
takes long (loading, compiling, waiting for the other ranks) with a limit of its own. A thread in each rank
publishes both once a second in a small file; whoever watches (the parent of `--launch`, or under accelerate
that thread in every rank) holds each file against its own clock. So a killed process shows by its pid, a
stopped one by a file that stands still, and a main thread that hangs by a count that stands still. A slow
rank that goes on counting is left alone, and so are those that wait for it. The limit of a unit grows with
the longest that was seen, and time in which the machine gave a process no core does not count. Nothing here
takes part in any collective, or in what a run promises.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RatchetError, WorkerLost
from pipeline.processes.pulse import HOST, LIMITS, WAITING, Limits, Post, pid_alive
from pipeline.store.outcome import write_outcome

if TYPE_CHECKING:
    from pipeline.processes.group import Processes

ERRORS = {kind.__name__: kind for kind in RatchetError.__subclasses__()}


# --- what a rank publishes


# --- whoever watches


@dataclass(frozen=True)
class Lost:
    """A rank that will not come back."""

    rank: int
    pid: int
    host: str
    why: str

    def error(self, during: str = "") -> RatchetError:
        """The error for the user; a rank that left with a sentence of its own gives that."""
        where = f" during {during}" if during else ""
        return WorkerLost(
            f"rank {self.rank} (process {self.pid} on {self.host}) {self.why}{where}, so the others were "
            "ended. Nothing of the open chunks is committed; start the same command again to go on"
        )


@dataclass
class _Seen:
    state: dict[str, Any]
    tick_at: float
    count_at: float
    gone_at: float | None = None


class Observer:
    """Looks at the files of a group. One for each observer: it holds them against its own clock only."""

    def __init__(self, folder: Path, size: int, limits: Limits = LIMITS) -> None:
        self.folder, self.size, self.limits = folder, size, limits
        self._seen: dict[int, _Seen] = {}
        self._started = time.monotonic()

    def look(self) -> Lost | None:
        """The rank that is lost, None while all is well."""
        now = time.monotonic()
        self._read(now)
        found = [lost for rank in range(self.size) if (lost := self._judge(rank, now))]
        # a stopped or dead rank makes its fellows look hung: name the cause, not the symptom
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def states(self) -> dict[int, dict[str, Any]]:
        """What each rank published last."""
        self._read(time.monotonic())
        return {rank: seen.state for rank, seen in self._seen.items()}

    def _read(self, now: float) -> None:
        for rank in range(self.size):
            try:
                state = json.loads((self.folder / f"rank-{rank:03d}.json").read_text())
            except (OSError, ValueError):
                continue  # not there yet, or a network file system between two versions
            seen = self._seen.get(rank)
            if seen is None:
                self._seen[rank] = _Seen(state, now, now)
                continue
            if state["tick"] != seen.state["tick"]:
                seen.tick_at = now
            if state["count"] != seen.state["count"]:
                seen.count_at = now
            seen.state = state

    def _judge(self, rank: int, now: float) -> tuple[int, Lost] | None:
        seen, limits = self._seen.get(rank), self.limits
        if seen is None:
            late = now - self._started > limits.start
            return (3, Lost(rank, 0, "?", f"did not start within {limits.start:.0f} s")) if late else None
        state = seen.state

        def lost(order: int, why: str) -> tuple[int, Lost]:
            return order, Lost(rank, state["pid"], state["host"], why)

        if state["ended"] is not None:
            if not state["ended"]["error"]:
                return None
            seen.gone_at = seen.gone_at or now
            said = f"ended with {state['ended']['error']}: {state['ended']['message']}"
            return lost(0, said) if now - seen.gone_at > limits.ended else None
        if state["host"] == HOST and not pid_alive(state["pid"]):
            seen.gone_at = seen.gone_at or now
            return lost(0, "died without a word (killed?)") if now - seen.gone_at > limits.dead else None
        if now - seen.tick_at > limits.still:
            return lost(1, f"gave no sign of life for {now - seen.tick_at:.0f} s (stopped?)")
        if now - seen.count_at > self._patience(state) + state["starved"]:
            return lost(
                2, f"hangs: nothing done for {now - seen.count_at:.0f} s ({state['what'] or 'a unit'})"
            )
        return None

    def _patience(self, state: dict[str, Any]) -> float:
        """A rank that waits for others is left alone as long as one of them has something else to do: that
        one is judged by itself."""
        if state["what"] != WAITING:
            return float(state["limit"])
        others = [seen.state for seen in self._seen.values() if seen.state is not state]
        busy = any(other["what"] != WAITING and other["ended"] is None for other in others)
        return float("inf") if busy else self.limits.together

    def cause(self, within: float = 0.0, apart_from: int = -1) -> RatchetError | None:
        """Why a group ended badly, from what its ranks left: a sentence of one of them, or one that died."""
        until = time.monotonic() + within
        while True:
            states = {rank: state for rank, state in self.states().items() if rank != apart_from}
            for state in states.values():
                ended = state["ended"] or {"error": ""}
                if ended["error"] in ERRORS:
                    return ERRORS[ended["error"]](ended["message"])
            for rank, state in states.items():
                lost = Lost(rank, state["pid"], state["host"], "died without a word (killed?)")
                if state["ended"] is None and state["host"] == HOST and not pid_alive(state["pid"]):
                    return lost.error()
            for rank, state in states.items():
                error = (state["ended"] or {"error": ""})["error"]
                if error and error not in ("Terminated", "KeyboardInterrupt", "DistBackendError"):
                    why = f"ended with {error}: {state['ended']['message']}"
                    return Lost(rank, state["pid"], state["host"], why).error()
            over = states and all(state["ended"] is not None for state in states.values())
            if over or time.monotonic() > until:
                return None
            time.sleep(0.1)

    def kill(self, apart_from: int = -1) -> None:
        """End every rank of this host, stopped ones too."""
        for state in self.states().values():
            if state["host"] == HOST and state["pid"] != apart_from and state["ended"] is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(state["pid"], signal.SIGKILL)


class Supervision:
    """The ranks of a launch, as one of them sees them. One process alone is a group of nobody else."""

    def __init__(self, rank: int, size: int, run_dir: Path, folder: Path | None, parent: bool) -> None:
        self.rank, self.run_dir = rank, run_dir
        self.observer = Observer(folder, size) if folder else None
        self.post = Post(folder, rank, None if parent else self.supervise) if folder else None

    @classmethod
    def of(cls, world: Processes, run_dir: Path, given: str | None) -> Supervision:
        """This process in its group. From now on the parent of `--launch`, whose folder is `given`, watches
        it; without one, all of them watch each other."""
        if given is None and world.size == 1:
            return cls(0, 1, run_dir, None, False)
        folder = Path(given or world.share(str(fresh_folder(run_dir) if world.main else "")))
        group = cls(world.rank, world.size, run_dir, folder, given is not None)
        assert group.post is not None
        group.post.start()
        world.barrier()  # everybody's file is there before anybody misses it
        return group

    def cause(self, error: BaseException) -> BaseException:
        """The error itself, or the end of another rank that is behind it: a signal from the launcher, or a
        collective that broke."""
        if self.observer is None or isinstance(error, (RatchetError, KeyboardInterrupt, GeneratorExit)):
            return error
        return self.observer.cause(within=3.0, apart_from=self.rank) or error

    def speaks(self, lost: int = -1) -> bool:
        """Does this rank write the outcome? Rank 0, or the lowest that is left; one that left has spoken."""
        if self.observer is None:
            return True
        left = {
            rank
            for rank, state in self.observer.states().items()
            if state["ended"] is not None or state["host"] != HOST or pid_alive(state["pid"])
        }
        return self.rank == min(left - {lost}, default=self.rank)

    def leave(self, error: BaseException | None) -> None:
        """The last word."""
        if self.post is not None:
            self.post.end(error)

    def supervise(self) -> None:
        """Under accelerate, where no parent watches: the thread of every rank does. All of them leave with
        exit code 8 when one is lost."""
        assert self.observer is not None
        lost = self.observer.look()
        if lost is None:
            return
        error = self.observer.cause(apart_from=self.rank) or lost.error()
        if self.speaks(lost.rank):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(RatchetError):  # a full disk: standard error has it
                write_outcome(self.run_dir, error)
        else:
            time.sleep(6)  # its outcome first: the launcher ends everybody once one has left
        if lost.rank != self.rank and lost.host == HOST:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(lost.pid, signal.SIGKILL)  # a stopped one would keep the launcher waiting
        os._exit(WorkerLost.exit_code)


def fresh_folder(run_dir: Path) -> Path:
    """Where the ranks of a launch publish; those of earlier launches go. For the holder of the run's lock."""
    for old in (run_dir / "scratch").glob("ranks-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = run_dir / "scratch" / f"ranks-{os.urandom(4).hex()}"
    folder.mkdir(parents=True)
    return folder
