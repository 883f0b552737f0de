"""The only place that writes the files of a run: temporary name, write, fsync, rename, fsync of the folder.

Every step of a write passes `point` and goes through one small method, so that the fault tests can stop the
process at the k-th step, fail the k-th write, or record what a power cut would leave. Production uses `DISK`.
What it does not do: retry, cache, or lock (see `lock.py`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError

BUFFER_BYTES = 1 << 20
#: Errors that mean "this storage cannot take it", told as StorageError. EFBIG is a file size limit (ulimit
#: -f).
STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}
HOST = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:40] or "host"
TEMPORARY = re.compile(r"^\.tmp-(?P<pid>\d+)-(?P<host>[^-]*)-")
_serial = itertools.count()


def is_temporary(name: str) -> bool:
    """Is this the name of a file or folder that was never finished?"""
    return name.startswith(".tmp-")


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that carries this process, so that a start can remove what dead processes
    left.
    """
    return path.parent / f".tmp-{os.getpid()}-{HOST}-{next(_serial)}-{path.name}"


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user may still write where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def storage_told(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns a full or failing disk into a sentence, also where others write: a lock, a log, a trainer.

    needed: bytes that were to be written at `path`; None where only their writer knows.

    Raises:
        StorageError: with what happened and what to do.
    """
    try:
        yield
    except Exception as problem:  # safetensors has an exception of its own, with the system's number in words
        error = problem if isinstance(problem, OSError) else _in_words(problem)
        if error is None or error.errno not in STORAGE_ERRNOS:
            raise
        if needed is None:
            where, kept = error.filename or path, "What is committed stays."
        else:
            where, kept = path, "Nothing was half committed."
            if is_full(error):
                kept = f"{needed:,} bytes needed, {free_bytes(path.parent):,} free. {kept}"
        raise StorageError(f"{where}: {error.strerror or error}: {kept} {cure_of(error)}") from problem


def _in_words(problem: Exception) -> OSError | None:
    """The system's error that safetensors says as `... (os error 28)`; None where it says none."""
    found = re.search(r"\bos error (\d+)\b", str(problem))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def is_full(error: OSError) -> bool:
    """Is it room that lacks?"""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def cure_of(error: OSError) -> str:
    """What to do about a disk that does not take what is written."""
    cures = {
        errno.EROFS: "It is mounted read-only: mount it writable, or start where data/ and checkpoints/ can "
        "be written (either may be a link)",
        errno.EACCES: "This user may not write there: change the folder's owner or mode, or start elsewhere",
        errno.EIO: "The disk or the network storage fails: look at the system's log before going on",
        errno.EFBIG: "A file may not be that large here: see `ulimit -f`, and the file system's own limit",
        errno.EDQUOT: "Your quota is used up: free some of it (`ratchet gc RUN` removes scratch)",
    }
    return cures.get(error.errno or 0, "Free some space (`ratchet gc RUN` removes scratch)") + (
        ", then start the same command again."
    )


class Disk:
    """Durable writes. Subclassed in tests only."""

    def point(self, step: str, path: Path) -> None:
        """A place between two steps where a process may die. Production does nothing here."""

    # -- the steps: everything that changes the disk is one of these -------------------------------

    def create(self, path: Path) -> int:
        self.point("create", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        return os.open(path, flags, 0o644)

    def put(self, fd: int, data: bytes | memoryview, path: Path) -> None:
        self.point("write", path)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int, path: Path) -> None:
        self.point("fsync", path)
        os.fsync(fd)

    def rename(self, source: Path, path: Path) -> None:
        self.point("rename", path)
        os.replace(source, path)

    def sync_folder(self, folder: Path) -> None:
        self.point("fsync folder", folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:  # some network file systems have no fsync of a folder: they write it through
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        self.point("remove", path)
        os.unlink(path)

    def remove_empty(self, folder: Path) -> None:
        self.point("remove", folder)
        os.rmdir(folder)

    def make(self, folder: Path) -> None:
        self.point("make folder", folder)
        with contextlib.suppress(FileExistsError):  # another rank may make the same one
            os.mkdir(folder)

    # -- what the rest of the room uses ------------------------------------------------------------

    def make_folder(self, folder: Path) -> None:
        """The folder and its missing parents, each one's name on disk before anything is put inside."""
        if folder.is_dir():
            return
        if folder.exists():
            raise StorageError(
                f"{folder}: is a file where a folder is wanted: move it away, or start elsewhere"
            )
        with storage_told(folder, 4096):
            self.make_folder(folder.parent)
            self.make(folder)
            self.sync_folder(folder.parent)

    def stream(self, path: Path, *, direct: bool = False) -> Stream:
        """A file written piece by piece; `commit` makes it appear under its name. direct: inside a folder
        that is temporary itself.
        """
        self.make_folder(path.parent)
        return Stream(self, path, direct)

    def write(self, path: Path, data: bytes, *, direct: bool = False) -> str:
        """The whole file or nothing, also after a power cut. Returns its SHA-256.

        Raises:
            StorageError: the disk is full, read-only or failing; the old file, if any, is untouched.
        """
        stream = self.stream(path, direct=direct)
        try:
            stream.write(data)
            stream.commit()
        except BaseException:  # whatever ended it, Ctrl-C too; it goes on from here
            stream.discard()
            raise
        return stream.sha256

    def rename_folder(self, source: Path, path: Path) -> None:
        """Gives a finished folder its name. `path` must not exist."""
        self.sync_folder(source)
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{path} exists")
        self.rename(source, path)
        self.sync_folder(path.parent)
        if source.parent != path.parent:
            self.sync_folder(source.parent)

    def link(self, source: Path, path: Path) -> None:
        """A committed file under a second name (`path` appears whole or not); a copy where the storage has no
        hard links. Nothing ever writes into a committed file, so the two never disturb each other.
        """
        self.make_folder(path.parent)
        temporary = temporary_beside(path)
        self.point("link", path)
        with storage_told(path, source.stat().st_size):
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                self.write(path, source.read_bytes())
                return
            self.rename(temporary, path)
            self.sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Removes a file or a folder, durably; a folder goes in one step (it is renamed first), never half.
        Missing is fine.
        """
        if not path.exists() and not path.is_symlink():
            return
        if path.is_symlink() or not path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                self.unlink(path)
            self.sync_folder(path.parent)
            return
        doomed = path
        if not is_temporary(path.name):
            doomed = temporary_beside(path)
            self.rename(path, doomed)
            self.sync_folder(path.parent)
        for folder, subfolders, files in os.walk(doomed, topdown=False):
            for name in (*files, *subfolders):
                item = Path(folder, name)
                if item.is_dir() and not item.is_symlink():
                    self.remove_empty(item)
                else:
                    self.unlink(item)
        self.remove_empty(doomed)

    def require(self, folder: Path, needed: int, what: str) -> None:
        """Refuses work that will not fit, before it starts.

        Raises:
            StorageError: fewer than `needed` bytes are free.
        """
        free = free_bytes(folder)
        if free < needed:
            raise StorageError(
                f"{folder}: {what} needs about {needed:,} bytes, {free:,} are free. "
                "Free some space (`gc RUN` removes scratch)."
            )


class Stream(io.RawIOBase):
    """One file being written: hashed on the way, invisible until `commit`. pyarrow writes into it as into
    any file.
    """

    def __init__(self, disk: Disk, path: Path, direct: bool = False) -> None:
        super().__init__()
        self.path, self.size = path, 0
        self._disk, self._hash, self._buffer = disk, hashlib.sha256(), bytearray()
        self._temporary = path if direct else temporary_beside(path)
        with storage_told(path, 0):
            self._fd = disk.create(self._temporary)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size += len(view)
        self._buffer += view
        if len(self._buffer) >= BUFFER_BYTES:
            self._drain()
        return len(view)

    def _drain(self) -> None:
        if self._buffer:
            with storage_told(self.path, len(self._buffer)):
                self._disk.put(self._fd, bytes(self._buffer), self._temporary)
            self._buffer.clear()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def commit(self) -> None:
        """Everything to the disk, then the name."""
        self._drain()
        with storage_told(self.path, self.size):
            self._disk.sync(self._fd, self._temporary)
            self._close_fd()
            if self._temporary != self.path:
                self._disk.rename(self._temporary, self.path)
                self._disk.sync_folder(self.path.parent)

    def discard(self) -> None:
        """Forgets an unfinished file. Safe at any time."""
        self._buffer.clear()
        self._close_fd()
        if self._temporary != self.path:
            with contextlib.suppress(OSError):  # already renamed, or the disk is the reason why we are here
                self._disk.unlink(self._temporary)

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


DISK = Disk()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sweep_temporaries(folder: Path, *, everything: bool = False, disk: Disk = DISK) -> int:
    """Removes what unfinished writes left under `folder`; returns how many.

    By default only what dead processes of this host left. everything: the caller holds the run's locks, so
    nobody else can be writing.
    """
    swept = 0
    for parent, subfolders, files in os.walk(folder):
        for name in [*files, *subfolders]:
            match = TEMPORARY.match(name)
            if not is_temporary(name):
                continue
            if everything or (match and match["host"] == HOST and not _alive(int(match["pid"]))):
                disk.remove(Path(parent, name))
                swept += 1
        subfolders[:] = [name for name in subfolders if not is_temporary(name)]
    return swept


def probe(folder: Path) -> None:
    """Does this storage have atomic rename, working locks and fsync? Asked once, before any work.

    Raises:
        StorageError: it has not; the message names what failed and the cure.
    """
    disk, old, new = Disk(), temporary_beside(folder / "probe"), temporary_beside(folder / "probe-2")
    step = "create a folder"
    try:
        disk.make_folder(folder)
        step = "write and fsync a file"
        for path, text in ((old, b"old"), (new, b"new")):
            fd = disk.create(path)
            disk.put(fd, text, path)
            disk.sync(fd, path)
            os.close(fd)
        step = "rename a file over another"
        disk.rename(new, old)
        if old.read_bytes() != b"new" or new.exists():
            raise OSError("the renamed file did not take the other's place")
        step = "lock a file against a second opening of it"
        _probe_lock(old)
    except OSError as error:
        raise StorageError(
            f"{folder}: this storage cannot {step} ({error.strerror or error}), "
            "so a killed run could not be trusted. Put data/ and checkpoints/ on a local disk or on a file "
            "system with "
            "atomic rename and flock (NFS: version 4 without nolock or local_lock; Lustre: mount with -o "
            "flock)."
        ) from error
    finally:
        for path in (old, new):
            with contextlib.suppress(OSError):  # the probe's own leftovers; the answer is already known
                path.unlink()


def _probe_lock(path: Path) -> None:
    with path.open("rb+") as first, path.open("rb+") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise OSError("two holders got the same lock")
