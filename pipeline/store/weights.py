"""Committed weights: one canonical form, checked when written and when read, vouched for by a manifest
written last.

A folder of weights holds safetensors and JSON (and a tokenizer's own text files). Training arguments, model
cards, optimizer and random states of a trainer never get in, so equal weights have equal hashes. Nothing here
loads torch.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, StorageError
from pipeline.store.disk import DISK, Disk, temporary_beside
from pipeline.store.documents import canonical, hash_file, plain, seal, sha256, unseal
from pipeline.store.model_folder import check_model_folder, hash_folder
from pipeline.store.tensors import not_finite, read_header, rewrite

__all__ = [
    "WeightsManifest",
    "check_model_folder",
    "commit_weights",
    "hash_folder",
    "optimizer_beside",
    "read_weights",
    "weights_hash",
]

MANIFEST = "manifest.json"
_TEXTS = {"merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "LICENSE"}
_NOT_WEIGHTS = re.compile(r"(trainer_state|.*_results|manifest)\.json")
#: Lists of a LoRA config that peft keeps as sets: their order in the file is random and means nothing.
_SETS = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "target_parameters",
    "layers_to_transform",
    "layers_pattern",
)


@dataclass(frozen=True)
class WeightsManifest:
    """What a folder of weights vouches for."""

    path: Path
    hash: str  #: over the hashes of the files: the identity of these weights
    files: list[dict[str, Any]]  #: {file, bytes, sha256}
    meta: dict[str, Any]


def _kept(path: Path) -> bool:
    """Does this file belong to the weights?"""
    if path.suffix == ".json":
        return not _NOT_WEIGHTS.fullmatch(path.name)
    return path.suffix in (".safetensors", ".jinja") or path.name in _TEXTS


def _canonical_json(path: Path, base: str | None) -> bytes:
    """A configuration with sorted keys and without names of this machine."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "adapter_config.json":
        for key in _SETS:
            if isinstance(content.get(key), list):
                content[key] = sorted(content[key])
        old = str(content.get("base_model_name_or_path") or "")
        content["base_model_name_or_path"] = base or (Path(old).name if os.path.isabs(old) else old)
    content.pop("_name_or_path", None)
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write_file(source: Path, path: Path, base: str | None, disk: Disk) -> dict[str, Any]:
    if source.suffix == ".safetensors":
        digest = rewrite(source, path, disk)
    elif source.name in ("adapter_config.json", "config.json", "generation_config.json"):
        digest = disk.write(path, _canonical_json(source, base), direct=True)
    elif source.name == "tokenizer_config.json":
        content = json.loads(source.read_text(encoding="utf-8"))
        content.pop("name_or_path", None)  # where it was loaded from
        digest = disk.write(path, (json.dumps(content, indent=2) + "\n").encode(), direct=True)
    else:  # a tokenizer's files keep their order, which may mean something
        digest = disk.write(path, source.read_bytes(), direct=True)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _identity(files: list[dict[str, Any]]) -> str:
    return sha256(canonical({entry["file"]: entry["sha256"] for entry in files}))


def optimizer_beside(weights: Path) -> Path:
    """Where the optimizer's state of a training lies: a folder of its own beside the weights, committed as
    they are.
    """
    return weights.parent / f"{weights.name}.optimizer"


