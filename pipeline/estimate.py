"""What a recipe would do and cost, from its stages alone: nothing runs and no model is loaded.

Token counts are upper bounds (`n` times the completion limit) beside a typical share; speeds are this
machine's, taken from the timings of earlier runs where there are any, else from the measured figures in
docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.meaning import kinds_from, makes
from pipeline.recipe import Recipe, Stage

TYPICAL = 0.5  #: share of the token limit that a completion uses, where nothing was measured
SPEED = 10_000.0  #: tokens a second of a 1 M parameter model on one core (docs/benchmarks.md)
BYTES_A_TOKEN = 14.0  #: of a stored trace: ids, log-probabilities and text, compressed


@dataclass(frozen=True)
class Cost:
    """What one stage of one round may take."""

    problems: int
    tokens: int
    seconds: float
    disk: float


def describe(recipe: Recipe) -> str:
    """A recipe as its sections, stages, inputs, models, row kinds and costs."""
    lines = [f"{recipe.name}: {recipe.rounds} rounds, seed {recipe.seed}"]
    lines += [f"  task {task.use}: {_counts(task)}" for task in recipe.tasks]
    for name, model in recipe.models.items():
        head = f", {model.head} head" if model.head else ""
        lora = "all weights" if model.lora == "none" else f"LoRA r={model.lora.get('r', 8)}"
        lines.append(f"  model {name}: {model.base}{head}, {lora}, restarts from {model.restart_from}")
    total = Cost(0, 0, 0.0, 0.0)
    for section, times in (("before", 1), ("stages", recipe.rounds), ("finally", 1)):
        stages = recipe.section(section)
        if stages:
            lines.append(f"{section}:" + (f"  (each of {times} rounds)" if section == "stages" else ""))
        for stage in stages:
            cost = stage_cost(recipe, stage)
            total = _add(total, cost, times)
            lines.append(f"  {stage.name:<12} {_sentence(recipe, stage)}")
            if cost.tokens:
                lines.append(
                    f"{'':<15}{cost.problems:,} problems, about {cost.tokens:,} tokens, {_time(cost.seconds)}"
                )
    memory = sum(_memory(model.base) for model in recipe.models.values())
    lines.append(
        f"in all: about {total.tokens:,} generated tokens, {_time(total.seconds)} of generation, "
        f"{memory:.1f} GB memory, {total.disk / 1e6:.0f} MB disk; training time is not in it"
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


def stage_cost(recipe: Recipe, stage: Stage) -> Cost:
    """An estimate of one stage in one round."""
    if stage.room not in ("generate", "evaluate") or not stage.built:
        return Cost(0, 0, 0.0, 0.0)
    settings = stage.settings
    split = getattr(settings, "split", "train")
    problems = sum((getattr(task, split) or 0) for task in recipe.tasks)
    if split == "train" and recipe.header.problems_per_round:
        problems = min(problems or recipe.header.problems_per_round, recipe.header.problems_per_round)
    limit = getattr(settings, "max_tokens", 0) or max(task.max_tokens for task in recipe.tasks)
    drawn = getattr(settings, "n", None) or getattr(settings, "iterations", None) or 1
    if stage.room == "evaluate":
        of = settings.of if isinstance(settings.of, list) else [settings.of]
        drawn = len(of) * (1 + (getattr(settings, "samples", 0) or 0))
    tokens = int(problems * drawn * limit * TYPICAL)
    return Cost(problems, tokens, tokens / SPEED, tokens * BYTES_A_TOKEN)


def _add(total: Cost, one: Cost, times: int) -> Cost:
    return Cost(
        total.problems + one.problems * times,
        total.tokens + one.tokens * times,
        total.seconds + one.seconds * times,
        total.disk + one.disk * times,
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _memory(base: str) -> float:
    """Gigabytes that a model's weights take, twice for training; a seed's are small."""
    folder = Path(base)
    if folder.is_dir():
        return 2 * sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    return 0.5
