"""Kills: the store alone: killed at every point, torn, cut from power, full.
The oracle is `tree_hash`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fault_disks import CountingDisk, CrashingDisk, FullDisk, QuietDisk, RecordingDisk, TearingDisk
from store_world import killed_at, killed_in_child, readable, resumed_hash, run_world, world_hash

from pipeline.errors import StorageError
from pipeline.store.disk import Disk


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> dict[int, tuple[str, CountingDisk]]:
    """rounds -> (hash of a run that was never killed, its points)."""
    found = {}
    for rounds in (1, 2):
        disk, root = CountingDisk(), tmp_path_factory.mktemp("golden")
        run_world(root, disk, rounds)
        found[rounds] = (world_hash(root), disk)
    return found


def test_real_disk_gives_the_same_bytes(tmp_path, golden):
    run_world(tmp_path, Disk())
    assert world_hash(tmp_path) == golden[1][0]


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.full)])
def test_killed_at_every_point(tmp_path, golden, rounds):
    """Row 1: every step of every write."""
    wanted, disk = golden[rounds]
    world = partial(run_world, rounds=rounds)
    mismatches, points = [], len(disk.points)
    for at in range(1, points + 1):
        root = tmp_path / str(at)
        assert killed_at(root, world, CrashingDisk(at))
        readable(root)
        if resumed_hash(root, world) != wanted:
            mismatches.append(at)
    print(f"{points} points, {len(mismatches)} mismatches, 0 stuck")
    assert points > 130 * rounds
    assert not mismatches


def test_processes_killed_at_points(tmp_path, golden):
    """The same with processes that really end, at every fifth point (`make faults`: at every point of the
    real loop).
    """
    wanted, disk = golden[1]
    for at in range(1, len(disk.points) + 1, 5):
        assert killed_in_child(tmp_path / str(at), run_world, at)
        assert resumed_hash(tmp_path / str(at), run_world) == wanted


def test_killed_again_and_again(tmp_path, golden):
    """Killed after ever more new steps until it gets through: no state is kept that a second kill could
    spoil.
    """
    wanted, _ = golden[1]
    kills, at = 0, 1
    while killed_at(tmp_path, run_world, CrashingDisk(at)):
        kills, at = kills + 1, at + 3
        readable(tmp_path)
    print(f"{kills} kills on the way")
    assert kills > 5
    assert resumed_hash(tmp_path, run_world) == wanted


@pytest.mark.parametrize("length", ["0", "1", "half", "all-1", "all"])
def test_torn_writes(tmp_path, golden, length):
    """Row 3: each write, cut after byte n."""
    keep = {
        "0": lambda n: 0,
        "1": lambda n: 1,
        "half": lambda n: n // 2,
        "all-1": lambda n: n - 1,
        "all": lambda n: n,
    }
    wanted, disk = golden[1]
    assert len(disk.writes) > 20
    for number in range(1, len(disk.writes) + 1):
        root = tmp_path / str(number)
        assert killed_at(root, run_world, TearingDisk(number, keep[length]))
        readable(root)
        assert resumed_hash(root, run_world) == wanted


@pytest.mark.parametrize("mode", ["strict", "eager", "mixed"])
def test_power_cut_after_every_step(tmp_path, golden, mode):
    """Row 4: what a disk may hold after each prefix of the steps, un-synced data dropped: a reader sees old
    or new.
    """
    wanted, _ = golden[1]
    disk = RecordingDisk(tmp_path / "recorded")
    disk.root.mkdir()
    run_world(disk.root, disk)
    assert len(disk.log) > 120
    for steps in range(len(disk.log) + 1):
        root = tmp_path / str(steps)
        disk.after_power_cut(steps, root, mode)
        readable(root)
        assert resumed_hash(root, run_world) == wanted, (steps, disk.log[:steps][-3:])


def test_committed_work_survives_a_power_cut(tmp_path, golden):
    """After the last step nothing is lost, although nothing un-synced survives."""
    disk = RecordingDisk(tmp_path / "recorded")
    disk.root.mkdir()
    run_world(disk.root, disk)
    disk.after_power_cut(len(disk.log), tmp_path / "after", "strict")
    assert world_hash(tmp_path / "after") == golden[1][0]


def test_disk_full_at_every_step(tmp_path, golden):
    """Row 6: exit 7 with the bytes, nothing half committed, and `=` once there is space."""
    wanted, _ = golden[1]
    at = 0
    while True:
        at += 1
        root, disk = tmp_path / str(at), FullDisk(at)
        try:
            run_world(root, disk)
        except StorageError as error:
            sentence = f"exit {error.exit_code}: {error}"
        else:
            break
        assert "exit 7" in sentence
        assert "bytes needed" in sentence
        readable(root)
        for weights in root.glob("checkpoints/run/round-*/policy"):
            assert (weights / "manifest.json").exists(), "weights that nothing vouches for are left"
        assert resumed_hash(root, run_world) == wanted
    assert not disk.failed
    assert at > 60


def test_file_size_limit_for_real(tmp_path, golden):
    """RLIMIT_FSIZE makes the kernel refuse the write."""
    script = (
        "import sys, pathlib; from fault_disks import QuietDisk; from store_world import run_world\n"
        "from pipeline.errors import StorageError\n"
        "try: run_world(pathlib.Path(sys.argv[1]), QuietDisk())\n"
        "except StorageError as error: print(error); sys.exit(error.exit_code)\n"
    )
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{script}", str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 7, found.stderr
    assert "bytes needed" in found.stdout
    readable(tmp_path)
    assert resumed_hash(tmp_path, run_world) == golden[1][0]


def test_preflight_refuses_what_will_not_fit(tmp_path):
    QuietDisk().require(tmp_path, 1, "the next stage")
    with pytest.raises(StorageError, match="are free"):
        QuietDisk().require(tmp_path, 1 << 62, "the next stage")
