"""Fork and repair: what is taken from another run, what is taken away, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_store_parts import make_plan

from pipeline.errors import DamagedData
from pipeline.rows import Dropped, Label
from pipeline.store.adopt import adopt_stage, adopt_weights
from pipeline.store.card import card
from pipeline.store.disk import Disk
from pipeline.store.folder import StageFolder
from pipeline.store.plan import Plan
from pipeline.store.repair import prepare_repair
from pipeline.store.weights import commit_weights, read_weights


def rows_of(chunk: int) -> list[object]:
    return [
        Label(problem_id=f"p{chunk}", trace_id="t"),
        Dropped(problem_id=f"p{chunk}", what="w", reason="r"),
    ]


def begun(
    path: Path, chunks: int = 3, done: int = 3, *, commit: bool = True, run: str = "run"
) -> StageFolder:
    folder = StageFolder(path)
    folder.begin(make_plan("Label", chunks, run=run))
    for chunk in range(done):
        with folder.writing(chunk) as part:
            part.add(rows_of(chunk))
    if commit:
        folder.commit({"a": 1})
    return folder


def files(path: Path) -> set[str]:
    return {one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()}


def plan_of(folder: StageFolder, run: str) -> Plan:
    plan = folder.plan()
    assert plan is not None
    return make_plan("Label", len(plan.chunks), run=run)


class Told(Disk):
    def __init__(self) -> None:
        self.made: list[str] = []

    def point(self, step: str, path: Path) -> None:
        if step in ("link", "rename") and not path.name.startswith(".tmp-"):
            self.made.append(f"{step} {path.name}")


def test_a_committed_stage_is_taken_under_hard_links(tmp_path: Path) -> None:
    old, new = begun(tmp_path / "run/s"), StageFolder(tmp_path / "fork/s")
    told = Told()
    assert adopt_stage(old, new, plan_of(old, "fork"), told) == (3, True)
    assert new.verify() == []
    assert new.require().hash == old.require().hash
    assert files(new.path) == files(old.path)
    shared = {name for name in files(new.path) if (new.path / name).samefile(old.path / name)}
    assert shared == files(old.path) - {"plan.json", "README.md"}
    manifest = old.require()
    assert (new.path / "README.md").read_text() == card(plan_of(old, "fork"), manifest.kinds)
    assert "fork" in (new.path / "README.md").read_text()
    assert told.made[-2:] == ["link manifest.json", "rename manifest.json"]
    assert told.made.index("link train-00000-of-00003.json") > told.made.index(
        "link train-00000-of-00003.parquet"
    )
    again = Told()
    assert adopt_stage(old, new, plan_of(old, "fork"), again) == (3, True)
    assert again.made == []


def test_of_an_unfinished_stage_the_chunks_that_verify(tmp_path: Path) -> None:
    old = begun(tmp_path / "run/s", 4, 3, commit=False)
    (old.path / "train-00001-of-00004.parquet").write_bytes(b"damaged")
    new = StageFolder(tmp_path / "fork/s")
    assert adopt_stage(old, new, plan_of(old, "fork")) == (2, False)
    assert new.done() == {0, 2}
    assert new.manifest() is None
    empty = begun(tmp_path / "run/e", 2, 0, commit=False)
    assert adopt_stage(empty, StageFolder(tmp_path / "fork/e"), plan_of(empty, "fork")) == (0, False)
    assert files(tmp_path / "fork/e") == {"plan.json", "README.md"}


def test_another_fingerprint_or_a_damaged_stage_is_not_taken(tmp_path: Path) -> None:
    old, new = begun(tmp_path / "run/s"), StageFolder(tmp_path / "fork/s")
    none = StageFolder(tmp_path / "none")
    for source, plan in ((old, make_plan("Label", 3, seed=5)), (none, make_plan("Label", 3))):
        with pytest.raises(DamagedData) as caught:
            adopt_stage(source, new, plan)
        assert str(caught.value) == f"{source.path} and {new.path} do not have the same fingerprint"
    part = old.path / "train-00002-of-00003.parquet"
    part.unlink()
    with pytest.raises(DamagedData) as damaged:
        adopt_stage(old, new, plan_of(old, "fork"))
    assert str(damaged.value) == f"{part} is missing. Repair it first: `verify run --repair`"
    assert files(new.path) == {"plan.json", "README.md"}


def weights(path: Path, value: float) -> Path:
    left = path.parent / "left"
    left.mkdir(parents=True)
    save_file({"w": np.full(3, value, np.float32)}, left / "model.safetensors")
    (left / "config.json").write_text("{}")
    commit_weights(left, path, {})
    return path


def test_weights_get_a_second_name(tmp_path: Path) -> None:
    old, new = weights(tmp_path / "a/w", 1), tmp_path / "b/w"
    (new / "sub").mkdir(parents=True)  # no manifest vouches for what stands there
    digest = adopt_weights(old, new)
    assert digest == read_weights(old).hash == read_weights(new).hash
    assert files(new) == files(old) == {"model.safetensors", "config.json", "manifest.json"}
    assert all((new / name).samefile(old / name) for name in files(old))
    assert adopt_weights(old, new) == digest
    other = weights(tmp_path / "c/w", 2)
    with pytest.raises(DamagedData) as caught:
        adopt_weights(other, new)
    assert str(caught.value) == f"{new}: other weights stand there already. Remove that folder"
    assert read_weights(new).hash == digest
    assert sorted(path.name for path in new.parent.iterdir()) == ["w"]


def test_a_whole_run_needs_no_repair(tmp_path: Path) -> None:
    begun(tmp_path / "run/round-001/s")
    begun(tmp_path / "run/round-001/t", 2, 1, commit=False)
    weights(tmp_path / "checkpoints/run/round-001/policy", 1)
    assert prepare_repair(tmp_path / "run", tmp_path / "checkpoints/run") == []
    assert prepare_repair(tmp_path / "run") == []
    assert prepare_repair(tmp_path / "run", tmp_path / "none") == []


def test_what_is_damaged_is_taken_away_and_told(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run/round-001/s")
    path, before = folder.path, folder.require().hash
    (path / "train-00001-of-00003.parquet").write_bytes(b"x")
    (path / "train-00002-of-00003.json").unlink()
    (path / "train-00009-of-00010.json").write_text("{}")
    (path / "notes.txt").write_text("mine")
    assert prepare_repair(tmp_path / "run") == [
        f"removed chunk 1 of {path}",
        f"removed chunk 2 of {path}",
        f"{path}: 1 files removed that are in no manifest, card written again",
    ]
    gone = {f"{inside}train-0000{chunk}-of-00003.{end}" for chunk in (1, 2) for inside, end in (("", "json"), ("", "parquet"), ("dropped/", "parquet"))}  # fmt: skip
    assert not files(path) & {*gone, "train-00009-of-00010.json"}
    assert "notes.txt" in files(path)
    again = StageFolder(path)
    assert again.damaged_chunks() == {1, 2}
    for chunk in (1, 2):
        with again.writing(chunk) as part:
            part.add(rows_of(chunk))
    assert again.commit({"a": 1}).hash == before
    for wrong in ("another card", None):
        if wrong is None:
            (path / "README.md").unlink()
        else:
            (path / "README.md").write_text(wrong)
        (said,) = prepare_repair(tmp_path / "run")
        assert said == f"{path}: 0 files removed that are in no manifest, card written again"
        assert again.verify() == []


def test_a_damaged_plan_goes_and_a_manifest_without_one_waits(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run/round-001/s")
    path = folder.path
    plan = (path / "plan.json").read_bytes()
    (path / "plan.json").write_bytes(plan[:-5])
    (said,) = prepare_repair(tmp_path / "run")
    assert said.startswith(f"removed {path / 'plan.json'} cannot be read (JSONDecodeError: ")
    assert "manifest.json" in files(path)
    assert not (path / "plan.json").exists()
    assert prepare_repair(tmp_path / "run") == []
    (path / "plan.json").write_bytes(plan)
    (path / "manifest.json").write_bytes(b"")
    (said,) = prepare_repair(tmp_path / "run")
    assert said == (
        f"removed {path / 'manifest.json'} is empty. Run `verify RUN --repair`, or remove the stage's folder."
    )
    assert "train-00000-of-00003.parquet" in files(path)
    assert StageFolder(path).done() == {0, 1, 2}


def test_damaged_weights_go_and_whole_ones_and_temporaries_stay(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", weights(tmp_path / "checkpoints/run/round-001/policy", 1)
    run.mkdir()
    bad = weights(tmp_path / "checkpoints/run/round-002/policy", 2)
    (bad / "config.json").write_text('{"x": 1}')
    unfinished = tmp_path / "checkpoints/run/round-002/.tmp-1-h-0-x"
    unfinished.mkdir()
    (tmp_path / "checkpoints/run/round-002/note").write_text("mine")
    (said,) = prepare_repair(run, tmp_path / "checkpoints/run")
    assert said.startswith(f"removed weights {bad}: {bad / 'config.json'}: SHA-256 ")
    assert not bad.exists()
    assert unfinished.is_dir()
    assert read_weights(kept).hash
    assert prepare_repair(run, tmp_path / "checkpoints/run") == []
