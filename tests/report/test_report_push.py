"""A run's card, and what `push` would upload: up to the list of files and the card; the upload is the library's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from report_world import World

from pipeline.commands.push import files, push
from pipeline.errors import DamagedData, RecipeError, RunInUse
from pipeline.loop import write_metrics
from pipeline.report.card import run_card
from pipeline.run.record import metrics_rows
from pipeline.store.lock import RunLock
from pipeline.store.run_folder import tree_files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One round of a run, with everything beside it that a run leaves."""
    made = World(tmp_path_factory.mktemp("pushed") / "data", rounds=1, num=8).write()
    write_metrics(made.run)
    for name in ("wandb/offline-run-1/run.wandb", "logs/now.json", "scratch/x/optimizer.pt", "LOCK"):
        path = made.run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no business of the Hub")
    return made


def say(world: World, to: str = "me/world", **more: bool) -> list[str]:
    options = {"dry_run": True, "weights": False, "private": False} | more
    return list(push("world", to, **options, workspace=world.workspace))


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_says_what_from_where_and_how_much(world: World):
    card = (world.run.folder / "README.md").read_text()
    assert card == run_card(world.run, metrics_rows(world.run))
    assert head(card)["license"] == "unknown"
    assert "base `seed://countdown`" in card
    assert "process reward model (value head)" in card
    assert "task `countdown`" in card
    assert "| 1 | " in card
    final = next(row for row in metrics_rows(world.run) if row.get("final"))["metrics"]
    assert f"{100 * final['final/accuracy/greedy']:.1f} %" in card
    [default] = [each["config_name"] for each in head(card)["configs"] if each.get("default")]
    assert default == "round-001-traces"
    assert default in card.split("Without a config: ")[1].splitlines()[0]


@pytest.mark.full
def test_load_dataset_opens_the_run_and_each_of_its_folders(world: World, tmp_path: Path):
    """Every row of every kind, by the card of the run, and by the stage's own."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    cache = str(tmp_path / "cache")
    counts = {}
    for line in (world.run.folder / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[3].replace(",", "").isdigit():
            counts[cells[1]] = int(cells[3].replace(",", ""))
    assert len(counts) > 15
    for config, count in counts.items():
        assert load_dataset(str(world.run.folder), config, split="train", cache_dir=cache).num_rows == count
    for stage in world.run.stages_in(1):
        folder = world.run.stage_folder(stage, 1)
        plan, manifest = folder.plan(), folder.manifest()
        if stage.room != "train" and plan and manifest:
            rows = load_dataset(str(folder.path), split="train", cache_dir=cache)
            assert rows.num_rows == manifest.counts.rows[plan.main], stage.name
    kept = load_dataset(str(world.run.folder), split="train", cache_dir=cache)
    assert {"prompt", "completion"} <= set(kept.column_names)


def test_a_dry_run_lists_what_is_promised_and_the_card(world: World):
    said = say(world)
    listed = [line.strip() for line in said if line.startswith("  ")]
    assert set(listed) == set(tree_files(world.run.folder))
    assert {"README.md", "recipe.yaml", "metrics.jsonl", "round-001/gate.json"} <= set(listed)
    assert not [name for name in listed if name.startswith(("wandb", "logs", "scratch", "LOCK"))]
    assert said[-1].endswith((world.run.folder / "README.md").read_text())
    assert said[0].startswith(f"{world.run.folder} -> me/world: {len(listed):,} files, ")


def test_weights_go_below_a_folder_of_their_own(world: World):
    adapter = world.run.workspace.checkpoints / "world" / "round-001" / "policy" / "adapter_model.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"x")
    (adapter.parent.parent / ".tmp-policy").mkdir()
    (adapter.parent.parent / ".tmp-policy" / "half.safetensors").write_bytes(b"x")
    try:
        assert files(world.run.workspace.checkpoints / "world") == [
            "round-001/policy/adapter_model.safetensors"
        ]
        with pytest.raises(DamagedData, match="not pushed"):  # no manifest vouches for them
            say(world, weights=True)
    finally:
        for path in sorted(world.run.workspace.checkpoints.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


@pytest.fixture
def edited(world: World) -> Iterator[Path]:
    """A shard with one byte changed, for the time of a test."""
    path = next((world.run.folder / "round-001" / "search").glob("*.parquet"))
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    yield path
    path.write_bytes(right)


def test_what_a_hash_denies_is_not_pushed(world: World, edited: Path):
    with pytest.raises(DamagedData, match=r"not pushed: .*search"):
        say(world)


def test_a_run_at_work_and_a_bad_name_are_refused(world: World):
    with pytest.raises(RecipeError, match="--to a/b/c"):
        say(world, to="a/b/c")
    (world.run.folder / "LOCK").unlink()
    with RunLock(world.run.folder), pytest.raises(RunInUse, match="stands still"):
        say(world)


def test_without_the_hub_it_says_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RecipeError, match="--to me/world: "):
        say(world, dry_run=False)
