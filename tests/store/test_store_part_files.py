"""Parts of a chunk: where they lie, how rows are grouped, what is read, and what is said of damaged ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_store_parts import make_plan, written

from pipeline.errors import DamagedData
from pipeline.rows import Dropped, Label, Trace
from pipeline.store import parts
from pipeline.store.documents import seal, unseal
from pipeline.store.folder import StageFolder
from pipeline.store.parts import _plain_list, check_part, kind_name, part_file, read_part


def test_where_a_part_lies() -> None:
    plan = make_plan("Label", 3)
    assert part_file(plan, 2, "Label") == "train-00002-of-00003.parquet"
    assert part_file(plan, 0, "Trace") == "rollouts/train-00000-of-00003.parquet"
    assert (kind_name(Label), kind_name("Label")) == ("Label", "Label")
    with pytest.raises(ValueError, match="Path is not a row kind .Problem|Path is not a row kind ."):
        kind_name(Path)


def test_a_part_that_does_not_verify_is_told_with_both_hashes_and_sizes(tmp_path: Path) -> None:
    folder = written(tmp_path, "Label", [Label(problem_id="p", trace_id="t")])
    (entry,) = folder.parts(Label, 0)
    path = tmp_path / entry["file"]
    assert check_part(tmp_path, entry) is None
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    digest = hashlib.sha256(good[:-3]).hexdigest()
    wrong = f"{path}: SHA-256 {digest} ({len(good) - 3} bytes) is not {entry['sha256']} ({len(good)} bytes)"
    assert check_part(tmp_path, entry) == wrong
    with pytest.raises(DamagedData) as caught:
        next(read_part(tmp_path, entry))
    assert str(caught.value) == f"{wrong}. No row of it was used. Run `verify RUN --repair` to make it again."
    path.unlink()
    for stands in ("nothing", "a folder", "a file above it"):
        if stands == "a folder":
            path.mkdir()
        where = {**entry, "file": "plan.json/x"} if stands == "a file above it" else entry
        assert check_part(tmp_path, where) == f"{tmp_path / where['file']} is missing"
        with pytest.raises(DamagedData) as missing:
            next(read_part(tmp_path, where))
        assert str(missing.value) == (
            f"{tmp_path / where['file']} is missing. Run `verify RUN --repair` to make it again."
        )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1, 2], [], None, [3]], pa.list_(pa.int64())),
        ([[1.5], None, [None, 2.5]], pa.list_(pa.float64())),
        ([["a"], [], ["b", "c"]], pa.list_(pa.string())),
        ([1, None, 3], pa.int64()),
        ([], pa.list_(pa.int64())),
        ([None, None], pa.list_(pa.int64())),
    ],
)
def test_lists_come_back_as_they_were(values: list[Any], kind: Any) -> None:
    column = pa.array(values, kind)
    assert _plain_list(column) == values
    if len(values) > 1:
        assert _plain_list(column.slice(1)) == values[1:]
    if values and isinstance(values[0], list):
        assert [type(one) for one in _plain_list(column)[0] or []] == [type(one) for one in values[0]]


def test_a_counter_adds_up_within_a_chunk_and_over_chunks(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    folder.begin(make_plan("Label", 2))
    for chunk in range(2):
        with folder.writing(chunk) as part:
            for _ in range(3):
                part.count("read")
                part.count("charged/policy", 10)
            part.add([Label(problem_id="\ud800", trace_id=f"t{i}") for i in range(2 + chunk)])
            part.count("replaced_surrogates", 5)
    counters = [one.counts.counters for one in folder.sidecars()]
    assert counters == [
        {"charged/policy": 30, "read": 3, "replaced_surrogates": 7 + chunk} for chunk in range(2)
    ]
    assert folder.commit().counts.counters == {"charged/policy": 60, "read": 6, "replaced_surrogates": 15}


def test_a_sidecar_that_is_not_the_manifests_is_told(tmp_path: Path) -> None:
    folder = written(tmp_path, "Label", [Label(problem_id="p", trace_id="t")])
    sidecar = tmp_path / "train-00000-of-00001.json"
    document = unseal(sidecar)
    sidecar.write_bytes(seal({**document, "counters": {"read": 1}}))
    assert folder.verify() == [f"{sidecar} is not what the manifest says"]
    assert folder.damaged_chunks() == {0}
    assert folder.is_complete()  # names only
    sidecar.unlink()
    assert folder.verify() == [f"{sidecar} is missing"]
    sidecar.write_bytes(seal(document))
    (tmp_path / "README.md").write_text("another")
    assert folder.verify() == [f"{tmp_path / 'README.md'} is not the card of this stage"]
    (tmp_path / "README.md").unlink()
    assert folder.verify() == [f"{tmp_path / 'README.md'} is not the card of this stage"]
    assert folder.remove_unvouched() == 0
    assert folder.verify() == []


def test_a_chunk_made_again_differently_is_told_with_both_hashes(tmp_path: Path) -> None:
    folder = written(tmp_path, "Label", [Label(problem_id="p", trace_id="t")])
    digest = folder.parts(Label, 0)[0]["sha256"][:12]
    with pytest.raises(DamagedData) as caught, folder.writing(0):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: chunk 0 made again is not the one in its manifest (no rows instead of "
        f"train-00000-of-00001.parquet {digest}), so nothing was changed. Were packages, threads or code changed "
        "since? `fork` the run to go on from here."
    )
    with pytest.raises(DamagedData) as again:
        folder.commit({"x": 1})
    assert str(again.value) == (
        f"{tmp_path}: made again, this stage is not what its manifest says, so the manifest was left as it is. Were "
        "packages, threads or code changed since? `fork` the run to go on from here."
    )
    for chunk in (-1, 1):
        with pytest.raises(ValueError, match=f"^{tmp_path}: chunk {chunk} of 1$"), folder.writing(chunk):
            pass
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DamagedData) as none:
        folder.require()
    assert str(none.value) == (
        f"{tmp_path} has no manifest: the stage is not finished. Start the run again to finish it."
    )
    folder.drop_chunk(0)
    with pytest.raises(DamagedData) as missing:
        folder.commit()
    assert str(missing.value) == (
        f"{tmp_path}: 1 of 1 chunks are not done: [0]. Start the run again: it makes what is missing."
    )


def test_where_a_row_group_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: 8 bytes a character or a number of a list; a group ends with the row that reaches the limit."""

    def sizes(rows: int, reason: int) -> list[int]:
        name = f"{rows}-{reason}-{parts.GROUP_ROWS}-{parts.GROUP_BYTES}"
        written(tmp_path / name, "Dropped", [Dropped(problem_id="p", what="w", reason="r" * reason)] * rows)
        file = pq.ParquetFile(tmp_path / name / "train-00000-of-00001.parquet")
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

    monkeypatch.setattr(parts, "GROUP_BYTES", 8 * 30)
    assert (sizes(7, 8), sizes(7, 7), sizes(6, 8)) == ([3, 3, 1], [4, 3], [3, 3])  # 10 and 9 characters a row
    monkeypatch.setattr(parts, "GROUP_BYTES", 8 * 30 + 1)
    assert sizes(7, 8) == [4, 3]
    monkeypatch.setattr(parts, "GROUP_ROWS", 2)
    assert sizes(5, 8) == [2, 2, 1]


def test_which_chunks_are_read(tmp_path: Path) -> None:
    rows = [[Label(problem_id=f"p{i}", trace_id="t"), Dropped(problem_id=f"p{i}", what="w", reason="r")] for i in range(3)]  # fmt: skip
    folder = written(tmp_path, "Label", *rows)
    assert [row.problem_id for row in folder.read(Label)] == ["p0", "p1", "p2"]
    assert [row.problem_id for row in folder.read("Dropped", [2, 0])] == ["p2", "p0"]
    assert [row.problem_id for row in folder.read_chunk(Label, 1)] == ["p1"]
    assert list(folder.read(Label, [])) == list(folder.read(Trace)) == []
    assert [entry["kind"] for entry in folder.parts(Dropped, 1)] == ["Dropped"]
    manifest = folder.manifest()
    assert folder.manifest() is manifest  # read once as long as the file stands
    assert [one.chunk for one in folder.sidecars()] == [0, 1, 2]
