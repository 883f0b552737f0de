"""A whole run in wandb, read back with wandb's own reader: every metric of every round, tables, plots, artifacts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_world import HOSTILE, World

from pipeline.loop import write_metrics
from pipeline.recipe.measures import measures
from pipeline.report.html.data import RunData, load_run
from pipeline.report.monitor import artifacts, media, plots, tables
from pipeline.report.monitor.mirror import best_round, records, sync
from pipeline.run.record import metrics_rows
from pipeline.store.workspace import Workspace

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two rounds of a run that learns."""
    return World(tmp_path_factory.mktemp("mirrored") / "data", rounds=2, num=16).write()


@pytest.fixture(scope="module")
def told(world: World) -> list[dict[str, Any]]:
    """What its offline wandb run holds."""
    theirs = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name in theirs:
        del os.environ[name]
    try:
        write_metrics(world.run)
        done, said = sync(world.run.folder, checkpoints=world.run.workspace.checkpoints)
    finally:
        os.environ.update(theirs)
    assert done, said
    (run,) = (world.run.folder / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in lines.splitlines()]


def load(world: World) -> RunData:
    return load_run(world.run.name, Workspace(world.data, world.run.workspace.checkpoints))


def rows_of(world: World, table: str, step: int) -> list[dict[str, Any]]:
    """A logged table's rows, by column."""
    [path] = world.run.folder.glob(f"wandb/offline-run-*/files/media/table/{table}_{step}_*.table.json")
    found = json.loads(path.read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_every_metric_of_every_round_is_there(world: World, told: list[dict[str, Any]]):
    history = [entry["history"]["item"] for entry in told if entry["type"] == "history"]
    wanted = records(metrics_rows(world.run))
    assert len(history) == len(wanted)
    assert {record["round"] for record in wanted} == {0, 1, 2}
    for found, record in zip(history, wanted, strict=True):
        assert {name: found[name] for name in record} == record
    summary: dict[str, Any] = {}
    for entry in told:
        if entry["type"] == "summary":
            summary |= entry["summary"].get("update", {})
    best = best_round(metrics_rows(world.run), measures(world.run.recipe))
    assert best
    assert {name: summary[name] for name in best} == best


def test_rounds_are_the_step_of_what_is_measured_and_curves_have_their_own(told: list[dict[str, Any]]):
    steps = {
        entry["metric"]["glob_name"]: entry["metric"].get("step_metric", "")
        for entry in told
        if entry["type"] == "metric" and "glob_name" in entry["metric"]
    }
    assert steps["measure/*"] == steps["quality/*"] == steps["gate/*"] == "round"
    assert steps["curve/learn/*"] == "curve/learn/step"


def test_each_round_has_its_tables_and_plots(world: World, told: list[dict[str, Any]]):
    rounds = [entry["history"]["item"] for entry in told if entry["type"] == "history"]
    last = next(item for item in reversed(rounds) if "measure/accuracy/greedy" in item)
    logged = {name.partition("._type")[0] for name in last if name.endswith("._type")}
    assert logged >= {"traces/search", "traces/measure", "changed/measure", "trees/search"}
    wanted = {"accuracy", "pass_at_k", "difficulty/measure", "prm_calibration", "prm_roc", "filter/traces"}
    assert logged >= {f"plots/{name}" for name in wanted | {"time", "tokens", "length"}}
    assert logged >= {f"curves/{name}_table" for name in ("pass_at_k/measure", "prm_roc/quality")}
    tree = rows_of(world, "trees/search", last["_step"])[0]
    assert "(question)" in tree["tree: value, visits, step"]


def test_traces_hold_what_was_said_of_them(world: World, told: list[dict[str, Any]]):
    last = max(i for i, record in enumerate(records(metrics_rows(world.run))) if "search/traces" in record)
    rows = rows_of(world, "traces/search", last)
    metrics = load(world).metrics[2]
    assert len(rows) == metrics["search/traces"]
    assert sum(row["right"] for row in rows) == metrics["values/right"]
    kept = [row for row in rows if row["kept, or why not"] == "kept"]
    assert len(kept) == metrics["traces/examples"]
    assert all(len(row["step scores"].split()) >= 1 for row in kept)
    assert all(row["trace"] and row["question"].startswith("numbers") and row["gold"] for row in rows)


def test_problems_won_and_lost_are_the_change_of_accuracy(world: World):
    found = load(world)
    for number in (1, 2):
        [build] = [b for name, b in tables.tables(found, number) if name == "changed/measure"]
        table = build()
        whats = [row[1] for row in table.rows] if table else []
        metrics = found.metrics[number]
        won = whats.count("newly solved") - whats.count("newly lost")
        assert won == pytest.approx(metrics["measure/accuracy/greedy/change"] * metrics["measure/problems"])


def test_artifacts_point_at_shards_and_name_what_they_were_made_from(
    world: World, told: list[dict[str, Any]]
):
    logged = [entry["artifact"] for entry in told if entry["type"] == "artifact"]
    shards = {(each["name"], alias): each for each in logged for alias in each["aliases"]}
    values = shards["world-values", "round-002"]
    places = [entry["ref"] for entry in values["manifest"]["contents"]]
    folder = world.run.folder / "round-002" / "values"
    assert set(places) == {path.resolve().as_uri() for path in folder.rglob("*") if path.is_file()}
    said = {each.name: each for each in artifacts.artifacts(load(world), 2)}
    assert said["world-traces"].made_from == ["world-values:round-002"]
    assert said["world-policy"].more["promoted"] is True
    assert said["world-policy"].folder == world.run.workspace.checkpoints / "world" / "checkpoints/policy"
    assert "world-prepare" in {each.name for each in artifacts.artifacts(load(world), 0)}


def test_a_plot_is_drawn_and_runs_nothing(world: World):
    for name, title, spec in plots.plots(load(world)):
        page = plots.picture(title, spec)
        assert "<script" not in page, name
        assert page.count("<path") > 3, name
        assert "$" not in page.partition("<svg")[2].replace("$schema", ""), name


def test_hostile_text_stays_text(world: World):
    cells = [
        cell
        for name, build in tables.tables(load(world), 2)
        if name.startswith("traces/") and (table := build())
        for row in table.rows
        for cell in row
        if isinstance(cell, str)
    ]
    assert cells
    assert all(cell.isprintable() or "\n" in cell for cell in cells)
    assert tables._cell(f"{HOSTILE}\x1b[2J") == f"{HOSTILE}\\x1b[2J"


def test_many_rounds_are_shown_evenly():
    shown = [number for number in range(201) if media.is_shown(number, 200)]
    assert len(shown) == 26
    assert shown[-1] == 200
    assert [n for n in range(4) if media.is_shown(n, 3)] == [0, 1, 2, 3]
