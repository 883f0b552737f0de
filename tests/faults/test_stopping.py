"""SIGTERM and Ctrl-C, to one process and to a group, end a run cleanly; started again it ends with the
bytes of a run that nobody stopped. (Groups of ranks: tests/house/test_launch.py.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.run.session import Terminated, Termination
from pipeline.store.run_folder import tree_hash

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "ignore", "-m", "pipeline", "run", "r.yaml", "-q"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
#: what is there in the middle of a stage
UNDER_WAY = {
    "sample": "data/tiny/round-001/sample/plan.json",
    "learn": "data/tiny/scratch/round-001/learn/checkpoint-2/complete.json",
}


def promised(place: Path) -> str:
    return tree_hash(place / "data/tiny", place / "checkpoints/tiny")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A finished run whose stages take some seconds each."""
    from tiny_world import recipe_data

    place = tmp_path_factory.mktemp("straight")
    data = recipe_data(tiny, rounds=1, save_every=2, wandb={"mode": "disabled"})
    data["stages"]["learn"]["steps"] = 60
    data["stages"]["sample"]["n"] = 8
    (place / "r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    subprocess.run(COMMAND, cwd=place, env=ENVIRONMENT, check=True)
    return place


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_was_swallowed_is_said_again() -> None:
    """What a signal raises in a `__del__` Python throws away: seen as a weak dictionary lost a key amid a training."""

    class Gone:
        def __del__(self) -> None:
            swallowed.append(True)
            signal.raise_signal(signal.SIGTERM)
            swallowed.append(False)  # never comes here: it was raised

    def wait() -> None:
        Gone()
        assert swallowed == [True]
        while True:
            time.sleep(0.01)

    swallowed: list[bool] = []
    termination = Termination()
    old = signal.signal(signal.SIGTERM, termination)
    try:
        with pytest.raises(Terminated):
            wait()
        termination.heard()
        assert termination.again is not None
        assert not termination.again.is_alive()
        signal.raise_signal(signal.SIGTERM)  # passed over from then on
    finally:
        termination.heard()
        signal.signal(signal.SIGTERM, old)


@pytest.mark.faults
@pytest.mark.parametrize("during", UNDER_WAY)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_at_once_and_goes_on(
    straight: Path, tmp_path: Path, during: str, number: signal.Signals, code: int
) -> None:
    (tmp_path / "r.yaml").write_bytes((straight / "r.yaml").read_bytes())
    process = subprocess.Popen(COMMAND, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / UNDER_WAY[during]).exists():
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.005)
    begun = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=600)[1]
    print(f"MEASURED {number.name} during {during}: gone after {time.monotonic() - begun:.2f} s")
    assert process.returncode == code
    assert "Traceback" not in said
    assert ("Interrupted. The same command goes on from here." in said) == (code == 130), said
    outcome = json.loads((tmp_path / "data/tiny/outcome.json").read_text())
    assert (outcome["ok"], outcome["exit_code"]) == (False, code)
    assert "go on" in outcome["message"]
    again = subprocess.run(
        COMMAND[:-1], cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert again.stdout.startswith("tiny goes on from round 1, "), again.stdout  # it may have got further
    assert promised(tmp_path) == promised(straight)
    assert not list(tmp_path.rglob(".tmp-*"))
