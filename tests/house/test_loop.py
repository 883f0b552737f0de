"""The loop on a tiny model: end to end, exact resume, extension, refusals, the gate, one stage alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from pipeline.commands.show import show_rows
from pipeline.errors import Diverged, NothingKept, RecipeError, RunInUse
from pipeline.loop import run_loop, stage_alone
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.report.summary import closing_words
from pipeline.rows import Dropped, Example, Label, Trace
from pipeline.run.run import Run
from pipeline.run.session import announce, find, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_hash
from pipeline.store.workspace import Workspace

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
ROOT = Path(__file__).parents[2]


def run(path: Path | str, *overrides: str, name: str | None = None, until: str | None = None) -> str:
    """Run a recipe (or go on with a run) in this process; returns what the console said."""
    said = io.StringIO()
    recipe = find(str(path), list(overrides), name, DATA)
    console = Console(file=said)
    with session(recipe, console, Processes(), Workspace(DATA, CHECKPOINTS)) as working:
        announce(working)
        if run_loop(working, until):
            console.finished(closing_words(working))
    return said.getvalue()


def hashes(name: str = "tiny") -> tuple[str, str]:
    return tree_hash(DATA / name), tree_hash(CHECKPOINTS / name)


def test_two_rounds_end_to_end(write_recipe: Callable[..., Path]) -> None:
    said = run(write_recipe())
    status = run_status("tiny", Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert [entry["round"] for entry in status["rounds"]] == [0, 1, 2]
    for entry in status["rounds"]:
        assert 0 <= entry["metrics"]["measure/accuracy/greedy"] <= 1
    final = status["final"]["metrics"]
    for key in ("accuracy/greedy", "accuracy/greedy@0", "gain/greedy", "gain/greedy/low", "gain/greedy/high"):
        assert f"final/{key}" in final
    assert final["final/gain/greedy"] == pytest.approx(
        final["final/accuracy/greedy"] - final["final/accuracy/greedy@0"]
    )
    assert status["seconds"] > 0
    assert json.dumps(status)
    for words in ("round 2", "traces", "promoted", "data/tiny"):
        assert words in said
    # every input row is named once: kept + dropped = read
    for number in (1, 2):
        stage = StageFolder(DATA / f"tiny/round-{number:03d}/rows")
        kept, lost = list(stage.read(Example)), list(stage.read(Dropped))
        read = sum(
            len(list(StageFolder(DATA / f"tiny/round-{n:03d}/sample").read(Trace)))
            for n in range(1, number + 1)
        )
        assert len(kept) + len(lost) == read
        assert kept
        assert all(row.round == number and row.stage == "rows" for row in kept)
    # shards open with datasets, and Example rows have TRL's columns
    rows = load_dataset(str(DATA / "tiny/round-001/rows"), "default", split="train", cache_dir="cache")
    assert {"prompt", "completion"} <= set(rows.column_names)
    # the gate's record and the weights it names
    gate = json.loads((DATA / "tiny/round-001/gate.json").read_text())
    assert gate["standing"]["policy"]["round"] in (-1, 1)
    assert (CHECKPOINTS / "tiny/round-002/policy/adapter_model.safetensors").is_file()
    # rows for people
    assert "countdown" in show_rows("tiny", 1, "check", None, 3, Workspace(DATA, CHECKPOINTS))


def test_a_run_stopped_anywhere_ends_with_the_same_bytes(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe()
    run(path)
    whole = hashes()
    (place := Path("again")).mkdir()
    os.chdir(place)
    for until in ("measure", "sample", "rows", "learn", "check", "learn"):
        said = run(Path("..") / path.name, until=until)
    assert "goes on from round 2" in said
    assert "final" in run(Path("..") / path.name)
    assert hashes() == whole


def test_other_batches_and_windows_give_the_same_rows(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe()
    run(path, until="rows")
    one = tree_hash(DATA / "tiny/round-001/sample")
    run(path, "models.policy.engine.max_rows=7", "window=1", name="narrow", until="rows")
    other = DATA / "narrow/round-001/sample"
    manifests = [
        json.loads((DATA / n / "round-001/sample/manifest.json").read_text()) for n in ("tiny", "narrow")
    ]
    assert manifests[0]["chunks"] == manifests[1]["chunks"]
    assert one
    assert other.is_dir()


def test_a_finished_run_is_extended_and_a_changed_one_refused(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe(rounds=1)
    run(path)
    before = tree_hash(DATA / "tiny/round-001")
    run("tiny", "rounds=2")
    assert tree_hash(DATA / "tiny/round-001") == before
    status = run_status("tiny", Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert status["final"]["round"] == 2
    assert status["final"]["test_read"] == 2
    with pytest.raises(RecipeError) as caught:
        run("tiny", "stages.sample.n=5", "seed=3")
    assert "tiny: seed: 0 -> 3" in caught.value.problems
    assert "tiny: stages.sample.n: 3 -> 5" in caught.value.problems
    said = run("tiny", "window=1").splitlines()  # operational: free to change
    assert said[0].startswith("tiny goes on from finally")
    assert said[1].split() == ["changed:", "window:", "2", "->", "1"]


def test_nothing_kept_is_said_with_counts_before_any_training(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe()
    with pytest.raises(NothingKept, match=r"0 of 120 rows kept: \d+ too_short") as caught:
        run(path, "stages.rows.min_tokens=1000")
    assert caught.value.exit_code == 5
    assert not list(CHECKPOINTS.glob("tiny/round-001/*"))
    outcome = json.loads((DATA / "tiny/outcome.json").read_text())
    assert (outcome["ok"], outcome["exit_code"]) == (False, 5)


def test_a_worse_model_is_refused_and_the_old_one_stands(write_recipe: Callable[..., Path]) -> None:
    """A learning rate that destroys the policy: the gate keeps the base, says so, and the run goes on."""
    path = write_recipe()
    data = load(path)
    assert data.rounds == 2
    try:
        said = run(
            path,
            "stages.learn.learning_rate=0.5",
            "stages.learn.steps=30",
            "task.dev=40",
            "stages.measure.split=train",
            "rounds=1",
        )
    except Diverged:  # so far gone that its texts are all alike: caught too, and earlier
        return
    gate = json.loads((DATA / "tiny/round-001/gate.json").read_text())
    assert gate["decisions"]["policy"]["promote"] is False
    assert gate["standing"]["policy"]["round"] == -1
    assert "REFUSED" in said
    final = run_status("tiny", Workspace(DATA, CHECKPOINTS))["final"]["metrics"]
    assert final["final/gain/greedy"] == 0


def test_one_stage_alone_makes_what_the_loop_makes(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe(rounds=1)
    run(path)
    whole = hashes()
    (place := Path("alone")).mkdir()
    os.chdir(place)
    recipe = load(Path("..") / path.name)
    for number, name in [
        (0, "measure"),
        *((1, n) for n in ("sample", "check", "rows", "learn", "measure")),
        (1, "final"),
    ]:
        with session(recipe, Console(quiet=True), Processes(), Workspace(DATA, CHECKPOINTS)) as working:
            stage_alone(working, name, number)
    assert hashes() == whole
    with (
        session(recipe, Console(quiet=True), Processes(), Workspace(DATA, CHECKPOINTS)) as working,
        pytest.raises(RecipeError, match="does not run in round 0"),
    ):
        stage_alone(working, "sample", 0)


def test_labels_and_draws_do_not_know_the_gold_or_the_past(write_recipe: Callable[..., Path]) -> None:
    """The incumbent's rows of a later round are read, not made again; a fixed split keeps its draws."""
    run(write_recipe())
    manifest = json.loads((DATA / "tiny/round-002/measure/manifest.json").read_text())
    assert manifest["extra"]["reused"] in (
        {"policy@incumbent": "round-001/measure"},
        {"policy@incumbent": "round-000/measure"},
    )
    traces = list(StageFolder(DATA / "tiny/round-002/measure").read(Trace))
    assert {t.model for t in traces} == {"policy"}
    labels = list(StageFolder(DATA / "tiny/round-001/check").read(Label))
    assert {label.trace_id for label in labels} == {
        t.id for t in StageFolder(DATA / "tiny/round-001/sample").read(Trace)
    }


