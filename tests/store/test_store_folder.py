"""Plan, sidecar, manifest: what is refused, what is found done, and that counts add up."""

from __future__ import annotations

import json

import pytest
from test_store_parts import make_plan, written

from pipeline.errors import DamagedData, RecipeError
from pipeline.rows import Dropped, Label, Trace
from pipeline.store.disk import Disk
from pipeline.store.folder import StageFolder
from pipeline.store.plan import ChunkPlan


def label(i: int) -> Label:
    return Label(problem_id=f"p{i}", trace_id=f"p{i}/0", correct=bool(i % 2))


BASE = {
    "settings": {"n": 1, "sampling": {"temperature": 0.7}},
    "inputs": {"run/round-001/a": "aa"},
    "models": {"policy": "bb"},
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"settings": {"n": 2, "sampling": {"temperature": 0.7}}}, "settings n: 1 -> 2"),
        (
            {"settings": {"n": 1, "sampling": {"temperature": 1.0}}},
            "settings sampling.temperature: 0.7 -> 1.0",
        ),
        ({"settings": {"n": 1}}, "settings sampling.temperature: 0.7 -> (absent)"),
        ({"settings": {**BASE["settings"], "new": [1]}}, "settings new: (absent) -> [1]"),
        ({"inputs": {"run/round-001/a": "cc"}}, "input ./round-001/a changed: aa -> cc"),
        ({"models": {"policy": "dd"}}, "model policy changed: bb -> dd"),
        ({"schema": 99}, "schema: 1 -> 99"),
        ({"seed": 7}, "seed: 0 -> 7"),
        ({"method": "beam"}, "method: sample -> beam"),
        ({"chunks": [ChunkPlan(["p0", "p1"])]}, "chunks: 1 chunks of 1 problems"),
        ({"chunks": [ChunkPlan(["p9"])]}, "chunks: 1 chunks of 1 problems"),
    ],
)
def test_a_changed_plan_is_refused_with_a_line_for_the_change(tmp_path, change, line):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", **BASE))
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(RecipeError) as caught:
        StageFolder(tmp_path).begin(make_plan("Label", **{**BASE, **change}))
    assert len(caught.value.problems) == 2  # the change, and the cure
    assert line in caught.value.problems[0]
    assert "fork run NEW_NAME" in caught.value.problems[1]
    assert (tmp_path / "plan.json").read_bytes() == before


def test_what_is_not_in_the_fingerprint(tmp_path):
    """The run's name and the recorded versions: a fork agrees with its run, an upgrade is told elsewhere."""
    one = make_plan("Label", **BASE, recorded={"torch": "1"})
    other = make_plan(
        "Label", **{**BASE, "inputs": {"fork/round-001/a": "aa"}}, run="fork", recorded={"torch": "2"}
    )
    assert one.fingerprint == other.fingerprint
    folder = StageFolder(tmp_path)
    folder.begin(one)
    assert StageFolder(tmp_path).begin(other).recorded == {"torch": "1"}


