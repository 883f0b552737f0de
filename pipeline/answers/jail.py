"""A pool of killable processes that compare mathematical answers, so that sympy never sees a model's text
in this process.

math-verify's own time-outs are signals: they fail in threads and stop no bomb inside a big-integer power.
Here the kernel counts a worker's CPU time and memory (see `_worker.py`) and the parent kills what hangs;
either way the verdict is None, "cannot compare", and the next comparison gets a fresh worker. Workers are
started by exec, not fork, so torch's threads do not matter.

A worker that something else killed (the system's memory killer, a stop signal) is replaced and its job
asked again once, so a verdict does not depend on such accidents. It does not judge what the answers mean:
`compare.py` does.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import WorkerLost

BATCH = 32  #: jobs sent to a worker at once
MAX_CHARS = {"same": 10_000, "search": 2_000_000}  #: of a job; more is "cannot compare" without asking
START_SECONDS = 120.0
NOT_ITS_FAULT = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}
KEEP = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")  #: no tokens, no keys

Job = tuple[str, str, str]  #: ("same", answer, gold) or ("search", pattern, text)


class _Worker:
    """One process, its pipes, and the jobs that it has not answered yet."""

    def __init__(self, seconds: float, memory_mb: int) -> None:
        setup = {
            "parent": os.getpid(),
            "path": [os.path.abspath(p) for p in sys.path if p],
            "code": str(Path(__file__).resolve().parents[2]),
            "seconds": seconds,
            "memory_mb": memory_mb,
        }
        env = {key: os.environ[key] for key in KEEP if key in os.environ}
        env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.seconds = seconds
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("_worker.py")), json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env=env,
            cwd="/",
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.buffer = b""
        self.ready = False
        self.jobs: deque[int] = deque()
        self.progress = time.monotonic()
        self.cpu = -1.0

    def send(self, numbers: Sequence[int], jobs: Sequence[Job]) -> None:
        data = json.dumps([jobs[n] for n in numbers]).encode()
        self.jobs.extend(numbers)
        self.progress = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows as the end of its replies
            self.stdin.write(struct.pack(">I", len(data)) + data)

    def read(self) -> list[dict[str, Any]] | None:
        """The replies that are there; None at the end of the stream."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        if not data:
            return None
        self.buffer += data
        self.progress = time.monotonic()
        replies = []
        while len(self.buffer) >= 4:
            (size,) = struct.unpack(">I", self.buffer[:4])
            if len(self.buffer) < 4 + size:
                break
            replies.append(json.loads(self.buffer[4 : 4 + size]))
            self.buffer = self.buffer[4 + size :]
        return replies

    def stuck(self) -> bool:
        """Nothing for longer than the CPU limit, and not because it is busy or waits for a turn on the
        processor.
        """
        waited = time.monotonic() - self.progress
        if not self.ready:
            return waited > START_SECONDS
        if waited <= self.seconds:
            return False
        try:
            process = psutil.Process(self.process.pid)
            state, times = process.status(), process.cpu_times()
        except psutil.Error:
            return False  # gone: the end of its replies says so
        before, self.cpu = self.cpu, times.user + times.system
        idle = state in (psutil.STATUS_SLEEPING, psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return (idle and before == self.cpu) or waited > 30 * self.seconds

    def end(self) -> int:
        """Kill it if it lives, reap it, close its files."""
        self.process.kill()
        code = self.process.wait()
        for stream in (self.stdin, self.stdout, self.complaints):
            with contextlib.suppress(OSError):
                stream.close()
        return code

    def said(self) -> str:
        """The end of what it wrote to its error stream."""
        self.complaints.seek(0)
        return self.complaints.read().decode(errors="replace").strip()[-400:]


class Jail:
    """`workers` processes, each with `seconds` of CPU time a comparison and `memory_mb` of address space."""

    def __init__(self, workers: int = 1, seconds: float = 2.0, memory_mb: int = 512) -> None:
        self.num_workers, self.seconds, self.memory_mb = workers, seconds, memory_mb
        self.num_replaced = 0  #: workers that were killed or died
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def same_math(self, answer: str, gold: str) -> bool | None:
        """Do both mean the same mathematical object? None: cannot compare."""
        return self.same_many([(answer, gold)])[0]

    def same_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """`same_math` of each (answer, gold), spread over the workers."""
        return self._run([("same", answer, gold) for answer, gold in pairs])

    def search(self, pattern: str, text: str) -> str | None:
        """First group of the pattern's last match in the text; None also where the regex runs too long."""
        return self._run([("search", pattern, text)])[0]

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End every worker. The jail may be used again: workers start anew."""
        if os.getpid() == self._owner:  # a forked child must not end its parent's workers
            while self._workers:
                self._workers.pop().end()

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, jobs: list[Job]) -> list[Any]:
        with self._lock:
            if os.getpid() != self._owner:
                self._workers, self._owner = [], os.getpid()
            try:
                return self._answer_all(jobs)
            except BaseException:  # an interrupt leaves replies unread: no worker may be used again
                self.close()
                raise

    def _answer_all(self, jobs: list[Job]) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        waiting = deque(n for n, job in enumerate(jobs) if len(job[1]) + len(job[2]) <= MAX_CHARS[job[0]])
        batch = min(BATCH, -(-len(waiting) // self.num_workers))
        asked_again: set[int] = set()
        failed_starts = 0
        while waiting or any(worker.jobs for worker in self._workers):
            while waiting and len(self._workers) < self.num_workers and len(waiting) > batch * self._idle():
                self._workers.append(_Worker(self.seconds, self.memory_mb))
            for worker in self._workers:
                if worker.ready and not worker.jobs and waiting:
                    worker.send([waiting.popleft() for _ in range(min(batch, len(waiting)))], jobs)
            readable = select.select([w.stdout for w in self._workers], [], [], 0.1)[0]
            for worker in list(self._workers):
                if worker.stdout in readable:
                    replies = worker.read()
                    for reply in replies or ():
                        if "ready" in reply:
                            worker.ready, failed_starts = True, 0
                        else:
                            results[worker.jobs.popleft()] = reply["ok"]
                    ended = replies is None
                else:
                    ended = (bool(worker.jobs) or not worker.ready) and worker.stuck()
                if ended:
                    failed_starts += not worker.ready
                    self._bury(worker, waiting, asked_again, failed_starts)
        return results

    def _idle(self) -> int:
        return sum(not worker.jobs for worker in self._workers)

    def _bury(self, worker: _Worker, waiting: deque[int], asked_again: set[int], failed_starts: int) -> None:
        """Take a dead or stuck worker out; its first job is to blame unless something else killed it."""
        said = worker.said() if not worker.ready else ""
        self._workers.remove(worker)
        self.num_replaced += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(0.2)  # it closed its pipe: its own exit code is about to come
        code = worker.end()
        if not worker.ready and failed_starts >= 3:
            raise WorkerLost(
                f"the answer jail: a worker ended with code {code} while starting, {failed_starts} times"
                f" ({said.splitlines()[-1] if said else 'it said nothing'}); is math-verify installed, and is"
                f" {self.memory_mb} MB of memory enough?"
            )
        if worker.jobs:
            first = worker.jobs[0]
            if code in NOT_ITS_FAULT and first not in asked_again:
                asked_again.add(first)
            else:
                worker.jobs.popleft()
            waiting.extendleft(reversed(worker.jobs))


_default: Jail | None = None


def default_jail() -> Jail:
    """The process's own jail, made at the first call; its workers start at the first comparison."""
    global _default
    if _default is None:
        _default = Jail()
    return _default
