"""Committed weights that were truncated, flipped, lost, or made not finite are never
loaded.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import DamagedData
from pipeline.store.documents import hash_file, seal, unseal
from pipeline.store.tensors import read_header
from pipeline.store.weights import _identity, commit_weights, read_weights


@pytest.fixture
def weights(tmp_path):
    temp = tmp_path / "temp"
    temp.mkdir()
    save_file({f"t{i}": np.ones((16, 16), np.float32) for i in range(4)}, temp / "adapter_model.safetensors")
    (temp / "adapter_config.json").write_text('{"r": 8}')
    commit_weights(temp, tmp_path / "policy", {})
    return tmp_path / "policy"


def test_truncated_anywhere(weights):
    path = weights / "adapter_model.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    sizes = {
        0,
        1,
        7,
        8,
        header - 1,
        header,
        header + 1,
        len(good) // 2,
        len(good) - 1,
        *range(0, len(good), 97),
    }
    for size in sorted(sizes):
        path.write_bytes(good[:size])
        with pytest.raises(DamagedData, match="adapter_model"):
            read_weights(weights)
        with pytest.raises(DamagedData, match="adapter_model"):  # also where no hash is known
            read_header(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(DamagedData, match="adapter_model"):
        read_header(path)


def test_any_flipped_bit(weights):
    lot, detected = random.Random(8), 0
    files = sorted(weights.iterdir())
    for _ in range(500):
        path = lot.choice(files)
        good = path.read_bytes()
        at = lot.randrange(len(good))
        bad = good[:at] + bytes([good[at] ^ 1 << lot.randrange(8)]) + good[at + 1 :]
        path.write_bytes(bad)
        try:
            read_weights(weights)
        except DamagedData:
            detected += 1
        else:  # a flip in white space of the manifest changes nothing that it says
            assert path.name == "manifest.json"
            assert json.loads(bad) == json.loads(good)
            detected += 1
        path.write_bytes(good)
    assert detected == 500
    assert read_weights(weights).files


def test_missing_and_extra_files(weights):
    (weights / "adapter_config.json").rename(weights.parent / "kept.json")
    with pytest.raises(DamagedData, match="adapter_config.json is missing"):
        read_weights(weights)
    (weights.parent / "kept.json").rename(weights / "adapter_config.json")
    (weights / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedData, match="in no manifest"):
        read_weights(weights)
    (weights / "model.safetensors").unlink()
    (weights / "manifest.json").unlink()
    with pytest.raises(DamagedData, match="has no manifest"):
        read_weights(weights)


def test_nan_under_a_manifest_that_agrees(weights):
    """Even where someone recomputed every hash."""
    path = weights / "adapter_model.safetensors"
    save_file({"t": np.array([1.0, np.nan], np.float32)}, path)
    document = unseal(weights / "manifest.json")
    for entry in document["files"]:
        entry["sha256"] = hash_file(weights / entry["file"])
    document["hash"] = _identity(document["files"])
    (weights / "manifest.json").write_bytes(seal(document))
    with pytest.raises(DamagedData, match="NaN or infinity"):
        read_weights(weights)


@pytest.mark.parametrize("text", ["", "{}", "[]", "hello"])
def test_a_manifest_that_says_nothing(weights, text):
    (weights / "manifest.json").write_text(text)
    with pytest.raises(DamagedData, match="manifest.json"):
        read_weights(weights)


HEADERS = [
    {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
    {"t": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    {"t": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]}},
    {"t": {"dtype": "NONE", "shape": [2], "data_offsets": [0, 8]}},
    {"t": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
    {"t": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}},
    {
        "t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "u": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    },
    [],
]


@pytest.mark.parametrize("header", HEADERS)
def test_hostile_headers(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(DamagedData, match="not a whole safetensors file"):
        read_header(tmp_path / "x.safetensors")
