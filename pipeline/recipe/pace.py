"""How fast this machine wrote and trained in earlier runs, by base model; for `plan`. Loads no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.models.packaged import packaged
from pipeline.recipe.shape import first_part

SEED_WRITES = 10_000.0  #: tokens a second of a seed policy on one core (docs/benchmarks.md)
SEED_READS = 30_000.0  #: tokens a second that its body reads with a reward model's head
SEED_LEARNS = 12_000.0  #: tokens a second that its training takes in


@dataclass(frozen=True)
class Pace:
    """Of one base model. None: no earlier run says."""

    tokens: float | None = None  #: written a second, searches and all
    rows: float | None = None  #: trained a second
    reads: float | None = None  #: tokens read a second, by themselves


KINDS = ("tokens", "rows", "reads")


def paces(data: Path) -> dict[str, Pace]:
    """By base, from the timings of every run in the folder; a run that cannot be read is passed over."""
    counts: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = {}
    for folder in sorted(data.glob("*/timing.jsonl")):
        for base, kind, amount, took in _work(folder.parent):
            counts[base, kind] += amount
            seconds[base, kind] = seconds.get((base, kind), 0.0) + took
    return {
        base: Pace(**{kind: _rate(counts[base, kind], seconds.get((base, kind), 0.0)) for kind in KINDS})
        for base in dict.fromkeys(base for base, _ in counts)
    }


def pace_of(base: str, known: dict[str, Pace], length: float) -> Pace:
    """What is known of a base, and for a seed the measured figures where nothing is. length: tokens a row."""
    found = known.get(base, Pace())
    if base.startswith("seed://") and not packaged(base):
        rows = found.rows or SEED_LEARNS / length
        return Pace(found.tokens or SEED_WRITES, rows, found.reads or SEED_READS)
    return found


def _rate(amount: int, seconds: float) -> float | None:
    return amount / seconds if amount and seconds > 0 else None


def _work(folder: Path) -> Iterator[tuple[str, str, int, float]]:
    """(base, the kind of work, how much, seconds) of each finished stage: tokens written, rows trained, or
    reads of the one model that reads there."""
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        bases = {name: model["base"] for name, model in recipe["models"].items()}
        steps = {
            (row["round"], row["stage"]): row["metrics"].get(f"{row['stage']}/steps")
            for row in _lines(folder / "metrics.jsonl")
        }
        for row in _lines(folder / "timing.jsonl"):
            name, took = row["stage"], row["seconds"]
            parts = [recipe.get(part) or {} for part in SECTIONS]
            stage: dict[str, Any] = next((part[name] for part in parts if name in part), {})
            if "train" in stage and steps.get((row["round"], name)):
                amount = int(steps[row["round"], name]) * stage.get("batch_size", 32)
                yield bases[stage.get("model", "policy")], "rows", amount, took
            spent = row.get("spent") or {}
            for model, tokens in spent.get("written", {}).items():
                yield bases[first_part(model)], "tokens", tokens, took
            if len(read := spent.get("read", {})) == 1:
                [(model, tokens)] = read.items()
                yield bases[first_part(model)], "reads", tokens, spent["seconds"]["read"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return  # half-written, or of another version: an estimate does without it


SECTIONS = ("before", "stages", "finally")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)
