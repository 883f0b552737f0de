"""One stage's folder: plan first, then a chunk's parts and its sidecar, and the manifest last.

    folder = StageFolder(path)
    folder.begin(plan)
    for chunk in range(len(plan.chunks)):
        if chunk not in done:                       # done = folder.done()
            with folder.writing(chunk) as part:
                part.add(rows)
    manifest = folder.commit({"accuracy": 0.5})

Done means a sidecar that verifies; a file's name proves nothing. The next stage reads what the manifest names
and nothing else. It does not know what a stage computes, which process computes it, or what its settings
mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, RecipeError
from pipeline.store.card import card
from pipeline.store.disk import DISK, Disk, is_temporary
from pipeline.store.documents import plain, seal, unseal
from pipeline.store.manifest import Counts, Manifest, Sidecar, build
from pipeline.store.parts import FOLDERS, ChunkWriter, check_part, kind_name, read_part, write_sidecar
from pipeline.store.plan import ChunkPlan, Plan

__all__ = ["ChunkPlan", "ChunkWriter", "Counts", "Manifest", "Plan", "Sidecar", "StageFolder"]


class StageFolder:
    """`data/<run>/round-003/<stage>/`."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path, self._disk = Path(path), disk
        self._plan: Plan | None = None
        self._manifest: tuple[tuple[int, int, int], Manifest] | None = None

    # -- the plan ----------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """The plan that stands here, or None.

        Raises:
            DamagedData: plan.json was edited or cannot be read.
        """
        if self._plan is None:
            path = self.path / "plan.json"
            if not path.exists():
                return None
            plan = Plan.from_document(unseal(path))
            if plan.fingerprint != plan.compute_fingerprint():
                raise DamagedData(
                    f"{path}: its fingerprint is not that of its content. Run `verify RUN --repair`."
                )
            self._plan = plan
        return self._plan

    def _planned(self) -> Plan:
        plan = self.plan()
        if plan is None:
            raise DamagedData(f"{self.path} has no plan.json: this stage was never begun.")
        return plan

    def begin(self, plan: Plan, *, repair: bool = False) -> Plan:
        """Writes plan.json and README.md, or finds the same plan standing. Returns the one that stands.

        repair: a damaged plan.json is replaced instead of reported.

        Raises:
            RecipeError: a plan with another fingerprint stands; one line for each thing that changed.
        """
        try:
            standing = self.plan()
        except DamagedData:
            if not repair:
                raise
            standing = None
        if standing is None:
            self._disk.write(self.path / "plan.json", seal(plan.to_document()))
            self._plan = standing = plan
        elif standing.fingerprint != plan.fingerprint:
            where = f"{plan.run}: {self.path.parent.name}/{plan.stage}"
            lines = [f"{where}: {line}" for line in standing.differences(plan)]
            raise RecipeError(
                [
                    *lines,
                    f"{where} was made by another recipe, so it is not reused: undo the change, "
                    f"give the run another `--name`, or `fork {plan.run} NEW_NAME` with the change, which "
                    "keeps what is still valid.",
                ]
            )
        if not (self.path / "README.md").exists():
            self._disk.write(self.path / "README.md", card(standing).encode())
        return standing

    # -- chunks ------------------------------------------------------------------------------------

    def _sidecar_path(self, chunk: int) -> Path:
        return self.path / f"{self._planned().chunk_name(chunk)}.json"

    def _sidecar(self, chunk: int) -> dict[str, Any] | None:
        """The sidecar of a chunk if it can be believed (the parts are not looked at)."""
        plan = self._planned()
        try:
            document = unseal(self._sidecar_path(chunk))
        except (FileNotFoundError, DamagedData):  # not done, then: the chunk is made again
            return None
        right = document.get("chunk") == chunk and document.get("fingerprint") == plan.fingerprint
        return document if right else None

    def _verified(self, chunk: int) -> dict[str, Any] | None:
        sidecar = self._sidecar(chunk)
        if sidecar is None or any(check_part(self.path, entry) for entry in sidecar["parts"]):
            return None
        return sidecar

    def done(self) -> set[int]:
        """The chunks whose sidecar verifies: fingerprint, and size and hash of each part. Reads every part
        once.
        """
        if self.plan() is None:
            return set()
        return {chunk for chunk in range(len(self._planned().chunks)) if self._verified(chunk)}

    def sidecars(self) -> Iterator[Sidecar]:
        """The sidecars that can be believed, in order; their parts are not hashed (`done` does that)."""
        for chunk in range(len(self._planned().chunks)):
            document = self._sidecar(chunk)
            if document is not None:
                yield Sidecar.of(document)

    @contextlib.contextmanager
    def writing(self, chunk: int) -> Iterator[ChunkWriter]:
        """A writer for one chunk; leaving the block commits it, leaving it by an exception leaves nothing.

        Raises:
            DamagedData: the stage is committed and this chunk, made again, is not what the manifest says.
            StorageError: the disk is full.
        """
        plan = self._planned()
        if not 0 <= chunk < len(plan.chunks):
            raise ValueError(f"{self.path}: chunk {chunk} of {len(plan.chunks)}")
        writer = ChunkWriter(self.path, plan, chunk, self._disk)
        try:
            yield writer
            document = writer.close()
            self._same_as_committed(chunk, document)
            if self._sidecar_path(chunk).exists():  # it vouches for parts that are about to be replaced
                self._disk.remove(self._sidecar_path(chunk))
            writer.publish()
            write_sidecar(self.path, plan, document, self._disk)
        except BaseException:  # whatever ended it, Ctrl-C too; it goes on from here
            writer.discard()
            raise

    def _same_as_committed(self, chunk: int, document: dict[str, Any]) -> None:
        manifest = self.manifest()
        if manifest is not None and manifest.chunks[chunk] != document:
            raise DamagedData(
                f"{self.path}: chunk {chunk} made again is not the one in its manifest "
                f"({_hashes(document)} instead of {_hashes(manifest.chunks[chunk])}), so nothing was "
                "changed. "
                "Were packages, threads or code changed since? `fork` the run to go on from here."
            )

    def drop_chunk(self, chunk: int) -> None:
        """Forgets a chunk: sidecar first, then its parts. The manifest stays and says what its parts must
        become again.
        """
        plan = self._planned()
        self._disk.remove(self._sidecar_path(chunk))
        for folder in ("", *FOLDERS.values()):
            self._disk.remove(self.path / folder / f"{plan.chunk_name(chunk)}.parquet")

    # -- the manifest ------------------------------------------------------------------------------

    def commit(self, extra: dict[str, Any] | None = None) -> Manifest:
        """Writes manifest.json, last. extra: the stage's metrics.

        Raises:
            DamagedData: chunks are missing.
        """
        plan = self._planned()
        sidecars = [self._verified(chunk) for chunk in range(len(plan.chunks))]
        missing = [chunk for chunk, sidecar in enumerate(sidecars) if sidecar is None]
        if missing:
            raise DamagedData(
                f"{self.path}: {len(missing)} of {len(plan.chunks)} chunks are not done: {missing[:10]}. "
                "Start the run again: it makes what is missing."
            )
        whole = [sidecar for sidecar in sidecars if sidecar is not None]
        for path in self._unvouched(whole):
            self._disk.remove(path)
        document = build(plan, whole, plain(extra or {}))
        readme = card(plan, list(document["counts"]["rows"])).encode()
        if not (self.path / "README.md").exists() or (self.path / "README.md").read_bytes() != readme:
            self._disk.write(self.path / "README.md", readme)
        data = seal(document)
        standing = self.manifest()
        if standing is None:
            self._disk.write(self.path / "manifest.json", data)
        elif standing.path.read_bytes() != data:  # a repair: the next stages have read what stands
            raise DamagedData(
                f"{self.path}: made again, this stage is not what its manifest says, so the manifest was "
                "left as it "
                "is. Were packages, threads or code changed since? `fork` the run to go on from here."
            )
        return self.require()

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is not committed. Parts are not hashed here, `read` does
        that.

        Raises:
            DamagedData: it is empty or edited, or belongs to another plan.
        """
        path = self.path / "manifest.json"
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._manifest is None or self._manifest[0] != key:
            manifest = Manifest.load(path)
            plan = self._planned()
            if manifest.fingerprint != plan.fingerprint or len(manifest.chunks) != len(plan.chunks):
                raise DamagedData(
                    f"{path} belongs to another plan than plan.json beside it. Run `verify RUN --repair`."
                )
            self._manifest = (key, manifest)
        return self._manifest[1]

    def is_complete(self) -> bool:
        """Is it committed, and is no chunk waiting to be made again? Looks at names only, so it is cheap."""
        manifest = self.manifest()
        return manifest is not None and all(
            self._sidecar_path(chunk).exists() for chunk in range(len(manifest.chunks))
        )

    def require(self) -> Manifest:
        """The manifest of a committed stage.

        Raises:
            DamagedData: there is none, or it is damaged.
        """
        manifest = self.manifest()
        if manifest is None:
            raise DamagedData(
                f"{self.path} has no manifest: the stage is not finished. Start the run again to finish it."
            )
        return manifest

    # -- reading -----------------------------------------------------------------------------------

    def read(self, kind: type | str, chunks: Iterable[int] | None = None) -> Iterator[Any]:
        """The rows of a kind, streaming, in order of chunks. Each part's hash is checked before any of its
        rows is used.

        Raises:
            DamagedData: the stage is not committed, or a part is missing or changed (both hashes are named).
        """
        manifest = self.require()
        for chunk in range(len(manifest.chunks)) if chunks is None else chunks:
            for entry in self.parts(kind, chunk):
                yield from read_part(self.path, entry)

    def parts(self, kind: type | str, chunk: int) -> list[dict[str, Any]]:
        """The committed parts of a kind in one chunk: {file, kind, rows, bytes, sha256}."""
        name = kind_name(kind)
        return [entry for entry in self.require().chunks[chunk]["parts"] if entry["kind"] == name]

    def read_chunk(self, kind: type | str, chunk: int) -> list[Any]:
        """The rows of a kind in one chunk."""
        return list(self.read(kind, [chunk]))

    # -- damage ------------------------------------------------------------------------------------

    def verify(self) -> list[str]:
        """Everything wrong with this folder, one sentence each; [] where all is well. Hashes every part."""
        try:
            plan, manifest = self.plan(), self.manifest()
        except DamagedData as error:
            return [str(error)]
        if plan is None:
            return [f"{self.path} has no plan.json"] if self.path.exists() else [f"{self.path} is missing"]
        problems, sidecars = [], []
        for chunk in range(len(plan.chunks)):
            sidecar, wanted = self._sidecar(chunk), manifest.chunks[chunk] if manifest else None
            path = self._sidecar_path(chunk)
            if wanted is not None and sidecar != wanted:
                state = "is not what the manifest says" if path.exists() else "is missing"
                problems.append(f"{path} {state}")
            document = wanted or sidecar
            if document is not None:
                sidecars.append(document)
                wrong = [check_part(self.path, entry) for entry in document["parts"]]
                problems += [problem for problem in wrong if problem]
        if manifest is not None:
            problems += [f"{path} is in no manifest" for path in self._unvouched(sidecars)]
            readme = self.path / "README.md"
            if not readme.exists() or readme.read_bytes() != card(plan, manifest.kinds).encode():
                problems.append(f"{readme} is not the card of this stage")
        return problems

    def damaged_chunks(self) -> set[int]:
        """The chunks of a committed stage that must be made again (`drop_chunk`, then `writing`)."""
        manifest = self.manifest()
        if manifest is None:
            return set()
        return {
            chunk
            for chunk, wanted in enumerate(manifest.chunks)
            if self._sidecar(chunk) != wanted
            or any(check_part(self.path, entry) for entry in wanted["parts"])
        }

    def remove_unvouched(self) -> int:
        """For repair: removes files of a committed stage that its manifest does not name; returns how many.
        Rewrites the card.
        """
        manifest = self.manifest()
        if manifest is None:
            return 0
        extra = list(self._unvouched(manifest.chunks))
        for path in extra:
            self._disk.remove(path)
        self._disk.write(self.path / "README.md", card(self._planned(), manifest.kinds).encode())
        return len(extra)

    def _unvouched(self, sidecars: list[dict[str, Any]]) -> list[Path]:
        """Parts, sidecars and temporaries in this folder that these sidecars do not name. A user's own
        notes are left alone.
        """
        plan = self._planned()
        vouched = {self.path / entry["file"] for sidecar in sidecars for entry in sidecar["parts"]}
        vouched |= {self.path / f"{plan.chunk_name(sidecar['chunk'])}.json" for sidecar in sidecars}
        found = []
        for folder in (self.path, *(self.path / name for name in FOLDERS.values())):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                ours = path.suffix == ".parquet" or (
                    path.suffix == ".json" and path.name.startswith("train-")
                )
                if (ours or is_temporary(path.name)) and path not in vouched:
                    found.append(path)
        return found


def _hashes(document: dict[str, Any]) -> str:
    return ", ".join(f"{entry['file']} {entry['sha256'][:12]}" for entry in document["parts"]) or "no rows"
