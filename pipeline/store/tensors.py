"""safetensors files without torch: check the header, look for values that are not finite, rewrite in one
canonical form.

Canonical: tensors ordered as the format's own writer orders them (wide types first, then by name), no holes,
at most one metadata key (with more, the writer's order is random). Equal tensors then give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DamagedData, Diverged, printable
from pipeline.store.disk import Disk

if TYPE_CHECKING:
    import numpy

#: Bits of each type, in the format's own order from narrow to wide.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
MAX_HEADER = 100_000_000
PIECE = 1 << 22


@dataclass(frozen=True)
class Tensor:
    """Where one tensor stands in a file."""

    name: str
    dtype: str
    shape: list[int]
    start: int  #: from the beginning of the file
    end: int


def read_header(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors of a file in file order, and its metadata; every offset is checked against the file's size.

    Raises:
        DamagedData: truncated, or not a safetensors file.
    """
    try:
        return _read_header(path)
    except FileNotFoundError:
        raise DamagedData(f"{path} is missing.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DamagedData(
            f"{path} is not a whole safetensors file: {printable(str(error))}. It was not loaded."
        ) from error


def _read_header(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, MAX_HEADER):
            raise ValueError(f"its header would need {length + 8} bytes, the file has {size}")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    base, tensors = 8 + length, []
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (start, end, *entry["shape"])):
            raise ValueError(f"tensor {printable(name, 60)} has a shape or place that is no count")
        needed = math.ceil(math.prod(entry["shape"]) * BITS[entry["dtype"]] / 8)
        if end - start != needed:
            raise ValueError(f"tensor {name} has {end - start} bytes instead of {needed}")
        tensors.append(Tensor(name, entry["dtype"], entry["shape"], base + start, base + end))
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end, tensor.name))
    at = base
    for tensor in tensors:
        if tensor.start != at:
            raise ValueError(f"tensor {tensor.name} begins at byte {tensor.start} instead of {at}")
        at = tensor.end
    if at != size:
        raise ValueError(f"{size} bytes instead of {at}")
    return tensors, metadata


def _finite(data: bytes, dtype: str) -> bool:
    import numpy as np

    raw: numpy.ndarray[Any, Any]
    if dtype in ("F16", "F32", "F64", "C64"):
        kinds: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "C64": np.complex64}
        return bool(np.isfinite(np.frombuffer(data, kinds[dtype])).all())
    if dtype == "BF16":
        raw = np.frombuffer(data, np.uint16)
        return not bool(((raw & 0x7F80) == 0x7F80).any())
    if dtype in ("F8_E4M3", "F8_E5M2"):
        raw = np.frombuffer(data, np.uint8) & 0x7F
        return not bool((raw == 0x7F).any() if dtype == "F8_E4M3" else (raw >= 0x7C).any())
    return True


def not_finite(path: Path, tensors: list[Tensor]) -> Iterator[str]:
    """Names of tensors that hold NaN or infinity. Reads in pieces."""
    with path.open("rb") as file:
        for tensor in tensors:
            if tensor.dtype[0] in "FBC" and tensor.dtype != "BOOL":
                for data in _pieces(file, tensor):
                    if not _finite(data, tensor.dtype):
                        yield tensor.name
                        break


def _pieces(file: Any, tensor: Tensor) -> Iterator[bytes]:
    file.seek(tensor.start)
    left = tensor.end - tensor.start
    while left:
        data = file.read(min(PIECE, left))
        if not data:
            raise DamagedData(f"{file.name} became shorter while it was read.")
        left -= len(data)
        yield data


def rewrite(source: Path, path: Path, disk: Disk) -> str:
    """Writes the canonical form of a safetensors file inside a temporary folder; returns its SHA-256.

    Raises:
        DamagedData: the source is not whole.
        Diverged: a tensor holds NaN or infinity: nothing of it is committed.
    """
    tensors, metadata = read_header(source)
    bad = list(not_finite(source, tensors))
    if bad:
        raise Diverged(
            f"{source.name}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity "
            f"({', '.join(bad[:3])}): not "
            "committed. Lower the learning rate, or look at the rows of the last steps."
        )
    order = {dtype: rank for rank, dtype in enumerate(BITS)}
    tensors.sort(key=lambda tensor: (-order[tensor.dtype], tensor.name))
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {"format": metadata.get("format", "pt")}
    at = 0
    for tensor in tensors:
        size = tensor.end - tensor.start
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream = disk.stream(path, direct=True)
    try:
        stream.write(len(text).to_bytes(8, "little") + text)
        with source.open("rb") as file:
            for tensor in tensors:
                for data in _pieces(file, tensor):
                    stream.write(data)
        stream.commit()
    finally:
        stream.discard()
    os.chmod(path, 0o644)  # the library writes 0600, and a server of another user must be able to read it
    return stream.sha256