def test_done_is_what_verifies(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", 4))
    assert folder.done() == set()
    for chunk in range(3):
        with folder.writing(chunk) as part:
            part.add([label(chunk)])
    assert StageFolder(tmp_path).done() == {0, 1, 2}
    (tmp_path / "train-00000-of-00004.parquet").unlink()
    part_1 = tmp_path / "train-00001-of-00004.parquet"
    part_1.write_bytes(part_1.read_bytes()[:-1])
    (tmp_path / "train-00003-of-00004.parquet").write_bytes(
        (tmp_path / "train-00002-of-00004.parquet").read_bytes()
    )
    assert folder.done() == {2}
    with pytest.raises(DamagedData, match=r"3 of 4 chunks are not done: \[0, 1, 3\]"):
        folder.commit()


def test_a_sidecar_of_another_plan_or_chunk_counts_for_nothing(tmp_path):
    one, two = StageFolder(tmp_path / "one"), StageFolder(tmp_path / "two")
    for folder, seed in ((one, 1), (two, 2)):
        folder.begin(make_plan("Label", 2, seed=seed))
        with folder.writing(0) as part:
            part.add([label(0)])
    for file in ("train-00000-of-00002.json", "train-00000-of-00002.parquet"):
        (two.path / file).write_bytes((one.path / file).read_bytes())
        (one.path / file.replace("00000", "00001", 1)).write_bytes((one.path / file).read_bytes())
    assert one.done() == {0}
    assert two.done() == set()


def test_an_exception_leaves_nothing(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label"))
    rows = [label(0), Dropped(problem_id="p", what="w", reason="r"), "not a row"]
    with pytest.raises(ValueError, match="not a row kind"), folder.writing(0) as part:
        part.add(rows)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["README.md", "plan.json"]


def test_counts_reasons_and_counters_add_up(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", 2))
    for chunk in range(2):
        with folder.writing(chunk) as part:
            part.add([label(0), label(1)])
            part.add(
                [
                    Dropped(problem_id="p", what="w", reason=f"reason {chunk}"),
                    Dropped(problem_id="p", what="v", reason="both"),
                ]
            )
            part.count("read", 4)
            part.count("charged/policy", 10 + chunk)
    manifest = folder.commit({"auc": float("nan"), "share": 0.5, "list": (1, 2)})
    assert manifest.counts.rows == {"Label": 4, "Dropped": 4}
    assert manifest.counts.dropped == {"both": 2, "reason 0": 1, "reason 1": 1}
    assert manifest.counts.counters == {"charged/policy": 21, "read": 8}
    assert manifest.extra == {"auc": None, "share": 0.5, "list": [1, 2]}
    assert manifest.hash == StageFolder(tmp_path).require().hash
    assert [sidecar.counts.rows["Label"] for sidecar in folder.sidecars()] == [2, 2]


def test_what_a_crash_left_is_removed_before_the_manifest(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label"))
    with folder.writing(0) as part:
        part.add([label(0)])
    (tmp_path / "nodes").mkdir()
    left = [
        tmp_path / "nodes/train-00000-of-00001.parquet",
        tmp_path / ".tmp-1-host-0-x",
        tmp_path / "train-00009-of-00010.json",
    ]
    for path in left:
        path.write_bytes(b"left")
    (tmp_path / "notes.txt").write_text("mine")
    folder.commit()
    assert not any(path.exists() for path in left)
    assert (tmp_path / "notes.txt").exists()
    assert folder.verify() == []


def test_a_stage_without_chunks_or_rows(tmp_path):
    folder = StageFolder(tmp_path / "learn")
    folder.begin(make_plan("", 0))
    assert folder.commit({"weights": "abc"}).extra == {"weights": "abc"}
    empty = written(tmp_path / "empty", "Trace", [], [])
    assert list(empty.read(Trace)) == []
    assert empty.require().counts.rows == {}
    assert empty.verify() == folder.verify() == []


def test_reading_what_is_not_committed_is_refused(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label"))
    with pytest.raises(DamagedData, match="no manifest"):
        next(folder.read(Label))


def test_plan_json_is_plain_json(tmp_path):
    folder = StageFolder(tmp_path)
    plan = make_plan("Label", 2, **BASE, recorded={"torch": "2.13"})
    folder.begin(plan)
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["settings"] == BASE["settings"]
    assert found["fingerprint"] == plan.fingerprint
    assert StageFolder(tmp_path).plan() == plan


def test_a_chunk_made_again_is_not_vouched_for_while_its_parts_change(tmp_path):
    """Its old sidecar goes before the first part comes: a death between the two leaves a chunk that is not done."""
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label"))
    with folder.writing(0) as part:
        part.add([label(0)])
    assert folder.done() == {0}
    steps = []

    class Told(Disk):
        def point(self, step, path):
            steps.append((step, path.name))
            if step == "rename" and path.suffix == ".parquet":
                assert not [p for p in tmp_path.iterdir() if p.suffix == ".json" and p.name != "plan.json"]
                raise KeyboardInterrupt

    again = StageFolder(tmp_path, Told())
    with pytest.raises(KeyboardInterrupt), again.writing(0) as part:
        part.add([label(1)])
    assert ("rename", "train-00000-of-00001.parquet") in steps
    assert StageFolder(tmp_path).done() == set()
