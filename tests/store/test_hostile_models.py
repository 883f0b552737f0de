"""Model folders that mean harm: each is refused before a library opens it, in one sentence and with its exit code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import DamagedData, RatchetError, UnsafeFile
from pipeline.store.model_folder import check_model_folder


class Owns:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch owned",))


def header(entries: dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(start: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Owns()))
    return out.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "empty": (lambda: b"", 3, "whole safetensors"),
    "cut in its length": (lambda: b"\x10\x00\x00", 3, "whole safetensors"),
    "cut in its header": (lambda: header({"w": tensor(0, 12)}, bytes(12))[:20], 3, "whole safetensors"),
    "cut in its data": (lambda: header({"w": tensor(0, 12)}, bytes(5)), 3, "whole safetensors"),
    "more data than tensors": (lambda: header({"w": tensor(0, 12)}, bytes(99)), 3, "whole safetensors"),
    "a header of 2^63 bytes": (lambda: header({}, length=2**63), 3, "header would need"),
    "a header larger than the file": (lambda: header({}, length=90_000_000), 3, "header would need"),
    "a header deep as a well": (
        lambda: (200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000, 3, "whole safetensors"),
    "a header of a list": (lambda: header([1, 2]), 3, "whole safetensors"),
    "a header that is no JSON": (lambda: (8).to_bytes(8, "little") + b"\xff" * 8, 3, "whole safetensors"),
    "tensors over each other": (
        lambda: header({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), 3, "begins at byte"),
    "two tensors in one place": (
        lambda: header({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)), 3, "begins at byte"),
    "a hole": (lambda: header({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), 3, "begins at byte"),
    "an end before its start": (lambda: header({"a": tensor(8, 0, [2])}, bytes(8)), 3, "instead of"),
    "a negative start": (lambda: header({"a": tensor(-8, 0, [2])}, bytes(8)), 3, "whole safetensors"),
    "a shape of other size": (lambda: header({"a": tensor(0, 8, [1 << 40])}, bytes(8)), 3, "instead of"),
    "a negative shape": (lambda: header({"a": tensor(0, 8, [-1, -2])}, bytes(8)), 3, "whole safetensors"),
    "a shape of text": (lambda: header({"a": tensor(0, 8, ["2"])}, bytes(8)), 3, "whole safetensors"),
    "a type that is none": (lambda: header({"a": tensor(0, 8, [2], "PICKLE")}, bytes(8)), 3, "whole safetensors"),
    "a pickle by another name": (lambda: pickle.dumps(Owns()), 9, "a pickle by another name"),
    "a torch archive by another name": (zipped, 9, "a pickle by another name"),
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def refused(folder: Path, code: int) -> str:
    with pytest.raises((UnsafeFile, DamagedData)) as caught:
        check_model_folder(folder)
    problem: RatchetError = caught.value
    assert problem.exit_code == code
    said = str(problem)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", FILES)
def test_hostile_weights_are_refused_unopened(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, code, words = FILES[name]
    for file in ("model.safetensors", "adapter_model.safetensors"):
        (model / file).write_bytes(content())
        said = refused(model, code)
        assert words in said
        assert str(model) in said
        save_file({"w": np.ones(3, np.float32)}, model / file)
    check_model_folder(model)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["weights.safetensors.PKL", "model.Pt", "rng_state.pth", "x.joblib"])
def test_pickles_are_known_by_any_spelling(name: str, model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Owns()))
    assert "pickle" in refused(model, 9)


def test_links_lead_nowhere_but_the_models_own_files(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("a secret")
    (model / "tokenizer.model").symlink_to(secret)
    assert "leaves the model's folder" in refused(model, 9)
    (model / "tokenizer.model").unlink()
    for target in ("/dev/zero", "nowhere", str(tmp_path), "tokenizer.model"):
        (model / "tokenizer.model").symlink_to(target)
        assert "is a link" in refused(model, 9)
        (model / "tokenizer.model").unlink()
    os.mkfifo(model / "config.fifo.json")
    assert "no ordinary file" in refused(model, 9)


def test_the_hubs_own_links_are_followed(tmp_path: Path) -> None:
    """`models--a--b/snapshots/SHA/x` -> `../../blobs/y`; a link from there to another model is refused."""
    blobs, shot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True)
    shot.mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, blobs / "aa")
    (blobs / "bb").write_text("{}")
    (shot / "model.safetensors").symlink_to("../../blobs/aa")
    (shot / "config.json").symlink_to("../../blobs/bb")
    check_model_folder(shot)
    other = tmp_path / "models--c--d"
    other.mkdir()
    (other / "vocab.json").write_text("{}")
    (shot / "vocab.json").symlink_to("../../../models--c--d/vocab.json")
    assert "leaves the model's folder" in refused(shot, 9)


@pytest.mark.parametrize(
    "text",
    ['{"weight_map": ["a"]}', "[1]", '{"weight_map": ' + "[" * 100_000, '{"weight_map": {"a": "' + "x" * 300 + '"}}',
     '{"weight_map": {"a": "../../x.safetensors"}}', '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": 7, "b": "c"}}'],
)  # fmt: skip
def test_an_index_that_is_none_is_a_sentence(text: str, model: Path) -> None:
    from pipeline.models.folder import lacking

    (model / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused(model, 9)
    assert lacking(model)  # `check` asks this first


@pytest.mark.parametrize(
    "change",
    [{"_attn_implementation": "a/\x1b[2J"}, {"auto_mapping": {"parent_library": "\x1b]0;owned\x07"}}],
)  # fmt: skip
def test_words_of_a_folder_carry_no_escapes_to_the_terminal(
    change: dict,
    model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.__main__ import main

    (model / "config.json").write_text(json.dumps({"model_type": "llama"} | change))
    (model / "tokenizer.json").write_text("{}")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"task: {{use: countdown}}\nmodels: {{policy: {{base: {model}}}}}\nstages: {{s: {{generate: sample, by: policy}}}}\n"
    )
    monkeypatch.setattr("pipeline.__main__.prepare_environment", lambda: None)
    monkeypatch.setattr("sys.argv", ["ratchet", "check", str(recipe)])
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert "makes a loader import code" in said
    assert said.replace("\n", "").isprintable()
