"""Flipped bytes, missing, extra and swapped parts, edited and empty documents;
and their repair.
"""

from __future__ import annotations

import json
import random
import re

import pytest
from fault_disks import QuietDisk
from store_world import plan_for, run_world, sample, world_hash, write_sample

from pipeline.errors import DamagedData
from pipeline.rows import Node, Trace
from pipeline.store.documents import seal
from pipeline.store.folder import StageFolder
from pipeline.store.repair import prepare_repair
from pipeline.store.run_folder import tree_files, tree_hash, verify_run


@pytest.fixture
def stage(tmp_path) -> StageFolder:
    return sample(tmp_path, 1, QuietDisk())


def fresh(stage: StageFolder) -> StageFolder:
    return StageFolder(stage.path, QuietDisk())


def test_a_thousand_flipped_bytes(stage):
    """Row 7: each is named with both hashes before any row is used."""
    lot, parts = random.Random(7), sorted(stage.path.rglob("*.parquet"))
    kinds = {"nodes": Node, "sample": Trace}
    parts = [part for part in parts if part.parent.name in kinds]
    detected = 0
    for _ in range(1000):
        part = lot.choice(parts)
        good = part.read_bytes()
        at, bit = lot.randrange(len(good)), 1 << lot.randrange(8)
        part.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        rows: list[object] = []
        with pytest.raises(DamagedData) as caught:
            rows.extend(stage.read(kinds[part.parent.name], [int(part.name[6:11])]))
        assert rows == []
        assert str(part) in str(caught.value)
        assert len(re.findall(r"\b[0-9a-f]{64}\b", str(caught.value))) == 2
        assert "verify RUN --repair" in str(caught.value)
        detected += 1
        part.write_bytes(good)
    print(f"{detected} of 1000 detected")
    assert stage.verify() == []


def repair(stage: StageFolder) -> int:
    """What `verify --repair` does for one stage: forget what is damaged, make it again."""
    remade = 0
    plan = stage.plan()
    assert plan is not None
    for chunk in sorted(stage.damaged_chunks()):
        stage.drop_chunk(chunk)
        write_sample(stage, chunk, plan, 1)
        remade += 1
    stage.remove_unvouched()
    return remade


def test_a_damaged_chunk_is_made_again_to_the_same_hash(stage):
    before = tree_hash(stage.path)
    for part in stage.path.rglob("*00001-of*.parquet"):
        part.write_bytes(part.read_bytes()[:-3])
    assert len(stage.verify()) == 3
    assert fresh(stage).damaged_chunks() == {1}
    assert repair(fresh(stage)) == 1
    assert tree_hash(stage.path) == before


def test_a_chunk_made_again_with_other_rows_is_refused(stage):
    before = tree_files(stage.path)
    with (
        pytest.raises(DamagedData, match="made again is not the one in its manifest"),
        stage.writing(0) as part,
    ):
        part.add([])
    assert tree_files(stage.path) == before


DAMAGE = {
    "part missing": lambda f: (f / "train-00000-of-00002.parquet").unlink(),
    "side part missing": lambda f: (f / "nodes/train-00001-of-00002.parquet").unlink(),
    "extra part": lambda f: (f / "train-00002-of-00002.parquet").write_bytes(b"PAR1"),
    "extra part of a kind": lambda f: (
        (f / "labels").mkdir(),
        (f / "labels/train-00000-of-00002.parquet").write_bytes(b"x"),
    ),
    "parts swapped": lambda f: _swap(f / "train-00000-of-00002.parquet", f / "train-00001-of-00002.parquet"),
    "sidecars swapped": lambda f: _swap(f / "train-00000-of-00002.json", f / "train-00001-of-00002.json"),
    "chunks swapped": lambda f: [
        _swap(f / f"{d}train-00000-of-00002.{e}", f / f"{d}train-00001-of-00002.{e}")
        for d, e in (("", "parquet"), ("", "json"), ("nodes/", "parquet"))
    ],
    "sidecar missing": lambda f: (f / "train-00000-of-00002.json").unlink(),
    "sidecar empty": lambda f: (f / "train-00000-of-00002.json").write_bytes(b""),
    "sidecar edited": lambda f: _edit(f / "train-00000-of-00002.json", '"rows": 4', '"rows": 5'),
    "card edited": lambda f: _edit(f / "README.md", "default: true", "default: false"),
}


