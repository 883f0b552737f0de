"""The same bytes in another time zone, locale, hash seed, folder, umask, and under a clock that jumps;
the same rows with more threads, the same weights with more loader workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.store.run_folder import tree_files

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-W", "ignore", "-m", "pipeline", "run", "r.yaml", "-q"]
#: the wall clock jumps by up to a day at each look
JUMPING = """
import random, sys, time
true, lot = time.time, random.Random()
time.time = lambda: true() + lot.choice([-86400.0, 0.0, 3600.0])
time.time_ns = lambda: int(time.time() * 1e9)
from pipeline.__main__ import main
sys.argv = ["ratchet", "run", "r.yaml", "-q"]
main()
"""
WORLDS: dict[str, tuple[dict[str, str], list[str]]] = {
    "far east": ({"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "1", "PYTHONUTF8": "0"}, RUN),
    "far west": ({"TZ": "Pacific/Niue", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4294967295"}, RUN),
    "a clock that jumps": ({"PYTHONHASHSEED": "7"}, [sys.executable, "-W", "ignore", "-c", JUMPING]),
}


def start(
    place: Path, tiny: Path, command: list[str], environment: dict[str, str], *words: str
) -> dict[str, str]:
    """Path -> hash of all that is promised of a run made there."""
    from tiny_world import recipe_data

    place.mkdir(parents=True)
    data = recipe_data(tiny, rounds=1, wandb={"mode": "disabled"})
    (place / "r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    plain = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *words], cwd=place, env=os.environ | plain | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        f"{root}/{path}": found
        for root in ("data", "checkpoints")
        for path, found in tree_files(place / root / "tiny").items()
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, str]:
    return start(tmp_path_factory.mktemp("here") / "place", tiny, RUN, {})


@pytest.mark.faults
@pytest.mark.parametrize("name", WORLDS)
def test_the_same_bytes_elsewhere(here: dict[str, str], tmp_path: Path, tiny: Path, name: str) -> None:
    environment, command = WORLDS[name]
    before = os.umask(0o077)
    try:
        there = start(tmp_path / "ein Ordner mit Ümläuten" / "x", tiny, command, environment)
    finally:
        os.umask(before)
    assert there == here
    assert len(there) > 60


@pytest.mark.faults
def test_the_same_rows_on_two_threads(here: dict[str, str], tmp_path: Path, tiny: Path) -> None:
    """Bits of training may depend on the number of threads; what an engine writes may not."""
    there = start(tmp_path / "x", tiny, RUN, {"OMP_NUM_THREADS": "2"}, "--until", "rows")
    rows = [path for path in here if "round-001/sample/" in path and path.endswith(".parquet")]
    assert rows
    assert all(there[path] == here[path] for path in rows)


@pytest.mark.faults
def test_the_same_weights_with_four_loader_workers(here: dict[str, str], tmp_path: Path, tiny: Path) -> None:
    there = start(tmp_path / "x", tiny, RUN, {}, "stages.learn.args={dataloader_num_workers: 4}")
    weights = "checkpoints/round-001/policy/adapter_model.safetensors"
    assert there[weights] == here[weights]
