"""`status`, `status --watch` and `ls`: what is committed, and what the run says that it is doing."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest
from report_world import World

from pipeline.commands.status import all_runs, follow, now_line, run_lines, to_text
from pipeline.recipe.measures import measures
from pipeline.report import wording
from pipeline.report.console import Console
from pipeline.run import activity, record
from pipeline.run.session import open_run
from pipeline.run.status import run_status
from pipeline.store.lock import RunLock
from pipeline.store.workspace import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run, and one that was left in the middle of round 1."""
    done = World(tmp_path_factory.mktemp("looked") / "data", name="done", rounds=2, num=8).write()
    World(done.data, name="half", rounds=2, num=8, seed=1).write(until=(1, "search"))
    return done


def status(world: World, name: str) -> dict:
    return run_status(name, Workspace(world.data, world.run.workspace.checkpoints))


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_a_run_does_now_is_told_by_its_console(tmp_path: Path):
    clock = Clock()
    console = Console(quiet=True, file=io.StringIO(), clock=clock)
    console.now = activity.place(tmp_path)
    console.stage_started(2, "sample")
    told = activity.look(console.now)
    assert told is not None
    assert (told["round"], told["stage"]) == (2, "sample")
    with console.progress("sample", 9000) as bar:
        bar(0)
        clock.now += 40
        bar(4000, right=0.098, **{"tokens/s": 11797.0, "in the batch": 512})
    found = {"running": True, "now": activity.look(console.now), "seconds_left": 170.0}
    assert now_line(found) == (
        "now: round 2, sample: 4,000 of 9,000, 100/s, 50 s left, right 9.8 %, tokens/s 11,797, "
        "512 in the batch; rounds left: about 2 min 50 s"
    )
    assert console.file.getvalue() == ""


def test_other_ranks_and_full_disks_tell_nothing(tmp_path: Path):
    other = Console(main=False)
    other.now = activity.place(tmp_path)
    other.stage_started(1, "sample")
    assert activity.look(other.now) is None
    (tmp_path / "logs").write_text("a file where the folder should be")
    activity.tell(activity.place(tmp_path), {"stage": "sample"})  # an OSError stays inside


def test_what_is_old_is_not_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    activity.tell(activity.place(tmp_path), {"stage": "sample"})
    later = time.time() + activity.STALE + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert activity.look(activity.place(tmp_path)) is None


def test_a_finished_run(world: World):
    found = status(world, "done")
    assert found["seconds_left"] == 0.0
    assert found["now"] is None
    assert found["disk_bytes"] > 10_000
    text = to_text(
        found, measures(open_run("done", Workspace(world.data, world.run.workspace.checkpoints)).recipe)
    )
    assert text.startswith("done: complete, ")
    assert "greedy accuracy by measure" in text
    assert wording.within(found["rounds"][2]["metrics"], "measure/accuracy/greedy") in text
    assert "final, after round 2: greedy accuracy" in text
    assert json.dumps(found)


def test_a_run_left_in_the_middle(world: World):
    found = status(world, "half")
    assert found["seconds_left"] is None  # no round is whole yet
    text = to_text(found)
    assert text.startswith("half: stopped, ")
    assert "round 1:" in text
    assert "chunks" in text
    assert "open" in text


def test_every_run_with_its_last_result(world: World):
    runs = {one["run"]: one for one in all_runs(Workspace(world.data, world.run.workspace.checkpoints))}
    final = status(world, "done")["final"]["metrics"]
    assert runs["done"]["result"] == f"greedy {wording.within(final, 'final/accuracy/greedy')} (test, final)"
    assert runs["half"]["result"].endswith("(round 0)")
    lines = run_lines(list(runs.values())).splitlines()
    assert [line.split()[0] for line in lines] == ["run", "done", "half"]
    assert "complete" in lines[1]
    assert run_lines([]).startswith("No runs yet")