def test_two_launches_and_a_killed_one(write_recipe: Callable[..., Path]) -> None:
    """A second launch stops with exit 4 and names the holder; SIGKILL frees the lock; the run then ends right."""
    path = write_recipe(rounds=1)
    run(path)
    whole = hashes()
    (place := Path("killed")).mkdir()
    os.chdir(place)
    command = [sys.executable, "-m", "pipeline", "run", str(Path("..") / path.name)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (DATA / "tiny/recipe.yaml").exists() and first.poll() is None:
        time.sleep(0.02)
    recipe = load(Path("..") / path.name)
    with (
        pytest.raises(RunInUse, match=rf"process {first.pid} on "),
        session(recipe, Console(quiet=True), Processes()),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (DATA / "tiny/round-001/sample/plan.json").exists() and second.poll() is None:
        time.sleep(0.02)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=100) in (0, 143)
    run(Path("..") / path.name)
    assert hashes() == whole


def test_a_problem_that_does_not_fit_the_model_is_counted(write_recipe: Callable[..., Path]) -> None:
    run(write_recipe(), "task.max_tokens=255", until="measure")
    folder = StageFolder(DATA / "tiny/round-000/measure")
    assert folder.require().counts.rows["Trace"] > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models.policy.base=./nowhere", "no such folder"),
        ("models.policy.base=seeds://countdown", "unknown kind"),
        ("models.policy.base=run://nobody@1/policy", "no finished round"),
        ("task.train=20000", "countdown problems asked"),
    ],
)
def test_bad_models_and_counts(write_recipe: Callable[..., Path], override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        run(write_recipe(), override)


def test_run_names_cannot_leave_their_folder(write_recipe: Callable[..., Path], place: Path) -> None:
    with pytest.raises(RecipeError):
        run(write_recipe(), name="../x")
    DATA.mkdir(exist_ok=True)
    (place / "elsewhere").mkdir()
    (DATA / "tiny").symlink_to(place / "elsewhere")
    with pytest.raises(RecipeError):
        run(place / "r.yaml")


def test_the_problems_of_a_round_are_drawn_without_replacement(write_recipe: Callable[..., Path]) -> None:
    recipe = load(write_recipe(), ["problems_per_round=15"])
    run(write_recipe(), until="measure")
    looked = Run(recipe, Console(quiet=True), Workspace(DATA, CHECKPOINTS))
    rounds = [looked.round_ids(n) for n in range(1, 6)]
    assert [len(ids) for ids in rounds] == [
        15,
        15,
        14,
        15,
        15,
    ]  # the third round meets one problem of both cycles
    assert not set(rounds[0]) & set(rounds[1])
    assert set().union(*rounds[:3]) == set(looked.ids("train"))
    assert rounds[0] == looked.round_ids(1)


def test_a_run_takes_weights_from_another(write_recipe: Callable[..., Path]) -> None:
    run(write_recipe(rounds=1))
    said: Any = run(
        write_recipe("other.yaml", name="other", rounds=0),
        "models.policy.base=run://tiny@1/policy",
        "rounds=0",
    )
    assert "final" in said


def test_other_threads_are_said_and_refused_where_strict(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(rounds=0)
    run(path, until="measure")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "threads 1 -> 7" in run("tiny", until="final")
    with pytest.raises(RecipeError, match="strict"):
        run("tiny", "strict=true")
