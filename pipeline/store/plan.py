"""What a stage is going to do, written before it does it: inputs, models, settings and the fixed slices of
problem ids.

The fingerprint is the SHA-256 of everything that can change a row. The run's own name is not in it, so that a
fork and a run of the same recipe under another name agree.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.rows import SCHEMA_VERSION
from pipeline.store.documents import canonical, sha256


@dataclass(frozen=True)
class ChunkPlan:
    """One fixed slice of problem ids, and the chunks of each input stage that hold their rows."""

    ids: list[str]
    reads: dict[str, list[int]] = field(
        default_factory=dict
    )  #: stage path relative to data/ -> chunk numbers


@dataclass(frozen=True)
class Plan:
    """plan.json. Make one with `Plan.make`, which computes the fingerprint."""

    run: str
    round: int
    stage: str
    room: str
    method: str
    main: str  #: the row kind of the main parts ("Trace", ...); "" where all kinds have folders of their own
    fingerprint: str
    settings: dict[str, Any]  #: data settings only
    inputs: dict[str, str]  #: stage path relative to data/ -> manifest hash
    models: dict[str, str]  #: model name -> weights hash
    schema: int
    seed: int
    chunks: list[ChunkPlan]
    recorded: dict[
        str, Any
    ]  #: package versions, threads, code: told, compared by the loop, never in the fingerprint

    @classmethod
    def make(
        cls,
        *,
        run: str,
        round: int,
        stage: str,
        room: str,
        method: str,
        main: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        models: Mapping[str, str],
        seed: int,
        chunks: Sequence[ChunkPlan],
        schema: int = SCHEMA_VERSION,
        recorded: Mapping[str, Any] | None = None,
    ) -> Plan:
        """A plan with its fingerprint. Settings must be what JSON can hold (tuples become lists)."""
        plan = cls(
            run=run,
            round=round,
            stage=stage,
            room=room,
            method=method,
            main=main,
            fingerprint="",
            settings=json.loads(canonical(settings)),
            inputs=dict(inputs),
            models=dict(models),
            schema=schema,
            seed=seed,
            chunks=list(chunks),
            recorded=json.loads(canonical(recorded or {})),
        )
        return dataclasses.replace(plan, fingerprint=plan.compute_fingerprint())

    def _own(self, key: str) -> str:
        return "./" + key.removeprefix(f"{self.run}/") if key.startswith(f"{self.run}/") else key

    def _identity(self) -> dict[str, Any]:
        """What can change a row, apart from the slices."""
        return {
            "settings": self.settings,
            "inputs": {self._own(key): value for key, value in self.inputs.items()},
            "models": self.models,
            "schema": self.schema,
            "seed": self.seed,
            "round": self.round,
            "stage": self.stage,
            "room": self.room,
            "method": self.method,
            "main": self.main,
        }

    def _slices(self) -> list[Any]:
        return [[c.ids, {self._own(key): value for key, value in c.reads.items()}] for c in self.chunks]

    def compute_fingerprint(self) -> str:
        """SHA-256 (hex) over the canonical JSON of everything that can change a row."""
        return sha256(canonical([self._identity(), self._slices()]))

    def to_document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Plan:
        chunks = [ChunkPlan(c["ids"], c["reads"]) for c in document["chunks"]]
        return cls(**{**document, "chunks": chunks})

    def chunk_name(self, chunk: int) -> str:
        """train-00007-of-00042"""
        return f"train-{chunk:05d}-of-{len(self.chunks):05d}"

    def differences(self, new: Plan) -> list[str]:
        """One line for each thing in which `new` differs from this plan, as a user would say it."""
        old_parts, new_parts = self._identity(), new._identity()
        lines = [
            f"settings {key}: {before} -> {after}"
            for key, before, after in _changed(old_parts.pop("settings"), new_parts.pop("settings"))
        ]
        for what, word in (("inputs", "input"), ("models", "model")):
            pairs = _changed(old_parts.pop(what), new_parts.pop(what), deep=False)
            lines += [f"{word} {key} changed: {before[:14]} -> {after[:14]}" for key, before, after in pairs]
        lines += [
            f"{key}: {before} -> {after}" for key, before, after in _changed(old_parts, new_parts, deep=False)
        ]
        if self._slices() != new._slices():
            lines.append(f"chunks: {_described(self)} -> {_described(new)}")
        return lines


def _described(plan: Plan) -> str:
    ids = sum(len(chunk.ids) for chunk in plan.chunks)
    slices = sha256(canonical(plan._slices()))[:8]
    return f"{len(plan.chunks)} chunks of {ids} problems (slices {slices})"


def _leaves(value: Any, path: str = "", *, deep: bool = True) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and (deep or not path):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key), deep=deep)
    else:
        yield path, value if isinstance(value, str) and not deep else json.dumps(value, ensure_ascii=False)


def _changed(old: dict[str, Any], new: dict[str, Any], *, deep: bool = True) -> list[tuple[str, str, str]]:
    before, after = dict(_leaves(old, deep=deep)), dict(_leaves(new, deep=deep))
    keys = [key for key in {**before, **after} if key and before.get(key) != after.get(key)]
    return [(key, before.get(key, "(absent)"), after.get(key, "(absent)")) for key in keys]
