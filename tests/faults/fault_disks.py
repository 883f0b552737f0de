"""Disks that fail: killed at the k-th step, full at the k-th write, torn in a write, or cut from power.

A `Disk` of the store with its steps numbered. `CrashingDisk` is also what the sweeps over the real loop use.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from pipeline.store.disk import Disk


class Killed(BaseException):
    """Stands for kill -9: after it the disk takes nothing more, so no clean-up code can help."""


class QuietDisk(Disk):
    """Without fsync: a killed process needs none, and the sweeps are many times faster."""

    def sync(self, fd: int, path: Path) -> None:
        self.point("fsync", path)

    def sync_folder(self, folder: Path) -> None:
        self.point("fsync folder", folder)


class CountingDisk(QuietDisk):
    """Counts the points, and the writes with their sizes."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.writes: list[int] = []

    def point(self, step: str, path: Path) -> None:
        self.points.append(step)

    def put(self, fd: int, data: bytes | memoryview, path: Path) -> None:
        self.writes.append(len(data))
        super().put(fd, data, path)


class CrashingDisk(QuietDisk):
    """Dies at point `at` (1-based). process: `os._exit`, so call it in a forked child; else `Killed` is
    raised from then on.
    """

    def __init__(self, at: int, *, process: bool = False) -> None:
        self.at, self.count, self.process = at, 0, process

    def point(self, step: str, path: Path) -> None:
        self.count += 1
        if self.count >= self.at:
            self.die()

    def die(self) -> None:
        if self.process:
            os._exit(137)
        raise Killed


class TearingDisk(CrashingDisk):
    """Dies within its k-th write, after `keep(size)` bytes of it."""

    def __init__(self, at: int, keep: Callable[[int], int]) -> None:
        super().__init__(at=1 << 60)
        self.write_number, self.keep, self.dead = at, keep, False

    def point(self, step: str, path: Path) -> None:
        if self.dead:
            raise Killed

    def put(self, fd: int, data: bytes | memoryview, path: Path) -> None:
        self.point("write", path)
        self.count += 1
        if self.count == self.write_number:
            self.dead = True
            os.write(fd, data[: max(0, min(len(data), self.keep(len(data))))])
            raise Killed
        super().put(fd, data, path)


class FullDisk(QuietDisk):
    """No space from the k-th step on that needs any. Removing works, as on a real full disk."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.failed = at, 0, False

    def _take(self) -> None:
        self.count += 1
        if self.count >= self.at:
            self.failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: Path) -> int:
        self._take()
        return super().create(path)

    def make(self, folder: Path) -> None:
        self._take()
        super().make(folder)

    def put(self, fd: int, data: bytes | memoryview, path: Path) -> None:
        if self.count + 1 >= self.at:
            os.write(fd, data[: len(data) // 2])
        self._take()
        super().put(fd, data, path)

    def sync(self, fd: int, path: Path) -> None:
        self._take()
        super().sync(fd, path)


class _File:
    def __init__(self) -> None:
        self.data, self.synced = b"", b""


class _Folder:
    def __init__(self) -> None:
        self.now: dict[str, _File | _Folder] = {}
        self.synced: dict[str, _File | _Folder] = {}


class RecordingDisk(QuietDisk):
    """Writes as usual and remembers each step, so that `after_power_cut` can show what a disk may hold
    after any of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, str, str | bytes]] = []

    def _note(self, step: str, path: Path, more: str | bytes = "") -> None:
        self.log.append((step, str(path.relative_to(self.root)), more))

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._note("create", path)
        return fd

    def put(self, fd: int, data: bytes | memoryview, path: Path) -> None:
        super().put(fd, data, path)
        self._note("write", path, bytes(data))

    def sync(self, fd: int, path: Path) -> None:
        self._note("fsync", path)

    def sync_folder(self, folder: Path) -> None:
        self._note("fsync folder", folder)

    def rename(self, source: Path, path: Path) -> None:
        super().rename(source, path)
        self._note("rename", source, str(path.relative_to(self.root)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note("remove", path)

    def remove_empty(self, folder: Path) -> None:
        super().remove_empty(folder)
        self._note("remove", folder)

    def make(self, folder: Path) -> None:
        super().make(folder)
        self._note("make", folder)

    def after_power_cut(self, steps: int, into: Path, mode: str, seed: int = 0) -> None:
        """Lays out what stands after `steps` steps and a power cut.

        mode "strict": nothing that was not synced is there. "eager": all names are there, un-synced bytes are
        not (the zero-length file that everyone has met). "mixed": each un-synced name and each un-synced tail
        is there or not, by lot.
        """
        root = _replay(self.log[:steps])
        lot = random.Random(f"{seed}/{steps}/{mode}")
        into.mkdir(parents=True, exist_ok=True)
        _lay_out(root, into, mode, lot)


def _replay(log: list[tuple[str, str, str | bytes]]) -> _Folder:
    root = _Folder()

    def folder(path: str) -> tuple[_Folder, str]:
        *parents, name = [part for part in path.split("/") if part != "."] or [""]
        here = root
        for part in parents:
            inner = here.now[part]
            assert isinstance(inner, _Folder)
            here = inner
        return here, name

    for step, path, more in log:
        parent, name = folder(path)
        if step == "create":
            parent.now[name] = _File()
        elif step == "make":
            parent.now.setdefault(name, _Folder())
        elif step == "write":
            parent.now[name].data += more  # type: ignore[union-attr]
        elif step == "fsync":
            parent.now[name].synced = parent.now[name].data  # type: ignore[union-attr]
        elif step == "fsync folder":
            here = parent.now[name] if name else root
            assert isinstance(here, _Folder)
            here.synced = dict(here.now)
        elif step == "rename":
            target, new = folder(str(more))
            target.now[new] = parent.now.pop(name)
        else:
            parent.now.pop(name, None)  # a trainer's files were not written through this disk
    return root


def _lay_out(folder: _Folder, into: Path, mode: str, lot: random.Random) -> None:
    names = {"strict": folder.synced, "eager": folder.now}.get(mode)
    if names is None:
        names = {}
        for name in sorted({*folder.now, *folder.synced}):
            found = (folder.now if lot.random() < 0.5 else folder.synced).get(name)
            if found is not None:
                names[name] = found
    for name, item in names.items():
        if isinstance(item, _Folder):
            (into / name).mkdir(exist_ok=True)
            _lay_out(item, into / name, mode, lot)
        else:
            tail = item.data[len(item.synced) :]
            kept = tail[: lot.randrange(len(tail) + 1)] if mode == "mixed" else b""
            (into / name).write_bytes(item.synced + kept)
