"""`verify --repair`: takes away what is damaged, so that the run makes it again.

What a manifest says stays: a chunk made again must have the same hash, a stage made again the same manifest,
and weights made again the same hash, or the run stops. The making is the loop's: it redoes every stage that
is not `is_complete`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DamagedData
from pipeline.store.card import card
from pipeline.store.disk import DISK, Disk, is_temporary
from pipeline.store.documents import unseal
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import stage_folders
from pipeline.store.weights import read_weights


def prepare_repair(run_dir: Path, checkpoints_dir: Path | None = None, disk: Disk = DISK) -> list[str]:
    """Removes everything damaged of a run; returns what it removed, one sentence each ([]: there was nothing
    to repair).

    The caller holds the run's lock, and then runs the run. Killed half way, it is called again; also where a
    plan was damaged, because its chunks can only be judged once the run has written it again. So: until it
    returns [].
    """
    done: list[str] = []
    for found in stage_folders(run_dir):
        done += _prepare_stage(found.path, disk)
    if checkpoints_dir is not None and checkpoints_dir.is_dir():
        for path in sorted(checkpoints_dir.glob("*/*")):
            if path.is_dir() and not is_temporary(path.name):
                try:
                    read_weights(path)
                except DamagedData as error:
                    disk.remove(path / "manifest.json")
                    disk.remove(path)
                    done.append(f"removed weights {path}: {error}")
    return done


def _prepare_stage(path: Path, disk: Disk) -> list[str]:
    done = []
    for name in ("plan.json", "manifest.json"):
        try:
            unseal(path / name)
            getattr(StageFolder(path), name.removesuffix(".json"))()
        except FileNotFoundError:
            continue
        except DamagedData as error:
            if name == "manifest.json" and not (path / "plan.json").exists():
                continue  # it can be judged once the run has written the plan again
            disk.remove(path / name)
            done.append(f"removed {error}")
    folder = StageFolder(path, disk)
    if folder.plan() is None or folder.manifest() is None:
        return done
    for chunk in sorted(folder.damaged_chunks()):
        folder.drop_chunk(chunk)
        done.append(f"removed chunk {chunk} of {path}")
    manifest, plan = folder.require(), folder.plan()
    assert plan is not None
    readme = path / "README.md"
    stale = not readme.exists() or readme.read_bytes() != card(plan, manifest.kinds).encode()
    removed = folder.remove_unvouched()
    if removed or stale:
        done.append(f"{path}: {removed} files removed that are in no manifest, card written again")
    return done
