"""One launch of a run at a time, and only where locks and renames work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RecipeError, RunInUse, StorageError
from pipeline.store import disk as disk_module
from pipeline.store.disk import probe, sweep_temporaries, temporary_beside
from pipeline.store.lock import PARENT, RankLock, RunLock, check_parent, holder, is_held, parent_environment

ROOT = Path(__file__).parents[2]
#: The figures are 1 s and less; a test gives ten times as much, because machines differ.
LIMIT = 10.0

HOLD = """
import sys, time
from pathlib import Path
from pipeline.errors import RatchetError
from pipeline.store.lock import RankLock, RunLock
kind, folder, seconds = sys.argv[1:4]
began = time.monotonic()
try:
    with (RunLock if kind == "run" else RankLock)(Path(folder)):
        print("held", flush=True)
        if len(sys.argv) > 4:
            exec_with = sys.argv[4]
            import os
            if exec_with == "fork" and os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            if exec_with == "program":
                import subprocess
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            print("child", flush=True)
        time.sleep(float(seconds))
except RatchetError as error:
    print(f"{time.monotonic() - began:.3f} {error}")
    sys.exit(error.exit_code)
"""


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def holding(kind: str, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock; it and its children are gone afterwards."""
    process = start(kind, str(folder), "60", *more)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        if more:
            assert process.stdout.readline() == "child\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_second_launch_is_told_who_is_there(tmp_path):
    with holding("run", tmp_path) as first:
        assert is_held(tmp_path)
        began = time.monotonic()
        with pytest.raises(RunInUse) as caught:
            RunLock(tmp_path).acquire()
        print(f"refused after {time.monotonic() - began:.4f} s")
        sentence = str(caught.value)
        assert str(first.pid) in sentence
        assert os.uname().nodename in sentence
        assert " since 20" in sentence
        assert caught.value.exit_code == 4
    assert not is_held(tmp_path)


def test_fifty_launches_at_once(tmp_path):
    """Fifty processes; the one that runs goes on until all the others were refused."""
    told, tell = os.pipe()
    release, released = os.pipe()
    children = [_launch(tmp_path, tell, release, released) for _ in range(50)]
    os.close(tell)
    os.close(release)
    answers = b""
    while answers.count(b"\n") < 50:
        piece = os.read(told, 4096)
        assert piece, "a child ended without an answer"
        answers += piece
    os.close(released)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(told)
    seconds = [float(line.split()[1]) for line in answers.decode().splitlines() if line.startswith("refused")]
    print(f"{codes.count(0)} of 50 ran, refusals took at most {max(seconds):.3f} s")
    assert codes.count(0) == 1
    assert codes.count(4) == 49
    assert max(seconds) < LIMIT


