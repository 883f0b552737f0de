"""Rows in, parts out, rows back: any text, any kind, same bytes; and the folder opens in `datasets`."""

from __future__ import annotations

import dataclasses
import math
import random
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.rows import KINDS, SCHEMA_VERSION, Dropped, Label, Node, Trace
from pipeline.store.documents import clean_text
from pipeline.store.folder import StageFolder
from pipeline.store.parts import FOLDERS, GROUP_ROWS
from pipeline.store.plan import ChunkPlan, Plan
from pipeline.store.run_folder import tree_files

TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=12)  # lone surrogates and NUL too
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
}


def _strategy(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in PLAIN:
        return PLAIN[annotation]
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is list:
        return st.lists(_strategy(parts[0]), max_size=4)
    assert types.NoneType in parts
    return st.none() | _strategy(next(part for part in parts if part is not types.NoneType))


def rows_of(kind: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: _strategy(hints[field.name]) for field in dataclasses.fields(kind)})


def make_plan(main: str, num_chunks: int = 1, **more: Any) -> Plan:
    values: dict[str, Any] = {
        "run": "run", "round": 1, "stage": "s", "room": "generate", "method": "sample", "main": main,
        "settings": {}, "inputs": {}, "models": {}, "seed": 0,
        "chunks": [ChunkPlan([f"p{i}"]) for i in range(num_chunks)],
    }  # fmt: skip
    return Plan.make(**{**values, **more})


def written(path: Path, main: str, *chunks: list[Any]) -> StageFolder:
    folder = StageFolder(path)
    folder.begin(make_plan(main, len(chunks)))
    for chunk, rows in enumerate(chunks):
        with folder.writing(chunk) as part:
            part.add(rows)
    folder.commit()
    return folder


def cleaned(row: Any) -> Any:
    return dataclasses.replace(
        row, **{f.name: clean_text(getattr(row, f.name))[0] for f in dataclasses.fields(row)}
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.one_of([rows_of(kind) for kind in KINDS.values()]), max_size=12),
    main=st.sampled_from(sorted(KINDS)),
)
def test_round_trip_of_any_rows(tmp_path_factory, rows, main):
    folder = written(tmp_path_factory.mktemp("any"), main, rows)
    for name, kind in KINDS.items():
        wanted = [cleaned(row) for row in rows if type(row) is kind]
        assert folder.read_chunk(kind, 0) == wanted
        assert folder.require().rows(name) == len(wanted)
    assert folder.verify() == []


def test_all_kinds_have_a_folder():
    assert FOLDERS.keys() == KINDS.keys()
    assert len(set(FOLDERS.values())) == len(KINDS)
    assert SCHEMA_VERSION >= 1


def test_equal_rows_give_equal_bytes(tmp_path):
    rows = [
        Trace(
            problem_id=f"p{i}",
            id=f"p{i}/0",
            prompt="q",
            text="t" * i,
            token_ids=list(range(i % 7)),
            step_ends=[],
            steps=[],
        )
        for i in range(3000)
    ]
    one, two = (
        written(tmp_path / "one", "Trace", rows, rows[:5]),
        written(tmp_path / "two", "Trace", rows, rows[:5]),
    )
    assert tree_files(one.path) == tree_files(two.path)
    in_pieces = StageFolder(tmp_path / "three")
    in_pieces.begin(make_plan("Trace", 2))
    for chunk, part_rows in enumerate((rows, rows[:5])):
        with in_pieces.writing(chunk) as part:
            for row in part_rows:
                part.add([row])
    in_pieces.commit()
    assert in_pieces.require().hash == one.require().hash


