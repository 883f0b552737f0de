"""What the disk is asked for, step by step, and what a storage that cannot keep a run is told."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.store import disk as disk_module
from pipeline.store.disk import (
    BUFFER_BYTES,
    DISK,
    HOST,
    TEMPORARY,
    Disk,
    _alive,
    _in_words,
    cure_of,
    free_bytes,
    is_full,
    is_temporary,
    probe,
    sweep_temporaries,
    temporary_beside,
)


class Told(Disk):
    """Notes each step, with the name that it is about."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def point(self, step: str, path: Path) -> None:
        name = re.sub(r"^\.tmp-\d+-.*-\d+-", "~", path.name)
        self.steps.append(f"{step} {name}")


def steps_of(do: Callable[[Disk], Any]) -> list[str]:
    disk = Told()
    do(disk)
    return disk.steps


def test_names_of_what_is_not_finished(tmp_path: Path) -> None:
    one, two = temporary_beside(tmp_path / "a-b.json"), temporary_beside(tmp_path / "a-b.json")
    assert one.parent == two.parent == tmp_path
    assert one != two
    found = re.fullmatch(r"\.tmp-(\d+)-(.+)-(\d+)-a-b\.json", one.name)
    assert found is not None
    assert (found[1], found[2]) == (str(os.getpid()), HOST)
    match = TEMPORARY.match(one.name)
    assert match is not None
    assert (match["pid"], match["host"]) == (str(os.getpid()), HOST)
    assert [is_temporary(name) for name in (one.name, ".tmp-", ".tmp", "x.tmp-", ".TMP-1")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_each_operation_takes_its_steps_in_order(tmp_path: Path) -> None:
    """A crash between two of them is what the sweeps of tests/faults try; this is their order, by hand."""
    write = ["create ~one", "write ~one", "fsync ~one", "rename one", "fsync folder new"]
    new = ["make folder new", f"fsync folder {tmp_path.name}"]
    assert steps_of(lambda disk: disk.write(tmp_path / "new/one", b"x")) == [*new, *write]
    assert steps_of(lambda disk: disk.write(tmp_path / "new/one", b"x")) == write
    direct = ["create two", "write two", "fsync two"]
    assert steps_of(lambda disk: disk.write(tmp_path / "new/two", b"x", direct=True)) == direct
    empty = ["create ~none", "fsync ~none", "rename none", "fsync folder new"]
    assert steps_of(lambda disk: disk.write(tmp_path / "new/none", b"")) == empty
    linked = ["link three", "rename three", "fsync folder new"]
    assert steps_of(lambda disk: disk.link(tmp_path / "new/one", tmp_path / "new/three")) == linked
    for name in ("two", "three", "none"):
        assert steps_of(lambda disk, name=name: disk.remove(tmp_path / "new" / name)) == [
            f"remove {name}",
            "fsync folder new",
        ]
    assert steps_of(lambda disk: disk.remove(tmp_path / "new/two")) == []
    moved = ["fsync folder new", "rename moved", f"fsync folder {tmp_path.name}"]
    assert steps_of(lambda disk: disk.rename_folder(tmp_path / "new", tmp_path / "moved")) == moved
    (tmp_path / "other").mkdir()
    moved = ["fsync folder moved", "rename here", "fsync folder other", f"fsync folder {tmp_path.name}"]
    assert steps_of(lambda disk: disk.rename_folder(tmp_path / "moved", tmp_path / "other/here")) == moved
    gone = ["rename ~here", "fsync folder other", "remove one", "remove ~here"]
    assert steps_of(lambda disk: disk.remove(tmp_path / "other/here")) == gone
    staging = temporary_beside(tmp_path / "staging")
    staging.mkdir()
    assert steps_of(lambda disk: disk.remove(staging)) == ["remove ~staging"]
    deep = [f"make folder {name}" for name in "abc"]
    parents = [f"fsync folder {name}" for name in (tmp_path.name, "a", "b")]
    both = [step for pair in zip(deep, parents, strict=True) for step in pair]
    assert steps_of(lambda disk: disk.make_folder(tmp_path / "a/b/c")) == both
    assert steps_of(lambda disk: disk.make_folder(tmp_path / "a/b/c")) == []


def test_a_folder_that_another_made_meanwhile_is_fine(tmp_path: Path) -> None:
    DISK.make(tmp_path / "x")
    DISK.make(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        DISK.make(tmp_path / "none/x")


def test_files_are_readable_by_all_and_never_opened_twice(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        DISK.write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    with pytest.raises(FileExistsError):
        DISK.create(tmp_path / "file")
    with pytest.raises(StorageError) as caught:
        DISK.make_folder(tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path / 'file'}: is a file where a folder is wanted: move it away, or start elsewhere"
    )


def test_a_write_that_the_system_cuts_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = os.write

    def short(fd: int, data: Any) -> int:
        sizes.append(len(data))
        return real(fd, bytes(data[:3]))

    monkeypatch.setattr(disk_module.os, "write", short)
    DISK.write(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"
    assert sizes == [10, 7, 4, 1]


def test_a_stream_takes_any_buffer_and_holds_a_bounded_part(tmp_path: Path) -> None:
    stream = DISK.stream(tmp_path / "file")
    assert stream.writable()
    (held,) = tmp_path.iterdir()
    assert stream.write(array.array("I", [1, 2])) == 8
    assert stream.write(b"x" * (BUFFER_BYTES - 9)) == BUFFER_BYTES - 9
    assert (stream.size, held.stat().st_size) == (BUFFER_BYTES - 1, 0)
    stream.write(b"x")
    assert held.stat().st_size == BUFFER_BYTES
    stream.write(b"y")
    assert held.stat().st_size == BUFFER_BYTES
    stream.commit()
    stream.discard()  # after the commit there is nothing to forget
    assert (tmp_path / "file").stat().st_size == stream.size == BUFFER_BYTES + 1
    assert os.listdir(tmp_path) == ["file"]
    fds = os.listdir("/proc/self/fd")
    for _ in range(3):
        unfinished = DISK.stream(tmp_path / "other")
        unfinished.write(b"x")
        unfinished.discard()
    assert len(os.listdir("/proc/self/fd")) == len(fds)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_link_that_the_storage_refuses_is_told_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Path, path: Path) -> None:
        raise OSError(number, "no link")

    (tmp_path / "one").write_bytes(b"12345")
    monkeypatch.setattr(disk_module.os, "link", refuse)
    with pytest.raises(StorageError) as caught:
        DISK.link(tmp_path / "one", tmp_path / "two")
    assert str(caught.value).startswith(f"{tmp_path / 'two'}: no link: ")
    assert ("5 bytes needed" in str(caught.value)) is (number == errno.ENOSPC)
    assert os.listdir(tmp_path) == ["one"]


def test_a_folder_and_a_file_that_find_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Disk):
        def point(self, step: str, path: Path) -> None:
            if step in ("make folder", "write"):
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 12)
    cure = "Nothing was half committed. Free some space (`ratchet gc RUN` removes scratch), then start the same command again."
    with pytest.raises(StorageError) as caught:
        Full().make_folder(tmp_path / "new")
    assert str(caught.value) == (
        f"{tmp_path / 'new'}: No space left on device: 4,096 bytes needed, 12 free. {cure}"
    )
    with pytest.raises(StorageError, match="7 bytes needed, 12 free"):
        Full().write(tmp_path / "file", b"1234567")
    with pytest.raises(StorageError) as wanted:
        DISK.require(tmp_path, 13, "a merge")
    assert str(wanted.value) == (
        f"{tmp_path}: a merge needs about 13 bytes, 12 are free. Free some space (`gc RUN` removes scratch)."
    )


