"""A run's folder as a whole: names, what counts, what its inputs were, and what a model folder may hold."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_store_parts import make_plan

from pipeline.errors import DamagedData, NothingKept, RecipeError, UnsafeFile
from pipeline.rows import Label
from pipeline.store import model_folder
from pipeline.store.documents import canonical, hash_file, sha256
from pipeline.store.folder import StageFolder
from pipeline.store.model_folder import _has_twin, _names_code, check_model_folder, hash_folder
from pipeline.store.outcome import SIGNALS, exit_code_of, read_outcome, write_outcome
from pipeline.store.run_folder import (
    gc,
    run_name_ok,
    size_of,
    stage_folders,
    tree_files,
    tree_hash,
    verify_run,
)
from pipeline.store.workspace import HERE, Workspace


def refusal(name: str, *parents: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        run_name_ok(name, *parents)
    return str(caught.value)


def test_names_that_are_refused_are_told_why(tmp_path: Path) -> None:
    rule = "a run name is 1 to 100 letters, digits, '.', '_' or '-', begins with a letter or digit and names a folder inside data/ (no '/', no '..')."  # fmt: skip
    assert refusal("a/b") == f"name: 'a/b': {rule}"
    assert refusal(3) == f"name: 3: {rule}"  # type: ignore[arg-type]
    for name in ("a..b", "x" * 101, ""):
        assert refusal(name) == f"name: {name!r}: {rule}"
    assert refusal("Tasks") == "name: Tasks: this name is taken by the folder data/tasks. Choose another."
    (tmp_path / "two").mkdir()
    (tmp_path / "two/run").symlink_to(tmp_path)
    assert refusal("run", tmp_path, tmp_path / "two") == (
        f"name: {tmp_path / 'two/run'} is a symbolic link, and a run is written only inside its own folder. Make "
        f"{tmp_path / 'two'} itself the link, or choose another name."
    )
    assert run_name_ok("run", tmp_path) == run_name_ok("run") == "run"
    assert run_name_ok("0", tmp_path / "two") == "0"


def test_where_a_runs_things_lie() -> None:
    assert (HERE.rows_of("r"), HERE.weights_of("r")) == (Path("data/r"), Path("checkpoints/r"))
    there = Workspace(Path("/a"), Path("/b"))
    assert (there.rows_of("r"), there.weights_of("r")) == (Path("/a/r"), Path("/b/r"))


def filled(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def test_the_hash_of_a_tree_by_hand(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", {"b/x": "1", "a": "22", "b/logs/y": "3", "logs/z": "4", ".tmp-1-h-0-q": "5", "b/.tmp-1": "6"})  # fmt: skip
    (run / "b/link").symlink_to("../a")
    (run / "b/folder").symlink_to("../logs")
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("1", "1"), ("22", "22"), ("3", "3"))}  # fmt: skip
    wanted = {
        "a": digests["22"],
        "b/folder": "link to ../logs",
        "b/link": "link to ../a",
        "b/logs/y": digests["3"],
        "b/x": digests["1"],
    }
    assert tree_files(run) == wanted
    assert list(tree_files(run)) == sorted(wanted)
    text = "".join(f"{len(path)}:{path}:{content}\n" for path, content in wanted.items())
    assert tree_hash(run) == hashlib.sha256(f"{text}--\n".encode()).hexdigest()
    assert tree_hash(run, tmp_path / "none") == hashlib.sha256(f"{text}--\n--\n".encode()).hexdigest()
    outside = ("timing.jsonl", "report.html", "LOCK", "LOCK-ranks", "outcome.json", "scratch/x", "wandb/x", "tensorboard/x")  # fmt: skip
    filled(run, dict.fromkeys(outside, "x"))
    assert tree_files(run) == wanted
    filled(run, {f"b/{name}": "x" for name in outside})
    assert len(tree_files(run)) == len(wanted) + len(outside)


def test_the_size_of_a_folder_is_that_of_its_own_files(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", {"a": "1", "b/c": "22", "b/d/e": "333"})
    (tmp_path / "big").write_text("x" * 1000)
    (run / "link").symlink_to(tmp_path / "big")
    (run / "folder").symlink_to(tmp_path)
    links = sum((run / name).lstat().st_size for name in ("link", "folder"))
    assert size_of(run) == 6 + links
    assert size_of(str(run / "b")) == 5
    assert size_of(run / "none") == size_of(run / "a") == 0


def test_garbage_is_counted_and_nothing_else_goes(tmp_path: Path) -> None:
    run = filled(
        tmp_path / "run", {"scratch/a/x": "1234", "s/.tmp-odd": "12", "s/kept": "x", "s/scratch/kept": "y"}
    )
    other = filled(tmp_path / "other", {".tmp-1-h-0-x/y": "123", "scratch/kept": "x"})
    assert gc(run, other) == 9
    assert sorted(tree_files(tmp_path)) == ["other/scratch/kept", "run/s/kept", "run/s/scratch/kept"]
    assert gc(run, other, tmp_path / "none") == 0


def stage(path: Path, inputs: dict[str, str], rows: int = 1) -> StageFolder:
    folder = StageFolder(path)
    folder.begin(make_plan("Label", inputs=inputs))
    with folder.writing(0) as part:
        part.add([Label(problem_id="p", trace_id=str(i)) for i in range(rows)])
    folder.commit()
    return folder


def test_stages_are_found_at_two_depths_in_order(tmp_path: Path) -> None:
    filled(tmp_path, {"r2/b/plan.json": "", "r1/a/manifest.json": "", "seed/plan.json": "", "r1/x/other.json": "", "r1/a/deep/plan.json": ""})  # fmt: skip
    assert [one.path.relative_to(tmp_path).as_posix() for one in stage_folders(tmp_path)] == [
        "r1/a",
        "r2/b",
        "seed",
    ]


def test_inputs_that_are_others_now_are_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one, gone = stage(run / "r1/one", {}), stage(tmp_path / "else/r1/gone", {})
    inputs = {
        "run/r1/one": one.require().hash[:16],
        "data.jsonl": "abc",
        "none/r1/x": "def",
        "else/r1/gone": "0123",
    }
    two = stage(run / "r1/two", inputs)
    found = gone.require().hash
    told = f"{two.path}: its input else/r1/gone is another one now: manifest {found}, it read 0123"
    assert verify_run(run) == [told]
    (gone.path / "manifest.json").unlink()
    assert verify_run(run) == [told.replace(found, "none")]
    (gone.path / "manifest.json").write_text("damaged")
    assert verify_run(run) == []  # its own verification tells
    (one.path / "manifest.json").unlink()
    assert len(verify_run(run)) == 1
    (two.path / "manifest.json").unlink()
    assert verify_run(run) == []  # what is not committed reads again


def test_weights_of_a_run_are_verified_with_it(tmp_path: Path) -> None:
    run, weights = tmp_path / "run", tmp_path / "w"
    stage(run / "r1/one", {})
    filled(weights, {"r1/policy/model.safetensors": "", "r1/.tmp-1-h-0-x/y": "", "r1/file": ""})
    (said,) = verify_run(run, weights)
    assert said.startswith(f"{weights / 'r1/policy'} has no manifest: ")
    assert verify_run(run, tmp_path / "none") == verify_run(run) == []
    assert verify_run(run / "r1/one/plan.json") == [f"{run / 'r1/one/plan.json'} is not a run"]


def test_outcomes_in_words(tmp_path: Path) -> None:
    cases = [
        (NothingKept("0 of 3 kept"), 5, "0 of 3 kept"),
        (KeyboardInterrupt(), 130, SIGNALS[130]),
        (SystemExit(143), 143, SIGNALS[143]),
        (BrokenPipeError("x"), 141, SIGNALS[141]),
        (SystemExit(3), 3, "3"),
        (SystemExit("words"), 1, "words"),
        (ValueError("odd"), 1, "odd"),
    ]
    for error, code, message in cases:
        found = write_outcome(tmp_path, error)
        assert found == read_outcome(tmp_path)
        assert list(found) == ["ok", "exit_code", "error", "message", "when"]
        assert (found["ok"], found["exit_code"], found["error"], found["message"]) == (
            False, code, type(error).__name__, message,
        )  # fmt: skip
    good = write_outcome(tmp_path, SystemExit(0))
    assert (good["ok"], good["error"], exit_code_of(SystemExit(True))) == (True, "", True)
    assert (tmp_path / "outcome.json").read_text() == json.dumps(good, indent=1) + "\n"
    assert len(good["when"]) == len("2026-11-28T12:00:00+00:00")


# -- model folders ----------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("name", "beside", "twin"),
    [
        ("adapter_model.bin", {"adapter_model.safetensors"}, True),
        ("adapter_model.bin", {"model.safetensors", "adapter_model.bin"}, False),
        ("pytorch_model.bin", {"model.safetensors"}, True),
        ("pytorch_model-00001-of-2.bin", {"model-00001-of-2.safetensors"}, True),
        ("pytorch_model.bin", {"adapter_model.safetensors"}, False),
        ("model.pt", {"x.safetensors"}, False),
        ("tf_model.h5", {"model.safetensors"}, True),
        ("flax_model.msgpack", {"x.safetensors"}, False),
        ("optimizer.pt", {"x.safetensors"}, True),
        ("optimizer.pt", {"x.json"}, False),
        ("model.bin", {"model.json"}, False),
    ],
)
def test_which_safetensors_a_loader_takes_instead(name: str, beside: set[str], twin: bool) -> None:
    assert _has_twin(name, {name, *beside}) is twin


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"auto_map": {"a": "b"}}, "auto_map"),
        ({"a": [{"b": {"custom_pipelines": {"x": 1}}}]}, "custom_pipelines"),
        ({"auto_map": {}, "custom_pipelines": None}, None),
        ({"_attn_implementation": "a/b"}, "_attn_implementation: a/b"),
        ({"x_attn_implementation": "a/b"}, "x_attn_implementation: a/b"),
        ({"attn_implementation_x": "a/b", "attn_implementation": "sdpa", "y_attn_implementation": 3}, None),
        ({"auto_mapping": {"parent_library": "os.path"}}, "auto_mapping: os.path"),
        ({"auto_mapping": {"parent_library": "transformersx"}}, "auto_mapping: transformersx"),
        ({"auto_mapping": {"parent_library": "transformers.models"}}, None),
        ({"auto_mapping": {"parent_library": None}}, None),
        ({"auto_mapping": ["os"]}, None),
        ({"auto_mapping": {}}, None),
        (["auto_map", 3, None, "auto_map"], None),
    ],
)
def test_what_names_code_and_what_does_not(content: Any, found: str | None) -> None:
    assert _names_code(content) == found


def unsafe(folder: Path) -> str:
    with pytest.raises(UnsafeFile) as caught:
        check_model_folder(folder)
    return str(caught.value)


def test_what_is_refused_is_told_in_whole_sentences(model: Path, tmp_path: Path) -> None:
    def with_file(name: str, content: str | bytes) -> str:
        (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        said = unsafe(model)
        (model / name).unlink()
        check_model_folder_again()
        return said.replace(str(model / name), "FILE")

    def check_model_folder_again() -> None:
        (model / "config.json").write_text("{}")
        check_model_folder(model)

    assert (
        with_file("x.safetensors", b"\x80\x04" + b"x" * 9)
        == "FILE is a pickle by another name, so it is not opened."
    )
    assert with_file("adapter_model.BIN", b"x") == (
        "FILE: a pickle can run code when it is loaded, so it is not opened. Convert it to safetensors "
        "(`save_pretrained` writes them), or take a copy of the model that has them."
    )
    assert (
        with_file("m.PY", b"x")
        == "FILE: the model folder carries code. Copy its safetensors and JSON files elsewhere."
    )
    assert (
        with_file("config.json", "{") == "FILE cannot be read as JSON (JSONDecodeError), so it is not loaded."
    )
    assert with_file("config.JSON", '{"auto_map": 1}') == (
        "FILE: auto_map makes a loader import code of that folder. Such models are refused; use one whose architecture "
        "transformers has itself."
    )
    index = '{"weight_map": {"a": "ok-1.safetensors", "b": "../x.safetensors", "c": "y.bin"}}'
    assert with_file("m.index.json", index) == (
        "FILE names ../x.safetensors, which is not a safetensors file of its own folder."
    )
    assert with_file("m.index.json", "[]") == (
        "FILE: its weight_map is no map of tensors to files, so it is not loaded."
    )
    for fine in ('{"weight_map": {"a": "a_b-1.safetensors"}}', "{}", '{"x": {"b": "y.bin"}}'):
        (model / "m.index.json").write_text(fine)
        check_model_folder(model)
    (model / "m.index.json").unlink()
    (model / "sub").mkdir()
    check_model_folder(model)
    for target, said in (
        (tmp_path / "none", f"FILE is a link to {tmp_path / 'none'}, which is no file. Copy what it should hold."),
        (model / "sub", f"FILE is a link to {model / 'sub'}, which is no file. Copy what it should hold."),
        (filled(tmp_path, {"y": ""}) / "y", f"FILE is a link that leaves the model's folder, to {tmp_path / 'y'}. Copy the file into the folder."),
    ):  # fmt: skip
        (model / "link").symlink_to(target)
        assert unsafe(model).replace(str(model / "link"), "FILE") == said
        (model / "link").unlink()
    (model / "link").symlink_to("config.json")
    check_model_folder(model)
    os.mkfifo(model / "pipe")
    assert unsafe(model) == f"{model / 'pipe'} is no ordinary file, so it is not opened."
    with pytest.raises(DamagedData) as caught:
        check_model_folder(model / "config.json")
    assert str(caught.value) == f"{model / 'config.json'} is not a model folder."


def test_the_identity_of_a_folder_by_hand(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "_remembered", {})
    texts = ("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja")  # fmt: skip
    counted = ["config.json", "model.safetensors", *texts]
    filled(model, dict.fromkeys([*texts, "README.md", "x.bin", "other.txt"], "x"))
    (model / "manifest.json").write_text("{}")
    (model / "folder.json").mkdir()
    wanted = sha256(canonical({name: hash_file(model / name) for name in counted}))
    assert hash_folder(model) == wanted
    cache = tmp_path / "cache.json"
    assert hash_folder(model, cache) == wanted
    stored = json.loads(cache.read_bytes())
    assert cache.read_bytes() == canonical(stored)
    assert stored.keys() == {str((model / name).resolve()) for name in counted}
    for name, told in stored.items():
        stat = os.stat(name)
        assert told == [stat.st_size, stat.st_mtime_ns, stat.st_ino, hash_file(Path(name))]
    believed = {**stored, str(model / "config.json"): [*stored[str(model / "config.json")][:3], "0" * 64]}
    cache.write_bytes(canonical(believed))
    assert hash_folder(model, cache) != wanted  # what the cache says of an unchanged file is taken
    for place in range(3):
        state = list(stored[str(model / "config.json")][:3])
        state[place] += 1
        cache.write_bytes(canonical({**stored, str(model / "config.json"): [*state, "0" * 64]}))
        assert hash_folder(model, cache) == wanted
        assert json.loads(cache.read_bytes()) == stored
    cache.unlink()
    with pytest.raises(DamagedData) as caught:
        hash_folder(tmp_path / "none", cache)
    assert str(caught.value) == f"{tmp_path / 'none'} holds no .safetensors file."
    assert not cache.exists()
