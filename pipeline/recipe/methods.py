"""The methods of the rooms: which there are, their modules, their settings. The only place that loads a
room's file; nothing here loads torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import ModuleType

from pydantic import create_model

from pipeline.settings import Settings

ROOMS = ("generate", "label", "select", "train", "evaluate")
BASES = {
    "generate": "GenerateSettings",
    "label": "LabelSettings",
    "select": "SelectSettings",
    "train": "TrainSettings",
    "evaluate": "EvaluateSettings",
    "tasks": "TaskSettings",
}
NAME = re.compile(r"[a-z][a-z0-9_]*")


class NotBuilt(LookupError):
    """No file and no entry point offers this method."""


def method(room: str, name: str) -> ModuleType:
    """The module of a method: `pipeline/<room>/<name>.py`, or an entry point of the group `ratchet.<room>`.

    Raises:
        NotBuilt: there is none, or the file is no method (it has no `Settings`).
    """
    if NAME.fullmatch(name):
        full = f"pipeline.{room}.{name}"
        if importlib.util.find_spec(full) is not None:
            module = importlib.import_module(full)
            if isinstance(getattr(module, "Settings", None), type):
                return module
        for entry in importlib.metadata.entry_points(group=f"ratchet.{room}"):
            if entry.name == name:
                return entry.load()
    raise NotBuilt(f"{room}: {name}")


def methods(room: str) -> list[str]:
    """The names of a room's methods, its own and those of installed packages."""
    folder = Path(__file__).parents[1] / room
    own = [
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and "Settings" in path.read_text()
    ]
    other = [entry.name for entry in importlib.metadata.entry_points(group=f"ratchet.{room}")]
    return sorted({name for name in own if is_method(room, name)} | set(other))


def is_method(room: str, name: str) -> bool:
    """Does a room have this method?"""
    try:
        method(room, name)
    except NotBuilt:
        return False
    return True


def room_settings(room: str) -> type[Settings]:
    """The base settings class of a room."""
    return getattr(importlib.import_module(f"pipeline.{room}"), BASES[room])


def unbuilt(room: str) -> type[Settings]:
    """Settings of a method that is not there: the room's keys, and any other key let through."""
    base = room_settings(room)
    return create_model("Unbuilt", __base__=base, __cls_kwargs__={"extra": "allow"})  # type: ignore[call-overload]