def test_room_is_looked_for_where_a_path_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def noted(path: Path) -> Any:
        asked.append(path)
        return usage

    monkeypatch.setattr(disk_module.shutil, "disk_usage", noted)
    assert free_bytes(tmp_path / "a/b/c") == free_bytes(tmp_path) == usage.free
    assert asked == [tmp_path, tmp_path]


def test_the_systems_error_in_words() -> None:
    found = _in_words(ValueError("I/O error: No space left on device (os error 28)"))
    assert found is not None
    assert (found.errno, found.strerror) == (28, os.strerror(28))
    for other in ("os error 28th", "chaos error 28", "os error", "os error x"):
        assert _in_words(ValueError(other)) is None
    assert [is_full(OSError(number, "")) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO)] == [True, True, False]  # fmt: skip
    again = ", then start the same command again."
    for error in (OSError("no number"), OSError(errno.ENOSPC, "full")):
        assert cure_of(error) == f"Free some space (`ratchet gc RUN` removes scratch){again}"
    told = {number: cure_of(OSError(number, "")) for number in disk_module.STORAGE_ERRNOS}
    assert len(set(told.values())) == len(told)
    assert all(words.endswith(again) and words[0].isupper() for words in told.values())


def test_who_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert _alive(os.getpid())
    assert not _alive(gone.pid)

    def refuse(pid: int, number: int) -> None:
        assert number == 0
        raise PermissionError

    monkeypatch.setattr(disk_module.os, "kill", refuse)
    assert _alive(1)  # another user's


def test_a_sweep_asks_its_disk_and_looks_inside_no_temporary(tmp_path: Path) -> None:
    (tmp_path / ".tmp-odd/.tmp-inner").mkdir(parents=True)
    (tmp_path / "sub/.tmp-x").mkdir(parents=True)
    disk = Told()
    assert sweep_temporaries(tmp_path, disk=disk) == 0
    assert sweep_temporaries(tmp_path, everything=True, disk=disk) == 2
    assert sorted(step for step in disk.steps if step.startswith("remove")) == [
        "remove .tmp-inner", "remove .tmp-odd", "remove .tmp-x",
    ]  # fmt: skip


def failing(monkeypatch: pytest.MonkeyPatch, name: str, result: str) -> None:
    def fail(*anything: Any) -> None:
        if result:
            raise OSError(errno.EOPNOTSUPP, result)

    monkeypatch.setattr(fcntl if name == "flock" else disk_module.os, name, fail)


@pytest.mark.parametrize(
    ("name", "result", "step", "why"),
    [
        ("mkdir", "no folders", "create a folder", "no folders"),
        ("fsync", "no fsync", "write and fsync a file", "no fsync"),
        ("write", "no writing", "write and fsync a file", "no writing"),
        ("replace", "no rename", "rename a file over another", "no rename"),
        ("replace", "", "rename a file over another", "the renamed file did not take the other's place"),
        ("flock", "no locks", "lock a file against a second opening of it", "no locks"),
        ("flock", "", "lock a file against a second opening of it", "two holders got the same lock"),
    ],
)
def test_a_storage_that_cannot_keep_a_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, result: str, step: str, why: str
) -> None:
    probe(tmp_path / "fine")
    assert os.listdir(tmp_path / "fine") == []
    with monkeypatch.context() as broken:
        failing(broken, name, result)
        folder = tmp_path / ("new" if name == "mkdir" else "fine")
        with pytest.raises(StorageError) as caught:
            probe(folder)
    assert str(caught.value) == (
        f"{folder}: this storage cannot {step} ({why}), so a killed run could not be trusted. Put data/ and "
        "checkpoints/ on a local disk or on a file system with atomic rename and flock (NFS: version 4 without "
        "nolock or local_lock; Lustre: mount with -o flock)."
    )
    assert os.listdir(tmp_path / "fine") == []
