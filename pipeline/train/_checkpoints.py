"""The trainer's own checkpoints: which of them are complete, and which one to go on from.

transformers writes a checkpoint file by file, in place, and picks the newest folder unchecked (transformers
#35782), so a kill at the wrong moment resumes from half a state or, in silence, from a fresh optimizer. Here
a folder counts only by its marker: written last, by rank 0, between barriers, with the SHA-256 of every file,
the number of processes and the job's fingerprint. Older folders are removed only after a newer marker stands.
The files are the run's own scratch (pickled optimizer and random states among them): they are hashed before
they are read and never committed or shared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DamagedData
from pipeline.store.disk import DISK
from pipeline.store.documents import hash_file, seal, unseal

MARKER = "complete.json"
PROGRESS = "progress.json"
NUM_KEPT = 2


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def mark_complete(folder: Path, step: int, num_processes: int, fingerprint: str) -> None:
    """Vouch for a checkpoint, then drop all but the newest `NUM_KEPT`. For rank 0, after a barrier."""
    hashes = {name: hash_file(path) for name, path in _files(folder).items()}
    content = {"step": step, "num_processes": num_processes, "fingerprint": fingerprint, "files": hashes}
    DISK.write(folder / MARKER, seal(content))
    vouched = sorted((f for f in _folders(folder.parent) if (f / MARKER).is_file()), key=_step)
    for old in vouched[:-NUM_KEPT]:
        shutil.rmtree(old)


def _folders(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdigit()]


def _step(folder: Path) -> int:
    return int(folder.name[11:])


def _fault(folder: Path, num_processes: int, fingerprint: str) -> str:
    """Why a checkpoint cannot be used; empty if it can."""
    try:
        marker = unseal(folder / MARKER)
        written, processes, job = marker["files"], marker["num_processes"], marker["fingerprint"]
    except FileNotFoundError:
        return "it was never finished"
    except (DamagedData, KeyError, TypeError):
        return "its marker is damaged"
    if job != fingerprint:
        return "it belongs to another job (rows, settings, models or versions differ)"
    if processes != num_processes:
        return f"it was written by {processes} processes and now there are {num_processes}"
    found = _files(folder)
    if found.keys() != written.keys():
        return f"files are missing or extra: {', '.join(sorted(found.keys() ^ written.keys()))}"
    damaged = [name for name, path in found.items() if hash_file(path) != written[name]]
    return f"damaged: {', '.join(damaged)}" if damaged else ""


def newest_complete(
    scratch: Path, num_processes: int, fingerprint: str, say: Callable[[str], None] = lambda text: None
) -> Path | None:
    """The newest checkpoint in `scratch` whose files are all there and whole, written by this job at this
    number of processes.

    For rank 0. Every folder that cannot be used is removed, and `say` hears why; None means: begin at step 0.
    """
    usable: list[Path] = []
    for folder in sorted(_folders(scratch), key=_step, reverse=True):
        if fault := _fault(folder, num_processes, fingerprint):
            say(f"trainer checkpoint {folder.name} is not used and was removed: {fault}")
            shutil.rmtree(folder)
        else:
            usable.append(folder)
    return usable[0] if usable else None


def keep_progress(folder: Path, losses: list[float], sums: list[list[float]]) -> None:
    """Lay the loss and the watched sums of each optimizer step so far into a checkpoint, so that a resumed
    run reports what a never-killed one does.
    """
    DISK.write(folder / PROGRESS, json.dumps({"losses": losses, "sums": sums}).encode())


def progress_until(folder: Path) -> tuple[list[float], list[list[float]]]:
    """The losses and sums of each optimizer step up to a checkpoint."""
    found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return found["losses"], found.get("sums", [])
