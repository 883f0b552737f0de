"""A whole run on disk: its name, its hash, what is damaged, what may be thrown away."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DamagedData, RecipeError
from pipeline.store.disk import DISK, Disk, is_temporary, sweep_temporaries
from pipeline.store.documents import hash_file
from pipeline.store.folder import StageFolder
from pipeline.store.weights import read_weights

RESERVED = ("tasks", "seed")  #: folders of data/ and checkpoints/ that are no runs
#: At the top of a run, outside the promise and the hashed tree.
OUTSIDE = (
    "timing.jsonl", "report.html", "logs", "LOCK", "LOCK-ranks", "outcome.json", "scratch",
    "wandb", "tensorboard",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")


def run_name_ok(name: str, *parents: Path) -> str:
    """The name, if it can be a run's folder in each of `parents` (data/, checkpoints/).

    Raises:
        RecipeError: it leaves its folder, is reserved, or a symbolic link stands there.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise RecipeError(
            f"name: {name!r}: a run name is 1 to 100 letters, digits, '.', '_' or '-', begins with a letter "
            "or digit "
            "and names a folder inside data/ (no '/', no '..')."
        )
    if name.lower() in RESERVED:
        raise RecipeError(
            f"name: {name}: this name is taken by the folder data/{name.lower()}. Choose another."
        )
    for parent in parents:
        if (parent / name).is_symlink():
            raise RecipeError(
                f"name: {parent / name} is a symbolic link, and a run is written only inside its own folder. "
                "Make "
                f"{parent} itself the link, or choose another name."
            )
    return name


def stage_folders(run_dir: Path) -> Iterator[StageFolder]:
    """The folders of a run that hold a plan or a manifest, in order."""
    for folder in sorted([*run_dir.glob("*"), *run_dir.glob("*/*")]):
        if (folder / "plan.json").exists() or (folder / "manifest.json").exists():
            yield StageFolder(folder)


def verify_run(run_dir: Path, checkpoints_dir: Path | None = None) -> list[str]:
    """Everything wrong with a run, one sentence each; [] where all is well. Hashes every committed file.

    checkpoints_dir: `checkpoints/<run>/`, where its weights are.
    """
    if not run_dir.is_dir():
        return [f"{run_dir} is not a run"]
    problems: list[str] = []
    for folder in stage_folders(run_dir):
        found = folder.verify()
        problems += found or _wrong_inputs(folder, run_dir)
    if checkpoints_dir is not None and checkpoints_dir.is_dir():
        for path in sorted(checkpoints_dir.glob("*/*")):
            if path.is_dir() and not is_temporary(path.name):
                try:
                    read_weights(path)
                except DamagedData as error:
                    problems.append(str(error))
    return problems


def _wrong_inputs(folder: StageFolder, run_dir: Path) -> Iterator[str]:
    """Inputs of a committed stage that are no longer what it read."""
    plan = folder.plan()
    if plan is None or folder.manifest() is None:
        return
    for key, wanted in plan.inputs.items():
        source = run_dir.parent / key
        if not (source / "plan.json").exists():
            continue  # the name of something that is no stage (a file), or a run that was removed
        try:
            manifest = StageFolder(source).manifest()
        except DamagedData:
            continue  # told by its own verification
        found = manifest.hash if manifest else "none"
        if not found.startswith(wanted):
            yield f"{folder.path}: its input {key} is another one now: manifest {found}, it read {wanted}"


def tree_files(run_dir: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file inside the promise. Temporary files and empty folders do not
    count.
    """
    found: dict[str, str] = {}
    for parent, subfolders, files in os.walk(run_dir):
        here = Path(parent)
        top = here == run_dir
        subfolders[:] = sorted(
            name for name in subfolders if not is_temporary(name) and not (top and name in OUTSIDE)
        )
        for name in (*files, *(name for name in subfolders if (here / name).is_symlink())):
            path = here / name
            if is_temporary(name) or (top and name in OUTSIDE):
                continue
            key = path.relative_to(run_dir).as_posix()
            found[key] = f"link to {os.readlink(path)}" if path.is_symlink() else hash_file(path)
    return dict(sorted(found.items()))


def tree_hash(*folders: Path) -> str:
    """One hash over a run's folder (and, if given, its checkpoints): two runs with one are equal to the byte.
    `ratchet verify` says it; the oracle of every test of resume.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path, content in tree_files(folder).items():
            digest.update(f"{len(path)}:{path}:{content}\n".encode())
        digest.update(b"--\n")
    return digest.hexdigest()


def gc(run_dir: Path, *others: Path, disk: Disk = DISK) -> int:
    """Removes scratch (trainer checkpoints) and temporary files, keeps what is committed; returns the bytes
    freed.

    The caller holds the run's lock. others: more folders to clear of temporary files (checkpoints/<run>/).
    """
    before = sum(size_of(folder) for folder in (run_dir, *others))
    disk.remove(run_dir / "scratch")
    for folder in (run_dir, *others):
        sweep_temporaries(folder, everything=True, disk=disk)
    return before - sum(size_of(folder) for folder in (run_dir, *others))


def size_of(folder: Path | str) -> int:
    """Bytes of the files below a folder; what goes away meanwhile does not count."""
    total = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:  # a run has thousands of small files, so no Path is made for each
            if entry.is_dir(follow_symlinks=False):
                total += size_of(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
