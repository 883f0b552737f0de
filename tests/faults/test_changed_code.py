"""The project's code, or a package, changes under a run. Each stage's plan records what it
was begun with, a resume says once what changed, and `strict` refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.run.conditions import TELLS
from pipeline.store.run_folder import tree_hash

ROOT = Path(__file__).parents[2]


def start(place: Path, *words: str, code: int = 0) -> str:
    """A launch with the copy of the package that stands in `place`; what it said."""
    command = [sys.executable, "-W", "ignore", "-m", "pipeline", "run", "r.yaml", *words]
    plain = {"PYTHONPATH": str(place / "copy"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | plain,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


def recorded(place: Path, stage: str, what: str) -> dict[str, str]:
    """What a stage's plan recorded of the code or the versions."""
    return json.loads((place / "data/tiny" / stage / "plan.json").read_text())["recorded"][what]


@pytest.fixture
def package(tmp_path: Path, tiny: Path) -> Path:
    """A copy of the package, and a recipe beside it."""
    from tiny_world import recipe_data

    package = tmp_path / "copy/pipeline"
    shutil.copytree(ROOT / "pipeline", package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_data(tiny, rounds=1), sort_keys=False))
    return package


@pytest.mark.faults
def test_changed_code_is_recorded_and_said_once(tmp_path: Path, package: Path) -> None:
    start(tmp_path, "--until", "sample")
    before = tree_hash(tmp_path / "data/tiny/round-001/sample")
    assert "code changed" not in start(tmp_path, "--until", "check")

    rooms = sorted(path.parent.name for path in package.glob("*/__init__.py"))
    for room in rooms:
        with (package / room / "__init__.py").open("a") as file:
            file.write("# changed\n")
    expected = ", ".join(room for room in rooms if room not in TELLS)
    refused = start(tmp_path, "strict=true", code=2)
    assert "tiny: code of label changed" in refused
    assert "strict: true refuses" in refused
    said = start(tmp_path, "strict=false")
    assert said.count("code changed") == 1
    assert f"code changed since the run began: {expected}." in " ".join(said.split())

    old, new = (recorded(tmp_path, f"round-001/{stage}", "code") for stage in ("sample", "rows"))
    assert old == recorded(tmp_path, "prepare", "code")
    assert old.keys() == new.keys() == {"pipeline", *rooms} - set(TELLS)
    assert {room for room in old if old[room] != new[room]} == {*rooms} - set(TELLS)
    assert tree_hash(tmp_path / "data/tiny/round-001/sample") == before, "what is committed stays"
    assert json.loads((tmp_path / "data/tiny/outcome.json").read_text())["ok"]


@pytest.mark.faults
def test_another_package_is_recorded_and_said_once(tmp_path: Path, package: Path) -> None:
    """What an upgrade leaves: the metadata of another version is found first."""
    start(tmp_path, "--until", "sample")
    upgraded = package.parent / "trl-99.0.dist-info"
    upgraded.mkdir()
    (upgraded / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 99.0\n")
    refused = start(tmp_path, "strict=true", code=2)
    was = recorded(tmp_path, "prepare", "versions")["trl"]
    assert f"tiny: trl {was} -> 99.0" in refused
    said = " ".join(start(tmp_path, "strict=false", "--until", "check").split())
    assert (
        said.count(f"not as the run began: trl {was} -> 99.0. The same rows are promised, not the same bytes")
        == 1
    )
    assert recorded(tmp_path, "round-001/check", "versions")["trl"] == "99.0"