def commit_weights(
    temp: Path,
    dest: Path,
    meta: dict[str, Any],
    *,
    base: str | None = None,
    replace: bool = False,
    disk: Disk = DISK,
) -> str:
    """Brings what a trainer left in `temp` into canonical form at `dest`; returns the weights hash. `temp` is
    removed.

    base: what `base_model_name_or_path` of an adapter shall say (default: its last path component). replace:
    other weights that stand at `dest`, vouched for, may go; without it they are an error, and equal ones are
    kept.

    Raises:
        Diverged: a tensor is not finite; nothing was committed and `dest` is untouched.
        DamagedData: no weights in `temp`, or other weights stand at `dest`.
        StorageError: the disk is full; nothing was committed.
    """
    sources = sorted(path for path in temp.iterdir() if path.is_file() and _kept(path))
    if not any(path.suffix == ".safetensors" for path in sources):
        raise DamagedData(
            f"{temp}: the trainer left no .safetensors file: {sorted(p.name for p in temp.iterdir())}."
        )
    staging = temporary_beside(dest)
    disk.make_folder(staging)
    try:
        files = [_write_file(source, staging / source.name, base, disk) for source in sources]
        if not _stands(dest, files, replace):
            if (dest / MANIFEST).exists():
                disk.remove(dest / MANIFEST)
            disk.remove(dest)  # what no manifest vouches for, or what the caller gave up
            disk.rename_folder(staging, dest)
            document = {"files": files, "hash": _identity(files), "meta": plain(meta)}
            try:
                disk.write(dest / MANIFEST, seal(document))
            except (OSError, StorageError):
                disk.remove(dest)  # the disk is full, and nothing will vouch for it
                raise
            for folder in list(dest.parents)[1:3]:  # the trainer made them, and nobody synced their names
                disk.sync_folder(folder)
    finally:
        disk.remove(staging)
    disk.remove(temp)
    return _identity(files)


def _stands(dest: Path, files: list[dict[str, Any]], replace: bool) -> bool:
    """Do exactly these weights stand there already, whole?"""
    if not (dest / MANIFEST).exists():
        return False
    try:
        standing = read_weights(dest)
    except DamagedData:
        return False
    if standing.hash == _identity(files):
        return True
    if not replace:
        raise DamagedData(
            f"{dest}: other weights are committed there ({standing.hash[:12]}, new {_identity(files)[:12]}). "
            "Remove that "
            "folder if they are not wanted, or use another run name."
        )
    return False


def _manifest(dest: Path) -> WeightsManifest:
    try:
        document = unseal(dest / MANIFEST)
        found = WeightsManifest(dest, document["hash"], document["files"], document["meta"])
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedData(
            f"{dest} has no manifest: these weights were never finished. Start the run again to make them."
        ) from None
    except KeyError as error:
        raise DamagedData(f"{dest / MANIFEST} is not a manifest of weights: no {error}.") from error
    if found.hash != _identity(found.files):
        raise DamagedData(f"{dest / MANIFEST}: its hash is not that of its files.")
    return found


def weights_hash(dest: Path) -> str:
    """The hash of committed weights, from their manifest; the files are not read (`read_weights` does that).

    Raises:
        DamagedData: not committed, or the manifest was edited.
    """
    return _manifest(dest).hash


def read_weights(dest: Path) -> WeightsManifest:
    """The manifest of committed weights, after every file was hashed and every tensor found finite.

    Raises:
        DamagedData: a file is missing, truncated, changed or extra, or holds NaN.
    """
    manifest = _manifest(dest)
    cure = "Remove the folder and start the run again: the stage that made them makes them again."
    for entry in manifest.files:
        path = dest / entry["file"]
        if not path.is_file():
            raise DamagedData(f"{path} is missing. {cure}")
        found = hash_file(path)
        if found != entry["sha256"]:
            raise DamagedData(
                f"{path}: SHA-256 {found} ({path.stat().st_size} bytes) is not {entry['sha256']} "
                f"({entry['bytes']} bytes). {cure}"
            )
        if path.suffix == ".safetensors":
            bad = list(not_finite(path, read_header(path)[0]))
            if bad:
                raise DamagedData(f"{path}: tensors hold NaN or infinity: {', '.join(bad[:3])}. {cure}")
    extra = {path.name for path in dest.iterdir()} - {entry["file"] for entry in manifest.files} - {MANIFEST}
    risky = sorted(name for name in extra if Path(name).suffix in (".safetensors", ".bin", ".json", ".py"))
    if risky:
        raise DamagedData(
            f"{dest}: {', '.join(risky)}: in no manifest, and a loader might read it. Remove it."
        )
    return manifest
