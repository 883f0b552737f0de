"""What a new user types wrong, and what the sentence says: no traceback, and a cure that cures."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import recipe_data

from pipeline.errors import RecipeError, StorageError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.run.session import session
from pipeline.store.disk import Disk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A project folder with one finished run, `tiny`."""
    place = tmp_path_factory.mktemp("finished")
    (place / "r.yaml").write_text(yaml.safe_dump(recipe_data(tiny, rounds=1), sort_keys=False))
    with contextlib.chdir(place):
        recipe = load("r.yaml")
        with session(recipe, Console(quiet=True, main=False), Processes()) as run:
            run_loop(run)
    return place


@pytest.fixture
def ran(place: Path, finished: Path) -> Path:
    """The recipe of a finished run, in a copy of its project folder."""
    shutil.copytree(finished, place, dirs_exist_ok=True)
    return place / "r.yaml"


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_a_device_that_is_not_there(device: str, write_recipe: Any, ratchet: Any) -> None:
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is such a device")
    code, said = ratchet("run", write_recipe(), f"models.policy.engine.device={device}")
    assert (code, "Traceback" in said) == (2, False)
    assert f"engine.device: {device}: torch cannot use it here" in said
    assert "set device: auto, or cpu" in said
    assert not Path("data/tiny").exists()


@pytest.mark.parametrize("name", ["pipeline", "pipeline/", "pipeline/__main__.py"])
def test_the_package_starts_as_a_folder(name: str) -> None:
    """As `accelerate launch pipeline run` does."""
    done = subprocess.run(
        [sys.executable, name, "check", "recipes/quickstart.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_of_launch_leaves_the_sentence_to_its_parent(
    ratchet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ratchet("show", "nothing", 1, "check")[1].startswith("RecipeError: no run 'nothing'")
    monkeypatch.setenv("RATCHET_PARENT", "1@here")
    assert ratchet("show", "nothing", 1, "check") == (2, "")


@pytest.mark.full
def test_an_empty_filter_under_launch_is_told_once(write_recipe: Any, place: Path) -> None:
    path = write_recipe(rounds=1)
    words = ["stages.sample.max_tokens=1"]
    launch = ROOT / "recipes" / "launch" / "single.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(path), *words, "--launch", str(launch)],
        cwd=place, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert (done.stderr + done.stdout).count("rows kept") == 1


def test_doctor_without_a_template(write_recipe: Any, ratchet: Any) -> None:
    code, said = ratchet("doctor", write_recipe(), "task.chat=true")
    assert (code, "Traceback" in said) == (1, False)
    assert "BAD  chat template: tokenizer has none, task.chat is true" in said
    assert "set task.chat=false" in said


def test_a_check_tells_of_a_tokenizer_without_a_template(write_recipe: Any, ratchet: Any) -> None:
    code, said = ratchet("check", write_recipe(), "task.chat=true")
    assert (code, "Traceback" in said) == (2, False)
    assert "models.policy.base: " in said
    assert "its tokenizer has no chat template: set task.chat=false, or take a chat model" in said


def test_doctor_samples_as_the_recipe_does(write_recipe: Any, ratchet: Any) -> None:
    path = write_recipe()
    _, said = ratchet("doctor", path, "stages.sample.temperature=0.3", "stages.sample.top_k=5")
    assert "ok   sampling: as sample does: temperature 0.3, top_k 5" in said
    _, sure = ratchet("doctor", path, "stages.sample.temperature=0")
    assert "BAD  sampling: as sample does: temperature 0" in sure
    _, wild = ratchet("doctor", path, "stages.sample.temperature=8")
    right = [line for line in (said, wild) for line in line.splitlines() if "accuracy between" in line]
    assert right[0] != right[1]  # the temperature is really that of the recipe


def test_show_counts_the_whole_stage(ran: Path, ratchet: Any) -> None:
    """40 problems, 3 traces each, in chunks of 16: what is shown is read, what is counted is all of it."""
    for stage in ("sample", "check"):
        code, said = ratchet("show", "tiny", 1, stage, "--limit", 5)
        assert code == 0, said
        assert "... 115 more (--limit, --row)" in said
    manifest = json.loads(Path("data/tiny/round-001/rows/manifest.json").read_text())
    kept = manifest["counts"]["rows"]["Example"]
    code, said = ratchet("show", "tiny", 1, "rows", "--limit", 2)
    assert f"... {kept - 2} more" in said
    for reason, num in manifest["counts"]["dropped"].items():
        assert f"{num:,} {reason}" in said
    assert "no row 500: there are 120, 0 to 119" in ratchet("show", "tiny", 1, "sample", "--row", 500)[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "tiny", 1, "sample", "--limit", -3], "--limit -3: 1 or more"),
        (["show", "tiny", 1, "sample", "--row", -1], "--row -1: 0 or more"),
        (["show", "tiny", 7, "sample"], "sample has no round 7; it has 1"),
        (["show", "tiny", 0, "sample"], "sample has no round 0; it has 1"),
        (["show", "tiny", 0, "final"], "final has no round 0; it has 1"),
        (["show", "tiny", 1, "learn"], "learn writes weights and no rows: see what it read (rows)"),
        (["fork", "tiny", "other", "seed=3"], "there is a run other already, with other settings: choose another name"),
        (["run", "tiny", "--rounds", 5], "Settings of a recipe have no dashes: rounds=5"),
        (["run", "tiny", "--rounds=5"], "Settings of a recipe have no dashes: rounds=5"),
        (["run", "r"], "did you mean r.yaml?"),
        (["run", "tniy"], "did you mean tiny?"),
        (["run", "star_gsm8k"], "`ratchet recipes copy star_gsm8k` gives you that recipe"),
    ],
)  # fmt: skip
def test_one_sentence_each(words: list[Any], sentence: str, ran: Path, ratchet: Any) -> None:
    if "fork" in words:
        assert ratchet("fork", "tiny", "other")[0] == 0
        assert ratchet("fork", "tiny", "other")[0] == 0  # the same again is the way out of a killed fork
    code, said = ratchet(*words)
    assert (code, "Traceback" in said) == (2, False), said
    assert sentence in said.replace("\n│ ", ""), said


