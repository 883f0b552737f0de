"""The methods of the rooms: which there are, their modules, their settings. The only place that loads a
room's file, and holds it against the room's contract; nothing here loads torch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import create_model

from pipeline.errors import RecipeError
from pipeline.recipe import contract
from pipeline.settings import METHOD_NAME as NAME
from pipeline.settings import NotBuilt, Settings, module_of

__all__ = ["NAME", "ROOMS", "NotBuilt", "hook", "is_method", "method", "methods", "room_settings", "unbuilt"]

ROOMS = ("generate", "label", "select", "train", "evaluate")  #: those whose methods are stages
BASES = {
    "generate": "GenerateSettings",
    "label": "LabelSettings",
    "select": "SelectSettings",
    "train": "TrainSettings",
    "vote": "VoteSettings",
    "evaluate": "EvaluateSettings",
    "tasks": "TaskSettings",
}


@functools.cache
def method(room: str, name: str) -> ModuleType:
    """The module of a method: `pipeline/<room>/<name>.py`, or an entry point of the group `ratchet.<room>`.

    Raises:
        NotBuilt: there is none, or the file is no method (it has no `Settings`).
        RecipeError: it does not keep its room's contract, a sentence a breach.
    """
    module = module_of(room, name)
    where = f"{room}: {name}: {_file(module)}"
    if found := list(contract.breaches(module, contract_of(room, module), where)):
        raise RecipeError(found)
    return module


def contract_of(room: str, module: ModuleType) -> type:
    """The Protocol that a method of a room has to keep."""
    return importlib.import_module(f"pipeline.{room}").contract(module)


def hook(room: str, module: ModuleType, name: str) -> Callable[..., Any]:
    """A function of a method, or its room's own where the method has none."""
    return contract.hook(module, contract_of(room, module), name)


def _file(module: ModuleType) -> str:
    path, root = Path(module.__file__ or module.__name__), Path(__file__).parents[2]
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def methods(room: str) -> list[str]:
    """The names of a room's methods, its own and those of installed packages."""
    folder = Path(__file__).parents[1] / room
    own = [
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and "Settings" in path.read_text()
    ]
    other = [entry.name for entry in importlib.metadata.entry_points(group=f"ratchet.{room}")]
    return sorted({name for name in own if _is_there(room, name)} | set(other))


def _is_there(room: str, name: str) -> bool:
    try:
        module_of(room, name)
    except (NotBuilt, RecipeError):
        return False
    return True


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
