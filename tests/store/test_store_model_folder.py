"""Pickles and code are refused before anything is opened; and the identity of a
folder from outside.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import DamagedData, UnsafeFile
from pipeline.store import model_folder
from pipeline.store.documents import hash_file
from pipeline.store.model_folder import check_model_folder, hash_folder


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "extra", [[], ["pytorch_model.bin"], ["training_args.bin", "optimizer.pt"], ["LICENSE", "tf_model.h5"]]
)
def test_ordinary_folders_pass(model, extra):
    for name in extra:
        (model / name).write_bytes(b"x")
    check_model_folder(model)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "weights.pkl", "adapter_model.bin", "PYTORCH_MODEL.BIN", "x.ckpt"],
)
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UnsafeFile, match="pickle") as caught:
        check_model_folder(tmp_path)
    assert caught.value.exit_code == 9


def test_a_pickled_adapter_beside_a_whole_model_is_refused(model):
    (model / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeFile, match="adapter_model.bin"):
        check_model_folder(model)


def test_a_pickled_model_beside_a_safe_adapter_is_refused(tmp_path):
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeFile, match="pytorch_model.bin"):
        check_model_folder(tmp_path)


CODE = [
    ("config.json", {"auto_map": {"AutoModel": "modeling.Evil"}}),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.Evil", None]}}),
    ("generation_config.json", {"auto_map": {"x": "y"}}),
    ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil--repo.Model"}}}),
    ("config.json", {"list": [{"auto_map": {"a": "b"}}]}),
    ("config.json", {"custom_pipelines": {"x": {"impl": "evil.Pipe"}}}),
    ("config.json", {"_attn_implementation": "someone/kernel"}),
    ("adapter_config.json", {"auto_mapping": {"parent_library": "os", "base_model_class": "system"}}),
    ("model.safetensors.index.json", {"weight_map": {"w": "evil.bin"}}),
    ("model.safetensors.index.json", {"weight_map": {"w": "../x.safetensors"}}),
]


@pytest.mark.parametrize(("name", "content"), CODE)
def test_configurations_that_name_code_are_refused(model, name, content):
    (model / name).write_text(json.dumps(content))
    with pytest.raises(UnsafeFile) as caught:
        check_model_folder(model)
    assert name in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "not json", "\ud800".encode("utf-8", "surrogatepass")])
def test_configurations_that_cannot_be_read_are_refused(model, text):
    (model / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UnsafeFile, match="cannot be read"):
        check_model_folder(model)


def test_a_name_of_transformers_own_or_of_an_attention_is_no_code(model):
    mine = {"auto_mapping": {"parent_library": "transformers.models.llama", "base_model_class": "LlamaModel"}}
    (model / "adapter_config.json").write_text(json.dumps(mine))
    (model / "config.json").write_text('{"_attn_implementation": "sdpa", "auto_map": {}, "name": "a/b"}')
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model.safetensors"}}')
    check_model_folder(model)


@pytest.mark.parametrize(
    ("start", "error"),
    [(b"\x80\x04", UnsafeFile), (b"\x80\x05", UnsafeFile), (b"\x80\x06", DamagedData), (b"PK\x03\x04", UnsafeFile),
     (b"PK\x03\x05", DamagedData), (b"\x81\x04", DamagedData)],
)  # fmt: skip
def test_a_pickle_by_another_name_is_told_from_a_damaged_file(model, start, error):
    (model / "model.safetensors").write_bytes(start + b"x" * 40)
    with pytest.raises(error):
        check_model_folder(model)


def test_code_files_are_refused(model):
    (model / "modeling_x.py").write_text("print('hi')")
    with pytest.raises(UnsafeFile, match="carries code"):
        check_model_folder(model)


def test_not_a_folder(tmp_path):
    with pytest.raises(DamagedData):
        check_model_folder(tmp_path / "none")


def test_the_hash_of_a_folder(model, tmp_path):
    first, cache = hash_folder(model), tmp_path / "hashes.json"
    (model / "README.md").write_text("a card")
    (model / "training_args.bin").write_bytes(b"x")
    assert hash_folder(model, cache) == first
    content = cache.read_bytes()
    assert hash_folder(model, cache) == first
    assert cache.read_bytes() == content
    (model / "config.json").write_text('{"model_type": "qwen2"}')
    os.utime(model / "config.json", (time.time() + 5, time.time() + 5))
    assert hash_folder(model, cache) != first
    with pytest.raises(DamagedData, match=r"no \.safetensors"):
        hash_folder(tmp_path)


def test_a_damaged_hash_cache_is_only_slow(model, tmp_path):
    cache = tmp_path / "hashes.json"
    for content in (b"", b"[]", b'{"x": 3}', b"\xff"):
        cache.write_bytes(content)
        assert hash_folder(model, cache) == hash_folder(model)


def test_what_the_cache_says_of_an_unchanged_file_is_taken(model, tmp_path, monkeypatch):
    cache, asked = tmp_path / "hashes.json", []

    def counted(path):
        asked.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(model_folder, "hash_file", counted)
    monkeypatch.setattr(model_folder, "_remembered", {})
    first = hash_folder(model, cache)
    assert sorted(asked) == ["config.json", "model.safetensors", "tokenizer_config.json"]
    monkeypatch.setattr(model_folder, "_remembered", {})  # as another process begins
    assert hash_folder(model, cache) == first
    (model / "config.json").write_text('{"model_type": "qwen2", "x": 1}')
    assert hash_folder(model, cache) != first
    assert asked[3:] == ["config.json"]


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "added_tokens.json"])
def test_a_tokenizers_data_is_no_configuration(model, name):
    (model / name).write_text('{"auto_map": {"a token": "of that name"}}')
    check_model_folder(model)


def test_a_configuration_of_the_largest_size_is_still_read(model, monkeypatch):
    monkeypatch.setattr(model_folder, "_MAX_CONFIG", 30)
    (model / "config.json").write_text('{"model_type": "llama"}'.ljust(30))
    check_model_folder(model)
    (model / "config.json").write_text('{"model_type": "llama"}'.ljust(31))
    with pytest.raises(UnsafeFile, match="no configuration is that large"):
        check_model_folder(model)
