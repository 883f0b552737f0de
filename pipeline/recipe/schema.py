"""A recipe's JSON schema, for editors: keys complete as they are typed, and a wrong one is underlined.

    ratchet schema > recipe.schema.json
    # yaml-language-server: $schema=recipe.schema.json           (a comment of the recipe)

Made from the settings classes that `check` validates with, so it knows every method that is installed. It
says less than `check`: nothing of what a recipe means, and nothing of the disk. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from pipeline.recipe.libraries import fields, schedules
from pipeline.recipe.methods import ROOMS, method, methods
from pipeline.recipe.shape import SECTIONS, Header, ModelSettings
from pipeline.settings import Settings

DRAFT = "http://json-schema.org/draft-07/schema#"  #: the newest that yaml-language-server reads whole


def schema() -> dict[str, Any]:
    """The schema of a recipe file."""
    tasks = {name: method("tasks", name).Settings for name in methods("tasks")}
    stages = {(room, name): method(room, name).Settings for room in ROOMS for name in methods(room)}
    kinds: list[type[Settings]] = [Header, ModelSettings, *tasks.values(), *stages.values()]
    named, whole = models_json_schema(
        [(kind, "validation") for kind in dict.fromkeys(kinds)],
        by_alias=True,
        ref_template="#/definitions/{model}",
    )
    definitions = whole["$defs"]

    def of(kind: type[Settings]) -> dict[str, Any]:
        return definitions[named[kind, "validation"]["$ref"].rpartition("/")[2]]

    header = of(Header)["properties"]
    _loosen(definitions)
    of(ModelSettings)["properties"]["lora"] = _lora(of(ModelSettings)["properties"]["lora"])
    shapes: dict[str, Any] = {}
    for (room, name), kind in stages.items():
        shapes[f"{room}.{name}"] = _stage(of(kind), room, name, kind)
    for name, kind in tasks.items():
        shapes[f"task.{name}"] = of(kind) | {"properties": of(kind)["properties"] | {"use": {"const": name}}}
    definitions |= {key: _closed(shape) for key, shape in shapes.items()}
    definitions["task"] = _choice("use", tasks, "task", required=True)
    definitions["stage"] = {
        "type": "object",
        "anyOf": [{"required": [room]} for room in ROOMS],
        "allOf": [_choice(room, [n for r, n in stages if r == room], room) for room in ROOMS],
    }
    named_stages = {"type": "object", "additionalProperties": {"$ref": "#/definitions/stage"}}
    task = {"$ref": "#/definitions/task"}
    model = {"$ref": named[ModelSettings, "validation"]["$ref"]}
    return {
        "$schema": DRAFT,
        "title": "A recipe of Ratchet",
        "type": "object",
        "additionalProperties": False,
        "required": ["task", "models"],
        "properties": {
            **header,
            "task": {"anyOf": [task, {"type": "array", "items": task}]},
            "models": {"type": "object", "minProperties": 1, "additionalProperties": model},
            **dict.fromkeys(SECTIONS, named_stages),
        },
        "definitions": definitions,
    }


def _choice(key: str, names: Iterable[str], what: str, required: bool = False) -> dict[str, Any]:
    """One shape for each value of a key."""
    known = list(names)
    rules = [
        {
            "if": {"required": [key], "properties": {key: {"const": name}}},
            "then": {"$ref": f"#/definitions/{what}.{name}"},
        }
        for name in known
    ]
    found: dict[str, Any] = {"properties": {key: {"enum": known}}, "allOf": rules}
    return found | ({"type": "object", "required": [key]} if required else {})


def _stage(shape: Mapping[str, Any], room: str, name: str, kind: type[Any]) -> dict[str, Any]:
    """A stage's settings with its room's key."""
    properties = dict(shape["properties"]) | {room: {"const": name}}
    if room == "train":
        known = fields(kind.trainer_arguments)
        free: dict[str, Any] = {key: {} for key in known if key not in kind.owned}
        if free:
            properties["args"] = properties["args"] | {"properties": free, "additionalProperties": False}
        if names := schedules():
            properties["schedule"] = properties["schedule"] | {"enum": list(names)}
    return {**shape, "properties": properties}


def _closed(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {**shape, "additionalProperties": False}


def _lora(shape: Mapping[str, Any]) -> dict[str, Any]:
    """`lora`: the keys of peft's LoraConfig, or none."""
    known = fields("LoraConfig")
    keys = {"type": "object", "properties": {key: {} for key in known}, "additionalProperties": not known}
    return {**{k: v for k, v in shape.items() if k != "anyOf"}, "anyOf": [keys, {"const": "none"}]}


def _loosen(definitions: Mapping[str, Any]) -> None:
    """Where one value may stand for a list of one: `from`, `gate`, `server`."""
    for shape in definitions.values():
        for key in ("from", "gate", "server"):
            if (found := shape.get("properties", {}).get(key)) and found.get("type") == "array":
                shape["properties"][key] = {
                    **{k: v for k, v in found.items() if k not in ("type", "items")},
                    "anyOf": [{"type": "array", "items": found["items"]}, found["items"]],
                }
