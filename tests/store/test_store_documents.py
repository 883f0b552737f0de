"""Sealed documents, plans and manifests to the byte, and what is said of those that cannot be believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store_parts import make_plan, written

from pipeline.errors import DamagedData, RecipeError
from pipeline.rows import KINDS, Label
from pipeline.store.documents import canonical, clean_text, hash_file, plain, seal, sha256, unseal
from pipeline.store.folder import StageFolder
from pipeline.store.manifest import Counts, Manifest, build
from pipeline.store.plan import ChunkPlan, Plan


def test_the_canonical_form_is_one_byte_string_for_equal_values() -> None:
    assert canonical({"b": [1, 2.5], "a": {"é": None}}) == b'{"a":{"\\u00e9":null},"b":[1,2.5]}'
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            canonical([value])
        with pytest.raises(ValueError, match="JSON"):
            seal({"x": value})
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_sealed_document_to_the_byte(tmp_path: Path) -> None:
    digest = hashlib.sha256(b'{"a":[1],"b":"x"}').hexdigest()
    sealed = f'{{\n "b": "x",\n "a": [\n  1\n ],\n "sealed": "{digest}"\n}}\n'.encode()
    assert seal({"b": "x", "a": [1]}) == sealed
    assert seal({"sealed": "an older one", "b": "x", "a": [1]}) == sealed
    (tmp_path / "x.json").write_bytes(sealed)
    assert unseal(tmp_path / "x.json") == {"a": [1], "b": "x"}
    assert hash_file(tmp_path / "x.json") == hashlib.sha256(sealed).hexdigest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty. Run `verify RUN --repair`, or remove the stage's folder."),
        (b"{", "cannot be read (JSONDecodeError: "),
        (b"[]", "cannot be read (TypeError: "),
        (b"3", "cannot be read (AttributeError: "),
        (b'{"a": 1}', "cannot be read (KeyError: 'sealed'). Run `verify RUN --repair`, or remove the stage's folder."),
        (b'{"a": NaN, "sealed": ""}', "cannot be read (ValueError: "),
        (b"[" * 200_000, "cannot be read (RecursionError: "),
    ],
)  # fmt: skip
def test_what_is_no_sealed_document(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedData) as caught:
        unseal(tmp_path / "x.json")
    assert str(caught.value).startswith(f"{tmp_path / 'x.json'} {said}")


def test_an_edited_document_is_told_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(seal({"a": 1}).replace(b": 1", b": 2"))
    with pytest.raises(DamagedData) as caught:
        unseal(tmp_path / "x.json")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b'{"a":1}', b'{"a":2}'))
    assert str(caught.value) == (
        f"{tmp_path / 'x.json'} was edited or damaged: its content has SHA-256 {two}, it says {one}. "
        "Run `verify RUN --repair`."
    )
    with pytest.raises(FileNotFoundError):
        unseal(tmp_path / "none.json")


def test_what_json_can_hold() -> None:
    odd = {1: (1, 2.5, math.nan), "x": [np.float32(0.5), np.int64(3), math.inf, -math.inf], "y": {"z": None}}
    assert plain(odd) == {"1": [1, 2.5, None], "x": [0.5, 3, None, None], "y": {"z": None}}
    assert [type(one) for one in plain([np.float32(0.5), np.int64(3), np.bool_(True)])] == [float, int, bool]
    assert plain(np.float64("nan")) is None
    many = np.ones(1)
    assert plain(many) is many  # no scalar: canonical refuses it
    assert plain(True) is True
    assert plain("nan") == "nan"


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("plain\x00", ("plain\x00", 0)),
        ("a\ud800\udfffb", ("a\U000103ffb", 0)),
        ("\ud800a\udc00", ("\ufffda\ufffd", 2)),
        ("\udc00\ud800", ("\ufffd\ufffd", 2)),
        (["a", "\ud800", "\udfff\udfff"], (["a", "\ufffd", "\ufffd\ufffd"], 3)),
        (("\ud800", None, 3), (["\ufffd", None, 3], 1)),
        ([1, 2], ([1, 2], 0)),
        ([], ([], 0)),
        (None, (None, 0)),
        (2.5, (2.5, 0)),
    ],
)
def test_lone_surrogates_are_replaced_and_counted(value: Any, clean: tuple[Any, int]) -> None:
    assert clean_text(value) == clean


# -- plans ---------------------------------------------------------------------------------------------


def test_a_plan_is_what_json_can_hold_and_its_document_gives_it_back() -> None:
    plan = make_plan(
        "Label", settings={"a": (1, 2)}, recorded={"b": ("x",)}, schema=3, seed=5,
        chunks=[ChunkPlan(["p0"], {"run/x": [0]}), ChunkPlan(["p1"])],
    )  # fmt: skip
    assert (plan.settings, plan.recorded, plan.schema, plan.seed) == ({"a": [1, 2]}, {"b": ["x"]}, 3, 5)
    document = plan.to_document()
    assert document["chunks"] == [{"ids": ["p0"], "reads": {"run/x": [0]}}, {"ids": ["p1"], "reads": {}}]
    assert list(document) == [one.name for one in dataclasses.fields(Plan)]
    assert Plan.from_document(json.loads(json.dumps(document))) == plan
    assert make_plan("Label").recorded == {}
    names = [make_plan("Label", number).chunk_name(number - 1) for number in (1, 42)]
    assert names == ["train-00000-of-00001", "train-00041-of-00042"]


def test_a_runs_own_inputs_are_its_own_whatever_its_name() -> None:
    chunks = [ChunkPlan(["p"], {"run/a": [0]})]
    one = make_plan("Label", inputs={"run/a": "1", "runs/a": "2", "x/run/a": "3"}, chunks=chunks)
    renamed = make_plan(
        "Label", run="new", inputs={"new/a": "1", "runs/a": "2", "x/run/a": "3"},
        chunks=[ChunkPlan(["p"], {"new/a": [0]})],
    )  # fmt: skip
    assert one.fingerprint == renamed.fingerprint
    assert one.differences(renamed) == []
    assert make_plan("Label", inputs={"runs/a": "1"}).fingerprint != make_plan("Label", inputs={"run/a": "1"}).fingerprint  # fmt: skip


def test_every_change_has_its_line_in_the_order_of_a_plan() -> None:
    old = make_plan(
        "Label", settings={"same": 0, "a": {"b": 1, "c": {}}, "text": "é"},
        inputs={"run/x": "0123456789abcdefgh", "gone": "1"}, models={"policy": "0123456789abcdefgh"},
    )  # fmt: skip
    new = make_plan(
        "Trace", 2, settings={"same": 0, "a": {"b": None, "c": {"d": 2}}, "text": "ü"},
        inputs={"run/x": "9876543210abcdefgh", "come": "2"}, models={"policy": "9876543210abcdefgh"},
        seed=3, round=2, stage="t", room="label", method="m", schema=7,
    )  # fmt: skip
    lines = old.differences(new)
    assert lines[:-1] == [
        "settings a.b: 1 -> null",
        "settings a.c: {} -> (absent)",
        'settings text: "é" -> "ü"',
        "settings a.c.d: (absent) -> 2",
        "input ./x changed: 0123456789abcd -> 9876543210abcd",
        "input gone changed: 1 -> (absent)",
        "input come changed: (absent) -> 2",
        "model policy changed: 0123456789abcd -> 9876543210abcd",
        "schema: 1 -> 7",
        "seed: 0 -> 3",
        "round: 1 -> 2",
        "stage: s -> t",
        "room: generate -> label",
        "method: sample -> m",
        "main: Label -> Trace",
    ]
    slices = [sha256(canonical(value))[:8] for value in ([[["p0"], {}]], [[["p0"], {}], [["p1"], {}]])]
    assert lines[-1] == (
        f"chunks: 1 chunks of 1 problems (slices {slices[0]}) -> 2 chunks of 2 problems (slices {slices[1]})"
    )
    assert old.differences(old) == []


def test_a_plan_whose_fingerprint_is_not_its_own_is_refused_and_repaired(tmp_path: Path) -> None:
    plan = make_plan("Label", seed=1)
    (tmp_path / "plan.json").write_bytes(seal({**plan.to_document(), "seed": 2}))
    with pytest.raises(DamagedData) as caught:
        StageFolder(tmp_path).begin(plan)
    assert str(caught.value) == (
        f"{tmp_path / 'plan.json'}: its fingerprint is not that of its content. Run `verify RUN --repair`."
    )
    assert StageFolder(tmp_path).begin(plan, repair=True) == plan
    assert unseal(tmp_path / "plan.json") == plan.to_document()
    assert StageFolder(tmp_path).verify() == []
    with pytest.raises(RecipeError) as other:
        StageFolder(tmp_path).begin(make_plan("Label", seed=3), repair=True)
    assert other.value.problems == [
        f"run: {tmp_path.parent.name}/s: seed: 1 -> 3",
        f"run: {tmp_path.parent.name}/s was made by another recipe, so it is not reused: undo the change, give the "
        "run another `--name`, or `fork run NEW_NAME` with the change, which keeps what is still valid.",
    ]


def test_a_stage_that_was_never_begun(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    assert (folder.plan(), folder.done(), folder.manifest()) == (None, set(), None)
    assert (folder.damaged_chunks(), folder.remove_unvouched(), folder.is_complete()) == (set(), 0, False)
    assert folder.verify() == [f"{tmp_path} has no plan.json"]
    assert StageFolder(tmp_path / "none").verify() == [f"{tmp_path / 'none'} is missing"]
    with pytest.raises(DamagedData) as caught:
        folder.commit()
    assert str(caught.value) == f"{tmp_path} has no plan.json: this stage was never begun."


def test_a_manifest_of_another_plan_or_that_is_none(tmp_path: Path) -> None:
    folder = written(tmp_path / "one", "Label", [Label(problem_id="p", trace_id="t")])
    other = StageFolder(tmp_path / "two")
    other.begin(make_plan("Label", 1, seed=9))
    (other.path / "manifest.json").write_bytes((folder.path / "manifest.json").read_bytes())
    with pytest.raises(DamagedData) as caught:
        other.manifest()
    assert str(caught.value) == (
        f"{other.path / 'manifest.json'} belongs to another plan than plan.json beside it. "
        "Run `verify RUN --repair`."
    )
    document = unseal(folder.path / "manifest.json")
    for key in ("fingerprint", "counts", "counters", "extra", "chunks"):
        lacking = {name: value for name, value in document.items() if name != key}
        (tmp_path / "m.json").write_bytes(seal(lacking))
        with pytest.raises(DamagedData) as lacks:
            Manifest.load(tmp_path / "m.json")
        assert str(lacks.value) == (
            f"{tmp_path / 'm.json'} is not a manifest: no '{key}'. Run `verify RUN --repair`."
        )
    few = {**document, "chunks": []}
    (folder.path / "manifest.json").write_bytes(seal(few))
    with pytest.raises(DamagedData, match="another plan"):
        StageFolder(folder.path).manifest()


def test_totals_are_in_the_order_of_kinds_and_names() -> None:
    plan = make_plan("Label", 2)
    counts = [
        ({"Label": 1, "Trace": 0}, {"z": 1, "a": 2}, {"y": 1}),
        ({"Trace": 4}, {"a": 1}, {"b": 3, "y": 1}),
    ]
    sidecars = [
        {"chunk": place, "parts": [], "counts": {"rows": rows, "dropped": dropped}, "counters": counters}
        for place, (rows, dropped, counters) in enumerate(counts)
    ]
    document = build(plan, sidecars, {"e": 1})
    assert json.dumps(document["counts"]) == (
        '{"rows": {"Trace": 4, "Label": 1}, "dropped": {"a": 3, "z": 1}}'
        if list(KINDS).index("Trace") < list(KINDS).index("Label")
        else '{"rows": {"Label": 1, "Trace": 4}, "dropped": {"a": 3, "z": 1}}'
    )
    assert json.dumps(document["counters"]) == '{"b": 3, "y": 2}'
    assert (document["extra"], document["chunks"]) == ({"e": 1}, sidecars)
    found = Counts.of(document)
    assert (found.rows, found.dropped, found.counters) == ({"Label": 1, "Trace": 4}, {"a": 3, "z": 1}, {"b": 3, "y": 2})  # fmt: skip
    manifest = Manifest(Path("m"), "h", "f", found, {}, [])
    assert (manifest.rows(Label), manifest.rows("Trace"), manifest.rows("Pair")) == (1, 4, 0)
    assert sorted(manifest.kinds) == ["Label", "Trace"]