def _launch(folder: Path, tell: int, release: int, released: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(released)
    code, began = 1, time.monotonic()
    try:
        with RunLock(folder):
            os.write(tell, b"held\n")
            os.read(release, 1)  # ends when the test closes its end
            code = 0
    except RunInUse as error:
        os.write(tell, f"refused {time.monotonic() - began:.4f}\n".encode())
        code = error.exit_code
    finally:
        os._exit(code)


def seconds_until_taken(folder: Path) -> float:
    """Tries to take a run's lock until it has it, and gives it back; infinite after LIMIT."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < LIMIT:
        with contextlib.suppress(RunInUse), RunLock(folder):
            assert is_held(folder)
            return passed
    return float("inf")


@pytest.mark.parametrize("more", [(), ("fork",), ("program",)])
def test_killing_the_holder_frees_the_lock(tmp_path, more):
    """Also where it had forked a child or started a program that lives on."""
    with holding("run", tmp_path, *more) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        seconds = seconds_until_taken(tmp_path)
        print(f"free after {seconds:.4f} s")
        assert seconds < LIMIT
        assert str(os.getpid()) in holder(tmp_path), "whoever took it last stands in the file"
        assert not is_held(tmp_path)


def test_a_rank_left_behind_blocks_a_new_start(tmp_path):
    """Its launcher is dead, it still writes: a new start must see that, and go on once it is gone."""
    with holding("run", tmp_path) as launcher, holding("rank", tmp_path) as rank:
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
        for _ in range(2):  # the second refusal still knows who started the rank
            with pytest.raises(RunInUse, match="earlier launch still works on it") as caught:
                RunLock(tmp_path).acquire()
            assert str(launcher.pid) in str(caught.value)
        assert is_held(tmp_path)
        os.kill(rank.pid, signal.SIGKILL)
        rank.wait()
        assert seconds_until_taken(tmp_path) < LIMIT


def test_many_ranks_share(tmp_path):
    with RunLock(tmp_path), RankLock(tmp_path), RankLock(tmp_path), holding("rank", tmp_path):
        assert is_held(tmp_path)


def test_ranks_wait_for_their_driver(tmp_path):
    """Under `accelerate launch` all ranks start at once: those that come first must not keep rank 0 out."""
    ranks = [start("rank", str(tmp_path), "0.2") for _ in range(3)]
    time.sleep(0.3)
    with RunLock(tmp_path):
        assert [process.communicate()[0] for process in ranks] == ["held\n"] * 3
    assert [process.returncode for process in ranks] == [0, 0, 0]


def test_a_rank_without_a_driver_is_refused(tmp_path):
    with RunLock(tmp_path):
        pass
    with pytest.raises(RunInUse, match="no process drives this run"):
        RankLock(tmp_path).acquire(limit=0.2)


def test_a_child_of_another_launcher_is_refused(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        for name, value in parent_environment().items():
            monkeypatch.setenv(name, value)
        check_parent(tmp_path)
        monkeypatch.setenv(PARENT, "1@elsewhere")
        with pytest.raises(RunInUse, match="launched by 1@elsewhere"):
            RankLock(tmp_path).acquire()
        monkeypatch.setenv(PARENT, "yes")
        with pytest.raises(RecipeError, match="Unset it"):
            check_parent(tmp_path)


def test_a_start_removes_what_dead_launches_left(tmp_path):
    run, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    left = [
        run / ".tmp-1-host-0-x",
        run / "round-001/s/.tmp-99-other-3-part",
        checkpoints / ".tmp-policy/model",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    with RunLock(run, [checkpoints]) as lock:
        assert lock.swept == 3
    assert not any(path.exists() for path in left)
    assert not (checkpoints / ".tmp-policy").exists()


def test_the_sweep_spares_the_living(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    mine, host = temporary_beside(tmp_path / "mine"), disk_module.HOST
    gone, far = tmp_path / f".tmp-{dead.stdout.strip()}-{host}-0-gone", tmp_path / ".tmp-1-far-0-x"
    for path in (mine, gone, far):
        path.write_bytes(b"")
    assert sweep_temporaries(tmp_path) == 1
    assert (mine.exists(), gone.exists(), far.exists()) == (True, False, True)


def test_an_unreadable_lock_file_still_locks(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / "LOCK").write_bytes(b"\xff{")
        assert "unknown process" in holder(tmp_path)
        with pytest.raises(RunInUse, match="unknown process"):
            RunLock(tmp_path).acquire()
    with RunLock(tmp_path):
        assert str(os.getpid()) in holder(tmp_path)


def test_a_replaced_lock_file_does_not_let_two_in(tmp_path):
    """Someone removed LOCK while it was held: the next start locks the new file, a third sees it."""
    with RunLock(tmp_path):
        (tmp_path / "LOCK").unlink()
        with RunLock(tmp_path), pytest.raises(RunInUse):
            RunLock(tmp_path).acquire()


def test_a_symbolic_link_as_lock_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/LOCK").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        RunLock(tmp_path / "run").acquire()
    assert not (tmp_path / "elsewhere").exists()


ORPHAN = """
import os, sys, time
from pipeline.store.lock import die_with_parent
if os.fork() == 0:
    die_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_children_die_with_their_parent():
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    began = time.monotonic()
    assert parent.stdout.read() == ""  # the pipe ends when its last writer, the child, is gone
    print(f"child {child} gone after {time.monotonic() - began:.3f} s")
    assert time.monotonic() - began < LIMIT


def test_the_probe_passes_here_and_leaves_nothing(tmp_path):
    probe(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("missing", ["flock", "rename", "fsync"])
def test_storage_that_cannot_is_refused(tmp_path, monkeypatch, missing):
    """Row 30: exit 7 with what failed and the cure."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if missing == "flock":  # such a file system grants every lock
        monkeypatch.setattr(disk_module.fcntl, "flock", lambda *_: None)
    elif missing == "rename":
        monkeypatch.setattr(disk_module.os, "replace", refuse)
    else:
        monkeypatch.setattr(disk_module.os, "fsync", refuse)
    with pytest.raises(StorageError, match=missing.replace("flock", "lock")) as caught:
        probe(tmp_path)
    monkeypatch.undo()
    assert caught.value.exit_code == 7
    assert "local disk" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
