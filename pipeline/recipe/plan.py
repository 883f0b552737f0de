"""What a recipe would do and cost, from its stages alone: nothing runs and no model is loaded.

Tokens are `n` times a typical share of the completion limit. Speeds are this machine's, from the timings of
earlier runs of the same base model; a seed without one takes the figures of docs/benchmarks.md, and of
another model nothing is claimed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.recipe.check import kinds_from, makes
from pipeline.recipe.pace import Pace, pace_of, paces
from pipeline.recipe.shape import Recipe, Stage

TYPICAL = 0.5  #: share of the token limit that a completion uses, where nothing was measured
PROMPT = 20  #: tokens of a prompt, where nothing was measured
BYTES_A_TOKEN = 14.0  #: of a stored trace: ids, log-probabilities and text, compressed


@dataclass(frozen=True)
class Cost:
    """What one stage of one round may take."""

    problems: int = 0
    tokens: int = 0
    each: int = 0  #: tokens a problem
    rows: int = 0  #: trained on
    seconds: float | None = 0.0  #: None: this machine has not run such a model
    disk: float = 0.0


def describe(recipe: Recipe, data: Path | None = None) -> str:
    """A recipe as its sections, stages, inputs, models, row kinds and costs. data: where earlier runs lie."""
    lines = [f"{recipe.name}: {recipe.rounds} rounds, seed {recipe.seed}"]
    lines += [f"  task {task.use}: {_counts(task)}" for task in recipe.tasks]
    for name, model in recipe.models.items():
        head = f", {model.head} head" if model.head else ""
        lora = "all weights" if model.lora == "none" else f"LoRA r={model.lora.get('r', 8)}"
        lines.append(f"  model {name}: {model.base}{head}, {lora}, restarts from {model.restart_from}")
    known = paces(data) if data else {}
    total, unknown = Cost(), []
    for section in ("before", "stages", "finally"):
        times = range(1, recipe.rounds + 1) if section == "stages" else range(1)
        stages = recipe.section(section)
        if stages:
            lines.append(f"{section}:" + (f"  (each of {len(times)} rounds)" if section == "stages" else ""))
        for stage in stages:
            costs = [stage_cost(recipe, stage, known, number) for number in times]
            total = _sum([total, *costs])
            lines.append(f"  {stage.name:<12} {_sentence(recipe, stage)}")
            if costs[0].tokens or costs[0].rows or costs[0].each:
                lines.append(f"{'':<15}{_cost(costs)}")
            if any(cost.seconds is None for cost in costs):
                unknown.append(stage.name)
    lines.append(
        f"in all: about {total.tokens:,} generated tokens, {_time(total.seconds)}, {_memory(recipe)} memory, "
        f"{total.disk / 1e6:.0f} MB disk"
    )
    if unknown:
        lines.append(
            f"  without the time of {', '.join(unknown)}: the number of rows or the speed of the model is "
            "not known before a first round (then `status` says what is left)"
        )
    lines += [f"not built: {line}" for line in recipe.not_built]
    return "\n".join(lines)


def disk_needed(recipe: Recipe) -> int:
    """Bytes that a whole run's rows may take; weights and what a task brings are not in it."""
    times = {"before": 1, "stages": recipe.rounds, "finally": 1}
    return int(sum(stage_cost(recipe, stage).disk * times[stage.section] for stage in recipe.stages))


def _counts(task: Any) -> str:
    return ", ".join(f"{getattr(task, split) or 'all'} {split}" for split in ("train", "dev", "test"))


def _sentence(recipe: Recipe, stage: Stage) -> str:
    reads = ", ".join(sorted(kinds_from(recipe, stage))) if stage.sources else ""
    writes = ", ".join(makes(stage)) or ("weights" if stage.room == "train" else "")
    return f"{stage.sentence()}: {reads + ' -> ' if reads else '-> '}{writes}"


