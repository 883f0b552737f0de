"""Negative controls: the write disciplines that other tools use, on the same crashing disk. They must be
caught, ours must not.

The toy job makes three chunks and adds them up; a chunk is 40 numbers. "Wrong" is a finished job with another
sum, "stuck" one that cannot finish after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_disks import CountingDisk, CrashingDisk, QuietDisk, RecordingDisk, TearingDisk
from store_world import killed_at, readable, run_world

from pipeline.errors import RatchetError
from pipeline.rows import Dropped
from pipeline.store.disk import Disk, sweep_temporaries
from pipeline.store.folder import StageFolder
from pipeline.store.plan import ChunkPlan, Plan

NUM_CHUNKS, ROWS = 3, 40
Discipline = Callable[[Path, Disk], int]


def numbers(chunk: int) -> list[int]:
    return [chunk * ROWS + i for i in range(ROWS)]


RIGHT = sum(sum(numbers(chunk)) for chunk in range(NUM_CHUNKS))


def _in_place(disk: Disk, path: Path, data: bytes) -> None:
    """Open the final name and write, as most tools do."""
    path.unlink(missing_ok=True)
    fd = disk.create(path)
    half = len(data) // 2
    disk.put(fd, data[:half], path)
    disk.put(fd, data[half:], path)


def _lines(chunk: int) -> bytes:
    return "".join(f"{n}\n" for n in numbers(chunk)).encode()


def _sum(path: Path) -> int:
    return sum(int(line) for line in path.read_text().split())


def trust_the_directory(root: Path, disk: Disk) -> int:
    folder = root / "stage"
    if not folder.exists():
        disk.make(folder)
        for chunk in range(NUM_CHUNKS):
            _in_place(disk, folder / f"{chunk}.txt", _lines(chunk))
    return sum(_sum(path) for path in folder.iterdir())


def skip_if_file_exists(root: Path, disk: Disk) -> int:
    for chunk in range(NUM_CHUNKS):
        if not (root / f"{chunk}.txt").exists():
            _in_place(disk, root / f"{chunk}.txt", _lines(chunk))
    return sum(_sum(root / f"{chunk}.txt") for chunk in range(NUM_CHUNKS))


def append_and_count_lines(root: Path, disk: Disk) -> int:
    path = root / "all.jsonl"
    if not path.exists():
        disk.create(path)
    done = path.read_text().count("\n")
    wanted = [n for chunk in range(NUM_CHUNKS) for n in numbers(chunk)]
    with path.open("ab") as file:
        for i in range(done, len(wanted), 7):
            disk.put(file.fileno(), "".join(f"{n}\n" for n in wanted[i : i + 7]).encode(), path)
    return _sum(path)


def marker_with_content_in_place(root: Path, disk: Disk) -> int:
    marker = root / "done.json"
    done = json.loads(marker.read_text()) if marker.exists() else {}
    for chunk in range(NUM_CHUNKS):
        if str(chunk) not in done:
            _in_place(disk, root / f"{chunk}.txt", _lines(chunk))
            done[str(chunk)] = sum(numbers(chunk))
            _in_place(disk, marker, json.dumps(done).encode())
    return sum(done.values())


def ours(root: Path, disk: Disk) -> int:
    sweep_temporaries(root, everything=True, disk=disk)
    folder = StageFolder(root / "stage", disk)
    chunks = [ChunkPlan([str(n) for n in numbers(chunk)]) for chunk in range(NUM_CHUNKS)]
    names = {"run": "r", "stage": "s", "room": "select", "method": "m", "main": "Dropped"}
    plan = Plan.make(**names, round=0, settings={}, inputs={}, models={}, seed=0, chunks=chunks)
    folder.begin(plan)
    if folder.manifest() is None:
        for chunk in set(range(NUM_CHUNKS)) - folder.done():
            with folder.writing(chunk) as part:
                part.add(Dropped(problem_id=str(n), what=str(n), reason="") for n in numbers(chunk))
        folder.commit()
    return sum(int(row.what) for row in folder.read(Dropped))


def damage(root: Path, discipline: Discipline) -> tuple[int, int, int]:
    """(crashes, silently wrong, stuck) over a kill at every point, and every write torn in the middle."""
    counting = CountingDisk()
    first = root / "golden"
    first.mkdir(parents=True)
    assert discipline(first, counting) == RIGHT
    disks = [CrashingDisk(at) for at in range(1, len(counting.points) + 1)]
    disks += [TearingDisk(at, lambda n: n // 2 + 1) for at in range(1, len(counting.writes) + 1)]
    wrong = stuck = 0
    for i, disk in enumerate(disks):
        here = root / str(i)
        here.mkdir()
        assert killed_at(here, discipline, disk)
        try:
            wrong += discipline(here, QuietDisk()) != RIGHT
        except (
            ValueError,
            OSError,
            RatchetError,
        ):  # what a discipline may die of when it meets its own remains
            stuck += 1
    return len(disks), wrong, stuck


@pytest.mark.parametrize(
    "naive", [trust_the_directory, skip_if_file_exists, append_and_count_lines, marker_with_content_in_place]
)
def test_naive_discipline_is_caught(tmp_path, naive):
    crashes, wrong, stuck = damage(tmp_path, naive)
    print(f"{naive.__name__}: {crashes} crashes, {wrong} silently wrong, {stuck} stuck")
    assert wrong + stuck > 0


def test_ours_is_not(tmp_path):
    crashes, wrong, stuck = damage(tmp_path, ours)
    print(f"temp + fsync + rename + manifest last: {crashes} crashes, {wrong} silently wrong, {stuck} stuck")
    assert crashes > 60
    assert (wrong, stuck) == (0, 0)


class _Forgetful(RecordingDisk):
    """Leaves one kind of step out of what the power cut keeps."""

    def __init__(self, root: Path, forgotten: str) -> None:
        super().__init__(root)
        self.forgotten = forgotten

    def _note(self, step: str, path: Path, more: str | bytes = "") -> None:
        if step != self.forgotten:
            super()._note(step, path, more)


@pytest.mark.parametrize(("forgotten", "mode"), [("fsync", "eager"), ("fsync folder", "strict")])
def test_power_cut_harness_notices_a_missing_fsync(tmp_path, forgotten, mode):
    """Our own store without one kind of fsync must be seen to lose work, or the harness of row 4 proves
    nothing.
    """
    disk = _Forgetful(tmp_path / "recorded", forgotten)
    disk.root.mkdir()
    run_world(disk.root, disk)
    seen = 0
    for steps in range(0, len(disk.log) + 1, 4):
        root = tmp_path / str(steps)
        disk.after_power_cut(steps, root, mode)
        try:
            readable(root)
        except RatchetError:
            seen += 1
    disk.after_power_cut(len(disk.log), tmp_path / "end", mode)
    parts = [path for path in (tmp_path / "end").rglob("*.parquet") if path.stat().st_size]
    print(f"without {forgotten}: {seen} states refused, {len(parts)} of 8 parts left at the end")
    assert seen > 0 or len(parts) < 8
