"""What every settings class shares: frozen, unknown keys refused, each key's meaning under change declared.

Apart from `recipe.py` because rooms declare their settings and may not import the module that loads them.

- **data** (a plain pydantic field): a change would change rows or weights, so a run refuses it with a diff
  (or is forked).
- **extendable**: may grow on a finished run (`rounds: 3 -> 5`).
- **operational**: free to change; never in a fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


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


def extendable(default: Any, **more: Any) -> Any:
    """A field that a finished run may raise."""
    return Field(default, json_schema_extra={"change": "extendable"}, **more)


def change_kind(settings: type[BaseModel], field: str) -> Literal["data", "extendable", "operational"]:
    """What a change of `field` means for a run that exists."""
    extra = settings.model_fields[field].json_schema_extra
    return extra.get("change", "data") if isinstance(extra, dict) else "data"  # type: ignore[return-value]


class _ModelMark:
    """Marks an annotation as naming a model of the recipe."""


MODEL_MARK = _ModelMark()
#: The name of a model of the recipe. Every acting model's weights enter the fingerprint, whatever the key is
#: called.
ModelName = Annotated[str, MODEL_MARK]


def _holds_mark(annotation: Any) -> bool:
    return annotation is MODEL_MARK or any(_holds_mark(part) for part in get_args(annotation))


def names_model(settings: type[BaseModel], key: str) -> bool:
    """Does this field name models of the recipe?"""
    field = settings.model_fields[key]
    return any(mark is MODEL_MARK for mark in field.metadata) or _holds_mark(field.annotation)


def models_named(settings: BaseModel) -> Iterator[tuple[str, str]]:
    """(key, model name) for each model that a settings object names, in lists and maps and nested settings
    too."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            yield from ((f"{key}.{inner}", name) for inner, name in models_named(value))
        elif names_model(type(settings), key):
            names = (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, (list, tuple))
                else [value]
            )
            yield from ((key, name) for name in names if isinstance(name, str))


class FileSource(Settings):
    """`from: {file: PATH, row: Example}`: rows from outside."""

    file: str
    row: Literal["Trace", "Label", "Example", "StepExample", "Pair", "Problem"]


class StageSettings(Settings):
    """What any stage may carry. Rooms extend it (`GenerateSettings`, `LabelSettings`, ...); methods extend
    those."""

    sees_gold: ClassVar[bool] = False  #: only a method that declares this gets the problem with its answer
    needs: ClassVar[
        tuple[str, ...]
    ] = ()  #: row kinds that must stand in its input, for `check` ("Trace", "Label", "Node", ...)
    makes: ClassVar[tuple[str, ...]] = ()  #: row kinds that it writes, for `plan`
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


class GateRule(Settings):
    """One condition of a model's gate: no significant loss of `metric`, or a bound on it.

    With `margin`: refused only when the paired 95 % upper bound of the change is below -margin. With
    `at_most`: refused above it."""

    metric: str = Field(description="an evaluate stage's metric: measure/accuracy/greedy")
    margin: float | None = Field(None, ge=0)
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> GateRule:
        if (self.margin is None) == (self.at_most is None):
            raise ValueError("a gate rule has either margin or at_most")
        return self