def test_a_run_that_cannot_be_read_does_not_hide_the_others(world: World):
    broken = world.data / "broken"
    broken.mkdir()
    (broken / "recipe.yaml").write_text("name: broken\nroundz: 3\n")
    try:
        runs = all_runs(Workspace(world.data, world.run.workspace.checkpoints))
        assert [one["state"] for one in runs] == ["unreadable", "complete", "stopped"]
        assert "roundz" in run_lines(runs)
    finally:
        (broken / "recipe.yaml").unlink()
        broken.rmdir()


def test_a_line_is_read_back_while_nothing_changed(world: World):
    """The second look needs no recipe, no manifest and no row: they are gone meanwhile, the stamps stand."""
    where = world.workspace
    record.write(world.data / "done" / "metrics.jsonl", record.metrics_rows(world.run))
    all_runs(where)  # what is kept of it is among the bytes from now on
    first = {one["run"]: one for one in all_runs(where)}["done"]
    kept = world.data / "done" / "logs" / "overview.json"
    moved = list((world.data / "done").glob("round-*/*/manifest.json"))
    assert len(moved) > 10
    for path in moved:
        path.rename(path.with_suffix(".away"))
    try:
        assert {one["run"]: one for one in all_runs(where)}["done"] == first
        assert first["complete"]
        assert first["seconds"] == status(world, "done")["seconds"]
    finally:
        for path in moved:
            path.with_suffix(".away").rename(path)
    with (world.data / "done" / "timing.jsonl").open("a") as file:
        file.write(json.dumps({"round": 2, "stage": "measure", "seconds": 7.5, "spent": {}}) + "\n")
    later = {one["run"]: one for one in all_runs(where)}["done"]
    assert later["seconds"] == pytest.approx(first["seconds"] + 7.5)
    kept.write_text("{")  # half a line of a look that was killed
    again = {one["run"]: one for one in all_runs(where)}["done"]
    assert again | {"disk_bytes": 0} == later | {"disk_bytes": 0}
    with RunLock(world.data / "done"):
        assert {one["run"]: one["state"] for one in all_runs(where)}["done"] == "running"


def test_what_ls_says_is_what_status_says(world: World):
    for name in ("done", "half"):
        one = {one["run"]: one for one in all_runs(world.workspace)}[name]
        whole = status(world, name)
        assert one["complete"] == whole["complete"]
        assert one["state"] == ("complete" if whole["complete"] else "stopped")
        done = sum(entry["done"] for entry in whole["rounds"])
        assert one["rounds_done"] == f"{max(done - 1, 0)} of 2"


def test_two_hundred_rounds_are_forty_lines(world: World):
    found = status(world, "done")
    last = found["rounds"][-1]
    waiting = {"stages": {"search": {"state": "waiting", "seconds": 0.0}}, "metrics": {}, "done": False}
    rounds = [
        last | {"round": number} if number <= 150 else waiting | {"round": number} for number in range(201)
    ]
    text = to_text(found | {"rounds": rounds})
    numbers = [int(line.split()[0]) for line in text.splitlines() if line.split()[0].isdigit()]
    assert 30 <= len(numbers) <= 40
    assert numbers[0] == 0
    assert numbers[-10:] == list(range(141, 151))
    assert len({after - before for before, after in zip(numbers[:-11], numbers[1:-10], strict=True)}) == 1


def test_follow_ends_when_nobody_works_on_it(world: World):
    said: list[str] = []
    lock = RunLock(world.data / "half")
    lock.acquire()
    activity.tell(activity.place(world.data / "half"), {"round": 1, "stage": "search", "done": 3, "total": 8})

    def heard(text: str) -> None:
        said.append(text)
        if len(said) == 1:  # it was seen at work: the run ends
            threading.Thread(target=lock.release).start()

    follow(
        "half", Workspace(world.data, world.run.workspace.checkpoints), heard, plain=True, plain_every=0.05
    )
    assert said[0] == "now: round 1, search: 3 of 8"
    assert said[-1].startswith("half: stopped")