def _swap(one, two) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_damage_is_told_and_repaired(stage, damage):
    """Row 9, the parts."""
    before = tree_files(stage.path)
    DAMAGE[damage](stage.path)
    assert tree_files(stage.path) != before
    assert fresh(stage).verify()
    repair(fresh(stage))
    assert tree_files(stage.path) == before
    assert fresh(stage).verify() == []


DOCUMENTS = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: "hello",
    "a list": lambda text: "[]",
    "one digit": lambda text: re.sub(r'("(?:seed|rows|chunk)": )\d', r"\g<1>9", text, count=1),
    "deep": lambda text: "[" * 100_000,
    "not UTF-8": lambda text: "\udcff\udcfe",
}


@pytest.mark.parametrize("document", ["plan.json", "manifest.json"])
@pytest.mark.parametrize("damage", sorted(DOCUMENTS))
def test_a_damaged_document_stops_everything(stage, document, damage):
    """Row 9, the documents: exit 3, and nothing is read through them."""
    path = stage.path / document
    changed = DOCUMENTS[damage](path.read_text())
    assert changed != path.read_text()
    path.write_text(changed, errors="surrogateescape")
    assert fresh(stage).verify()
    with pytest.raises(DamagedData) as caught:
        next(fresh(stage).read(Trace))
    assert document in str(caught.value)


def test_a_damaged_plan_is_replaced_in_repair_only(stage):
    before = tree_files(stage.path)
    (stage.path / "plan.json").write_text("")
    plan = plan_for("sample", 1, "Trace", {})
    with pytest.raises(DamagedData):
        fresh(stage).begin(plan)
    fresh(stage).begin(plan, repair=True)
    assert tree_files(stage.path) == before


def test_a_damaged_manifest_is_made_again(stage):
    before = tree_files(stage.path)
    (stage.path / "manifest.json").write_text("{}")
    again = fresh(stage)
    again.drop_manifest()
    assert again.done() == {0, 1}
    again.commit({"distinct": 1.0})
    assert tree_files(stage.path) == before


def test_a_manifest_of_another_plan_is_refused(stage, tmp_path):
    other = StageFolder(tmp_path / "other", QuietDisk())
    other.begin(plan_for("sample", 1, "Trace", {}, temperature=0.1))
    (other.path / "manifest.json").write_bytes((stage.path / "manifest.json").read_bytes())
    with pytest.raises(DamagedData, match="another plan"):
        other.manifest()


def test_a_resealed_sidecar_still_fails_against_the_manifest(stage):
    """An edit by someone who recomputes the seal: the manifest, which later stages name by hash, does not
    agree.
    """
    path = stage.path / "train-00000-of-00002.json"
    document = json.loads(path.read_text())
    document["counts"]["rows"]["Trace"] = 99
    path.write_bytes(seal(document))
    assert fresh(stage).damaged_chunks() == {0}


def test_a_damaged_run_is_repaired_to_the_same_bytes(tmp_path):
    """Every file of a run and its weights, one at a time: repaired and run again it is what it was."""
    run_world(tmp_path, QuietDisk())
    before = world_hash(tmp_path)
    run, weights = tmp_path / "run", tmp_path / "checkpoints/run"
    assert prepare_repair(run, weights) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "metrics.jsonl"]
    assert len(files) > 20
    for path in files:
        path.write_bytes(path.read_bytes()[:-2] + b"??")
        said = []
        while found := prepare_repair(run, weights):
            said += found
            run_world(tmp_path, QuietDisk())
            assert len(said) < 10
        assert said, path
        assert verify_run(run, weights) == []
        assert world_hash(tmp_path) == before, path


def test_everything_at_once(tmp_path):
    run_world(tmp_path, QuietDisk())
    before = world_hash(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.write_bytes(b"")
    while prepare_repair(tmp_path / "run", tmp_path / "checkpoints/run"):
        run_world(tmp_path, QuietDisk())
    assert world_hash(tmp_path) == before


def test_a_stage_made_again_differently_is_refused(tmp_path):
    """Repair never puts other rows or numbers under a manifest that later stages have read."""
    run_world(tmp_path, QuietDisk())
    stage = StageFolder(tmp_path / "run/round-001/sample", QuietDisk())
    before = (stage.path / "manifest.json").read_bytes()
    with pytest.raises(DamagedData, match="is not what its manifest says"):
        stage.commit({"distinct": 0.1})
    assert (stage.path / "manifest.json").read_bytes() == before
