"""A recipe as a frozen configuration: its header, models and stages; what is data, and what a change means.

`recipe.read` makes one from its file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator

from pipeline.errors import RecipeError, nearest
from pipeline.evaluate._rules import GateRule
from pipeline.models.heads import head_of
from pipeline.settings import (
    Actor,
    FileSource,
    Settings,
    actors,
    change_kind,
    in_fingerprint,
    operational,
)

SECTIONS = ("before", "stages", "finally")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class EngineSettings(Settings):
    """Where and how a model runs. Free to change."""

    max_rows: int = operational(512, ge=1, description="rows decoded together")
    device: str = operational("auto")
    server: tuple[str, ...] = operational(
        (), description="OpenAI-compatible servers that hold the base model; docs/servers.md"
    )
    model: str = operational("", description="the base's name on the servers; none: the only one they list")
    api_key_env: str = operational("", description="the environment variable that holds the servers' key")
    timeout: float = operational(600.0, gt=0, description="seconds for one answer of a server")

    @field_validator("server", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("server")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port that is no number
                good = False
            if not good:
                raise ValueError(f"{url} is no address of a server, such as http://localhost:8000")
            if parts.username or parts.password:
                raise ValueError("holds a user or password; name an environment variable with api_key_env")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("is the name of an environment variable, not the key itself")
        return value

    @field_validator("device")
    @classmethod
    def _a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|npu|hpu|mlu|musa)(:\d+)?", device):
            raise ValueError(f"{device!r} is no device: auto, cpu, cuda, cuda:1, ...")
        return device


class ModelSettings(Settings):
    """One named model of the recipe."""

    words: ClassVar[Mapping[str, str]] = {"torch_dtype": "dtype", "peft_config": "lora"} | dict.fromkeys(
        ("model_name_or_path", "name_or_path", "pretrained", "path", "model", "checkpoint"), "base"
    )

    base: str = Field(description="seed://NAME, run://RUN@ROUND/MODEL, a folder, or a Hub id")
    head: Literal["value", "token", "implicit", "probe", "pair", "shared"] | None = Field(
        None, description="a reward model's head; none: a policy; shared: one model for both"
    )
    restart_from: Literal["base", "previous"] = Field("base", description="what each training starts from")
    lora: dict[str, Any] | Literal["none"] = Field(
        default_factory=lambda: {"r": 16}, description="peft's LoraConfig, all of it; none trains everything"
    )
    gate: tuple[GateRule, ...] = Field((), description="what a new version must not lose")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: the fastest that is exact on this machine, which is said"
    )
    engine: EngineSettings = operational(EngineSettings())

    @field_validator("lora", mode="before")
    @classmethod
    def _none_or_settings(cls, value: Any) -> Any:
        if value != "none" and not isinstance(value, dict):
            raise ValueError("write none, or settings such as {r: 16}")
        return value

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
    monitor: Literal["wandb", "tensorboard", "none"] = operational(
        "wandb", description="what mirrors the numbers; the HTML report needs none"
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
    #: does it read traces of a generator that sees gold, or labels that `leaks` it? (`with_gold_told`)
    of_gold: bool = False

    @property
    def saw_gold(self) -> bool:
        """Is this an evaluation of answers whose generator saw gold, by `search` or in `from`, or that a
        labeller with `leaks` had a hand in?"""
        if self.room != "evaluate" or not self.built:
            return False
        try:
            acting = self.settings.acting()
        except ValidationError:
            return False  # said elsewhere
        return self.of_gold or (acting is not None and acting.sees_gold)

    @property
    def sources(self) -> tuple[str | FileSource, ...]:
        return self.settings.from_

    @property
    def actors(self) -> list[Actor]:
        """Every model that the stage names, and what it is asked to do; those of an evaluation's `search`
        too, apart from the one it measures."""
        found = list(actors(self.settings))
        if not self.built:
            return [one for one in found if one.key in self.settings.model_fields_set]
        if self.room == "evaluate":
            try:
                acting = self.settings.acting()
            except ValidationError:
                return found  # said elsewhere
            inner = actors(acting) if acting is not None else ()
            found += [replace(one, key=f"search.{one.key}") for one in inner if one.key != "by"]
        return found

    @property
    def models(self) -> dict[str, str]:
        """Key -> the model named under it, `@0` and such kept."""
        if self.built:
            named: dict[str, str] = {}
            for one in self.actors:
                named[one.key if one.key not in named else f"{one.key}.{one.name}"] = one.name
            return named
        known = {one.key: one.name for one in self.actors}
        return known | {k: v for k, v in (self.settings.model_extra or {}).items() if isinstance(v, str)}

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


def with_gold_told(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """The stages, those marked that read traces of a generator which sees gold, or labels of a labeller that
    `leaks` it, at any distance."""
    seen: set[str] = set()
    found: list[Stage] = []
    for stage in stages:
        of_gold = any(isinstance(source, str) and source in seen for source in stage.sources)
        if of_gold or (stage.built and _tells_gold(stage)):
            seen.add(stage.name)
        found.append(replace(stage, of_gold=True) if of_gold else stage)
    return tuple(found)


def _tells_gold(stage: Stage) -> bool:
    if stage.room == "label":
        return bool(stage.settings.leaks)
    return stage.room == "generate" and bool(stage.settings.sees_gold)


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

    @property
    def policies(self) -> list[str]:
        """The models that write what the run learns from: those without a head, or with one beside it."""
        return [name for name, model in self.models.items() if head_of(model.head).policy]

    @property
    def policy(self) -> str | None:
        """The first policy; None where every model has a head."""
        return next(iter(self.policies), None)

    def section(self, name: str) -> list[Stage]:
        """The stages of before, stages or finally, in order."""
        return [stage for stage in self.stages if stage.section == name]

    @property
    def talks(self) -> bool:
        """Does some stage ask for later turns, so that a chat template must take them?"""
        return any(stage.settings.talks for stage in self.stages if stage.built)

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
        if not in_fingerprint(settings, key):
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


def split_name(name: str) -> tuple[str, str]:
    """`policy@0` -> ("policy", "0"); `policy` -> ("policy", "")."""
    base, _, at = name.partition("@")
    return base, at


def first_part(name: str) -> str:
    """`policy@0` -> policy."""
    return split_name(name)[0]


def measured(stage: Stage) -> list[str]:
    """The models that an evaluate stage measures."""
    return stage.settings.measured


def standing_in(stage: Stage) -> set[str]:
    """The models that act in an evaluation as they stood before the round, not as its candidates."""
    candidates = {one.name for one in stage.actors if not one.standing} & set(measured(stage))
    return {one.name for one in stage.actors if one.standing} - candidates
