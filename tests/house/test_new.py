"""`ratchet new`: what it writes passes `check`, its own test and the loop, in a checkout and in a package of one's own.

The way is the one that CONTRIBUTING.md shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.commands.new import new
from pipeline.errors import RecipeError
from pipeline.recipe.methods import BASES

ROOT = Path(__file__).parents[2]
ROOMS = {room: f"fresh_{room}" for room in BASES}


def python(*words: str, here: Path, path: Path) -> str:
    """A command of this Python with `path` first; what it said. It must succeed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=here,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository's code, with a new method in every room."""
    place = tmp_path_factory.mktemp("checkout")
    for folder in ("pipeline", "recipes", "docs"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "tests").mkdir()
    for room, name in ROOMS.items():
        python("-m", "pipeline", "new", {"tasks": "task"}.get(room, room), name, here=place, path=place)
    return place


def test_what_it_writes_in_a_checkout_runs_as_it_stands(checkout: Path) -> None:
    recipes = [f"recipes/{name}.yaml" for name in ROOMS.values()]
    said = python("-m", "pipeline", "check", *recipes, here=checkout, path=checkout)
    assert said.count(": ok (") == len(ROOMS) == 7
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", here=checkout, path=checkout)
    assert re.search(r"\b(1[4-9]|[2-9]\d) passed", said), said
    table = (checkout / "docs" / "methods.md").read_text()
    for room, name in ROOMS.items():
        assert f"| {room}/{name} | | {name} |" in table
        assert (checkout / "pipeline" / room / f"{name}.py").is_file()
    assert table.index("fresh_tasks") < table.index("Where ours and the authors' code differ")


def test_what_it_writes_is_formatted_as_the_house_is(checkout: Path) -> None:
    files = [str(path) for path in checkout.rglob("*fresh_*.py")]
    assert len(files) == 14
    shutil.copy(ROOT / "pyproject.toml", checkout / "pyproject.toml")
    for words in (["check"], ["format", "--check"]):
        ruff = Path(sys.executable).parent / "ruff"
        done = subprocess.run([ruff, *words, *files], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.full
def test_a_labeller_of_ones_own_package_runs_in_the_loop(tmp_path: Path, tiny: Path) -> None:
    """`ratchet new label NAME --package DIR`, installed, in two stages of a real run of the tiny policy."""
    package = tmp_path / "my-methods"
    python("-m", "pipeline", "new", "label", "agree", "--package", str(package), here=tmp_path, path=tmp_path)
    python("-m", "pipeline", "new", "vote", "likely", "--package", str(package), here=tmp_path, path=tmp_path)
    project = (package / "pyproject.toml").read_text()
    assert '[project.entry-points."ratchet.label"]\nagree = "my_methods.agree"' in project
    assert '[project.entry-points."ratchet.vote"]\nlikely = "my_methods.likely"' in project
    assert (package / "README.md").read_text().count("\n| ") == 3

    site = tmp_path / "site"  # what pip would make of it, without a network
    shutil.copytree(package / "my_methods", site / "my_methods")
    info = site / "my_methods-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 0.1\n")
    entries = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n(.+)\n', project)
    lines = [f"[{group}]\n{line}\n" for group, line in entries]
    (info / "entry_points.txt").write_text("".join(lines).replace('"', ""))

    python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests"), here=tmp_path, path=site)
    recipe = yaml.safe_load((package / "recipes" / "agree.yaml").read_text())
    python("-m", "pipeline", "check", str(package / "recipes" / "agree.yaml"), here=tmp_path, path=site)
    recipe["task"] = {"use": "countdown", "train": 16, "dev": 6, "test": 6, "max_tokens": 60}
    recipe["models"]["policy"] = {"base": str(tiny), "lora": {"r": 2}}
    recipe["stages"]["learn"] |= {"steps": 1, "batch_size": 4}
    recipe["stages"]["measure"] |= {
        "samples": 2,
        "votes": ["majority", {"use": "likely", "temperature": 2.0}],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    python("-m", "pipeline", "run", "r.yaml", "--quiet", here=tmp_path, path=site)
    metrics = (tmp_path / "data" / "agree" / "metrics.jsonl").read_text()
    assert '"agree/labels": ' in metrics
    assert '"measure/accuracy/likely-2.0": ' in metrics


@pytest.mark.parametrize(
    ("room", "name", "said"),
    [
        ("labels", "mine", "no such room (did you mean label?)"),
        ("label", "Mine", "lower-case letters"),
        ("label", "outcome", "has a method of this name"),
        ("label", "../x", "lower-case letters"),
    ],
)
def test_bad_names_are_told_and_write_nothing(room: str, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        new(room, name, tmp_path / "mine", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_outside_of_a_checkout_it_says_where_to(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="say --package DIR"):
        new("label", "mine", None, tmp_path)
    (tmp_path / "taken" / "taken").mkdir(parents=True)
    (tmp_path / "taken" / "taken" / "mine.py").write_text("mine")
    with pytest.raises(RecipeError, match="is there already; nothing was written"):
        new("label", "mine", tmp_path / "taken", tmp_path)
    assert (tmp_path / "taken" / "taken" / "mine.py").read_text() == "mine"


def test_contributing_shows_this_way() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for words in ("ratchet new label", "--package", "docs/methods-api.md", "ratchet check", "pytest"):
        assert words in page
