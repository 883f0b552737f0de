"""Memory that runs out ends a run with code 8 and a sentence that says what to lower; with room again
it goes on and ends with the bytes of a run that always had room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.store.run_folder import tree_hash

ROOT = Path(__file__).parents[2]
#: A run whose address space may grow by so many bytes from the moment that a stage is planned. Everything is imported by
#: then: what fails is a tensor, as it would on a machine that is too small.
SMALL_MACHINE = """
import resource, sys
from pathlib import Path
stage, room = sys.argv[1], int(sys.argv[2])
from pipeline.__main__ import main
from pipeline.store.folder import StageFolder
import pipeline.loop, pipeline.train.sft, pipeline.train._trainers, pipeline.engine.local, peft, trl
begin = StageFolder.begin
def limited(self, plan, **more):
    if plan.stage == stage and plan.round == 1:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, -1))
    return begin(self, plan, **more)
StageFolder.begin = limited
sys.argv = ["ratchet", "run", "r.yaml", "-q"]
main()
"""
RUN = [sys.executable, "-W", "ignore", "-m", "pipeline", "run", "r.yaml", "-q"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
#: stage -> bytes that it gets, and what the sentence tells to lower
ROOM = {
    "sample": (400 << 20, "models.policy.engine.max_rows=64 window=1"),
    "learn": (100 << 20, "stages.learn.micro_batch=1"),
}


def start(place: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.faults
@pytest.mark.parametrize("stage", ROOM)
def test_memory_that_runs_out_is_told(tiny: Path, tmp_path: Path, stage: str) -> None:
    from tiny_world import recipe_data

    data = recipe_data(tiny, rounds=1)
    data["stages"]["sample"] |= {"n": 100, "chunk": 40}
    data["stages"]["learn"] |= {"batch_size": 2000, "steps": 2}
    data["models"]["policy"]["engine"] = {"max_rows": 8192}
    for place in (tmp_path / "small", tmp_path / "large"):
        place.mkdir()
        (place / "r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    room, cure = ROOM[stage]
    stopped = start(
        tmp_path / "small", [sys.executable, "-W", "ignore", "-c", SMALL_MACHINE, stage, str(room)]
    )
    print(stopped.stderr[-600:])
    assert stopped.returncode == 8, stopped.stderr[-3000:]
    outcome = json.loads((tmp_path / "small/data/tiny/outcome.json").read_text())
    assert (outcome["exit_code"], outcome["error"]) == (8, "WorkerLost")
    assert f"round 1: {stage}: out of memory (" in outcome["message"]
    assert cure in outcome["message"]
    assert "Traceback" not in stopped.stderr
    for place in (tmp_path / "small", tmp_path / "large"):
        done = start(place, RUN)
        assert done.returncode == 0, done.stderr[-3000:]
    small, large = (
        tree_hash(place / "data/tiny", place / "checkpoints/tiny")
        for place in (tmp_path / "small", tmp_path / "large")
    )
    assert small == large
