"""Single steps of the disk: what is counted and hashed, what a sweep takes, what is refused beforehand."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.store import disk as disk_module
from pipeline.store.disk import (
    BUFFER_BYTES,
    DISK,
    HOST,
    Disk,
    storage_told,
    sweep_temporaries,
    temporary_beside,
)


def test_a_stream_counts_and_hashes_what_it_wrote(tmp_path):
    pieces = [b"ab", memoryview(b"cde"), b"x" * BUFFER_BYTES, b"", b"z"]
    stream = DISK.stream(tmp_path / "deep/down/file")
    assert [stream.write(piece) for piece in pieces] == [2, 3, BUFFER_BYTES, 0, 1]
    assert not (tmp_path / "deep/down/file").exists()
    stream.commit()
    whole = b"".join(pieces)
    assert (tmp_path / "deep/down/file").read_bytes() == whole
    assert (stream.size, stream.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert os.listdir(tmp_path / "deep/down") == ["file"]


def test_a_discarded_stream_leaves_nothing_and_what_stood(tmp_path):
    assert DISK.write(tmp_path / "file", b"old") == hashlib.sha256(b"old").hexdigest()
    stream = DISK.stream(tmp_path / "file")
    stream.write(b"new")
    stream.discard()
    stream.discard()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_sweep_takes_what_the_dead_of_this_host_left(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, elsewhere = f".tmp-{gone.pid}-{HOST}-0-x", f".tmp-{gone.pid}-other.{HOST[:9]}-0-x"
    mine = temporary_beside(tmp_path / "y").name
    for name in (dead, elsewhere, mine, ".tmp-odd", f"sub/{dead}/inner", "kept", "sub/kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sweep_temporaries(tmp_path) == 2
    assert {path.name for path in tmp_path.rglob("*")} == {elsewhere, mine, ".tmp-odd", "kept", "sub"}
    assert sweep_temporaries(tmp_path, everything=True) == 3
    assert {path.name for path in tmp_path.rglob("*")} == {"kept", "sub"}


def test_removing(tmp_path):
    (tmp_path / "folder/inner/empty").mkdir(parents=True)
    (tmp_path / "folder/inner/file").write_text("x")
    (tmp_path / "kept").write_text("x")
    (tmp_path / "folder/link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name in ("folder", "dangling", "none"):
        DISK.remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize("fails", [None, errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS])
def test_a_second_name_is_a_link_or_else_a_copy(tmp_path, monkeypatch, fails):
    def refuse(source, path):
        raise OSError(fails, "no links here")

    (tmp_path / "one").write_bytes(b"rows")
    if fails:
        monkeypatch.setattr(disk_module.os, "link", refuse)
    DISK.link(tmp_path / "one", tmp_path / "sub/two")
    assert (tmp_path / "sub/two").read_bytes() == b"rows"
    assert (tmp_path / "sub/two").samefile(tmp_path / "one") is not bool(fails)
    assert os.listdir(tmp_path / "sub") == ["two"]


def test_what_will_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 1000)
    DISK.require(tmp_path, 1000, "a merge")
    with pytest.raises(StorageError, match="a merge needs about 1,001 bytes, 1,000 are free"):
        DISK.require(tmp_path, 1001, "a merge")


def test_a_folder_takes_the_place_of_nothing(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("none")
    for name in ("old", "link"):
        with pytest.raises(FileExistsError):
            DISK.rename_folder(tmp_path / "new", tmp_path / name)
    DISK.rename_folder(tmp_path / "new", tmp_path / "named")
    assert (tmp_path / "named").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file where a folder is wanted"):
        DISK.make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "7 bytes needed"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not write"),
        (errno.EIO, "fails"),
        (errno.EFBIG, "ulimit"),
    ],
)
def test_a_failing_disk_is_told(tmp_path, number, said):
    for error in (OSError(number, "reason"), ValueError(f"I/O error: reason (os error {number})")):
        with pytest.raises(StorageError, match=said) as caught, storage_told(tmp_path / "file", 7):
            raise error
        assert str(caught.value).startswith(f"{tmp_path / 'file'}: ")
        assert ("bytes needed" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    with pytest.raises(StorageError, match="/its/own: .*is committed stays"), storage_told(tmp_path):
        raise OSError(number, "reason", "/its/own")
    for other in (OSError(errno.ENOENT, "reason"), ValueError("os error"), KeyError("x")):
        with pytest.raises(type(other)), storage_told(tmp_path):
            raise other


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_without_fsync_is_written_through(tmp_path, monkeypatch, number):
    def fsync(fd):
        raise OSError(number, "no fsync of a folder")

    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match="no fsync"):
            Disk().sync_folder(tmp_path)
    else:
        Disk().sync_folder(tmp_path)
    assert not [name for name in os.listdir("/proc/self/fd") if _leads_to(name, tmp_path)]


def _leads_to(name: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == str(path)
    except OSError:
        return False


def test_inside_a_temporary_folder_a_file_is_written_under_its_own_name(tmp_path):
    steps: list[str] = []

    class Told(Disk):
        def point(self, step, path):
            steps.append(step)

    stream = Told().stream(tmp_path / "file", direct=True)
    assert os.listdir(tmp_path) == ["file"]
    stream.write(b"x")
    stream.commit()
    assert steps == ["create", "write", "fsync"]  # the folder's own rename makes it appear
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(FileExistsError):
        Told().stream(tmp_path / "link", direct=True)


@pytest.mark.parametrize("step", ["create", "write", "fsync", "rename", "fsync folder"])
def test_a_disk_that_fails_at_any_step_is_told_with_the_file_that_was_written(tmp_path, step):
    class Failing(Disk):
        def point(self, at, path):
            if at == step:
                raise OSError(errno.ENOSPC, "No space left on device", "the temporary one")

    DISK.write(tmp_path / "file", b"old")
    with pytest.raises(StorageError) as caught:
        Failing().write(tmp_path / "file", b"newer")
    assert str(caught.value).startswith(f"{tmp_path / 'file'}: No space left on device: ")
    needed = 0 if step == "create" else 5
    assert f"{needed:,} bytes needed" in str(caught.value)
    assert (tmp_path / "file").read_bytes() == (b"newer" if step == "fsync folder" else b"old")
    assert os.listdir(tmp_path) == ["file"]
