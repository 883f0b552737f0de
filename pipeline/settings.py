"""What every settings class shares: frozen, unknown keys refused, each key's meaning under change declared.

Apart from `recipe.py` because rooms declare their settings and may not import the module that loads them.

- **data** (a plain pydantic field): a change would change rows or weights, so a run refuses it with a diff
  (or is forked).
- **extendable**: may grow on a finished run (`rounds: 3 -> 5`).
- **operational**: free to change; never in a fingerprint.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.errors import RecipeError

F = TypeVar("F", bound=Callable[..., Any])


def _may_be_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_may_be_bool(part) for part in get_args(annotation))


class Settings(BaseModel):
    """The base of every settings class."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `no` and `on` as false and true: only a field that is a truth value takes one."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _may_be_bool(field.annotation):
            raise ValueError("is no truth value here")
        return value


def operational(default: Any, **more: Any) -> Any:
    """A field that never changes a row or a weight: batch sizes, workers, wandb."""
    return Field(default, json_schema_extra={"change": "operational"}, **more)


def added(default: Any, **more: Any) -> Any:
    """A data field that came after runs were made without it: at its default it is in no fingerprint, so they
    go on."""
    return Field(default, json_schema_extra={"change": "data", "added": True}, **more)


def extendable(default: Any, **more: Any) -> Any:
    """A field that a finished run may raise."""
    return Field(default, json_schema_extra={"change": "extendable"}, **more)


def change_kind(settings: type[BaseModel], field: str) -> Literal["data", "extendable", "operational"]:
    """What a change of `field` means for a run that exists."""
    extra = settings.model_fields[field].json_schema_extra
    return extra.get("change", "data") if isinstance(extra, dict) else "data"  # type: ignore[return-value]


# --- models that act


@dataclass(frozen=True)
class Act:
    """The mark of a setting that names a model of the recipe: what the model is asked to do there.

    `writes`: text (a policy). `scores`: step values (whatever answers `Score`). `chooses`: among given
    answers (a judge, a pairwise model). `any`: whatever it is.
    """

    does: Literal["any", "writes", "scores", "chooses"]


def in_fingerprint(settings: BaseModel, key: str) -> bool:
    """Does a key's value belong to the fingerprint: is it data, and not a later key at its default?"""
    described = type(settings).model_fields[key]
    extra = described.json_schema_extra
    later = isinstance(extra, dict) and extra.get("added")
    still = later and getattr(settings, key) == described.get_default(call_default_factory=True)
    return change_kind(type(settings), key) == "data" and not still


class _Standing:
    """Marks a model that acts as it stood before the round, where others act as the round's candidates."""


STANDING = _Standing()
#: Names of models. Every acting model's weights enter the fingerprint, whatever the key is called; `check`
#: holds the model's head against what it is asked to do.
ModelName = Annotated[str, Act("any")]
PolicyName = Annotated[str, Act("writes")]
RewardModelName = Annotated[str, Act("scores")]
JudgeName = Annotated[str, Act("chooses")]


@dataclass(frozen=True)
class Actor:
    """One model that a stage's settings name."""

    key: str  #: where: `by`, `search.value`
    name: str  #: `policy@0` and such kept
    does: str = "any"
    standing: bool = False


def _marks(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, (Act, _Standing)):
        yield annotation
    for part in get_args(annotation):
        yield from _marks(part)


@functools.cache
def _marked(kind: type[BaseModel]) -> tuple[tuple[str, Act | None, bool], ...]:
    """(key, what its model is asked to do, does it stand as before the round?) of each field."""
    found = []
    for key, field in kind.model_fields.items():
        marks = [*field.metadata, *_marks(field.annotation)]
        act = next((mark for mark in marks if isinstance(mark, Act)), None)
        found.append((key, act, any(mark is STANDING for mark in marks)))
    return tuple(found)


def actors(settings: BaseModel) -> Iterator[Actor]:
    """Each model that a settings object names, in lists and maps and nested settings too."""
    for key, act, standing in _marked(type(settings)):
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            yield from (replace(one, key=f"{key}.{one.key}") for one in actors(value))
            continue
        if act is None:
            continue
        names = list(value.values()) if isinstance(value, dict) else value
        for name in names if isinstance(names, (list, tuple)) else [names]:
            if isinstance(name, str):
                yield Actor(key, name, act.does, standing)


