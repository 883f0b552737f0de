"""Committed weights: canonical bytes, finite values, and nothing of a trainer's own files."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from pipeline.errors import DamagedData, Diverged
from pipeline.store.disk import DISK, Disk
from pipeline.store.tensors import not_finite, read_header, rewrite
from pipeline.store.weights import commit_weights, read_weights, weights_hash

ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "base_model_name_or_path": "/somewhere/checkpoints/seed/countdown-1a2b",
    "bias": "none",
}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    lot = np.random.default_rng(seed)
    return {
        f"layer.{i}.lora_{side}": lot.normal(size=(8, 4 + i)).astype(np.float32)
        for i in range(3)
        for side in "AB"
    }


def trained(path: Path, seed: int = 0, order: int = 0, **config: Any) -> Path:
    """What a trainer leaves, in one of many orders."""
    path.mkdir(parents=True)
    lot = random.Random(order)
    items = list(tensors(seed).items())
    lot.shuffle(items)
    metadata = {"format": "pt", **({"noise": str(order)} if order else {})}
    save_file(dict(items), path / "adapter_model.safetensors", metadata=metadata)
    modules = ["q_proj", "v_proj", "o_proj", "up_proj"]
    lot.shuffle(modules)
    keys = list({**ADAPTER, "target_modules": modules, **config}.items())
    lot.shuffle(keys)
    (path / "adapter_config.json").write_text(json.dumps(dict(keys)))
    (path / "training_args.bin").write_bytes(os.urandom(20))
    (path / "README.md").write_text("a model card")
    (path / "trainer_state.json").write_text("{}")
    (path / "optimizer.pt").write_bytes(b"x")
    (path / "prm.json").write_text('{"target": "value"}')
    return path


def test_equal_weights_give_equal_bytes_whatever_the_order(tmp_path):
    hashes = {commit_weights(trained(tmp_path / f"t{i}", order=i), tmp_path / f"w{i}", {}) for i in range(4)}
    assert len(hashes) == 1
    files = {path.name: path.read_bytes() for path in (tmp_path / "w0").iterdir()}
    assert files.keys() == {"adapter_model.safetensors", "adapter_config.json", "prm.json", "manifest.json"}
    for i in range(1, 4):
        assert {path.name: path.read_bytes() for path in (tmp_path / f"w{i}").iterdir()} == files
    config = json.loads(files["adapter_config.json"])
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == "countdown-1a2b"
    assert not (tmp_path / "t0").exists()


def test_other_weights_have_another_hash(tmp_path):
    one = commit_weights(trained(tmp_path / "a", seed=1), tmp_path / "w1", {"round": 1})
    two = commit_weights(trained(tmp_path / "b", seed=2), tmp_path / "w2", {"round": 1})
    three = commit_weights(trained(tmp_path / "c", seed=1, r=4), tmp_path / "w3", {"round": 1})
    assert len({one, two, three}) == 3
    assert weights_hash(tmp_path / "w1") == one == read_weights(tmp_path / "w1").hash
    assert read_weights(tmp_path / "w1").meta == {"round": 1}


def test_a_given_base_name_is_kept(tmp_path):
    commit_weights(trained(tmp_path / "a"), tmp_path / "w", {}, base="Qwen/Qwen2.5-0.5B")
    assert (
        json.loads((tmp_path / "w/adapter_config.json").read_text())["base_model_name_or_path"]
        == "Qwen/Qwen2.5-0.5B"
    )


def test_the_library_reads_the_same_tensors_and_would_write_the_same_bytes(tmp_path):
    commit_weights(trained(tmp_path / "t", order=3), tmp_path / "w", {})
    found = load_file(tmp_path / "w/adapter_model.safetensors")
    wanted = tensors()
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert (tmp_path / "w/adapter_model.safetensors").read_bytes() == save(wanted, metadata={"format": "pt"})


def test_mixed_types_match_the_library_too(tmp_path):
    mixed = {
        "b": np.ones(3, np.uint8),
        "a": np.ones((2, 2), np.float64),
        "c": np.ones(5, np.float16),
        "d": np.zeros((0, 4), np.float32),
    }
    save_file(mixed, tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors", DISK)
    assert (tmp_path / "in.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    assert load_file(tmp_path / "out.safetensors")["a"].tolist() == [[1, 1], [1, 1]]


def test_readable_by_another_user(tmp_path):
    commit_weights(trained(tmp_path / "t"), tmp_path / "w", {})
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "w").iterdir()} == {0o644}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_that_are_not_finite_are_not_committed(tmp_path, bad, dtype):
    """Row 19: no adapter with NaN, and the one that stood stays."""
    stood = commit_weights(trained(tmp_path / "good"), tmp_path / "w", {})
    temp = trained(tmp_path / "t")
    values = np.ones((64, 3), dtype)
    values[-1, -1] = bad
    save_file({"fine": np.ones(4, np.float32), "lora": values}, temp / "adapter_model.safetensors")
    with pytest.raises(Diverged, match="1 of 2 tensors hold NaN or infinity .lora"):
        commit_weights(temp, tmp_path / "w", {}, replace=True)
    assert read_weights(tmp_path / "w").hash == stood
    assert not list(tmp_path.glob(".tmp-*"))


def test_bfloat16_is_looked_at_too(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    values = torch.ones(1000, dtype=torch.bfloat16)
    save_torch({"w": values}, tmp_path / "fine.safetensors")
    values[777] = float("nan")
    save_torch({"w": values}, tmp_path / "bad.safetensors")
    assert not list(not_finite(tmp_path / "fine.safetensors", read_header(tmp_path / "fine.safetensors")[0]))
    assert list(not_finite(tmp_path / "bad.safetensors", read_header(tmp_path / "bad.safetensors")[0])) == [
        "w"
    ]


def test_committing_again(tmp_path):
    """A run killed between the weights and its stage's manifest trains again: equal weights are kept,
    others are not overwritten.
    """
    first = commit_weights(trained(tmp_path / "a"), tmp_path / "w", {})
    assert commit_weights(trained(tmp_path / "b", order=5), tmp_path / "w", {}) == first
    with pytest.raises(DamagedData, match="other weights are committed there"):
        commit_weights(trained(tmp_path / "c", seed=9), tmp_path / "w", {})
    assert weights_hash(tmp_path / "w") == first
    other = commit_weights(trained(tmp_path / "d", seed=9), tmp_path / "w", {}, replace=True)
    assert other == weights_hash(tmp_path / "w") != first


def test_what_no_manifest_vouches_for_is_replaced(tmp_path):
    trained(tmp_path / "w", seed=3)  # left by a process that died before the manifest
    digest = commit_weights(trained(tmp_path / "t"), tmp_path / "w", {})
    assert read_weights(tmp_path / "w").hash == digest
    assert not (tmp_path / "w/training_args.bin").exists()


def test_a_trainer_that_left_nothing(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(DamagedData, match="left no .safetensors"):
        commit_weights(tmp_path / "t", tmp_path / "w", {})


def test_full_models_keep_config_and_tokenizer(tmp_path):
    temp = tmp_path / "t"
    temp.mkdir()
    save_file(tensors(), temp / "model.safetensors", metadata={"format": "pt"})
    (temp / "config.json").write_text(
        '{"model_type": "llama", "_name_or_path": "/home/me/x", "hidden_size": 32}'
    )
    (temp / "generation_config.json").write_text("{}")
    (temp / "tokenizer.json").write_text('{"b": 1, "a": 2}')
    (temp / "tokenizer_config.json").write_text('{"name_or_path": "/home/me/x", "eos_token": "</s>"}')
    (temp / "chat_template.jinja").write_text("{{ x }}")
    commit_weights(temp, tmp_path / "w", {})
    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert names == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "manifest.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "w/config.json").read_text()) == {"hidden_size": 32, "model_type": "llama"}
    assert (tmp_path / "w/tokenizer.json").read_text() == '{"b": 1, "a": 2}'
    assert "/home/me" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "w").iterdir())


def test_files_of_a_folder_that_is_renamed_as_a_whole_are_not_renamed_one_by_one(tmp_path):
    renamed: list[str] = []

    class Told(Disk):
        def rename(self, source: Path, path: Path) -> None:
            renamed.append(path.name)
            super().rename(source, path)

    commit_weights(trained(tmp_path / "t"), tmp_path / "w", {}, disk=Told())
    assert [name for name in renamed if not name.startswith(".tmp-")] == ["w", "manifest.json"]
