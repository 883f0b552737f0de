"""A whole run: its name, its hash, verification, garbage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from fault_disks import QuietDisk
from store_world import run_world
from test_store_parts import make_plan

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import Label
from pipeline.store.folder import StageFolder
from pipeline.store.outcome import exit_code_of, read_outcome, write_outcome
from pipeline.store.run_folder import gc, run_name_ok, tree_files, tree_hash, verify_run


@pytest.mark.parametrize("name", ["star", "rest-mcts.2", "A_1", "x" * 100, "2024-run"])
def test_good_names(name, tmp_path):
    assert run_name_ok(name, tmp_path) == name


TRICKS = [
    "", ".", "..", "../x", "a/b", "a\\b", "/etc", "a/../b", "~x", "x\0y", "x\n", " x", "x ", ".hidden", "-rf",
    "a..b", "x.",
    "x" * 101, "tasks", "seed", "TASKS", "Seed", "é", "x:y", "$HOME", "a*b",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_path_tricks_are_refused(name):
    """Row 29."""
    with pytest.raises(RecipeError, match="name"):
        run_name_ok(name)


def test_a_run_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("run", "gone"):
        with pytest.raises(RecipeError, match="symbolic link"):
            run_name_ok(name, tmp_path)


@pytest.fixture
def world(tmp_path) -> Path:
    run_world(tmp_path, QuietDisk())
    return tmp_path


def test_the_hash_sees_what_is_promised_and_nothing_else(world):
    run = world / "run"
    before = tree_hash(run)
    for name in (
        "timing.jsonl",
        "LOCK",
        "LOCK-ranks",
        "outcome.json",
        "logs/x",
        "wandb/y",
        "scratch/z",
        ".tmp-1-h-0-a",
        "round-001/.tmp-x/b",
    ):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    (run / "round-001/empty").mkdir()
    assert tree_hash(run) == before
    for name in ("new.txt", "round-001/logs", "round-001/sample/timing.jsonl"):
        (run / name).write_text("x")
        assert tree_hash(run) != before
        (run / name).unlink()
    (run / "metrics.jsonl").rename(run / "metrics2.jsonl")
    assert tree_hash(run) != before
    (run / "metrics2.jsonl").rename(run / "metrics.jsonl")
    (run / "link").symlink_to("metrics.jsonl")
    assert tree_files(run)["link"] == "link to metrics.jsonl"


def test_a_whole_run_verifies(world):
    assert verify_run(world / "run", world / "checkpoints/run") == []
    assert verify_run(world / "none") == [f"{world / 'none'} is not a run"]


def test_damage_anywhere_in_a_run_is_told(world):
    files = [path for path in world.rglob("*") if path.is_file() and path.name not in ("metrics.jsonl",)]
    assert len(files) > 20
    for path in files:
        good = path.read_bytes()
        path.write_bytes(good[:-2] + b"??")
        problems = verify_run(world / "run", world / "checkpoints/run")
        assert problems, path
        assert any(path.name in problem or str(path.parent) in problem for problem in problems)
        path.write_bytes(good)
    assert verify_run(world / "run", world / "checkpoints/run") == []


def test_an_input_that_was_made_again_differently_is_told(world):
    """A stage was remade behind the back of the one that read it."""
    folder = StageFolder(world / "run/round-001/sample")
    (folder.path / "manifest.json").unlink()
    folder.commit({"distinct": 0.5})
    (problem,) = verify_run(world / "run")
    assert "its input run/round-001/sample is another one now" in problem


def test_gc_keeps_what_is_committed(world):
    run = world / "run"
    before = tree_hash(run)
    (run / "scratch/round-001/learn/checkpoint-5").mkdir(parents=True)
    (run / "scratch/round-001/learn/checkpoint-5/model").write_bytes(bytes(5000))
    (run / "round-001/sample/.tmp-1-h-0-x").write_bytes(bytes(700))
    (world / "checkpoints/run/.tmp-1-h-0-y").write_bytes(bytes(30))
    assert gc(run, world / "checkpoints/run") == 5730
    assert tree_hash(run) == before
    assert not (run / "scratch").exists()
    assert gc(run) == 0


def test_outcomes(tmp_path):
    assert read_outcome(tmp_path) is None
    fine = write_outcome(tmp_path)
    assert fine == read_outcome(tmp_path)
    del fine["when"]
    assert fine == {"ok": True, "exit_code": 0, "error": "", "message": ""}
    for error, code in [
        (NothingKept("round 3: 0 of 512 kept"), 5),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (BrokenPipeError(32, "Broken pipe"), 141),
        (ZeroDivisionError("x"), 1),
    ]:
        write_outcome(tmp_path, error)
        found = read_outcome(tmp_path)
        assert found is not None
        assert (found["ok"], found["exit_code"], found["error"]) == (False, code, type(error).__name__)
        assert found["message"]
    assert json.loads((tmp_path / "outcome.json").read_text())["when"].startswith("20")
    assert [exit_code_of(SystemExit(code)) for code in (None, 0, 3, "words")] == [0, 0, 3, 1]
    for text in ("[]", "no json"):
        (tmp_path / "outcome.json").write_text(text)
        assert read_outcome(tmp_path) is None


def test_light_to_import():
    """`check`, `status` and `verify` load no torch and no trainer."""
    import subprocess

    script = (
        "import sys, pipeline.store.run_folder, pipeline.store.lock, pipeline.store.outcome\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'numpy', 'datasets') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_a_labelled_folder_is_no_stage_of_its_own_name(tmp_path):
    """Runs may be laid out by hand: only folders with a plan or a manifest are stages."""
    folder = StageFolder(tmp_path / "run/round-001/x")
    folder.begin(make_plan("Label"))
    with folder.writing(0) as part:
        part.add([Label(problem_id="p", trace_id="t")])
    (tmp_path / "run/round-001/notes").mkdir()
    assert verify_run(tmp_path / "run") == []  # not finished is not damaged
