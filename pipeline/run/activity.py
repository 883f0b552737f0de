"""What a run is doing at this moment: one small file, kept by the console of rank 0, read by `status`.

Scratch: outside what a run promises, never synced, and left out where the disk does not take it. Not here:
how far a run is (`status.py` asks what is committed).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STALE = 600.0  #: seconds after which what was told says nothing of now


def place(run_folder: Path) -> Path:
    """Where it stands."""
    return run_folder / "logs" / "now.json"


def tell(path: Path, values: Mapping[str, Any]) -> None:
    """Replace what was told, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a full disk is told by whoever writes rows
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**values, "at": time.time()}, default=str))
        temporary.replace(path)


def look(path: Path) -> dict[str, Any] | None:
    """What was told last, with `age` in seconds; None where nothing (recent) was."""
    try:
        found = json.loads(path.read_text())
        age = max(time.time() - float(found["at"]), 0.0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**found, "age": age} if age < STALE else None