def asked_of(kind: type[BaseModel]) -> dict[str, str]:
    """Key -> what its model is asked to do, for each key of a settings class that names one."""
    marks = {key: [*f.metadata, *_marks(f.annotation)] for key, f in kind.model_fields.items()}
    return {key: one.does for key, found in marks.items() for one in found if isinstance(one, Act)}


def names_model(settings: type[BaseModel], key: str) -> bool:
    """Does this field name models of the recipe?"""
    return key in asked_of(settings)


def models_named(settings: BaseModel) -> Iterator[tuple[str, str]]:
    """(key, model name) for each model that a settings object names."""
    yield from ((one.key, one.name) for one in actors(settings))


# --- methods, named in settings

METHOD_NAME = re.compile(r"[a-z][a-z0-9_]*")


class NotBuilt(LookupError):
    """No file and no entry point offers this method."""


@functools.cache
def module_of(room: str, name: str) -> ModuleType:
    """The module of a method, not yet held against its room's contract: `pipeline/<room>/<name>.py`, or an
    entry point of the group `ratchet.<room>`. Shared code asks `recipe.methods.method`, which does.

    Raises:
        NotBuilt: there is none, or the file is no method (it has no `Settings`).
        RecipeError: its file cannot be imported.
    """
    why = ""
    if METHOD_NAME.fullmatch(name):
        full = f"pipeline.{room}.{name}"
        if importlib.util.find_spec(full) is not None:
            module = _imported(full, lambda: importlib.import_module(full))
            if isinstance(getattr(module, "Settings", None), type):
                return module
            why = f" (pipeline/{room}/{name}.py has no class Settings)"
        for entry in importlib.metadata.entry_points(group=f"ratchet.{room}"):
            if entry.name == name:
                return _imported(f"{room}: {name}: the entry point {entry.value}", entry.load)
    raise NotBuilt(f"{room}: {name}{why}")


