"""Model folders from outside: is it safe to open, and which weights are these?

Refused before anything is loaded: pickled weights, and configurations that make a loader import code
(`auto_map`). `trust_remote_code=False` is not relied on: loaders had bypasses of it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, UnsafeFile
from pipeline.store.disk import DISK
from pipeline.store.documents import canonical, hash_file, sha256
from pipeline.store.tensors import read_header

PICKLES = {
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".joblib",
    ".npy",
    ".npz",
    ".h5",
    ".keras",
    ".msgpack",
}
_CODE_KEYS = ("auto_map", "custom_pipelines")
_TEXTS = {
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
}
_MAX_CONFIG = 64 << 20
_remembered: dict[tuple[object, ...], str] = {}


def check_model_folder(path: Path) -> None:
    """Looks at a folder of weights before anything opens them.

    Raises:
        UnsafeFile: pickled weights without safetensors, code, or a configuration that names code.
        DamagedData: it is not a folder, or its safetensors are not whole.
    """
    path = Path(path)
    if not path.is_dir():
        raise DamagedData(f"{path} is not a model folder.")
    root = path.resolve()
    names = {item.name for item in path.iterdir()}
    for name in sorted(names):
        _check_link(path / name, root)
        suffix = Path(name).suffix.lower()
        if suffix == ".safetensors" and _is_pickle(path / name):
            raise UnsafeFile(f"{path / name} is a pickle by another name, so it is not opened.")
        if suffix == ".safetensors":
            read_header(path / name)  # whole, no tensor over another: before a library maps it
        if suffix in PICKLES and not _has_twin(name, names):
            raise UnsafeFile(
                f"{path / name}: a pickle can run code when it is loaded, so it is not opened. Convert it to "
                "safetensors "
                "(`save_pretrained` writes them), or take a copy of the model that has them."
            )
        if suffix == ".py":
            raise UnsafeFile(
                f"{path / name}: the model folder carries code. Copy its safetensors and JSON files "
                "elsewhere."
            )
        if suffix == ".json":
            _check_config(path / name)


def _is_pickle(path: Path) -> bool:
    """Does a file begin as a pickle, or as the zip that torch keeps one in? (A header of safetensors has its
    `{` at byte 8.)"""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] != b"{" and (
        start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] <= b"\x05")
    )


def _check_link(path: Path, root: Path) -> None:
    """A link may lead to a file of the model's own, as the Hub's cache has them (`snapshots/x` to `blobs/y`),
    and to nothing else."""
    if not path.is_symlink():
        if not (path.is_file() or path.is_dir()):
            raise UnsafeFile(f"{path} is no ordinary file, so it is not opened.")
        return
    target = Path(os.path.realpath(path))  # of a link to itself too
    model = root.parent.parent if root.parent.name == "snapshots" else root
    if not os.path.isfile(target):
        raise UnsafeFile(f"{path} is a link to {target}, which is no file. Copy what it should hold.")
    if not target.is_relative_to(model):
        raise UnsafeFile(
            f"{path} is a link that leaves the model's folder, to {target}. Copy the file into the folder."
        )


def _has_twin(name: str, names: set[str]) -> bool:
    """Are there safetensors that a loader takes instead of this pickle?"""
    tensors = {other for other in names if other.endswith(".safetensors")}
    if name.startswith("adapter_model"):
        return "adapter_model.safetensors" in tensors
    if name.startswith(("pytorch_model", "model", "tf_model", "flax_model")):
        return any(other.startswith("model") for other in tensors)
    return bool(tensors)


def _check_config(path: Path) -> None:
    if path.name in ("tokenizer.json", "vocab.json", "added_tokens.json"):
        return  # data of the tokenizers library, large, and it names no code
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise UnsafeFile(f"{path} has {path.stat().st_size:,} bytes: no configuration is that large.")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(
            f"{path} cannot be read as JSON ({type(error).__name__}), so it is not loaded."
        ) from error
    found = _names_code(content)
    if path.name.endswith(".index.json"):
        shards = content.get("weight_map", {}) if isinstance(content, dict) else None
        if not isinstance(shards, dict):
            raise UnsafeFile(f"{path}: its weight_map is no map of tensors to files, so it is not loaded.")
        odd = [
            str(shard) for shard in shards.values() if not re.fullmatch(r"[\w.-]+\.safetensors", str(shard))
        ]
        if odd:
            raise UnsafeFile(f"{path} names {odd[0]}, which is not a safetensors file of its own folder.")
    if found:
        raise UnsafeFile(
            f"{path}: {found} makes a loader import code of that folder. Such models are refused; use one "
            "whose "
            "architecture transformers has itself."
        )


def _names_code(content: Any) -> str | None:
    """The key that names code, wherever it stands."""
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key in _CODE_KEYS:
                if item.get(key):
                    return key
            for key, value in item.items():  # a kernel "owner/name" is fetched and run
                if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
                    return f"{key}: {value}"
            mapping = item.get("auto_mapping")
            library = mapping.get("parent_library") if isinstance(mapping, dict) else None
            if isinstance(library, str) and library.split(".")[0] != "transformers":  # peft imports it
                return f"auto_mapping: {library}"
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return None


def hash_folder(path: Path, cache: Path | None = None) -> str:
    """The identity of a model folder from outside: a hash over its safetensors, JSON and tokenizer files.

    A file is hashed again only when its size, time or inode changed. cache: a JSON file that keeps hashes
    between processes.

    Raises:
        DamagedData: it holds no such file.
    """
    path = Path(path)
    files = sorted(
        item
        for item in (path.iterdir() if path.is_dir() else ())
        if item.is_file()
        and (item.suffix in (".safetensors", ".json") or item.name in _TEXTS)
        and item.name != "manifest.json"  # ours: it names the same hashes, and where they came from
    )
    if not any(item.suffix == ".safetensors" for item in files):
        raise DamagedData(f"{path} holds no .safetensors file.")
    stored = _load(cache)
    before = dict(stored)
    hashes = {item.name: _hash_once(item, stored) for item in files}
    if cache is not None and stored != before:
        DISK.write(cache, canonical(stored))
    return sha256(canonical(hashes))


def _load(cache: Path | None) -> dict[str, list[Any]]:
    if cache is None or not cache.exists():
        return {}
    try:
        found = json.loads(cache.read_bytes())
    except ValueError:  # it only saves time
        return {}
    return found if isinstance(found, dict) else {}


def _hash_once(path: Path, stored: dict[str, list[Any]]) -> str:
    stat, name = path.stat(), str(path.resolve())
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    key = (name, *state)
    if stored.get(name, [None])[:3] == state:
        return str(stored[name][3])
    if key not in _remembered:
        _remembered[key] = hash_file(path)
    stored[name] = [*state, _remembered[key]]
    return _remembered[key]
