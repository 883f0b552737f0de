"""A recipe file -> a frozen, validated configuration; overrides; fingerprints; what a change means.

    recipe = load(Path("recipes/quickstart.yaml"), ["seed=1", "stages.sample.n=16"])

All problems of a recipe are said at once, each with the nearest known key. `method(room, name)` is the only
place that loads a room's file; a method that is not there yet gives a stage with `built=False`, so that
`check` and `plan` still see the whole recipe. Nothing here loads torch."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model, field_validator

from pipeline.errors import RecipeError
from pipeline.settings import (
    FileSource,
    GateRule,
    Settings,
    change_kind,
    models_named,
    operational,
)

ROOMS = ("generate", "label", "select", "train", "evaluate")
BASES = {
    "generate": "GenerateSettings",
    "label": "LabelSettings",
    "select": "SelectSettings",
    "train": "TrainSettings",
    "evaluate": "EvaluateSettings",
    "tasks": "TaskSettings",
}
SECTIONS = ("before", "stages", "finally")
NAME = re.compile(r"[a-z][a-z0-9_]*")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
    folder = Path(__file__).parent / room
    own = [
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and "Settings" in path.read_text()
    ]
    other = [entry.name for entry in importlib.metadata.entry_points(group=f"ratchet.{room}")]
    return sorted({name for name in own if _is_method(room, name)} | set(other))


def _is_method(room: str, name: str) -> bool:
    try:
        method(room, name)
    except NotBuilt:
        return False
    return True


def room_settings(room: str) -> type[Settings]:
    """The base settings class of a room."""
    return getattr(importlib.import_module(f"pipeline.{room}"), BASES[room])


def _unbuilt(room: str) -> type[Settings]:
    """Settings of a method that is not there: the room's keys, and any other key let through."""
    base = room_settings(room)
    return create_model("Unbuilt", __base__=base, __cls_kwargs__={"extra": "allow"})  # type: ignore[call-overload]


class EngineSettings(Settings):
    """Where and how a model runs. Free to change."""

    max_rows: int = operational(512, ge=1, description="rows decoded together")
    device: str = operational("auto")
    server: tuple[str, ...] = operational(
        (), description="OpenAI-compatible servers that hold the base model"
    )