def _imported(what: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except Exception as problem:  # a stranger's file may fail in any way: the user gets its first line
        said = str(problem).splitlines()[0] if str(problem) else ""
        raise RecipeError(f"{what} cannot be imported: {type(problem).__name__}: {said}") from problem


def optional(hook: F) -> F:
    """Marks a function of a room's Protocol that a method need not have: the Protocol's own is taken."""
    hook.optional = True  # type: ignore[attr-defined]
    return hook


# --- what a method expects to cost


@dataclass(frozen=True)
class Cost:
    """What one problem is expected to cost: tokens written and read by model name, and the traces left."""

    written: Mapping[str, float] = dataclasses.field(default_factory=dict)
    read: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  #: by reward models, judges, references
    traces: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        def both(one: Mapping[str, float], two: Mapping[str, float]) -> dict[str, float]:
            return {name: one.get(name, 0.0) + two.get(name, 0.0) for name in {**one, **two}}

        return Cost(
            both(self.written, other.written), both(self.read, other.read), self.traces + other.traces
        )


class Length(Protocol):
    """What a task says of a typical completion; every TaskSettings is one."""

    @property
    def typical_tokens(self) -> float: ...
    @property
    def typical_steps(self) -> float: ...


class FileSource(Settings):
    """`from: {file: PATH, row: Example}`: rows of ours from outside. `from: {file: PATH, form: prm800k}`:
    step labels that people made, in the form that they were published in."""

    file: str
    row: Literal["Trace", "Label", "Example", "StepExample", "Pair", "Problem"] | None = None
    form: Literal["prm800k", "processbench"] | None = added(
        None, description="solutions with human step labels: PRM800K's JSON lines, or ProcessBench's"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> FileSource:
        if (self.row is None) == (self.form is None):
            raise ValueError("wants either row (Trace, StepExample, ...) or form (prm800k, processbench)")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what it does not say: fingerprints from before `form` stay."""
        return {key: value for key, value in handler(self).items() if value is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of rows that it brings."""
        return ("Problem", "Trace", "Label", "StepExample") if self.row is None else (self.row,)


class StageSettings(Settings):
    """What any stage may carry. Rooms extend it (`GenerateSettings`, `LabelSettings`, ...); methods extend
    those."""

    sees_gold: ClassVar[bool] = False  #: only a method that declares this gets the problem with its answer
    needs: ClassVar[
        tuple[str, ...]
    ] = ()  #: row kinds that must stand in its input, for `check` ("Trace", "Label", "Node", ...)
    makes: ClassVar[tuple[str, ...]] = ()  #: row kinds that it writes, for `plan`
    #: does it need the log-probabilities that traces were drawn by? Then no worked example may stand before
    on_policy: ClassVar[bool] = False
    acts: ClassVar[tuple[str, ...]] = ()  #: later turns that it asks for (`asks.Turn`): critique, revise, ...
    words: ClassVar[
        Mapping[str, str]
    ] = {}  #: what other libraries call a key -> what it is here, for `check`
    draws: ClassVar[tuple[str, ...]] = ()  #: keys that count draws after one prefix: 1 at temperature 0

    from_: tuple[str | FileSource, ...] = Field(
        (), alias="from", description="earlier stages, `train`, or files"
    )
    rounds: tuple[int, int | None] | None = Field(
        None, description="[first, last]: the rounds in which this stage runs"
    )
    every: int = Field(1, ge=1, description="run in each k-th round only")
    chunk: int | None = Field(None, ge=1, description="problems a chunk, on the first stage of a chain")
    on_empty: Literal["stop", "continue"] = Field(
        "stop", description="what to do when a filter keeps nothing; a training: one row, or one target"
    )

    # What the shared code asks of a stage. A method overrides what differs; nothing reads a key by its name.

    @field_validator("rounds", mode="before")
    @classmethod
    def _first_and_last(cls, rounds: Any) -> Any:
        if isinstance(rounds, (list, tuple)):
            whole = all(r is None or (isinstance(r, int) and not isinstance(r, bool)) for r in rounds)
            if len(rounds) != 2 or not whole or rounds[0] is None:
                raise ValueError("write [first, last], and null for a last one that never comes: [2, null]")
            if rounds[1] is not None and rounds[1] < rounds[0]:
                raise ValueError(f"the last round, {rounds[1]}, is before the first, {rounds[0]}")
        return rounds

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        """Row kinds that must stand in its input under these settings."""
        return self.needs

    @property
    def kinds_made(self) -> tuple[str, ...]:
        """Row kinds that it writes under these settings, the main one first."""
        return self.makes

    @property
    def samples_wanted(self) -> int:
        """Samples of a problem below which it has nothing to say: 2 where they are compared."""
        return 0

    @property
    def on_split(self) -> str:
        """Whose problems it works on: train, dev or test."""
        return "train"

    @property
    def problems_wanted(self) -> int | None:
        """How many training problems it takes; None: as the recipe's problems_per_round says."""
        return None

    @property
    def pools_rounds(self) -> bool:
        """Does it read every round so far?"""
        return False

    @property
    def draws_alike(self) -> bool:
        """Is each of its draws after one prefix the same text (temperature 0)?"""
        return False

    @property
    def written_by(self) -> str:
        """The model that writes its traces, where it makes any of its own; empty: none."""
        return ""

    @property
    def drawn_otherwise(self) -> str:
        """How its traces were not drawn as the policy alone draws under the training prompt (`temperature
        0.7`); empty: they were."""
        return ""

    @property
    def smooths(self) -> bool:
        """Are some of its pairs less than sure (`Pair.confidence`)?"""
        return False

    @property
    def decoding(self) -> Any:
        """How tokens are drawn (`engine/decoding.py`); None: from the model's own distribution."""
        return None

    @property
    def asked_acts(self) -> tuple[str, ...]:
        """The later turns that it asks for under these settings."""
        return self.acts

    @property
    def talks(self) -> bool:
        """Does it ask for later turns, so that a chat template must take them?"""
        return bool(self.asked_acts)

    @property
    def fault_over_chat(self) -> str:
        """What it lacks over a task that chats, `KEY: what to do`; "": nothing."""
        return ""

    @property
    def completion_limit(self) -> int:
        """Tokens that a completion it asks for may have; 0: as the task says."""
        return 0

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """What one problem is expected to cost. given: traces of the problem that arrive by `from`."""
        return Cost(traces=given)
