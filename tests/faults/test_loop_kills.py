"""Kills: the real loop on a tiny model: killed at points of every stage, at random times, full.

What is killed, and what it is held against: loop_world.py. By hand: `python tests/faults/loop_kills.py --help`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("loop_kills.py")
RUNS = os.environ.get("RATCHET_KILLED_RUNS", "100")


def kills(base: Path, *words: str) -> str:
    """Runs the script, shows what it says, and returns it."""
    command = [sys.executable, "-u", "-W", "ignore", str(SCRIPT), *words, "--base", str(base)]
    said = ""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said += line
    assert process.returncode == 0, said[-4000:]
    return said


def points(said: str) -> int:
    """How many points a sweep took, of which none went wrong."""
    found = re.search(
        r"^(\d+) points, \d+ different disks, \d+ run to the end: 0 mismatches, 0 stuck$", said, re.M
    )
    assert found, said[-4000:]
    return int(found[1])


@pytest.mark.full
def test_killed_at_some_points(tiny: Path) -> None:
    """The fast part: plain ReST-EM with labels by roll-outs (`advantage`), one round."""
    assert points(kills(tiny, "sweep", "--brief", "--rounds", "1", "--every", "53", "--ends", "4")) >= 8


@pytest.mark.full
def test_killed_amid_searching_labellers(tiny: Path) -> None:
    """OmegaPRM and pivotal tokens, three chunks each."""
    assert points(kills(tiny, "sweep", "--labels", "--every", "97", "--ends", "4")) >= 4


@pytest.mark.faults
def test_searching_labellers_killed_at_every_point(tiny: Path) -> None:
    """The same, at each step of every write."""
    assert points(kills(tiny, "sweep", "--labels")) > 100


@pytest.mark.faults
def test_labels_by_roll_outs_killed_at_some_points(tiny: Path) -> None:
    """In the middle of `advantage` too, whose two rounds of asks a kill cuts in two."""
    assert points(kills(tiny, "sweep", "--brief", "--rounds", "1", "--every", "6", "--ends", "8")) >= 60


@pytest.mark.faults
@pytest.mark.parametrize("part", ["0/2", "1/2"])
def test_the_loop_killed_at_every_point(tiny: Path, part: str) -> None:
    """Every stage of rest_mcts_countdown, two rounds, every step of every write."""
    assert points(kills(tiny, "sweep", "--part", part)) > 700


@pytest.mark.faults
def test_disk_full_at_every_third_write_of_the_loop(tiny: Path) -> None:
    """Exit 7, nothing half committed, and with room again the same bytes."""
    assert points(kills(tiny, "full", "--every", "3")) > 80


@pytest.mark.long
def test_random_kills(tiny: Path) -> None:
    """100 runs, 1 to 5 SIGKILLs each at random times."""
    said = kills(tiny, "random", "--runs", RUNS)
    assert re.search(rf"^{RUNS} runs, \d+ kills: 0 mismatches, 0 stuck$", said, re.M)


@pytest.mark.faults
def test_a_policy_gradient_killed_at_random(tiny: Path) -> None:
    """Three rounds of GRPO whose optimizer is carried, three runs of 1 to 5 SIGKILLs each."""
    said = kills(tiny, "random", "--gradient", "--rounds", "3", "--runs", "3")
    assert re.search(r"^3 runs, \d+ kills: 0 mismatches, 0 stuck$", said, re.M)


@pytest.mark.faults
def test_a_policy_gradient_killed_at_some_points(tiny: Path) -> None:
    """Also between the weights and the optimizer beside them."""
    assert points(kills(tiny, "sweep", "--gradient", "--every", "29", "--ends", "6")) >= 20
