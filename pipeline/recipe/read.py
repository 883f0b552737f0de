"""A recipe file -> a frozen, validated configuration, with overrides.

    recipe = load(Path("recipes/quickstart.yaml"), ["seed=1", "stages.sample.n=16"])

All problems of a recipe are said at once, each with the nearest known key. A method that is not there yet
gives a stage with `built=False`, so that `check` and `plan` still see the whole recipe. Nothing here loads
torch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RecipeError, nearest, printable
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
    with_gold_told,
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
    "examine",
    "fingerprint",
    "load",
    "method",
    "methods",
    "nearest",
    "override",
    "parse_yaml",
    "plain",
    "room_settings",
    "validate",
]


MAX_BYTES = 1 << 20  #: of a recipe; the longest here has 3,000
MAX_NODES = 100_000  #: after aliases are followed: an alias bomb has few bytes and many of these
MAX_DEPTH = 50
MAX_DIGITS = 100
FLAT = 2000  #: so few openings cannot nest too deep for libyaml, which is ten times as fast


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


class _Fast(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, where it is there: ten times as fast, but its errors say less."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    own = {id(key) for key, _ in node.value}  # what is merged in (`<<: *other`) may be given anew
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    given = set()
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in given:
            mark = key_node.start_mark
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", mark)
        if id(key_node) in own:
            given.add(key)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


for _each in (_Loader, _Fast):
    _each.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
    for _kind in ("int", "float"):
        _each.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def _document(loader: Any, where: str, aliases: bool) -> Any:
    """The plain data of a loader's document (both are SafeLoaders: no tags that build objects). aliases: it
    may hold some, or more values than it may have."""
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if aliases and _num_nodes(node, {}) > MAX_NODES:
            raise RecipeError(f"{where}: its aliases unfold to more than {MAX_NODES:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data.

    Raises:
        RecipeError: it is not YAML, a key stands twice, or it is larger, deeper or longer than any recipe.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{where}: more than {MAX_BYTES:,} characters: no recipe is that large")
    aliases = "&" in text or len(text) >= MAX_NODES
    if sum(map(text.count, ("[", "{", "- "))) < FLAT:
        with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError, RecursionError):
            return _document(_Fast(text), where, aliases)
    try:
        return _document(_Loader(text), where, aliases)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        said = getattr(problem, "problem", None) or str(problem).split("\n")[0]
        raise RecipeError(f"{where}{line}: not valid YAML: {printable(said)}") from None
    except (ValueError, OverflowError, RecursionError) as problem:
        raise RecipeError(f"{where}: not valid YAML: {printable(str(problem))}") from None


BODY = ["task", "models", *SECTIONS]  #: what stands in a recipe beside its header


def load(path: Path | str, overrides: Iterable[str] = (), name: str | None = None) -> Recipe:
    """A recipe from its file, with `key.sub=value` overrides.

    Raises:
        RecipeError: with every problem found.
    """
    return build(plain(path, overrides, name), str(path))


def plain(path: Path | str, overrides: Iterable[str] = (), name: str | None = None) -> dict[str, Any]:
    """A recipe file as plain data, overrides put in.

    Raises:
        RecipeError: it cannot be read, is no map, or an override does not fit.
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
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder: name a recipe file in it, or {path}/*.yaml") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {problem}") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a map of keys, this is {type(data).__name__}")
    if not data.get("name"):
        data["name"] = path.stem
    for given in overrides:
        override(data, given)
    if name is not None:
        data["name"] = name
    return data


def override(data: dict[str, Any], given: str, example: str = "stages.sample.n=16") -> None:
    """Put one `key.sub=value` of the command line into plain data; the value is read as YAML.

    Raises:
        RecipeError: it has no `=`, or goes through something that is no map.
    """
    key, sign, value = given.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"{given!r}: an override is key.sub=value, for example {example}")
    place: Any = data
    *parents, last = key.strip().split(".")
    said = repr(given) if len(given) <= 300 else f"{given[:300]!r}..."
    if len(parents) >= MAX_DEPTH:
        raise RecipeError(f"{said}: a key nested more than {MAX_DEPTH} deep")
    for part in parents:
        if isinstance(place, list):
            place = place[number] if (number := _place_in(part, place)) is not None else None
        else:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict | list):
            raise RecipeError(f"{said}: {part} is not a map, so it has no key {last}")
    if isinstance(place, list):
        if (number := _place_in(last, place)) is None:
            raise RecipeError(f"{said}: a list of {len(place)}: name one by its number from 0")
        place[number] = parse_yaml(value, given)
    else:
        place[last] = parse_yaml(value, given)


def _place_in(part: str, listed: list[Any]) -> int | None:
    """Which item of a list a part of a key names; None where it names none."""
    number = int(part) if part.isdecimal() and len(part) <= 9 else len(listed)
    return number if number < len(listed) else None


def build(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data.

    Raises:
        RecipeError: with every problem found.
    """
    recipe, problems = examine(data, where)
    if problems:
        raise RecipeError([*problems, *(f"{where}: {line}" for line in recipe.not_built)])
    return recipe


def examine(data: Mapping[str, Any], where: str = "recipe") -> tuple[Recipe, list[str]]:
    """(a recipe, every problem of it). Where there are problems it holds what could be made out: enough to
    look further, not to run."""
    problems: list[str] = []
    rest = dict(data)
    raw_tasks, raw_models = rest.pop("task", None), rest.pop("models", None)
    raw_sections = {section: rest.pop(section, None) or {} for section in SECTIONS}
    header = validate(Header, rest, where, "", problems, BODY)
    problems += _bad_names(header, where)
    tasks = _tasks(raw_tasks, where, problems)
    models: dict[str, ModelSettings] = {}
    not_built: list[str] = []
    listed = _map_of(raw_models, where, "models", problems)
    for name, raw in listed.items():
        if not NAME.fullmatch(str(name)):
            problems.append(f"{where}: models.{name}: a model's name is lower-case letters, digits and _")
        if model := validate(ModelSettings, raw, where, f"models.{name}", problems):
            models[str(name)] = model
    stages: list[Stage] = []
    wanted = 0
    for section in SECTIONS:
        there = _map_of(raw_sections[section], where, section, problems, empty=True)
        for name, raw in there.items():
            wanted += 1
            if stage := stage_of(str(name), section, raw, where, problems, not_built, there):
                stages.append(stage)
    recipe = Recipe(
        where,
        header or Header.model_validate({}),
        tuple(tasks),
        models,
        with_gold_told(stages),
        tuple(not_built),
    )
    if header and tasks and listed and len(models) == len(listed) and len(stages) == wanted:
        from pipeline.recipe.check import problems_of  # it reads this module's classes

        problems += [f"{where}: {problem}" for problem in problems_of(recipe)]
    return recipe, problems


def _bad_names(header: Header | None, where: str) -> Iterator[str]:
    if header and not RUN_NAME.fullmatch(header.name):
        yield f"{where}: name: {header.name!r} is no run name; use letters, digits, . _ and -"
    if header and header.name in ("tasks", "seed"):
        yield f"{where}: name: {header.name!r} is the name of a folder of the project; choose another"


def _map_of(raw: Any, where: str, what: str, problems: list[str], empty: bool = False) -> dict[Any, Any]:
    if isinstance(raw, dict) and (raw or empty):
        return raw
    problems.append(f"{where}: {what}: missing or not a map of names, got {json.dumps(raw, default=str)}")
    return {}


def _tasks(raw: Any, where: str, problems: list[str]) -> list[Any]:
    found = []
    listed = raw if isinstance(raw, list) and raw else [raw]
    for number, one in enumerate(listed):
        path = "task" if not isinstance(raw, list) or not raw else f"task.{number}"
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
        except RecipeError as breach:
            problems += [f"{where}: {path}: {line}" for line in breach.problems]
            continue
        if task := validate(settings, one, where, path, problems):
            found.append(task)
    return found


def stage_of(
    name: str,
    section: str,
    raw: Any,
    where: str,
    problems: list[str],
    not_built: list[str],
    others: Iterable[str] = (),
) -> Stage | None:
    """A stage from plain data; None, and its problems told, where it is none. others: the section's stages,
    one of which may be meant."""
    path = f"{section}.{name}"
    if not NAME.fullmatch(name):
        problems.append(f"{where}: {path}: a stage's name is lower-case letters, digits and _")
    if not isinstance(raw, dict):
        problems.append(f"{where}: {path}: a stage is a map like {{generate: sample, by: policy}}")
        return None
    rooms = [key for key in raw if key in ROOMS]
    if len(rooms) != 1:
        said = " and ".join(rooms) or "none"
        near = [nearest(str(key), ROOMS) for key in raw] if not rooms else []
        meant = nearest(name, [str(one) for one in others if one != name])
        hint = next((one for one in [*near, meant] if "mean" in one), near[0] if near else "")
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
    except RecipeError as breach:  # the method does not keep its room's contract, or cannot be imported
        problems += [f"{where}: {path}: {line}" for line in breach.problems]
        return None
    search = rest.get("search")
    if (
        room == "evaluate"
        and isinstance(search, dict)
        and not is_method("generate", str(search.get("generate")))
    ):
        acted = str(search.get("generate"))
        meant = nearest(acted, methods("generate"))
        not_built.append(f"{path}.search: generate: {acted} is not built yet{meant}")
    values = validate(settings, rest, where, path, problems)
    return Stage(name, section, room, str(chosen), values, built) if values is not None else None
