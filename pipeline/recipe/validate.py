"""Plain data held against a settings class: every problem as a sentence with the nearest known key."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import nearest
from pipeline.settings import Settings


def validate(
    kind: type[Settings], raw: Any, where: str, path: str, problems: list[str], also_known: Iterable[str] = ()
) -> Any:
    if not isinstance(raw, dict):
        problems.append(
            f"{where}: {path or 'recipe'}: a map of keys is needed, got {json.dumps(raw, default=str)}"
        )
        return None
    try:
        return kind.model_validate(raw)
    except ValidationError as found:
        problems += [_say(error, kind, where, path, also_known) for error in found.errors()]
        return None


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {described.alias or key: described.annotation for key, described in kind.model_fields.items()}
    return {}


def _say(error: Any, kind: type[Settings], where: str, path: str, also_known: Iterable[str]) -> str:
    loc = [str(part) for part in error["loc"]]
    full = ".".join(
        p for p in (path, *loc) if p and not p.startswith(("function-", "dict[", "literal[", "list["))
    )
    if error["type"] == "extra_forbidden":
        known = _fields(kind)
        for part in loc[:-1]:
            inner = known.get(part)
            known = _fields(inner) or next(
                (f for a in getattr(inner, "__args__", ()) if (f := _fields(a))), {}
            )
        parent = ".".join(p for p in (path, *loc[:-1]) if p)
        spot = f"{where}: {parent}: " if parent else f"{where}: "
        return f"{spot}unknown key {loc[-1]}{nearest(loc[-1], [*known, *also_known])}"
    said = error["msg"][0].lower() + error["msg"][1:]
    value = error.get("input")
    if isinstance(value, bool) and "bool" not in error["type"]:
        said += " (YAML reads no, off, yes and on as false and true: put quotes around the word)"
    shown = "" if error["type"] == "missing" else f", got {json.dumps(value, default=str)[:120]}"
    return f"{where}: {full}: {said}{shown}"
