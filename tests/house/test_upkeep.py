"""The upkeep of runs: verify, repair, fork, gc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.commands.fork import fork
from pipeline.commands.gc import collect
from pipeline.commands.verify import verify, wrong
from pipeline.errors import DamagedData, RecipeError, RunInUse
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.report.console import Console
from pipeline.report.summary import closing_words
from pipeline.run.session import find, open_run, session
from pipeline.store.lock import RunLock
from pipeline.store.run_folder import tree_files
from pipeline.store.workspace import Workspace

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
ROOT = Path(__file__).parents[2]
QUIET = Console(quiet=True, main=False)


def run(target: Path | str, *overrides: str, name: str | None = None, until: str | None = None) -> None:
    recipe = find(str(target), list(overrides), name, DATA)
    with session(recipe, QUIET, Processes(), Workspace(DATA, CHECKPOINTS)) as working:
        run_loop(working, until)


def files(name: str = "tiny") -> dict[str, str]:
    return tree_files(DATA / name) | {f"weights/{k}": v for k, v in tree_files(CHECKPOINTS / name).items()}


def flip(path: Path, at: int | None = None) -> None:
    """One bit of a file, in place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.unlink()  # the same name, another file: hard links of a fork stay what they are
    path.write_bytes(data)


def check(name: str = "tiny", repair: bool = False) -> str:
    return verify(name, repair, QUIET, Workspace(DATA, CHECKPOINTS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A project folder with one finished run, `tiny`; tests work on a copy."""
    from tiny_world import recipe_data

    place, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    (place / "r.yaml").write_text(yaml.safe_dump(recipe_data(tiny), sort_keys=False))
    os.chdir(place)
    try:
        run("r.yaml")
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def here(whole: Path, place: Path) -> Path:
    """A copy of the finished run in an empty project folder."""
    subprocess.run(["cp", "-r", f"{whole}/.", str(place)], check=True)
    return place


def test_a_whole_run_verifies_and_a_stopped_one_too(here: Path, write_recipe: Callable[..., Path]) -> None:
    assert "every hash is right" in check()
    run(write_recipe(name="short"), until="rows")
    assert "every hash is right" in check("short")
    before = files("short")
    check("short", repair=True)
    assert files("short") == before  # nothing more is done than was


#: what is done to a run, and a word of the sentence that names it
DAMAGE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a shard": (lambda d, c: flip(next((d / "round-001/sample").glob("train-00001*.parquet"))), "sample/train-00001"),
    "a problem": (lambda d, c: flip(next((d / "prepare").glob("*.parquet"))), "prepare/train"),
    "a part of labels gone": (lambda d, c: next((d / "round-002/check").glob("*.parquet")).unlink(), "is missing"),
    "a sidecar": (lambda d, c: flip(next((d / "round-001/rows").glob("train-*.json"))), "round-001/rows"),
    "a plan": (lambda d, c: flip(d / "round-001/check/plan.json"), "round-001/check/plan.json"),
    "prepare's plan": (lambda d, c: flip(d / "prepare/plan.json"), "prepare/plan.json"),
    "an empty manifest": (lambda d, c: (d / "round-001/sample/manifest.json").write_bytes(b""), "is empty"),
    "an adapter": (lambda d, c: flip(c / "round-001/policy/adapter_model.safetensors"), "adapter_model.safetensors"),
    "an adapter gone": (lambda d, c: [p.unlink() for p in (c / "round-002/policy").iterdir()][:0], "round-002/policy"),
    "a measurement": (lambda d, c: flip(next((d / "final-002/final").glob("*.parquet"))), "final-002/final"),
    "an extra file": (lambda d, c: (d / "round-001/rows/train-00009-of-00003.parquet").write_bytes(b"x"), "in no manifest"),
    "a gate": (
        lambda d, c: (d / "round-001/gate.json").write_text((d / "round-001/gate.json").read_text().replace("true", "false")),
        "round-001/gate.json",
    ),
    "a torn gate": (lambda d, c: (d / "round-002/gate.json").write_text('{"round"'), "round-002/gate.json"),
    "the metrics": (lambda d, c: flip(d / "metrics.jsonl"), "metrics.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_and_made_again_to_the_same_bytes(here: Path, what: str) -> None:
    before = files()
    break_it, word = DAMAGE[what]
    break_it(DATA / "tiny", CHECKPOINTS / "tiny")
    with pytest.raises(DamagedData, match=r"(?s)data/tiny: \d+ wrong.*--repair") as caught:
        check()
    assert word in str(caught.value)
    assert "every hash is right" in check(repair=True)
    assert files() == before


def test_everything_at_once(here: Path) -> None:
    before = files()
    for what in ("a shard", "prepare's plan", "an adapter", "a torn gate", "an empty manifest"):
        DAMAGE[what][0](DATA / "tiny", CHECKPOINTS / "tiny")
    assert "every hash is right" in check(repair=True)
    assert files() == before


def test_what_cannot_be_made_again_is_said(here: Path) -> None:
    """Rows that differ now (another seed in the recipe file) are not quietly replaced."""
    path = DATA / "tiny/round-001/sample"
    manifest = (path / "manifest.json").read_bytes()
    next(path.glob("train-00000*.parquet")).unlink()
    sidecar = next(path.glob("train-00000*.json"))
    text = (DATA / "tiny/recipe.yaml").read_text()
    (DATA / "tiny/recipe.yaml").write_text(text.replace("temperature: 1.0", "temperature: 0.9"))
    assert text != (DATA / "tiny/recipe.yaml").read_text()
    with pytest.raises(RecipeError, match="settings temperature"):
        check(repair=True)
    assert (path / "manifest.json").read_bytes() == manifest
    assert not sidecar.exists()  # damaged, and taken away


def links(name: str) -> int:
    """How many files of a run are second names of another run's."""
    return sum(
        p.stat().st_nlink > 1 for root in (DATA, CHECKPOINTS) for p in (root / name).rglob("*") if p.is_file()
    )


def test_a_fork_takes_over_what_stays_valid_and_ends_as_a_fresh_run_would(here: Path) -> None:
    change = "stages.learn.steps=3"
    said = fork("tiny", "forked", [change], QUIET, Workspace(DATA, CHECKPOINTS))
    assert "stages.learn.steps: 4 -> 3" in said
    taken = next(line for line in said.splitlines() if "taken over" in line)
    assert [word.strip() for word in taken.partition(":")[2].split(",")] == [
        "prepare", "round-000/measure", "round-001/sample", "round-001/check", "round-001/rows",
    ]  # fmt: skip
    assert links("forked") > 10
    assert "Go on from round 1, learn: ratchet run forked" in said
    untouched = files()
    run("forked")
    run("r.yaml", change, name="fresh")
    forked, fresh = files("forked"), files("fresh")
    assert forked.keys() == fresh.keys()
    named = {key for key in forked if forked[key] != fresh[key]}
    assert all(Path(key).name in ("plan.json", "recipe.yaml", "README.md") for key in named), named
    assert files() == untouched
    assert "every hash is right" in check("forked")


@pytest.mark.full
def test_a_fork_takes_over_later_rounds_that_do_not_depend_on_what_changed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward model that is trained each round and used in the last one: with another training the policy's
    rounds stay what they are."""
    from tiny_world import recipe_data

    monkeypatch.chdir(tmp_path)
    data = recipe_data(tiny)
    data["models"]["prm"] = {"base": str(tiny), "head": "value", "lora": {"r": 4}}
    stages = data["stages"]
    stages["steps"] = {"select": "step_values", "from": "check"}
    stages["refine"] = {
        "train": "prm",
        "model": "prm",
        "target": "value",
        "from": "steps",
        "steps": 2,
        "batch_size": 8,
    }
    stages["scored"] = {
        "evaluate": "accuracy",
        "of": "policy",
        "value": "prm",
        "samples": 2,
        "rounds": [2, 2],
    }
    del data["finally"]
    Path("r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    run("r.yaml")
    change = "stages.refine.steps=3"
    said = fork("tiny", "forked", [change], QUIET, Workspace(DATA, CHECKPOINTS))
    taken = next(line for line in said.splitlines() if "taken over" in line).partition(":")[2]
    kept = ("sample", "check", "rows", "learn", "measure", "steps")
    assert [word.strip() for word in taken.split(",")] == [
        "prepare", "round-000/measure", *(f"round-{number:03d}/{name}" for number in (1, 2) for name in kept)
    ]  # fmt: skip
    assert "Go on from round 1, refine: ratchet run forked" in said
    assert "every hash is right" in check("forked")
    damaged = next((DATA / "forked/round-002/sample").glob("train-00000*.parquet"))
    flip(damaged)
    with pytest.raises(DamagedData, match=damaged.name):
        check("forked")
    check("forked", repair=True)
    assert "every hash is right" in check("forked")
    run("forked")
    run("r.yaml", change, name="fresh")
    forked, fresh = files("forked"), files("fresh")
    assert forked.keys() == fresh.keys()
    named = {key for key in forked if forked[key] != fresh[key]}
    assert all(Path(key).name in ("plan.json", "recipe.yaml", "README.md") for key in named), named


def test_a_fork_without_a_change_is_a_whole_run(here: Path) -> None:
    said = fork("tiny", "copy", ["window=1"], QUIET, Workspace(DATA, CHECKPOINTS))
    assert "Go on from finally" in said
    before = files("copy")
    assert before.keys() == files().keys()
    run("copy")
    assert files("copy") == before
    looked = open_run("copy", Workspace(DATA, CHECKPOINTS))
    assert closing_words(looked)["seconds"] == 0  # nothing was worked on under this name
    (looked.folder / "timing.jsonl").write_text(
        '{"seconds": 1.5}\n{"seco'
    )  # the second line's writer was killed
    assert closing_words(looked)["seconds"] == 1.5
    (looked.folder / "timing.jsonl").unlink()
    subprocess.run(["rm", "-r", "data/tiny", "checkpoints/tiny"], check=True)  # it stands on its own
    assert "every hash is right" in check("copy")
    run("copy", "rounds=3")
    assert (
        fork("copy", "copy2", ["rounds=3"], QUIET, Workspace(DATA, CHECKPOINTS)).count("final-003/final") == 1
    )


@pytest.mark.parametrize(
    ("override", "first", "last"),
    [
        ("seed=1", "", "nothing: every stage depends on what changed"),
        ("finally.final.samples=3", "prepare", "round-002/measure"),
        ("models.policy.gate.margin=0.5", "prepare", "final-002/final"),
        ("stages.sample.n=2", "prepare", "round-000/measure"),
        ("rounds=1", "prepare", "round-001/measure"),
    ],
)
def test_how_much_a_fork_takes(here: Path, override: str, first: str, last: str) -> None:
    if "gate" in override:
        override = "models.policy.gate=[{metric: measure/accuracy/greedy, margin: 0.5}]"
    said = fork("tiny", "f", [override], QUIET, Workspace(DATA, CHECKPOINTS))
    taken = next(line for line in said.splitlines() if "taken over" in line).partition(":")[2].strip()
    assert taken.startswith(first)
    assert taken.endswith(last)
    assert not wrong(open_run("f", Workspace(DATA, CHECKPOINTS)))


def test_a_fork_killed_half_way_goes_on(here: Path) -> None:
    words = ["fork", "tiny", "f", "window=1", "-q"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], env=environment, stdout=subprocess.DEVNULL
    )
    while not (DATA / "f/prepare/plan.json").exists() and process.poll() is None:
        pass
    process.kill()
    assert process.wait() == -9
    assert files("f").keys() < files().keys()
    assert ratchet(*words).returncode == 0
    assert files("f").keys() == files().keys()
    assert "every hash is right" in check("f")


def test_forks_that_are_refused(here: Path) -> None:
    for name, new, words in [
        ("tiny", "tiny", "a name of its own"),
        ("tinny", "f", "no run"),
        ("tiny", "../f", "run name"),
        ("tiny", "tasks", "taken"),
    ]:
        with pytest.raises(RecipeError, match=words):
            fork(name, new, [], QUIET, Workspace(DATA, CHECKPOINTS))
    with pytest.raises(RecipeError, match="unknown key"):
        fork("tiny", "f", ["stages.sample.m=3"], QUIET, Workspace(DATA, CHECKPOINTS))
    fork("tiny", "f", [], QUIET, Workspace(DATA, CHECKPOINTS))
    with pytest.raises(RecipeError, match="there is a run f already, with other settings"):
        fork("tiny", "f", ["seed=3"], QUIET, Workspace(DATA, CHECKPOINTS))
    flip(CHECKPOINTS / "tiny/round-001/policy/adapter_model.safetensors")
    with pytest.raises(DamagedData, match="adapter_model"):
        fork("tiny", "g", ["window=1"], QUIET, Workspace(DATA, CHECKPOINTS))


def test_gc_removes_scratch_and_keeps_the_rest(here: Path) -> None:
    scratch = DATA / "tiny/scratch/round-001/learn/checkpoint-2"
    scratch.mkdir(parents=True)
    (scratch / "optimizer.pt").write_bytes(b"x" * 1000)
    (CHECKPOINTS / "tiny/round-001/.tmp-1-elsewhere-0-policy").mkdir()
    before = files()
    said = collect("tiny", Workspace(DATA, CHECKPOINTS))
    assert "tiny: 1,000 bytes freed, 1 unfinished files removed" in said
    assert not (DATA / "tiny/scratch").exists()
    assert files() == before
    with RunLock(DATA / "tiny"), pytest.raises(RunInUse):
        collect("tiny", Workspace(DATA, CHECKPOINTS))
    with pytest.raises(RecipeError, match="no run 'tinny'"):
        collect("tinny", Workspace(DATA, CHECKPOINTS))


def ratchet(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words], env=environment, capture_output=True, text=True
    )


def test_the_commands(here: Path) -> None:
    listed = ratchet("ls").stdout.split()
    assert listed[listed.index("tiny") :][:5] == ["tiny", "complete", "2", "of", "2"]
    assert ratchet("verify", "tiny").returncode == 0
    flip(next((DATA / "tiny/round-001/sample").glob("*.parquet")))
    damaged = ratchet("verify", "tiny")
    assert damaged.returncode == 3
    assert damaged.stderr.startswith("DamagedData: data/tiny: ")
    assert "Traceback" not in damaged.stderr
    assert ratchet("verify", "tinny").returncode == 2
    assert "bytes freed" in ratchet("gc", "tiny").stdout
    assert "every hash is right" in ratchet("verify", "tiny", "--repair", "-q").stdout
    assert "ratchet run f" in ratchet("fork", "tiny", "f", "stages.learn.steps=3", "-q").stdout
    assert json.loads(ratchet("status", "f", "--json").stdout)["complete"] is False
    assert ratchet("fork", "tiny", "f", "stages.learn.steps=5").returncode == 2


def test_every_script_can_be_imported() -> None:
    """A script is for hands, so no other test would notice that what it imports has another name."""
    scripts = Path(__file__).parents[2] / "scripts"
    names = sorted(path.stem for path in scripts.glob("*.py"))
    assert len(names) > 10
    code = "import importlib, sys; sys.path.insert(0, sys.argv[1]); [*map(importlib.import_module, sys.argv[2:])]"
    command = [sys.executable, "-c", code, str(scripts), *names]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
