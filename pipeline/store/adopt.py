"""`fork`: what another run committed, taken into this one under hard links, without computing anything.

Order is that of a stage that works: plan, parts, sidecar, manifest last, so a fork that is killed leaves
nothing but chunks that are not there yet. Whether something may be taken is the caller's question: it
compares fingerprints, which do not hold a run's name.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DamagedData
from pipeline.store.card import card
from pipeline.store.disk import DISK, Disk, temporary_beside
from pipeline.store.folder import StageFolder
from pipeline.store.plan import Plan
from pipeline.store.weights import read_weights


def adopt_stage(old: StageFolder, new: StageFolder, plan: Plan, disk: Disk = DISK) -> tuple[int, bool]:
    """The chunks of `old` that verify, and its manifest where all of them do, into `new`. plan: the new run's
    own, of the same fingerprint. Returns how many chunks were taken, and whether the stage is committed.

    Raises:
        DamagedData: the fingerprints differ, or something of the old stage is damaged.
    """
    theirs, manifest = old.plan(), old.manifest()
    if theirs is None or theirs.fingerprint != plan.fingerprint:
        raise DamagedData(f"{old.path} and {new.path} do not have the same fingerprint")
    new.begin(plan)
    done = sorted(old.done())
    if manifest is not None and (problems := old.verify()):
        raise DamagedData(f"{problems[0]}. Repair it first: `verify {theirs.run} --repair`")
    vouched = {sidecar.chunk: sidecar for sidecar in old.sidecars()}
    for chunk in done:
        name = f"{plan.chunk_name(chunk)}.json"
        for file in [*(entry["file"] for entry in vouched[chunk].parts), name]:
            if not (new.path / file).exists():
                disk.link(old.path / file, new.path / file)
    if manifest is None:
        return len(done), False
    readme = card(plan, manifest.kinds).encode()
    if (new.path / "README.md").read_bytes() != readme:
        disk.write(new.path / "README.md", readme)
    if new.manifest() is None:
        disk.link(manifest.path, new.path / "manifest.json")
    return len(done), True


def adopt_weights(old: Path, new: Path, disk: Disk = DISK) -> str:
    """Committed weights under a second name. Returns their hash; `new` may stand there already.

    Raises:
        DamagedData: they are damaged, or other weights stand at `new`.
    """
    theirs = read_weights(old)
    if (new / "manifest.json").exists():
        if read_weights(new).hash != theirs.hash:
            raise DamagedData(f"{new}: other weights stand there already. Remove that folder")
        return theirs.hash
    staging = temporary_beside(new)
    for name in [*(entry["file"] for entry in theirs.files), "manifest.json"]:
        disk.link(old / name, staging / name)
    disk.remove(new)  # no manifest vouches for it
    disk.rename_folder(staging, new)
    return theirs.hash