def test_a_recipe_in_its_folder_is_suggested(place: Path, ratchet: Any) -> None:
    (place / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "star_gsm8k.yaml", place / "recipes")
    code, said = ratchet("run", "star_gsm8k")
    assert (code, "did you mean recipes/star_gsm8k.yaml?" in said) == (2, True)
    assert "did you mean recipes/star_gsm8k.yaml?" in ratchet("run", "recipes/star_gsm8k")[1]


@pytest.mark.parametrize("mode", ["offlin", "on", "dissabled"])
def test_a_mode_that_wandb_does_not_know(
    mode: str, write_recipe: Any, ratchet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    code, said = ratchet("run", write_recipe())
    assert (
        code,
        f"WANDB_MODE={mode}: no mode of wandb" in said,
        "offline" in said or "disabled" in said,
    ) == (2, True, True)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("number", "words", "not_said"),
    [
        (errno.EROFS, "It is mounted read-only", "ree some space"),
        (errno.EACCES, "This user may not write there", "ree some space"),
        (errno.EIO, "The disk or the network storage fails", "ree some space"),
        (errno.ENOSPC, "Free some space (`ratchet gc RUN` removes scratch)", "read-only"),
        (errno.EDQUOT, "Your quota is used up", "read-only"),
    ],
)
def test_a_disk_that_does_not_take_it_has_its_own_cure(
    number: int, words: str, not_said: str, tmp_path: Path
) -> None:
    class Refusing(Disk):
        def put(self, fd: int, data: bytes, path: Path) -> None:
            raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError) as caught:
        Refusing().write(tmp_path / "a" / "b", b"x")
    assert words in str(caught.value)
    assert not_said not in str(caught.value)


def test_few_dev_rows_are_said_to_come_from_the_hash(place: Path, tiny: Path, ratchet: Any) -> None:
    from pipeline.recipe.methods import method
    from pipeline.tasks.prepare import gather

    rows = [{"question": f"What is {n} and {n}?", "answer": str(2 * n)} for n in range(70)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = method("tasks", "jsonl")
    with pytest.raises(RecipeError) as caught:
        gather([module.Task(module.Settings(use="jsonl", path="rows.jsonl", dev=50))])
    assert "dev: 50 problems are asked for" in str(caught.value)
    assert "one in ten to dev, one in ten to test, so 70 rows gave" in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        gather([module.Task(module.Settings(use="jsonl", path="rows.jsonl", train=500))])
    assert "one in ten" not in str(caught.value)


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ({"truncated": 1825, "wrong_answer": 87}, "raise task.max_tokens"),
        ({"no_answer": 40, "wrong_answer": 2}, "set task.extract or few_shot"),
        ({"wrong_answer": 40, "truncated": 2}, "Sample more (n), loosen rows"),
        ({"no_advantage": 40}, "see for what reason gain left them out, or name in `from` a labeller that"),
    ],
)
def test_nothing_kept_says_what_would_keep_something(
    dropped: dict[str, int], words: str, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    from pipeline.stages.selection import cure_of

    stage = SimpleNamespace(name="rows", sources=("gain",))
    work: Any = SimpleNamespace(run=SimpleNamespace(name="mine"), stage=stage)
    assert words in cure_of(Counter(dropped), work)


def test_nothing_kept_names_a_key_that_there_is(write_recipe: Any, ratchet: Any) -> None:
    """Of a stage of `before` too: before.right.on_empty, not stages.right.on_empty."""
    before = {
        "probe": {"generate": "sample", "by": "policy", "n": 2},
        "credit": {"label": "outcome", "from": "probe"},
        "right": {"select": "pairs", "from": "credit", "margin": 2},
        "first": {"train": "dpo", "model": "policy", "from": "right"},
    }
    code, said = ratchet("run", write_recipe(rounds=1, before=before))
    assert code == 5, said
    assert "or set before.right.on_empty=continue" in said


def test_what_comes_next_names_the_report_and_real_places(write_recipe: Any, ratchet: Any) -> None:
    code, said = ratchet("run", write_recipe(rounds=1))
    assert code == 0
    assert "next: ratchet report tiny" in said
    assert "weights: checkpoints/tiny\n" in said
    assert Path("checkpoints/tiny").is_dir()
