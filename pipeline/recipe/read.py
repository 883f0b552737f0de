"""A recipe file -> a frozen, validated configuration, with overrides.

    recipe = load(Path("recipes/quickstart.yaml"), ["seed=1", "stages.sample.n=16"])

All problems of a recipe are said at once, each with the nearest known key. A method that is not there yet
gives a stage with `built=False`, so that `check` and `plan` still see the whole recipe. Nothing here loads
torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RecipeError, nearest, plain
from pipeline.recipe.methods import NAME, ROOMS, NotBuilt, is_method, method, methods, room_settings, unbuilt
from pipeline.recipe.shape import (
    RUN_NAME,
    SECTIONS,
    EngineSettings,
    Header,
    ModelSettings,
    Recipe,
    Stage,
    WandbSettings,
    changes,
    data_settings,
    dump,
    fingerprint,
    search_settings,
)
from pipeline.recipe.validate import validate
from pipeline.settings import Settings

__all__ = [  # what a reader of recipes needs, from wherever it stands
    "ROOMS",
    "SECTIONS",
    "EngineSettings",
    "Header",
    "ModelSettings",
    "NotBuilt",
    "Recipe",
    "Stage",
    "WandbSettings",
    "build",
    "changes",
    "data_settings",
    "dump",
    "fingerprint",
    "load",
    "method",
    "methods",
    "nearest",
    "parse_yaml",
    "room_settings",
    "search_settings",
    "validate",
]


MAX_BYTES = 1 << 20  #: of a recipe; the longest here has 3,000
MAX_NODES = 100_000  #: after aliases are followed: an alias bomb has few bytes and many of these
MAX_DEPTH = 50
MAX_DIGITS = 100


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, depth, and numbers of many digits."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(
                None, None, f"nested more than {MAX_DEPTH} deep", self.peek_event().start_mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if len(node.value) > MAX_DIGITS:
        said = f"a number of {len(node.value):,} characters"
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    kind = (
        yaml.SafeLoader.construct_yaml_int
        if node.tag.endswith(":int")
        else yaml.SafeLoader.construct_yaml_float
    )
    return kind(loader, node)


def _num_nodes(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes below one, those behind aliases counted each time."""
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES + 1  # of a node that holds itself
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        sizes[id(node)] = 1 + sum(_num_nodes(part, sizes) for part in inner)
    return sizes[id(node)]


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            mark = key_node.start_mark
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data.

    Raises:
        RecipeError: it is not YAML, a key stands twice, or it is larger, deeper or longer than any recipe.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{where}: more than {MAX_BYTES:,} characters: no recipe is that large")
    loader = None
    try:
        loader = _Loader(text)  # a SafeLoader: no tags that build objects
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_nodes(node, {}) > MAX_NODES:
            raise RecipeError(f"{where}: its aliases unfold to more than {MAX_NODES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        said = getattr(problem, "problem", None) or str(problem).split("\n")[0]
        raise RecipeError(f"{where}{line}: not valid YAML: {plain(said)}") from None
    except (ValueError, OverflowError, RecursionError) as problem:
        raise RecipeError(f"{where}: not valid YAML: {plain(str(problem))}") from None
    finally:
        if loader is not None:
            loader.dispose()


def load(path: Path | str, overrides: Iterable[str] = (), name: str | None = None) -> Recipe:
    """A recipe from its file, with `key.sub=value` overrides.

    Raises:
        RecipeError: with every problem found.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{path}: more than {MAX_BYTES:,} bytes: no recipe is that large")
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {problem}") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a map of keys, this is {type(data).__name__}")
    if not data.get("name"):
        data["name"] = path.stem
    for override in overrides:
        _override(data, override)
    if name is not None:
        data["name"] = name
    return build(data, str(path))


def _override(data: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"{override!r}: an override is key.sub=value, for example stages.sample.n=16")
    place: Any = data
    *parents, last = key.strip().split(".")
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise RecipeError(f"{override!r}: {part} is not a map, so it has no key {last}")
    place[last] = parse_yaml(value, override)


def build(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data.

    Raises:
        RecipeError: with every problem found.
    """
    problems: list[str] = []
    rest = dict(data)
    raw_tasks, raw_models = rest.pop("task", None), rest.pop("models", None)
    raw_sections = {section: rest.pop(section, None) or {} for section in SECTIONS}
    known = ["task", "models", *SECTIONS]
    header = validate(Header, rest, where, "", problems, known)
    if header and not RUN_NAME.fullmatch(header.name):
        problems.append(f"{where}: name: {header.name!r} is no run name; use letters, digits, . _ and -")
    if header and header.name in ("tasks", "seed"):
        problems.append(
            f"{where}: name: {header.name!r} is the name of a folder of the project; choose another"
        )
    tasks = _tasks(raw_tasks, where, problems)
    models: dict[str, ModelSettings] = {}
    for name, raw in _map_of(raw_models, where, "models", problems).items():
        if not NAME.fullmatch(str(name)):
            problems.append(f"{where}: models.{name}: a model's name is lower-case letters, digits and _")
        if model := validate(ModelSettings, raw, where, f"models.{name}", problems):
            models[str(name)] = model
    stages: list[Stage] = []
    not_built: list[str] = []
    for section in SECTIONS:
        for name, raw in _map_of(raw_sections[section], where, section, problems, empty=True).items():
            if stage := _stage(str(name), section, raw, where, problems, not_built):
                stages.append(stage)
    recipe = Recipe(
        where, header or Header.model_validate({}), tuple(tasks), models, tuple(stages), tuple(not_built)
    )
    if not problems:
        from pipeline.recipe.check import problems_of  # it reads this module's classes

        problems += [f"{where}: {problem}" for problem in problems_of(recipe)]
    if problems:
        raise RecipeError([*problems, *(f"{where}: {line}" for line in not_built)])
    return recipe


def _map_of(raw: Any, where: str, what: str, problems: list[str], empty: bool = False) -> dict[Any, Any]:
    if isinstance(raw, dict) and (raw or empty):
        return raw
    problems.append(f"{where}: {what}: missing or not a map of names, got {json.dumps(raw, default=str)}")
    return {}


def _tasks(raw: Any, where: str, problems: list[str]) -> list[Any]:
    found = []
    listed = raw if isinstance(raw, list) else [raw]
    for number, one in enumerate(listed):
        path = "task" if not isinstance(raw, list) else f"task.{number}"
        if not isinstance(one, dict) or not isinstance(one.get("use"), str):
            problems.append(
                f"{where}: {path}: say which task: {{use: countdown}}, got {json.dumps(one, default=str)}"
            )
            continue
        try:
            settings = method("tasks", one["use"]).Settings
        except NotBuilt:
            problems.append(
                f"{where}: {path}.use: no task {one['use']!r}{nearest(one['use'], methods('tasks'))}"
            )
            continue
        if task := validate(settings, one, where, path, problems):
            found.append(task)
    return found


def _stage(
    name: str, section: str, raw: Any, where: str, problems: list[str], not_built: list[str]
) -> Stage | None:
    path = f"{section}.{name}"
    if not NAME.fullmatch(name):
        problems.append(f"{where}: {path}: a stage's name is lower-case letters, digits and _")
    if not isinstance(raw, dict):
        problems.append(f"{where}: {path}: a stage is a map like {{generate: sample, by: policy}}")
        return None
    rooms = [key for key in raw if key in ROOMS]
    if len(rooms) != 1:
        said = " and ".join(rooms) or "none"
        hint = nearest(str(next(iter(raw), "")), ROOMS) if not rooms else ""
        problems.append(f"{where}: {path}: needs exactly one of {', '.join(ROOMS)}; it has {said}{hint}")
        return None
    room, rest = rooms[0], {key: value for key, value in raw.items() if key != rooms[0]}
    chosen = raw[room]
    if "from" in rest and not isinstance(rest["from"], (list, tuple)):
        rest["from"] = [rest["from"]]
    built = True
    try:
        settings: type[Settings] = method(room, str(chosen)).Settings
    except NotBuilt:
        built, settings = False, unbuilt(room)
        not_built.append(f"{path}: {room}: {chosen} is not built yet{nearest(str(chosen), methods(room))}")
    search = rest.get("search")
    if (
        room == "evaluate"
        and isinstance(search, dict)
        and not is_method("generate", str(search.get("generate")))
    ):
        not_built.append(f"{path}.search: generate: {search.get('generate')} is not built yet")
    values = validate(settings, rest, where, path, problems)
    return Stage(name, section, room, str(chosen), values, built) if values is not None else None
