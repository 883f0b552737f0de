"""The locks of a run, all in one process: flock knows two openings of a file apart, whoever opened them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import RecipeError, RunInUse
from pipeline.store import lock as lock_module
from pipeline.store.disk import HOST
from pipeline.store.lock import (
    PARENT,
    RankLock,
    RunLock,
    _forget_locks,
    _held,
    _LockFile,
    _read_holder,
    check_parent,
    die_with_parent,
    holder,
    is_child,
    is_held,
    parent_environment,
)

ME = f"{os.getpid()}@{socket.gethostname()}"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    monkeypatch.setattr(lock_module, "RANKS_WAIT", 0.02)
    monkeypatch.setattr(lock_module, "STATUS_WAIT", 0.02)


@pytest.mark.parametrize(("one", "two", "both"), [(False, False, False), (False, True, False), (True, False, False), (True, True, True)])  # fmt: skip
def test_two_share_a_lock_and_one_excludes_all(tmp_path: Path, one: bool, two: bool, both: bool) -> None:
    first, second = _LockFile(tmp_path / "LOCK"), _LockFile(tmp_path / "LOCK")
    assert (first.fd, second.fd) == (-1, -1)
    assert first.take(shared=one)
    assert second.take(shared=two) is both
    assert (second.fd >= 0, second in _held) == (both, both)
    first.free()
    assert (first.fd, first in _held) == (-1, False)
    assert second.take(shared=two)
    second.close()
    assert first.take()
    first.free()
    first.free()


def test_a_lock_file_is_readable_by_all_and_no_link(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert _LockFile(tmp_path / "LOCK").take()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "LOCK").stat().st_mode) == 0o644
    (tmp_path / "link").symlink_to("LOCK")
    with pytest.raises(OSError, match="symbolic links"):
        _LockFile(tmp_path / "link").take()
    _forget_locks()


@pytest.mark.parametrize("again", [True, False])
def test_the_lock_is_on_the_file_that_stands(tmp_path: Path, again: bool) -> None:
    """Another process may have removed or replaced the file between our opening and our lock."""
    held = _LockFile(tmp_path / "LOCK")
    assert held.take(shared=True)
    (tmp_path / "LOCK").unlink()
    if again:
        (tmp_path / "LOCK").write_text("new")
    assert held.take()
    assert os.path.samestat(os.fstat(held.fd), (tmp_path / "LOCK").stat())
    assert not _LockFile(tmp_path / "LOCK").take(shared=True)
    held.free()


def test_a_lock_is_waited_for_within_a_time(tmp_path: Path) -> None:
    first, second = _LockFile(tmp_path / "LOCK"), _LockFile(tmp_path / "LOCK")
    assert first.take_within(0)
    assert second.take_within(0.03) is False
    assert second.take_within(0, shared=True) is False
    ending = threading.Timer(0.05, first.free)
    ending.start()
    assert second.take_within(60)
    ending.join()
    assert not first.take()
    second.free()
    assert second.take_within(0, shared=True)
    assert first.take_within(0, shared=True)
    assert {first, second} <= _held
    _forget_locks()  # as a forked child does
    assert (first.fd, second.fd) == (-1, -1)
    assert not {first, second} & _held


def test_a_run_is_driven_by_one(tmp_path: Path) -> None:
    run, weights = tmp_path / "data/run", tmp_path / "checkpoints/run"
    weights.mkdir(parents=True)
    run.mkdir(parents=True)
    (run / "LOCK").write_text("x" * 500)
    for folder in (run, weights):
        (folder / f".tmp-{os.getpid()}-{HOST}-0-x").write_text("left")
    lock = RunLock(run, [weights])
    with lock as entered:
        assert entered is lock
        assert lock.swept == 2
        assert not [*run.glob(".tmp-*"), *weights.glob(".tmp-*")]
        found = json.loads((run / "LOCK").read_text())
        assert list(found) == ["pid", "host", "since", "ready"]
        assert (found["pid"], found["host"], found["ready"]) == (os.getpid(), socket.gethostname(), True)
        assert (run / "LOCK").read_text().endswith('"ready": true}\n')
        words = f"process {os.getpid()} on {socket.gethostname()} since {found['since']}"
        assert holder(run) == words
        assert len(found["since"]) == len("2026-11-28T12:00:00+00:00")
        assert is_held(run)
        with pytest.raises(RunInUse) as caught:
            RunLock(run).acquire()
        assert str(caught.value) == f"{run}: in use by {words}. Wait for it, or end that process."
        with RankLock(run) as one, RankLock(run) as two:  # the ranks of this launch
            assert (type(one), type(two)) == (RankLock, RankLock)
            assert not _LockFile(run / "LOCK-ranks").take()
        free = _LockFile(run / "LOCK-ranks")
        assert free.take()
        free.free()
    assert not is_held(run)
    assert RunLock(run).swept == 0
    with RunLock(run):
        assert is_held(run)


def test_ranks_that_outlived_their_launcher_are_told_with_who_started_them(tmp_path: Path) -> None:
    earlier = b'{"pid": 7, "host": "there", "since": "then", "ready": true}\n'
    (tmp_path / "LOCK").write_bytes(earlier)
    rank = _LockFile(tmp_path / "LOCK-ranks")
    assert rank.take(shared=True)
    assert is_held(tmp_path)
    with pytest.raises(RunInUse) as caught:
        RunLock(tmp_path).acquire()
    assert str(caught.value) == (
        f"{tmp_path}: a process of an earlier launch still works on it (launched by process 7 on there since "
        "then). End the processes that were started by it, then start again."
    )
    assert (tmp_path / "LOCK").read_bytes() == earlier
    driver = _LockFile(tmp_path / "LOCK")
    assert driver.take()  # the failed start gave it back
    driver.free()
    rank.free()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not is_held(tmp_path)


def test_whether_a_run_is_held_is_asked_without_a_trace(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert os.listdir(tmp_path) == []
    for name in ("LOCK", "LOCK-ranks"):
        held = _LockFile(tmp_path / name)
        assert held.take(shared=True)
        assert is_held(tmp_path)
        held.free()
        assert not is_held(tmp_path)
        assert held.take()
        held.free()


def test_a_rank_waits_for_a_driver_that_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(rank: RankLock) -> str:
        with pytest.raises(RunInUse) as caught:
            rank.acquire(0.03)
        return str(caught.value)

    nobody = (
        f"{tmp_path}: no process drives this run: rank 0 or the launcher did not start, or ended. Start the run "
        "again as a whole."
    )
    rank = RankLock(tmp_path)
    assert refused(rank) == nobody
    assert os.listdir(tmp_path) == []
    (tmp_path / "LOCK").write_text('{"pid": 7, "host": "there", "since": "then", "ready": true}')
    assert refused(rank) == nobody  # it names one, and nobody holds it
    driver = _LockFile(tmp_path / "LOCK")
    assert driver.take()
    for text in ('{"ready": false}', "{}", "[]", "", "no json"):
        (tmp_path / "LOCK").write_text(text)
        assert refused(rank) == nobody
    (tmp_path / "LOCK").write_text('{"pid": 7, "host": "there", "since": "then", "ready": true}')
    starting = _LockFile(tmp_path / "LOCK-ranks")
    assert starting.take()
    assert refused(rank) == f"{tmp_path}: held by process 7 on there since then."
    starting.free()
    rank.acquire(0.03)
    assert not starting.take()
    rank.release()
    assert starting.take()
    starting.free()
    monkeypatch.setenv(PARENT, "8@there")
    assert "launched by 8@there" in refused(rank)
    monkeypatch.setenv(PARENT, "7@there")
    rank.acquire(0.03)
    rank.release()
    driver.free()


def test_who_holds_a_run_in_words(tmp_path: Path) -> None:
    for text in (None, "[1]", "no json"):
        if text is not None:
            (tmp_path / "LOCK").write_text(text)
        assert _read_holder(tmp_path, tries=2) is None
    assert holder(tmp_path) == "an unknown process (LOCK cannot be read)"
    (tmp_path / "LOCK").write_text('{"pid": 3, "host": "h", "since": "s"}')
    assert holder(tmp_path) == "process 3 on h since s"
    assert _read_holder(tmp_path, tries=1) == {"pid": 3, "host": "h", "since": "s"}


def test_a_holder_that_is_writing_its_name_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("{")
    assert _read_holder(tmp_path, tries=0) is None

    def write() -> None:
        (tmp_path / "half").write_text('{"pid": 4}')
        os.replace(tmp_path / "half", tmp_path / "LOCK")

    writing = threading.Timer(0.05, write)
    writing.start()
    assert _read_holder(tmp_path, tries=3000) == {"pid": 4}
    writing.join()


def test_a_child_works_for_the_parent_that_holds_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parent_environment() == {PARENT: ME}
    assert not is_child()
    check_parent(tmp_path)
    monkeypatch.setenv(PARENT, "")
    assert not is_child()
    check_parent(tmp_path)
    for odd in ("me", "me@here", "12", "12@", "@here", "1 2@here"):
        monkeypatch.setenv(PARENT, odd)
        assert is_child()
        with pytest.raises(RecipeError) as wrong:
            check_parent(tmp_path)
        assert str(wrong.value) == f"{PARENT}={odd}: is set by `--launch` for its own children. Unset it."
    monkeypatch.setenv(PARENT, "12@h@x")
    (tmp_path / "LOCK").write_text('{"pid": 12, "host": "h@x", "since": "s"}')
    check_parent(tmp_path)
    for text in ('{"pid": 13, "host": "h@x"}', '{"pid": 12, "host": "other"}', "{}"):
        (tmp_path / "LOCK").write_text(text)
        with pytest.raises(RunInUse) as caught:
            check_parent(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: this process was launched by 12@h@x, but the run is held by {holder(tmp_path)}."
        )


def _death_signal(libc: ctypes.CDLL) -> int:
    found = ctypes.c_int(-1)
    assert libc.prctl(2, ctypes.byref(found), 0, 0, 0) == 0  # PR_GET_PDEATHSIG
    return found.value


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_child_dies_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    try:
        assert _death_signal(libc) == 0
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(sys, "platform", "darwin")
            die_with_parent()
        assert _death_signal(libc) == 0
        for parent in (None, ME, f"{gone.pid}@another", f"{gone.pid}", f"x@{here}"):  # none of them is dead
            if parent is not None:
                monkeypatch.setenv(PARENT, parent)
            die_with_parent(signal.SIGURG)
            assert _death_signal(libc) == signal.SIGURG
        die_with_parent()
        assert _death_signal(libc) == signal.SIGKILL
        with pytest.raises(OSError, match="prctl.PR_SET_PDEATHSIG"):
            die_with_parent(10_000)
    finally:
        libc.prctl(1, 0, 0, 0, 0)
    monkeypatch.setenv(PARENT, f"{gone.pid}@{here}")
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
