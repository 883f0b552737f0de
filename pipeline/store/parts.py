"""Parquet parts of one chunk: rows in, hashed files out, and back. Rows stream; a few thousand are held at
most.

Equal rows in equal order give equal bytes (fixed compression and row groups, no times), on one version of
pyarrow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DamagedData
from pipeline.rows import KINDS, schema, to_table
from pipeline.store.disk import Disk
from pipeline.store.documents import clean_text, seal
from pipeline.store.plan import Plan

if TYPE_CHECKING:
    import pyarrow

GROUP_ROWS = 1024  #: rows of a row group, at most
GROUP_BYTES = 4 << 20  #: and about this many bytes of text and lists
#: Where rows that are not a stage's main kind go. A test opens each with `load_dataset`.
FOLDERS = {
    "Node": "nodes",
    "Dropped": "dropped",
    "Trace": "rollouts",
    "Label": "labels",
    **{kind: kind.lower() for kind in ("Problem", "Example", "StepExample", "Pair")},
}


def part_file(plan: Plan, chunk: int, kind: str) -> str:
    """The path of a part inside its stage's folder."""
    name = f"{plan.chunk_name(chunk)}.parquet"
    return name if kind == plan.main else f"{FOLDERS[kind]}/{name}"


def kind_name(kind: type | str) -> str:
    """ "Trace" for Trace and for "Trace"."""
    name = kind if isinstance(kind, str) else kind.__name__
    if name not in KINDS:
        raise ValueError(f"{name} is not a row kind ({', '.join(KINDS)})")
    return name


def _cleaned(rows: list[Any]) -> tuple[list[Any], int]:
    """The rows with lone surrogates replaced, and how many there were."""
    total, clean = 0, []
    for row in rows:
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(row):
            value, count = clean_text(getattr(row, field.name))
            if count:
                changes[field.name] = value
                total += count
        clean.append(dataclasses.replace(row, **changes) if changes else row)
    return clean, total


class PartWriter:
    """One parquet file of one kind, written row group by row group."""

    def __init__(self, disk: Disk, path: Path, file: str, kind: str) -> None:
        import pyarrow.parquet as pq

        self.file, self.kind, self.rows, self.replaced = file, kind, 0, 0
        self.reasons: Counter[str] = Counter()
        self._class = KINDS[kind]
        fields = schema(self._class)
        sized = [f.name for f in fields if str(f.type) == "string" or str(f.type).startswith("list")]
        self._sized = operator.attrgetter(*sized)
        self._held: list[Any] = []
        self._held_bytes = 0
        self.stream = disk.stream(path)
        self._parquet = pq.ParquetWriter(
            self.stream,
            fields,
            compression="zstd",
            compression_level=3,
            version="2.6",
            write_statistics=False,
        )

    def add(self, row: Any) -> None:
        self._held.append(row)
        self._held_bytes += 8 * sum(map(len, filter(None, self._sized(row))))
        if len(self._held) >= GROUP_ROWS or self._held_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        rows, self._held, self._held_bytes = self._held, [], 0
        try:
            table = to_table(self._class, rows)
        except UnicodeEncodeError:  # models write lone surrogates; parquet is UTF-8
            rows, replaced = _cleaned(rows)
            self.replaced += replaced
            table = to_table(self._class, rows)
        if self.kind == "Dropped":
            self.reasons.update(row.reason for row in rows)
        self.rows += len(rows)
        self._parquet.write_table(table)

    def close(self) -> dict[str, Any]:
        """Ends the file, still under its temporary name; returns its entry in the sidecar."""
        if self._held:
            self._flush()
        self._parquet.close()
        return {
            "file": self.file,
            "kind": self.kind,
            "rows": self.rows,
            "bytes": self.stream.size,
            "sha256": self.stream.sha256,
        }