def stage_cost(recipe: Recipe, stage: Stage, known: dict[str, Pace] | None = None, number: int = 1) -> Cost:
    """An estimate of one stage in round `number`; labels and selections take seconds."""
    length = max(task.max_tokens for task in recipe.tasks) * TYPICAL
    if stage.room == "train" and stage.built:
        return _training(recipe, stage, known or {}, number, length + PROMPT)
    if stage.room not in ("generate", "evaluate") or not stage.built:
        return Cost()
    settings = stage.settings
    split = getattr(settings, "split", "train")
    problems = sum((getattr(task, split) or 0) for task in recipe.tasks)
    if split == "train" and recipe.header.problems_per_round:
        problems = min(problems or recipe.header.problems_per_round, recipe.header.problems_per_round)
    limit = getattr(settings, "max_tokens", 0) or max(task.max_tokens for task in recipe.tasks)
    drawn = getattr(settings, "n", None) or getattr(settings, "iterations", None) or 1
    writer = getattr(settings, "by", "") or "policy"
    if stage.room == "evaluate":
        of = settings.of if isinstance(settings.of, list | tuple) else [settings.of]
        drawn = len(of) * (1 + (getattr(settings, "samples", 0) or 0))
        writer = getattr(settings, "by", "") or of[0]
    tokens = int(problems * drawn * limit * TYPICAL)
    base = getattr(recipe.models.get(str(writer).partition("@")[0]), "base", "")
    speed = pace_of(base, known or {}, length + PROMPT).tokens
    seconds = tokens / speed if speed else (None if tokens else 0.0)
    if not problems and any(getattr(task, split) is None for task in recipe.tasks):
        return Cost(each=int(drawn * limit * TYPICAL), seconds=None)  # as many as the data has
    return Cost(problems, tokens, 0, 0, seconds, tokens * BYTES_A_TOKEN)


def _training(recipe: Recipe, stage: Stage, known: dict[str, Pace], number: int, length: float) -> Cost:
    """Steps as set; a training by epochs depends on what is kept, and nothing is claimed of it."""
    settings: Any = stage.settings
    steps = settings.steps.at(number) if hasattr(settings.steps, "at") else settings.steps
    if not steps:
        return Cost(seconds=None)
    rows = steps * settings.batch_size
    speed = pace_of(recipe.models[settings.model].base, known, length).rows
    return Cost(rows=rows, seconds=rows / speed if speed else None)


def _cost(costs: list[Cost]) -> str:
    """The figures of a stage, of its first and last round where they differ."""
    first, last = costs[0], costs[-1]
    if first.each:
        return f"all problems of the data, about {first.each:,} tokens each, time unknown"
    what = (
        f"{first.problems:,} problems, about {first.tokens:,} tokens"
        if first.tokens
        else f"{first.rows:,} rows" + (f" (last round {last.rows:,})" if last.rows != first.rows else "")
    )
    return f"{what}, {'time unknown' if first.seconds is None else _time(first.seconds)}"


def _sum(costs: list[Cost]) -> Cost:
    """Of figures that are known."""
    return Cost(
        sum(cost.problems for cost in costs),
        sum(cost.tokens for cost in costs),
        0,
        sum(cost.rows for cost in costs),
        sum(cost.seconds or 0.0 for cost in costs),
        sum(cost.disk for cost in costs),
    )


def _time(seconds: float | None) -> str:
    seconds = seconds or 0.0
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _memory(recipe: Recipe) -> str:
    """Weights twice over (one copy writes, one is trained) where the size is known, and half a GB."""
    total, unknown = 0.5, []
    for model in recipe.models.values():
        folder, named = Path(model.base), re.search(r"(\d+(?:\.\d+)?)[bB]\b", model.base)
        if model.base.startswith("seed://"):
            continue
        if folder.is_dir():
            total += 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
        elif named:
            total += 2 * 2 * float(named[1])  # bf16
        else:
            unknown.append(model.base)
    return f"{total:.1f} GB" + (f" and what {', '.join(unknown)} takes" if unknown else "")
