"""What a real model asks of a machine: memory as measured, chunks of a minute, a short look by `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.commands.doctor import LEAST, asked_of
from pipeline.models.registry import Weights
from pipeline.recipe import memory
from pipeline.recipe.read import load
from pipeline.rows import Problem
from pipeline.stages.pieces import DEFAULT_CHUNK, chunk_size
from pipeline.store.plan import ChunkPlan, Plan

ROOT = Path(__file__).parents[2]
SMOLLM2 = {
    "dtype": "float32", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "head_dim": 64,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the shape and the size of SmolLM2-135M, and no byte on the disk."""
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(538_090_408)
    return tmp_path


def plan_of(size: int) -> Plan:
    chunks = [ChunkPlan([str(i) for i in range(first, first + size)]) for first in (0, size)]
    return Plan.make(
        run="x", round=1, stage="sample", room="generate", method="sample", main="Trace", settings={}, inputs={},
        models={}, seed=0, chunks=chunks,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "measured"), [("star_words", 5.2), ("rest_mcts_countdown", 1.18)]
)  # GB at the peak of seeds 0 and 1 (docs/benchmarks.md)
def test_memory_is_said_within_a_quarter(
    monkeypatch: pytest.MonkeyPatch, folder: Path, recipe: str, measured: float
) -> None:
    monkeypatch.setattr(memory, "processor_flags", lambda: {"avx512_bf16"})  # as where it was measured
    said, unknown = memory.needed(load(ROOT / "recipes" / f"{recipe}.yaml"), lambda base: folder)
    assert not unknown
    if recipe == "rest_mcts_countdown":
        said, _ = memory.needed(load(ROOT / "recipes" / f"{recipe}.yaml"), lambda base: None)
    assert 0.75 * measured <= said / 1e9 <= 1.25 * measured


def test_a_model_of_which_only_the_name_is_known_is_guessed_or_named() -> None:
    recipe = load(ROOT / "recipes" / "star_words.yaml", ["models.policy.base=Some/Model-1.5B"])
    known, unknown = memory.needed(recipe, lambda base: None)
    assert known > 5e9
    assert unknown == []
    recipe = load(ROOT / "recipes" / "star_words.yaml", ["models.policy.base=Some/Model"])
    assert memory.told(recipe, lambda base: None).endswith("and what Some/Model takes")


def test_a_chunk_of_a_large_model_takes_about_a_minute(folder: Path) -> None:
    recipe = load(ROOT / "recipes" / "star_gsm8k.yaml")
    stage = recipe.stage("sample")
    large = [Weights("policy", folder, None, "h")]
    size = chunk_size(recipe, stage, large, None)
    assert 8 <= size < DEFAULT_CHUNK
    assert chunk_size(recipe, stage, large, plan_of(64)) == 64  # a planned stage keeps its slices
    assert chunk_size(recipe, stage, [], None) == DEFAULT_CHUNK  # small, or a server's
    said = load(ROOT / "recipes" / "star_words.yaml")
    assert chunk_size(said, said.stage("sample"), large, None) == 100  # as the recipe says


def test_doctor_asks_less_of_a_large_model(folder: Path, tmp_path: Path) -> None:
    recipe = load(ROOT / "recipes" / "star_gsm8k.yaml")
    problems = [Problem(id=str(i), question="?", answer="1", split="train", source="x") for i in range(32)]
    drawn = {"temperature": 1.0, "max_tokens": 200}
    few, samples = asked_of(recipe, problems, drawn, folder)
    if Path("/dev/nvidiactl").exists():
        assert (len(few), samples) == (32, 8)
    else:
        assert (len(few), samples) == (10, 4)
    assert len(few) >= LEAST
    (tmp_path / "small").mkdir()
    assert asked_of(recipe, problems, drawn, tmp_path / "small") == (problems, 8)
    short = asked_of(recipe, problems, {"temperature": 1.0, "max_tokens": 32}, folder)
    assert short == (problems, 8)