class ChunkWriter:
    """The rows of one chunk. Nothing is visible until `publish`, which `StageFolder.writing` calls on
    leaving its block.
    """

    def __init__(self, folder: Path, plan: Plan, chunk: int, disk: Disk) -> None:
        self.chunk = chunk
        self._folder, self._plan, self._disk = folder, plan, disk
        self._parts: dict[str, PartWriter] = {}
        self._counters: Counter[str] = Counter()
        self._published: list[str] = []

    def add(self, rows: Iterable[Any]) -> None:
        """Rows of any kinds, in the order in which they will be read. They come stamped with round and
        stage.
        """
        for row in rows:
            kind = type(row).__name__
            part = self._parts.get(kind)
            if part is None:
                file = part_file(self._plan, self.chunk, kind_name(kind))
                part = self._parts[kind] = PartWriter(self._disk, self._folder / file, file, kind)
            part.add(row)

    def count(self, name: str, n: int = 1) -> None:
        """Adds to a free counter of this chunk: "read", "named", charged tokens. Summed in the manifest."""
        self._counters[name] += n

    def close(self) -> dict[str, Any]:
        """Ends every part, still under temporary names; returns the sidecar's document."""
        entries = [self._parts[kind].close() for kind in KINDS if kind in self._parts]
        replaced = sum(part.replaced for part in self._parts.values())
        if replaced:
            self._counters["replaced_surrogates"] += replaced
        reasons = self._parts["Dropped"].reasons if "Dropped" in self._parts else Counter()
        return {
            "chunk": self.chunk,
            "fingerprint": self._plan.fingerprint,
            "parts": entries,
            "counts": {
                "rows": {entry["kind"]: entry["rows"] for entry in entries},
                "dropped": dict(sorted(reasons.items())),
            },
            "counters": dict(sorted(self._counters.items())),
        }

    def publish(self) -> None:
        """Every part under its name. They count for nothing until the sidecar stands, which the caller
        writes last.
        """
        for part in self._parts.values():
            self._published.append(part.file)
            part.stream.commit()

    def discard(self) -> None:
        """Nothing is left: neither temporaries nor parts already renamed."""
        for part in self._parts.values():
            part.stream.discard()
        for file in self._published:
            try:
                self._disk.remove(self._folder / file)
            except OSError:  # a failing disk is why we are here; what stays is vouched for by no sidecar
                return


def write_sidecar(folder: Path, plan: Plan, document: dict[str, Any], disk: Disk) -> None:
    disk.write(folder / f"{plan.chunk_name(document['chunk'])}.json", seal(document))


def check_part(folder: Path, entry: dict[str, Any]) -> str | None:
    """Why a part does not verify, or None. Hashes the whole file."""
    path = folder / entry["file"]
    try:
        with path.open("rb") as file:
            return _wrong(path, file, entry)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"{path} is missing"


def _wrong(path: Path, file: Any, entry: dict[str, Any]) -> str | None:
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == entry["sha256"]:
        return None
    size = path.stat().st_size
    return f"{path}: SHA-256 {found} ({size} bytes) is not {entry['sha256']} ({entry['bytes']} bytes)"


def read_part(folder: Path, entry: dict[str, Any]) -> Iterator[Any]:
    """The rows of a part, row group by row group, after its hash was found right.

    Raises:
        DamagedData: missing or changed; before any row is used.
    """
    import pyarrow.parquet as pq

    path, kind = folder / entry["file"], KINDS[entry["kind"]]
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedData(f"{path} is missing. Run `verify RUN --repair` to make it again.") from error
    with file:
        wrong = _wrong(path, file, entry)  # the same open file is hashed and then read
        if wrong:
            raise DamagedData(f"{wrong}. No row of it was used. Run `verify RUN --repair` to make it again.")
        file.seek(0)
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield from _rows(kind, parquet.read_row_group(group, use_threads=False))


def _plain_list(column: pyarrow.Array) -> list[Any]:
    """`to_pylist`, faster for lists of numbers: one conversion of all values, then slices."""
    import pyarrow as pa

    kind = column.type
    if (
        not pa.types.is_list(kind)
        or not pa.types.is_primitive(kind.value_type)
        or column.flatten().null_count
    ):
        return column.to_pylist()
    values, ends = column.flatten().to_numpy(zero_copy_only=False).tolist(), []
    lengths = column.value_lengths().to_pylist()
    at = 0
    for length in lengths:
        ends.append(None if length is None else values[at : at + length])
        at += length or 0
    return ends


def _rows(kind: type, table: pyarrow.Table) -> Iterator[Any]:
    names = table.column_names
    columns = [_plain_list(table.column(name).combine_chunks()) for name in names]
    for values in zip(*columns, strict=True):
        yield kind(**dict(zip(names, values, strict=True)))
