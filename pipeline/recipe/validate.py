"""Plain data held against a settings class: every problem as a sentence with the nearest known key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import nearest
from pipeline.recipe.libraries import WORDS, fields
from pipeline.settings import Settings, names_model

#: what pydantic puts into a place for a member of a union: a class, a kind
MEMBER = re.compile(r"[A-Z]|(function-|constrained-|dict\[|literal\[|list\[|tuple\[)|(int|float|str|bool)$")


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
        told = [_say(error, kind, where, path, also_known) for error in _telling(found.errors(), raw)]
        problems += dict.fromkeys(told)
        return _without(kind, raw, {str(error["loc"][0]) if error["loc"] else "" for error in found.errors()})


def _telling(errors: list[Any], raw: dict[str, Any]) -> list[Any]:
    """Of a value that fits no member of a union, the errors of the members of its own shape."""
    kept = []
    for error in errors:
        loc = error["loc"]
        shape = isinstance(raw.get(str(loc[0])) if loc else None, dict)
        others = [e for e in errors if e["loc"][:1] == loc[:1] and len(e["loc"]) > 1]
        wanted = "model_type" if not shape else "type"
        mismatch = len(loc) > 1 and error["type"] in (wanted, "int_type", "float_type", "dict_type")
        if not (mismatch and any(e["type"] != error["type"] for e in others)):
            kept.append(error)
    return kept or errors


def _without(kind: type[Settings], raw: dict[str, Any], bad: set[str]) -> Any:
    """The settings without the keys that are wrong, so that the rest is checked in the same go; None where
    what is wrong says what the others mean: what a stage reads, and who acts."""
    names = {described.alias or key: key for key, described in kind.model_fields.items()}
    tied = {name for name, key in names.items() if key == "from_" or names_model(kind, key)}
    if "" in bad or bad & tied:
        return None
    try:
        return kind.model_validate({key: value for key, value in raw.items() if key not in bad})
    except ValidationError:
        return None


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {described.alias or key: described.annotation for key, described in kind.model_fields.items()}
    return {}


def _members(annotation: Any) -> list[Any]:
    """The members of a union, and what is inside a list or map."""
    inner = getattr(annotation, "__args__", ())
    return [*inner, *(deeper for each in inner for deeper in _members(each))]


def elsewhere(kind: type[Settings], key: str, known: Iterable[str]) -> str:
    """` (here: kl.coefficient)` for a key as trl and its relatives call it; "": none of theirs.

    A trainer's own arguments that have no key here are taken in `args`."""
    for one in kind.__mro__:
        here = vars(one).get("words", {}).get(key, "")
        if here and (" " in here or here.partition(".")[0] in known):
            return f" (here: {here})"
    owned, arguments = getattr(kind, "owned", {}), getattr(kind, "trainer_arguments", "")
    theirs = WORDS.get(key, key)
    if theirs in owned:
        return f" (here: {owned[theirs]})"
    return f" (write args: {{{theirs}: ...}})" if arguments and theirs in fields(arguments) else ""


def _say(error: Any, kind: type[Settings], where: str, path: str, also_known: Iterable[str]) -> str:
    members = [str(part) for part in error["loc"]]
    loc = [part for part in members if not MEMBER.match(part)]
    full = ".".join(p for p in (path, *loc) if p)
    if error["type"] == "extra_forbidden":
        known = _fields(kind)
        for part in (part for part in loc[:-1] if not part.isdigit()):
            inner = known.get(part)
            known = _fields(inner) or next((f for a in _members(inner) if (f := _fields(a))), {})
        parent = ".".join(p for p in (path, *loc[:-1]) if p)
        spot = f"{where}: {parent}: " if parent else f"{where}: "
        meant = elsewhere(kind, loc[-1], known) if len(loc) == 1 else ""
        return f"{spot}unknown key {loc[-1]}{meant or nearest(loc[-1], [*known, *also_known])}"
    ours = error["type"] == "value_error"  # a sentence of the settings' own, which names what it saw
    said = error["msg"].removeprefix("Value error, ") if ours else error["msg"][0].lower() + error["msg"][1:]
    said, value = said.replace("valid tuple", "list"), error.get("input")
    if isinstance(value, bool) and "bool" not in error["type"]:
        said += " (YAML reads no, off, yes and on as false and true: put quotes around the word)"
    silent = error["type"] == "missing" or (ours and isinstance(value, dict))
    shown = "" if silent else f", got {json.dumps(value, default=str)[:120]}"
    return f"{where}: {full}: {said}{shown}"
