"""Weights to the byte: headers at their bounds, what is not finite in each type, and what a commit keeps."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import DamagedData, Diverged, StorageError
from pipeline.store import tensors as tensors_module
from pipeline.store.disk import DISK, Disk
from pipeline.store.documents import canonical, hash_file, seal, sha256, unseal
from pipeline.store.tensors import BITS, Tensor, _finite, not_finite, read_header, rewrite
from pipeline.store.weights import (
    _canonical_json,
    _kept,
    commit_weights,
    optimizer_beside,
    read_weights,
    weights_hash,
)


def laid(path: Path, header: dict[str, Any], data: bytes = b"", pad: int = 0) -> Path:
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def refusal(path: Path) -> str:
    with pytest.raises(DamagedData) as caught:
        read_header(path)
    said = str(caught.value)
    assert said.startswith(f"{path} is not a whole safetensors file: ")
    assert said.endswith(". It was not loaded.")
    return said.removeprefix(f"{path} is not a whole safetensors file: ").removesuffix(". It was not loaded.")


def test_a_header_in_the_order_of_the_file(tmp_path: Path) -> None:
    header = {"b": entry(3, 5), "__metadata__": {"format": "pt"}, "z": entry(0, 3), "none": entry(3, 3)}
    path = laid(tmp_path / "x", header, bytes(5), pad=2)
    base = path.stat().st_size - 5
    assert read_header(path) == (
        [
            Tensor("z", "U8", [3], base, base + 3),
            Tensor("none", "U8", [0], base + 3, base + 3),
            Tensor("b", "U8", [2], base + 3, base + 5),
        ],
        {"format": "pt"},
    )
    assert read_header(laid(tmp_path / "empty", {})) == ([], {})
    assert read_header(laid(tmp_path / "half", {"x": entry(0, 2, "F4", [3])}, bytes(2)))[0][0].shape == [3]
    assert read_header(laid(tmp_path / "one", {"x": entry(0, 4, "F32", [])}, bytes(4)))[0][0].shape == []
    with pytest.raises(DamagedData) as caught:
        read_header(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'} is missing."


def test_headers_at_their_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes((0).to_bytes(8, "little") + b"{}")
    assert refusal(path) == "its header would need 8 bytes, the file has 10"
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    assert refusal(path) == "its header would need 11 bytes, the file has 10"
    path.write_bytes(b"\x02\x00")
    assert refusal(path) == "its header would need 10 bytes, the file has 2"
    monkeypatch.setattr(tensors_module, "MAX_HEADER", 2)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert read_header(path) == ([], {})
    path.write_bytes((3).to_bytes(8, "little") + b"{} ")
    assert refusal(path) == "its header would need 11 bytes, the file has 11"


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ({"a": entry(0, 2), "b": entry(1, 3)}, 3, "tensor b begins at byte {1} instead of {2}"),
        ({"a": entry(1, 3)}, 3, "tensor a begins at byte {1} instead of {0}"),
        ({"a": entry(0, 2)}, 3, "{3} bytes instead of {2}"),
        ({"a": entry(0, 2)}, 1, "{1} bytes instead of {2}"),
        ({"a": entry(0, 2, "U8", [3])}, 2, "tensor a has 2 bytes instead of 3"),
        ({"a": entry(0, 2, "F4", [5])}, 2, "tensor a has 2 bytes instead of 3"),
        ({"a": entry(0, 2, "F16", [2])}, 2, "tensor a has 2 bytes instead of 4"),
        ({"a": entry(0, 2, "U8", [2.0])}, 2, "tensor a has a shape or place that is no count"),
        ({"a": entry(0, 2, "U8", [True, 2])}, 2, "tensor a has a shape or place that is no count"),
        ({"a": entry(0, 2, "U8", [-1, -2])}, 2, "tensor a has a shape or place that is no count"),
        ({"a" * 70: entry(-2, 0)}, 2, f"tensor {'a' * 57}... has a shape or place that is no count"),
        ({"a": {"dtype": "U8", "shape": [2]}}, 2, "'data_offsets'"),
        ({"a": entry(0, 2, "U9")}, 2, "'U9'"),
    ],
)  # fmt: skip
def test_what_a_header_gets_wrong_is_told(
    tmp_path: Path, header: dict[str, Any], size: int, said: str
) -> None:
    path = laid(tmp_path / "x", header, bytes(size))
    base = path.stat().st_size - size
    for number in range(4):
        said = said.replace(f"{{{number}}}", str(base + number))
    assert refusal(path) == said


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("F16", ["0000", "ff7b", "ff03"], ["007c", "00fc", "017c"]),
        ("F32", ["00000000", "ffff7f7f"], ["0000807f", "000080ff", "0100c07f"]),
        ("F64", ["0000000000000000", "ffffffffffffef7f"], ["000000000000f07f", "000000000000f87f"]),
        ("C64", ["0000000000000000"], ["0000807f00000000", "000000000000807f"]),
        ("BF16", ["0000", "7f7f", "7fff", "8000"], ["807f", "80ff", "c17f"]),
        ("F8_E4M3", ["00", "7e", "fe", "78"], ["7f", "ff"]),
        ("F8_E5M2", ["00", "7b", "fb"], ["7c", "fc", "7d", "ff"]),
        ("I8", ["ff", "7f"], []),
        ("F4", ["ff"], []),
        ("F8_E8M0", ["ff"], []),
    ],
)
def test_what_is_not_finite_in_each_type_by_its_bits(dtype: str, good: list[str], bad: list[str]) -> None:
    """Golden, little endian: the largest number of a type is finite, the next pattern is not."""
    whole = bytes.fromhex("".join(good))
    assert _finite(whole, dtype)
    assert all(not _finite(whole + bytes.fromhex(one), dtype) for one in bad)
    assert all(not _finite(bytes.fromhex(one) + whole, dtype) for one in bad)


def test_only_the_tensors_with_such_values_are_named_whatever_the_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    values = np.ones(64, np.float32)
    later = values.copy()
    later[60] = np.inf
    save_file(
        {"a": later, "b": values, "c": np.full(8, 255, np.uint8), "d": np.full(3, np.nan, np.float64)},
        tmp_path / "x",
    )
    found, _ = read_header(tmp_path / "x")
    for piece in (8, 16, 1 << 22):
        monkeypatch.setattr(tensors_module, "PIECE", piece)
        assert sorted(not_finite(tmp_path / "x", found)) == ["a", "d"]
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 12)
    with pytest.raises(DamagedData) as caught:
        list(not_finite(tmp_path / "x", found))
    assert str(caught.value) == f"{tmp_path / 'x'} became shorter while it was read."


def test_the_canonical_file_to_the_byte(tmp_path: Path) -> None:
    header = {"n": entry(0, 2), "h": entry(2, 6, "F16", [2]), "w": entry(6, 14, "F32", [2]), "a": entry(14, 18, "F32", [1])}  # fmt: skip
    data = bytes(range(1, 19))
    for metadata, kept in (({}, ""), ({"format": "np", "x": "y"}, '"__metadata__":{"format":"np"},'), ({"x": "y"}, '"__metadata__":{"format":"pt"},')):  # fmt: skip
        source = laid(tmp_path / "in", {**header, **({"__metadata__": metadata} if metadata else {})}, data)
        digest = rewrite(source, tmp_path / "out", DISK)
        text = (
            f'{{{kept}"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},'
            '"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
            '"h":{"dtype":"F16","shape":[2],"data_offsets":[12,16]},'
            '"n":{"dtype":"U8","shape":[2],"data_offsets":[16,18]}}'
        ).encode()
        text += b" " * (-len(text) % 8)
        moved = data[14:18] + data[6:14] + data[2:6] + data[0:2]
        assert (tmp_path / "out").read_bytes() == len(text).to_bytes(8, "little") + text + moved
        assert digest == hash_file(tmp_path / "out")
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644
        assert sorted(os.listdir(tmp_path)) == ["in", "out"]
        (tmp_path / "out").unlink()
    laid(tmp_path / "é", {"é": entry(0, 1)}, b"x")
    rewrite(tmp_path / "é", tmp_path / "out", DISK)
    assert '"é"'.encode() in (tmp_path / "out").read_bytes()
    assert list(BITS)[0] == "BOOL"


def test_how_many_tensors_are_not_finite_is_told(tmp_path: Path) -> None:
    save_file(
        {name: np.full(2, np.nan if name != "e" else 1, np.float32) for name in "abcde"}, tmp_path / "x"
    )
    with pytest.raises(Diverged) as caught:
        rewrite(tmp_path / "x", tmp_path / "out", DISK)
    assert str(caught.value) == (
        "x: 4 of 5 tensors hold NaN or infinity (a, b, c): not committed. Lower the learning rate, or look at the "
        "rows of the last steps."
    )
    assert os.listdir(tmp_path) == ["x"]


# -- folders of weights -----------------------------------------------------------------------------------


def test_which_files_are_weights() -> None:
    kept = [
        "model.safetensors", "x.safetensors", "config.json", "prm.json", "chat_template.jinja", "merges.txt",
        "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "LICENSE", "my_trainer_state.json",
    ]  # fmt: skip
    left = [
        "trainer_state.json", "all_results.json", "train_results.json", "manifest.json", "README.md", "x.bin", "x.pt",
        "notes.txt", "x.model", "license",
    ]  # fmt: skip
    assert [name for name in [*kept, *left] if _kept(Path("w") / name)] == kept


@pytest.mark.parametrize(
    ("given", "base", "told"),
    [
        ("/a/b/seed-1", None, "seed-1"), ("Qwen/Qwen2.5", None, "Qwen/Qwen2.5"), ("/a/b", "hub/x", "hub/x"),
        (None, None, ""), ("", None, ""), ("a", "", "a"),
    ],
)  # fmt: skip
def test_an_adapters_configuration_to_the_byte(
    tmp_path: Path, given: Any, base: str | None, told: str
) -> None:
    sets = ["target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_to_transform", "layers_pattern"]  # fmt: skip
    content = {"z": [2, 1], **{name: ["b", "a"] for name in sets}, "base_model_name_or_path": given, "_name_or_path": "/x"}  # fmt: skip
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(content))
    wanted = {"z": [2, 1], **{name: ["a", "b"] for name in sets}, "base_model_name_or_path": told}
    assert _canonical_json(path, base) == (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode()
    path.write_text('{"target_modules": "all-linear", "exclude_modules": null}')
    found = json.loads(_canonical_json(path, "b"))
    assert found == {"target_modules": "all-linear", "exclude_modules": None, "base_model_name_or_path": "b"}
    (tmp_path / "config.json").write_text('{"b": ["y", "x"], "target_modules": ["b", "a"], "a": "é", "_name_or_path": "/x"}', "utf-8")  # fmt: skip
    assert _canonical_json(tmp_path / "config.json", "b") == (
        '{\n  "a": "é",\n  "b": [\n    "y",\n    "x"\n  ],\n  "target_modules": [\n    "b",\n    "a"\n  ]\n}\n'.encode()
    )


def left(path: Path, value: float = 1, **texts: str) -> Path:
    path.mkdir(parents=True)
    save_file({"w": np.full(3, value, np.float32)}, path / "model.safetensors")
    for name, text in {"config.json": "{}", **texts}.items():
        (path / name).write_text(text, "utf-8")
    return path


def test_the_manifest_of_weights_to_the_byte(tmp_path: Path) -> None:
    temp = left(tmp_path / "t", **{"tokenizer_config.json": '{"z": "é", "name_or_path": "/x", "a": 1}', "merges.txt": "b a"})  # fmt: skip
    digest = commit_weights(temp, tmp_path / "deep/down/w", {"round": 3, "loss": float("nan")})
    weights = tmp_path / "deep/down/w"
    names = ["config.json", "merges.txt", "model.safetensors", "tokenizer_config.json"]
    files = [{"file": name, "bytes": (weights / name).stat().st_size, "sha256": hash_file(weights / name)} for name in names]  # fmt: skip
    identity = sha256(canonical({one["file"]: one["sha256"] for one in files}))
    document = {"files": files, "hash": identity, "meta": {"round": 3, "loss": None}}
    assert (weights / "manifest.json").read_bytes() == seal(document)
    assert digest == identity == weights_hash(weights)
    assert (weights / "merges.txt").read_text() == "b a"
    assert (weights / "config.json").read_text() == "{}\n"
    assert (weights / "tokenizer_config.json").read_text() == '{\n  "z": "\\u00e9",\n  "a": 1\n}\n'
    found = read_weights(weights)
    assert (found.path, found.files, found.meta) == (weights, files, {"round": 3, "loss": None})
    assert optimizer_beside(weights) == tmp_path / "deep/down/w.optimizer"
    assert not temp.exists()
    assert os.listdir(weights.parent) == ["w"]


def refused(path: Path) -> str:
    with pytest.raises(DamagedData) as caught:
        read_weights(path)
    return str(caught.value)


def test_weights_that_cannot_be_believed_are_told(tmp_path: Path) -> None:
    cure = "Remove the folder and start the run again: the stage that made them makes them again."
    weights = tmp_path / "w"
    digest = commit_weights(left(tmp_path / "t"), weights, {})
    never = f"{tmp_path / 'none'} has no manifest: these weights were never finished. Start the run again to make them."  # fmt: skip
    assert refused(tmp_path / "none") == never
    assert refused(weights / "config.json").startswith(f"{weights / 'config.json'} has no manifest: ")
    config, good = weights / "config.json", (weights / "config.json").read_bytes()
    config.write_bytes(good + b" ")
    assert refused(weights) == (
        f"{config}: SHA-256 {hash_file(config)} (4 bytes) is not {sha256(good)} (3 bytes). {cure}"
    )
    assert weights_hash(weights) == digest  # it reads the manifest alone
    config.unlink()
    assert refused(weights) == f"{config} is missing. {cure}"
    config.mkdir()
    assert refused(weights) == f"{config} is missing. {cure}"
    config.rmdir()
    config.write_bytes(good)
    for name in ("notes.txt", "LICENSE"):
        (weights / name).write_text("mine")
    assert read_weights(weights).hash == digest
    for name in ("x.py", "a.bin", "b.json", "c.safetensors"):
        (weights / name).write_text("x")
    risky = f"{weights}: a.bin, b.json, c.safetensors, x.py: in no manifest, and a loader might read it. Remove it."
    assert refused(weights) == risky
    document = unseal(weights / "manifest.json")
    (weights / "manifest.json").write_bytes(seal({**document, "hash": "0"}))
    assert refused(weights) == f"{weights / 'manifest.json'}: its hash is not that of its files."
    for key in ("hash", "files", "meta"):
        lacking = {name: value for name, value in document.items() if name != key}
        (weights / "manifest.json").write_bytes(seal(lacking))
        assert refused(weights) == f"{weights / 'manifest.json'} is not a manifest of weights: no '{key}'."


def test_committed_values_that_are_not_finite_are_told_on_reading(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    weights.mkdir()
    save_file({name: np.full(2, np.nan, np.float32) for name in "abcd"}, weights / "model.safetensors")
    files = [{"file": "model.safetensors", "bytes": 1, "sha256": hash_file(weights / "model.safetensors")}]
    identity = sha256(canonical({one["file"]: one["sha256"] for one in files}))
    (weights / "manifest.json").write_bytes(seal({"files": files, "hash": identity, "meta": {}}))
    assert refused(weights) == (
        f"{weights / 'model.safetensors'}: tensors hold NaN or infinity: a, b, c. Remove the folder and start the run "
        "again: the stage that made them makes them again."
    )


def test_other_weights_stay_unless_they_were_given_up(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    first = commit_weights(left(tmp_path / "a"), weights, {})
    temp = left(tmp_path / "b", 2)
    with pytest.raises(DamagedData) as caught:
        commit_weights(temp, weights, {})
    said = str(caught.value)
    assert said.startswith(f"{weights}: other weights are committed there ({first[:12]}, new ")
    assert said.endswith("). Remove that folder if they are not wanted, or use another run name.")
    assert temp.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["b", "w"]
    second = commit_weights(temp, weights, {"x": 1}, replace=True)
    assert second[:12] in said
    assert read_weights(weights).hash == second != first
    (weights / "config.json").write_text("damaged")
    assert commit_weights(left(tmp_path / "c"), weights, {}) == first == read_weights(weights).hash
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/b.bin").write_text("x")
    (tmp_path / "empty/a.json").write_text("{}")
    with pytest.raises(DamagedData) as nothing:
        commit_weights(tmp_path / "empty", tmp_path / "v", {})
    assert (
        str(nothing.value)
        == f"{tmp_path / 'empty'}: the trainer left no .safetensors file: ['a.json', 'b.bin']."
    )


def test_a_manifest_that_finds_no_room_leaves_no_weights(tmp_path: Path) -> None:
    class Full(Disk):
        def point(self, step: str, path: Path) -> None:
            if step == "write" and path.name.endswith("manifest.json"):
                raise OSError(28, "No space left on device")

    temp = left(tmp_path / "t")
    with pytest.raises(StorageError):
        commit_weights(temp, tmp_path / "w", {}, disk=Full())
    assert sorted(os.listdir(tmp_path)) == ["t"]
    synced: list[Path] = []

    class Synced(Disk):
        def sync_folder(self, folder: Path) -> None:
            synced.append(folder)
            super().sync_folder(folder)

    commit_weights(temp, tmp_path / "a/b/w", {}, disk=Synced())
    # the names of the folders above, which a trainer made; the last one is of the trainer's folder that went
    assert synced[-3:] == [tmp_path / "a", tmp_path, tmp_path]