def test_rows_are_written_group_by_group(tmp_path):
    import pyarrow.parquet as pq

    rows = [
        Dropped(problem_id=str(i), what=str(i), reason="x" * (20_000 if i < 1000 else 1)) for i in range(4000)
    ]
    folder = written(tmp_path, "Dropped", rows)
    file = pq.ParquetFile(tmp_path / "train-00000-of-00001.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert max(sizes) <= GROUP_ROWS
    assert min(sizes[:-1]) < 100  # long rows make short groups
    assert [row.what for row in folder.read(Dropped)] == [str(i) for i in range(4000)]


def test_lone_surrogates_become_replacement_characters(tmp_path):
    """Row 17: models write them, parquet cannot hold them; NUL it can."""
    row = Trace(
        problem_id="p",
        id="p/0",
        prompt="a\x00b",
        text="x\ud800y",
        token_ids=[],
        step_ends=[],
        steps=["\udfff", "ok"],
    )
    folder = written(tmp_path, "Trace", [row])
    (found,) = folder.read(Trace)
    assert (found.prompt, found.text, found.steps) == ("a\x00b", "x\ufffdy", ["\ufffd", "ok"])
    assert folder.require().counts.counters["replaced_surrogates"] == 2
    assert clean_text("\ud83d\ude00") == ("\U0001f600", 0)  # a pair is one character


def test_ten_thousand_random_byte_strings(tmp_path):
    """Row 17: whatever bytes a model's tokens make, nothing crashes, and what was read writes the same file
    again.
    """
    lot = random.Random(0)
    texts = [lot.randbytes(lot.randrange(30)).decode("utf-8", "surrogateescape") for _ in range(10_000)]
    rows = [Dropped(problem_id=str(i), what=text, reason="r") for i, text in enumerate(texts)]
    first = written(tmp_path / "first", "Dropped", rows)
    again = written(tmp_path / "again", "Dropped", list(first.read(Dropped)))
    assert first.require().chunks[0]["parts"] == again.require().chunks[0]["parts"]
    assert first.require().counts.counters["replaced_surrogates"] > 1000


def test_numbers_keep_their_bits(tmp_path):
    scores = [0.1, -0.0, 1e-310, math.inf, math.nan, None]
    folder = written(
        tmp_path, "Label", [Label(problem_id="p", trace_id="t", step_scores=scores, value=math.nan)]
    )
    (found,) = folder.read(Label)
    assert str(found.step_scores) == str(scores)
    assert math.isnan(found.value)


@pytest.mark.parametrize("main", sorted(KINDS))
def test_load_dataset_opens_every_kind(tmp_path, main):
    """Mixed kinds, sidecars, a plan and a manifest in one folder; a kind without rows in the first chunk."""
    datasets = pytest.importorskip("datasets")
    lists = {"token_ids": [1], "step_ends": [1], "steps": ["s"], "completions": ["c"], "labels": [None]}
    rows = []
    for kind in KINDS.values():
        needed = {
            f.name: lists.get(f.name, "x") for f in dataclasses.fields(kind) if f.default is f.default_factory
        }
        rows.append(kind(**{**needed, **({"depth": 1} if kind is Node else {})}))
    written(tmp_path / "stage", main, [], rows)
    cache = str(tmp_path / "cache")
    default = datasets.load_dataset(str(tmp_path / "stage"), split="train", cache_dir=cache)
    assert default.column_names == [f.name for f in dataclasses.fields(KINDS[main])]
    assert len(default) == 1
    for kind in KINDS.keys() - {main}:
        found = datasets.load_dataset(str(tmp_path / "stage"), FOLDERS[kind], split="train", cache_dir=cache)
        assert found.column_names == [f.name for f in dataclasses.fields(KINDS[kind])]


def test_load_dataset_where_kinds_are_absent(tmp_path):
    """A kind without rows has no part and is not named in the committed card; before the commit the main
    kind opens too.
    """
    datasets = pytest.importorskip("datasets")
    row = Label(problem_id="p", trace_id="t", correct=True)
    folder = StageFolder(tmp_path / "stage")
    folder.begin(make_plan("Label"))
    with folder.writing(0) as part:
        part.add([row])
    load = datasets.load_dataset
    assert len(load(str(folder.path), split="train", cache_dir=str(tmp_path / "a"))) == 1
    folder.commit()
    assert len(load(str(folder.path), split="train", cache_dir=str(tmp_path / "b"))) == 1
    assert datasets.get_dataset_config_names(str(folder.path)) == ["default"]


def test_a_row_of_no_kind_is_refused(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Trace"))
    with pytest.raises(ValueError, match="not a row kind"), folder.writing(0) as part:
        part.add([object()])
    assert folder.done() == set()
    assert not list(tmp_path.rglob("*.parquet"))
