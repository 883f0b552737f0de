"""Two adapters (lm-eval #4063): nothing that one trained adapter made is ever used for another. Two runs that
differ in the learning rate alone train two adapters on one base; each is then offered what the other made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file
from tiny_world import recipe_data

from pipeline.commands.fork import fork
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.models.registry import resolve_base
from pipeline.processes.group import Processes
from pipeline.report.console import Console
from pipeline.run.session import find, session
from pipeline.store.run_folder import tree_files
from pipeline.store.workspace import Workspace

pytestmark = pytest.mark.faults

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
QUIET = Console(quiet=True, main=False)
RATES = {"one": 1e-3, "two": 4e-3}
#: stages that an adapter acts in, or that read what it made; the others know the base alone
BEFORE = [
    "prepare",
    "round-000/measure",
    *(f"round-001/{name}" for name in ("sample", "check", "rows", "learn")),
]
AFTER = [
    "round-001/measure",
    *(f"round-002/{name}" for name in ("sample", "check", "rows", "learn", "measure")),
]
AFTER.append("final-002/final")


def run(name: str, until: str | None = None) -> None:
    with session(find(name, [], None, DATA), QUIET, Processes(), Workspace(DATA, CHECKPOINTS)) as working:
        run_loop(working, until)


def document(run: str, stage: str, what: str = "plan") -> dict[str, Any]:
    return json.loads((DATA / run / stage / f"{what}.json").read_text())


def adapter(run: str, number: int = 1) -> str:
    """The hash of what a run trained in a round."""
    return document(run, f"round-{number:03d}/learn", "manifest")["extra"]["weights"]["hash"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Both runs, finished, in one project folder."""
    place, before = tmp_path_factory.mktemp("adapters"), Path.cwd()
    os.chdir(place)
    try:
        for name, rate in RATES.items():
            data = recipe_data(tiny, name=name)
            data["models"]["policy"] |= {"gate": [], "restart_from": "previous"}
            data["stages"]["learn"] |= {"learning_rate": rate}
            Path(f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
            run(f"{name}.yaml")
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both to spoil."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["cp", "-r", f"{trained}/.", str(tmp_path)], check=True)
    return tmp_path


def test_every_key_holds_the_adapters_hash(here: Path) -> None:
    """Plans differ where an adapter acted before, and there alone; each names its own run's adapter."""
    assert adapter("one") != adapter("two")
    tensors = [load_file(CHECKPOINTS / name / "round-001/policy/adapter_model.safetensors") for name in RATES]
    assert any((tensors[0][key] != tensors[1][key]).any() for key in tensors[0])
    same = {stage: document("one", stage)["fingerprint"] == document("two", stage)["fingerprint"] for stage in (*BEFORE, *AFTER)}  # fmt: skip
    assert [stage for stage in BEFORE if not same[stage]] == ["round-001/learn"]  # its own learning rate
    assert not any(same[stage] for stage in AFTER)
    acted = 0
    for name, other in (("one", "two"), ("two", "one")):
        theirs = {adapter(other), adapter(other, 2)}
        for stage in (*BEFORE, *AFTER):
            models = set(document(name, stage)["models"].values())
            assert not models & theirs, f"{name}/{stage} names an adapter of {other}"
            acted += bool(models & {adapter(name), adapter(name, 2)})
    assert acted == 10, "both runs: measure twice, sample, learn, final"


@pytest.mark.parametrize("stage", AFTER)
def test_a_whole_stage_of_the_other_adapter_is_refused(here: Path, stage: str) -> None:
    """The other run's folder, every hash of which is right, in place of the run's own."""
    shutil.rmtree(DATA / "two" / stage)
    shutil.copytree(DATA / "one" / stage, DATA / "two" / stage)
    for gone in ("round-002/gate.json", "metrics.jsonl"):
        (DATA / "two" / gone).unlink()
    if stage == "round-001/measure":
        (DATA / "two/round-001/gate.json").unlink()
    before = tree_files(DATA / "two" / stage)
    with pytest.raises(RecipeError) as caught:
        run("two")
    assert caught.value.exit_code == 2
    assert any(f"two: {stage}: " in line and " changed: " in line for line in caught.value.problems)
    assert tree_files(DATA / "two" / stage) == before
    decided = [path.parent.name for path in sorted((DATA / "two").glob("*/gate.json"))]
    assert decided == [f"round-{n:03d}" for n in range(int(stage[6:9]) + stage.startswith("final"))]


@pytest.mark.parametrize("stage", ["round-002/sample", "round-002/measure", "final-002/final"])
def test_a_chunk_of_the_other_adapter_is_made_again(here: Path, stage: str) -> None:
    """A part with its sidecar, both whole: no hit, and the run ends with its own bytes."""
    whole = tree_files(DATA / "two")
    for path in sorted((DATA / "two" / stage).rglob("train-00000*")):
        path.unlink()
    (DATA / "two" / stage / "manifest.json").unlink()
    for path in (DATA / "one" / stage).rglob("train-00000*"):
        shutil.copy(path, DATA / "two" / stage / path.relative_to(DATA / "one" / stage))
    assert tree_files(DATA / "two" / stage) != {
        k.removeprefix(f"{stage}/"): v for k, v in whole.items() if k.startswith(stage)
    }
    run("two")
    assert tree_files(DATA / "two") == whole


def test_a_fork_takes_what_no_adapter_made(here: Path) -> None:
    """`one` with the learning rate of `two`: the same rows as `two`, of which nothing came from `one`'s adapters."""
    said = fork(
        "one", "three", [f"stages.learn.learning_rate={RATES['two']}"], QUIET, Workspace(DATA, CHECKPOINTS)
    )
    taken = [stage for stage in (*BEFORE, *AFTER) if (DATA / "three" / stage).exists()]
    assert taken == BEFORE[:-1], said
    run("three")
    for stage in (*BEFORE, *AFTER):
        made = document("three", stage, "manifest")
        assert made == document("two", stage, "manifest"), stage
    assert [adapter("three", n) for n in (1, 2)] == [adapter("two", n) for n in (1, 2)]


def test_a_measurement_is_reused_for_the_same_weights_alone(here: Path) -> None:
    """The incumbent's rows in round 2 come from the round that measured those very weights."""
    reused = 0
    for name in RATES:
        for stage in ("round-001/measure", "round-002/measure"):
            plan, manifest = document(name, stage), document(name, stage, "manifest")
            for who, path in manifest["extra"]["reused"].items():
                reused += 1
                earlier = document(name, path)
                assert earlier["models"][who.removesuffix("@incumbent")] == plan["models"][who]
    assert reused >= 2


def test_merged_copies_are_told_apart(here: Path, tiny: Path) -> None:
    """`run://one@1/policy` is cached by the adapter's hash: under the same name, another adapter is another folder."""
    first = resolve_base("run://one@1/policy", None, Workspace(DATA, CHECKPOINTS))
    assert adapter("one")[:12] in first.name
    assert resolve_base("run://one@1/policy", None, Workspace(DATA, CHECKPOINTS)) == first
    for folder in (DATA, CHECKPOINTS):
        shutil.rmtree(folder / "one")
        shutil.copytree(folder / "two", folder / "one")
    second = resolve_base("run://one@1/policy", None, Workspace(DATA, CHECKPOINTS))
    assert adapter("two")[:12] in second.name
    assert second != first
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert any((weights[0][key] != weights[1][key]).any() for key in weights[0])
