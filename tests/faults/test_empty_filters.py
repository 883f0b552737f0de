"""A filter that keeps nothing, one row, or one class stops the run before any training step, with
counts by reason that add up to what the filter was given."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import recipe_data

from pipeline.errors import NothingKept
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
PRM = {"head": "value", "lora": {"r": 4}, "restart_from": "base"}


def nothing(data: dict[str, Any]) -> None:
    data["stages"]["rows"]["min_tokens"] = 1000


def one_row(data: dict[str, Any]) -> None:
    data["task"]["train"] = 1
    data["stages"]["sample"]["n"] = 32
    data["stages"]["rows"] |= {"max_per_problem": 1}


def one_class(data: dict[str, Any]) -> None:
    """A reward model whose every label is "wrong": none lies above 1."""
    data["models"]["prm"] = PRM | {"base": data["models"]["policy"]["base"]}
    del data["models"]["policy"]["gate"]
    data["stages"]["rows"] = {"select": "step_values", "from": "check", "use": "correct"}
    data["stages"]["learn"] |= {"train": "prm", "model": "prm", "target": "hard", "hard_above": 1.0}


def one_trace_of_a_reward_model(data: dict[str, Any]) -> None:
    one_class(data)
    data["task"]["train"] = 1
    data["stages"]["rows"]["max_per_problem"] = 1


KINDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "nothing": (nothing, r"rows: 0 of 120 rows kept: .*too_short"),
    "one row": (one_row, r"learn: its input has one Example row .*rows: 1 of 32 kept: \d+ "),
    "one class": (one_class, r"learn: all \d+ labels of its \d+ StepExample rows have the target 0"),
    "one trace": (one_trace_of_a_reward_model, r"learn: its input has one StepExample row .*1 of 3 kept"),
}


def begin(tiny: Path, change: Callable[[dict[str, Any]], None], **more: Any) -> None:
    data = recipe_data(tiny, rounds=1)
    change(data)
    data["stages"]["learn"] |= more
    Path("r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    with session(load(Path("r.yaml")), Console(quiet=True), Processes(), Workspace(DATA, CHECKPOINTS)) as run:
        run_loop(run, until="learn")


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_that_keeps_too_little(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, words = KINDS[kind]
    with pytest.raises(NothingKept, match=f"round 1: {words}") as caught:
        begin(tiny, change)
    outcome = json.loads((DATA / "tiny/outcome.json").read_text())
    assert (outcome["exit_code"], outcome["message"]) == (5, str(caught.value))
    # no training step, no adapter, nothing half written
    assert not list(CHECKPOINTS.rglob("*"))
    assert not list(DATA.rglob("scratch"))
    assert not (DATA / "tiny/round-001/learn/manifest.json").exists()
    # kept + dropped = given, in the sentence and on disk
    sidecars = list(StageFolder(DATA / "tiny/round-001/rows").sidecars())
    given = sum(one.counts.counters["given"] for one in sidecars)
    dropped = sum(sum(one.counts.dropped.values()) for one in sidecars)
    kept, of, reasons = re.search(r"(\d+) of (\d+) (?:rows )?kept:?([^.]*)", str(caught.value)).groups()
    assert int(of) == given == len([*StageFolder(DATA / "tiny/round-001/sample").read("Trace")])
    assert int(kept) + sum(map(int, re.findall(r"\d+", reasons))) == int(of)
    assert int(kept) == given - dropped


@pytest.mark.parametrize("change", [one_row, one_class], ids=["one row", "one class"])
def test_it_trains_where_the_recipe_says_so(
    change: Callable[[dict[str, Any]], None], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(tiny, change, on_empty="continue")
    assert list(CHECKPOINTS.rglob("adapter_model.safetensors"))
