"""outcome.json: how the last launch of a run ended. accelerate's launcher loses exit codes and sentences,
this file keeps them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import RatchetError
from pipeline.store.disk import DISK, Disk

PIPE = 141  #: as a shell says that a program ended because nobody reads it any more
SIGNALS = {
    PIPE: "Whoever read its console is gone (a pipe to head, a closed terminal). Start it again to go on.",
    130: "Interrupted (Ctrl-C). Start the same command again to go on.",
    143: "Terminated. Start it again to go on.",
}


def exit_code_of(error: BaseException | None) -> int:
    """The exit code of a run that ended with this error (None: it went well)."""
    if error is None:
        return 0
    if isinstance(error, RatchetError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):
        return PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1


def write_outcome(run_dir: Path, error: BaseException | None = None, disk: Disk = DISK) -> dict[str, Any]:
    """Writes {ok, exit_code, error, message, when}; outside the promise and the hashed tree. Returns what
    it wrote.
    """
    code = exit_code_of(error)
    message = "" if error is None else SIGNALS.get(code) or str(error)  # a SystemExit is its number in words
    outcome = {
        "ok": code == 0,
        "exit_code": code,
        "error": "" if code == 0 else type(error).__name__,
        "message": message,
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    disk.write(run_dir / "outcome.json", (json.dumps(outcome, indent=1) + "\n").encode())
    return outcome


def read_outcome(run_dir: Path) -> dict[str, Any] | None:
    """The last outcome, or None where no launch has ended yet."""
    try:
        found = json.loads((run_dir / "outcome.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