class ModelSettings(Settings):
    """One named model of the recipe."""

    base: str = Field(description="seed://NAME, run://RUN@ROUND/MODEL, a folder, or a Hub id")
    head: Literal["value", "token"] | None = Field(
        None, description="a process reward model's head; none: a policy"
    )
    restart_from: Literal["base", "previous"] = Field("base", description="what each training starts from")
    lora: dict[str, Any] | Literal["none"] = Field(
        default_factory=lambda: {"r": 16}, description="peft's LoraConfig, all of it; none trains everything"
    )
    gate: tuple[GateRule, ...] = Field((), description="what a new version must not lose")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: EngineSettings = operational(EngineSettings())

    @field_validator("gate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


class WandbSettings(Settings):
    """The mirror. Free to change."""

    mode: Literal["offline", "online", "disabled"] = operational("offline")
    project: str = operational("ratchet")
    entity: str = operational("")
    tags: tuple[str, ...] = operational(())


class Header(Settings):
    """A recipe's own keys, without its tasks, models and stages."""

    name: str = Field("", description="the run's name; the file's stem where absent")
    about: str = Field(
        "", description="paper and what to expect", json_schema_extra={"change": "operational"}
    )
    seed: int = Field(0, ge=0, description="names every random draw of the run")
    rounds: int = Field(
        0, ge=0, description="self-improvement rounds", json_schema_extra={"change": "extendable"}
    )
    problems_per_round: int | None = Field(
        None, ge=1, description="drawn without replacement until all were seen"
    )
    tokens_per_round: int | None = Field(
        None,
        ge=1,
        description="policy tokens a round may learn from, as `compare` sets it; chunks beyond are left out",
    )
    save_every: int = operational(100, ge=1, description="optimizer steps between trainer checkpoints")
    window: int = operational(2, ge=1, description="chunks under way together; a kill costs these")
    license: str = operational("", description="of its rows, for the run's card: apache-2.0, cc-by-4.0, ...")
    strict: bool = operational(
        False, description="refuse a resume under other package versions, threads or code"
    )
    wandb: WandbSettings = operational(WandbSettings())


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, as a sentence: room, method, what it reads, who acts."""

    name: str
    section: str
    room: str
    method: str
    settings: Any
    built: bool = True

    @property
    def sources(self) -> tuple[str | FileSource, ...]:
        return self.settings.from_

    @property
    def models(self) -> dict[str, str]:
        """Key -> the model named under it, `@0` and such kept."""
        if self.built:
            named: dict[str, str] = {}
            for key, name in (*models_named(self.settings), *self._search_models()):
                named[key if key not in named else f"{key}.{name}"] = name
            return named
        known = {
            key: name for key, name in models_named(self.settings) if key in self.settings.model_fields_set
        }
        return known | {k: v for k, v in (self.settings.model_extra or {}).items() if isinstance(v, str)}

    def _search_models(self) -> Iterator[tuple[str, str]]:
        """The models that an evaluation's `search` names, apart from the one it measures."""
        search = getattr(self.settings, "search", None)
        if self.room != "evaluate" or not isinstance(search, dict):
            return
        try:
            settings = method("generate", str(search.get("generate"))).Settings
            found = settings.model_validate(search_settings(self))
        except (NotBuilt, ValidationError):
            return  # said elsewhere
        yield from ((f"search.{key}", name) for key, name in models_named(found) if key != "by")

    def runs_in(self, round_number: int) -> bool:
        """Does this stage run in a round? (`every`, `rounds: [first, last]`); always in before and
        finally."""
        if self.section != "stages" or round_number == 0:
            return True
        first, last = self.settings.rounds or (1, None)
        return first <= round_number <= (last or round_number) and round_number % self.settings.every == 0

    def sentence(self) -> str:
        """What it is, for people: `generate sample from train by policy`."""
        sources = ", ".join(s if isinstance(s, str) else s.file for s in self.sources)
        actors = ", ".join(f"{key} {name}" for key, name in self.models.items())
        return " ".join(
            p for p in (self.room, self.method, f"from {sources}" if sources else "", actors) if p
        )


def search_settings(stage: Stage) -> dict[str, Any]:
    """The keys of an evaluation's `search`, without the method's name."""
    return {key: value for key, value in stage.settings.search.items() if key != "generate"}


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, validated."""

    path: str
    header: Header
    tasks: tuple[Any, ...]
    models: dict[str, ModelSettings]
    stages: tuple[Stage, ...]
    not_built: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def seed(self) -> int:
        return self.header.seed

    @property
    def rounds(self) -> int:
        return self.header.rounds

    def section(self, name: str) -> list[Stage]:
        """The stages of before, stages or finally, in order."""
        return [stage for stage in self.stages if stage.section == name]

    def stage(self, name: str) -> Stage:
        """A stage by name.

        Raises:
            RecipeError: there is none; the message names the nearest.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise RecipeError(f"{self.path}: no stage {name!r}{nearest(name, [s.name for s in self.stages])}")

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as plain data that loads again to the same recipe."""
        tasks = [dump(task) for task in self.tasks]
        whole: dict[str, Any] = dump(self.header)
        whole["task"] = tasks[0] if len(tasks) == 1 else tasks
        whole["models"] = {name: dump(model) for name, model in self.models.items()}
        for section in SECTIONS:
            if stages := self.section(section):
                whole[section] = {s.name: {s.room: s.method} | dump(s.settings) for s in stages}
        return whole

    def leaves(self) -> dict[str, tuple[Any, str]]:
        """Path -> (value, data | extendable | operational) of every leaf key."""
        found: dict[str, tuple[Any, str]] = {}
        _leaves("", self.header, "data", found)
        for number, task in enumerate(self.tasks):
            _leaves("task" if len(self.tasks) == 1 else f"task.{number}", task, "data", found)
        for name, model in self.models.items():
            _leaves(f"models.{name}", model, "data", found)
        for stage in self.stages:
            found[f"{stage.section}.{stage.name}"] = (f"{stage.room}: {stage.method}", "data")
            _leaves(f"{stage.section}.{stage.name}", stage.settings, "data", found)
        return found


def dump(settings: BaseModel) -> dict[str, Any]:
    """A settings object as plain data, aliases used."""
    return json.loads(settings.model_dump_json(by_alias=True))


def data_settings(settings: BaseModel) -> dict[str, Any]:
    """The keys that can change rows or weights, as plain data: what goes into a fingerprint."""
    kept: dict[str, Any] = {}
    plain = dump(settings)
    for key, described in type(settings).model_fields.items():
        if change_kind(type(settings), key) != "data":
            continue
        value = getattr(settings, key)
        name = described.alias or key
        kept[name] = data_settings(value) if isinstance(value, BaseModel) else plain[name]
    return kept | dict(settings.model_extra or {})


def _leaves(path: str, settings: BaseModel, kind: str, found: dict[str, tuple[Any, str]]) -> None:
    plain = dump(settings)
    for key, described in type(settings).model_fields.items():
        here = change_kind(type(settings), key) if kind == "data" else kind
        value, name = getattr(settings, key), described.alias or key
        full = f"{path}.{name}" if path else name
        if isinstance(value, BaseModel):
            _leaves(full, value, here, found)
        else:
            found[full] = (plain[name], here)


def changes(old: Recipe, new: Recipe) -> tuple[list[str], list[str]]:
    """(what a resume must refuse, what it may take), each a one-line diff a key."""
    before, after = old.leaves(), new.leaves()
    refused: list[str] = []
    taken: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        was, kind = before.get(path, (None, "data"))
        now, kind_now = after.get(path, (None, kind))
        if was == now:
            continue
        line = f"{path}: {json.dumps(was)} -> {json.dumps(now)}"
        grown = kind_now == "extendable" and isinstance(was, int) and isinstance(now, int) and now > was
        (taken if kind_now == "operational" or grown else refused).append(line)
    return refused, taken


def fingerprint(value: Any) -> str:
    """SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- reading


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)`, or the known ones where none is near and they are few."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(sorted(known))})" if 0 < len(known) <= 12 else ""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""


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


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data.

    Raises:
        RecipeError: it is not YAML, or a key stands twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: no tags that build objects
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        said = getattr(problem, "problem", None) or str(problem).split("\n")[0]
        raise RecipeError(f"{where}{line}: not valid YAML: {said}") from None


def load(path: Path | str, overrides: Iterable[str] = (), name: str | None = None) -> Recipe:
    """A recipe from its file, with `key.sub=value` overrides.

    Raises:
        RecipeError: with every problem found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
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
        from pipeline.meaning import meaning  # it reads this module's classes

        problems += [f"{where}: {problem}" for problem in meaning(recipe)]
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
        built, settings = False, _unbuilt(room)
        not_built.append(f"{path}: {room}: {chosen} is not built yet{nearest(str(chosen), methods(room))}")
    search = rest.get("search")
    if (
        room == "evaluate"
        and isinstance(search, dict)
        and not _is_method("generate", str(search.get("generate")))
    ):
        not_built.append(f"{path}.search: generate: {search.get('generate')} is not built yet")
    values = validate(settings, rest, where, path, problems)
    return Stage(name, section, room, str(chosen), values, built) if values is not None else None


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
