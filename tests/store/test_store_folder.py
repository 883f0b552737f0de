"""Plan, sidecar, manifest: what is refused, what is found done, and that counts add up."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from test_store_parts import make_plan, written

from pipeline.errors import DamagedData, RecipeError
from pipeline.rows import KINDS, Dropped, Label, Trace
from pipeline.store.card import card
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
        ({"settings": {**BASE["settings"], "n": "1"}}, 'settings n: 1 -> "1"'),  # the text is not the number
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


@pytest.mark.parametrize(
    ("change", "line"),
    [({"round": 2}, "round: 1 -> 2"), ({"stage": "t"}, "stage: s -> t"), ({"room": "search"}, "room: generate -> search"),
     ({"main": "Trace"}, "main: Label -> Trace")],
)  # fmt: skip
def test_the_fingerprint_holds_whose_work_it_is(change, line):
    one = make_plan("Label", **BASE)
    other = make_plan(**{"main": "Label", **BASE, **change})
    assert other.fingerprint != one.fingerprint
    assert one.differences(other) == [line]


def test_fingerprints_of_earlier_versions_stand():
    """Golden: a change of what is hashed would turn every committed run into one "made by another recipe"."""
    plan = make_plan("Label", 2, **BASE, recorded={"torch": "1"})
    reads = make_plan("Label", chunks=[ChunkPlan(["p0"], {"run/round-001/a": [0], "tasks/x": [1]})])
    assert plan.fingerprint == "220c20a9084cad17bb2123c47fdf26d68a5895b40f0b5829687af67f6bae4d08"
    assert reads.fingerprint == "3d4d834d8bfdd67bfa6a3a43d0abf3f8463b3e8a1eb0fc2e0e9286e2d941d463"
    assert plan.chunk_name(1) == "train-00001-of-00002"


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


class Written(Disk):
    """Notes which files it was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def rename(self, source: Path, path: Path) -> None:
        super().rename(source, path)
        self.names.append(path.name)


def test_the_documents_of_a_stage_word_for_word(tmp_path):
    """Golden of sidecar, manifest and card; the hashes are those of the parts that lie there."""
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", 2))
    for chunk in range(2):
        with folder.writing(chunk) as part:
            part.add([label(chunk), Dropped(problem_id="p", what="w", reason="r"), label(7)])
            part.count("named", 2)
    folder.commit({"auc": 0.5})
    chunks = []
    for chunk in range(2):
        name = f"train-0000{chunk}-of-00002"
        parts = []
        for file, kind, rows in ((f"{name}.parquet", "Label", 2), (f"dropped/{name}.parquet", "Dropped", 1)):
            data = (tmp_path / file).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            parts.append({"file": file, "kind": kind, "rows": rows, "bytes": len(data), "sha256": digest})
        parts.sort(key=lambda entry: list(KINDS).index(entry["kind"]))
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(found.pop("sealed")) == 64
        assert found == {
            "chunk": chunk,
            "fingerprint": folder.plan().fingerprint,
            "parts": parts,
            "counts": {"rows": {"Label": 2, "Dropped": 1}, "dropped": {"r": 1}},
            "counters": {"named": 2},
        }
        chunks.append(found)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest.pop("sealed")) == 64
    assert manifest == {
        "round": 1,
        "stage": "s",
        "room": "generate",
        "method": "sample",
        "main": "Label",
        "fingerprint": folder.plan().fingerprint,
        "counts": {"rows": {"Label": 4, "Dropped": 2}, "dropped": {"r": 2}},
        "counters": {"named": 4},
        "extra": {"auc": 0.5},
        "chunks": chunks,
    }
    assert (
        (tmp_path / "README.md")
        .read_text()
        .startswith(
            "---\nconfigs:\n- config_name: default\n  default: true\n  data_files:\n  - split: train\n"
            '    path: "train-*.parquet"\n- config_name: dropped\n  data_files:\n  - split: train\n'
            '    path: "dropped/train-*.parquet"\n---\n# run, round 1: s\n'
        )
    )


@pytest.mark.parametrize(
    ("main", "kinds", "named"),
    [
        ("Label", None, ["default", "nodes", "dropped", "rollouts"]),
        ("Pair", None, ["default", "nodes", "dropped", "rollouts", "labels"]),
        ("Pair", ["Label", "Pair"], ["default", "labels"]),
        ("", ["StepExample"], ["stepexample"]),
        ("Pair", [], []),
    ],
)
def test_a_card_names_what_may_come_or_what_came(main, kinds, named):
    text = card(make_plan(main), kinds)
    header = yaml.safe_load(text.split("---")[1])["configs"]
    found = [entry["config_name"] for entry in header]
    assert (found[:1], sorted(found)) == (named[:1], sorted(named))
    for entry in header:
        (files,) = entry["data_files"]
        inside = "" if entry["config_name"] == "default" else f"{entry['config_name']}/"
        assert files == {"split": "train", "path": f"{inside}train-*.parquet"}
        assert entry.get("default", False) is (entry["config_name"] == "default")


def test_committing_again_writes_nothing_and_another_result_is_refused(tmp_path):
    disk = Written()
    folder = StageFolder(tmp_path, disk)
    folder.begin(make_plan("Label"))
    with folder.writing(0) as part:
        part.add([label(0)])
    first = folder.commit({"a": 1})
    disk.names.clear()
    assert folder.commit({"a": 1}).hash == first.hash
    assert disk.names == []
    with pytest.raises(DamagedData, match="not what its manifest says"):
        folder.commit({"a": 2})
    with pytest.raises(DamagedData, match="chunk 0 made again"), folder.writing(0) as part:
        part.add([label(1)])
    with pytest.raises(ValueError, match="chunk 1 of 1"), folder.writing(1):
        pass
    assert StageFolder(tmp_path).require().hash == first.hash
    assert folder.verify() == []


def test_damage_before_and_after_the_commit_is_told(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", 3))
    for chunk in range(2):
        with folder.writing(chunk) as part:
            part.add([label(chunk)])
    assert folder.verify() == []  # not finished is not damaged
    part_1, sidecar_2 = (tmp_path / f"train-0000{name}" for name in ("1-of-00003.parquet", "2-of-00003.json"))
    good = part_1.read_bytes()
    part_1.write_bytes(good[:-1])
    (problem,) = folder.verify()
    assert str(part_1) in problem
    part_1.write_bytes(good)
    with folder.writing(2) as part:
        part.add([label(2)])
    folder.commit()
    sidecar_2.unlink()
    part_1.unlink()
    (tmp_path / "train-00007-of-00009.parquet").write_text("x")
    assert folder.verify() == [
        f"{part_1} is missing",
        f"{sidecar_2} is missing",
        f"{tmp_path / 'train-00007-of-00009.parquet'} is in no manifest",
    ]
    assert folder.damaged_chunks() == {1, 2}
    assert not folder.is_complete()
    assert folder.remove_unvouched() == 1
    folder.drop_chunk(0)
    assert folder.damaged_chunks() == {0, 1, 2}
    for chunk in range(3):
        with folder.writing(chunk) as part:
            part.add([label(chunk)])
    assert folder.is_complete()
    assert folder.verify() == []
