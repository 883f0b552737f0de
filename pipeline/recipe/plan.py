"""What a recipe would do and cost, from its stages alone: nothing runs and no model is loaded.

Tokens are what each method says of itself (`Settings.cost`), for a completion as the task says it typically
is. Speeds are this machine's, from the timings of earlier runs of the same base model; a seed without one
takes the figures of docs/benchmarks.md, and of another model nothing is claimed."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RatchetError
from pipeline.recipe.check import kinds_from, makes
from pipeline.recipe.cost import PROMPT, Lengths, expected
from pipeline.recipe.memory import folder_of, told
from pipeline.recipe.methods import method
from pipeline.recipe.pace import Pace, pace_of, paces
from pipeline.recipe.shape import Recipe, Stage, first_part

BYTES_A_TOKEN = 14.0  #: of a stored trace: ids, log-probabilities and text, compressed


@dataclass(frozen=True)
class Estimate:
    """What one stage of one round may take."""

    problems: int = 0
    tokens: int = 0  #: written by policies
    read: int = 0  #: by reward models and others
    each: int = 0  #: tokens a problem, where nobody knows yet how many problems there are
    rows: int = 0  #: trained on
    seconds: float | None = 0.0  #: None: this machine has not run such a model
    disk: float = 0.0


def describe(recipe: Recipe, data: Path | None = None, checkpoints: Path = Path("checkpoints")) -> str:
    """A recipe as its sections, stages, inputs, models, row kinds and costs. data: where earlier runs lie;
    checkpoints: where seeds are."""
    lines = [f"{recipe.name}: {recipe.rounds} rounds, seed {recipe.seed}"]
    lines += [f"  task {task.use}: {_counts(task)}" for task in recipe.tasks]
    for name, model in recipe.models.items():
        head = f", {model.head} head" if model.head else ""
        lora = "all weights" if model.lora == "none" else f"LoRA r={model.lora.get('r', 8)}"
        lines.append(f"  model {name}: {model.base}{head}, {lora}, restarts from {model.restart_from}")
    known = paces(data) if data else {}
    total, unknown, open_end = Estimate(), [], False
    for section in ("before", "stages", "finally"):
        times = range(1, recipe.rounds + 1) if section == "stages" else range(1)
        stages = recipe.section(section)
        if stages:
            lines.append(f"{section}:" + (f"  (each of {len(times)} rounds)" if section == "stages" else ""))
        for stage in stages:
            costs = [stage_cost(recipe, stage, known, number) for number in times]
            total = _sum([total, *costs])
            open_end |= any(cost.each for cost in costs)
            lines.append(f"  {stage.name:<12} {_sentence(recipe, stage)}")
            if costs[0].tokens or costs[0].read or costs[0].rows or costs[0].each:
                lines.append(f"{'':<15}{_cost(costs)}")
            if any(cost.seconds is None for cost in costs):
                unknown.append(stage.name)
    about = f"about {total.tokens:,} generated tokens"
    if open_end:
        about = "as many tokens as the data has problems" + (f", beside {about}" if total.tokens else "")
    took = _time(total.seconds) if total.seconds or not unknown else "time unknown"
    memory = told(recipe, lambda base: folder_of(base, checkpoints))
    lines.append(f"in all: {about}, {took}, {memory} memory a process, {total.disk / 1e6:.0f} MB disk")
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


def stage_cost(
    recipe: Recipe, stage: Stage, known: dict[str, Pace] | None = None, number: int = 1
) -> Estimate:
    """An estimate of one stage in round `number`."""
    lengths = Lengths(recipe.tasks)
    length = lengths.typical_tokens + PROMPT
    if not stage.built:
        return Estimate()
    if stage.room == "train":
        return _training(recipe, stage, known or {}, number, length)
    cost = expected(recipe, stage, lengths)
    written, read = sum(cost.written.values()), sum(cost.read.values())
    problems = problems_of(recipe, stage)
    if problems is None:  # as many as the data has
        return Estimate(each=int(written + read), seconds=None if written + read else 0.0)
    known = known or {}
    seconds = [
        *(_writing(recipe, name, problems * n, known, length) for name, n in cost.written.items()),
        *(
            _reading(recipe, name, problems * n, known, length, bool(cost.written))
            for name, n in cost.read.items()
        ),
    ]
    took = None if None in seconds else sum(s for s in seconds if s is not None)
    tokens = int(problems * written)
    return Estimate(problems, tokens, int(problems * read), 0, 0, took, tokens * BYTES_A_TOKEN)


def problems_of(recipe: Recipe, stage: Stage) -> int | None:
    """How many problems a stage works on; None where only the data says."""
    read = next((s for s in stage.sources if isinstance(s, str) and s != "train"), None)
    if read is not None and stage.room in ("label", "select"):  # those that arrive, whatever their split
        return problems_of(recipe, recipe.stage(read))
    split = stage.settings.on_split
    counts = [_count(task, split) for task in recipe.tasks]
    wanted = _wanted(recipe, stage) if split == "train" else None
    if None in counts:
        return wanted
    total = sum(count or 0 for count in counts)
    total = min(total or wanted, wanted) if wanted else total
    if stage.room == "evaluate":
        total = min(total, stage.settings.problems or total)
    return total


def _wanted(recipe: Recipe, stage: Stage) -> int | None:
    """Training problems as the first stage of a chain takes them."""
    earlier = next((s for s in stage.sources if isinstance(s, str) and s != "train"), None)
    if earlier is not None:
        return _wanted(recipe, recipe.stage(earlier))
    return stage.settings.problems_wanted or recipe.header.problems_per_round


def _count(settings: Any, split: str) -> int | None:
    """Problems of a task's split: as set, else counted where that is quick."""
    stated = getattr(settings, split)
    if not settings.countable:
        return stated
    there = _counted(settings.model_dump_json(by_alias=True)).get(split)
    return there if stated is None or there is None else min(stated, there)


@functools.cache
def _counted(dumped: str) -> dict[str, int]:
    """Problems by split of a task that reads its own files; none where they cannot be read."""
    import json

    given = json.loads(dumped)
    module = method("tasks", given["use"])
    try:
        problems = module.Task(module.Settings.model_validate(given)).problems()
        return dict(Counter(problem.split for problem in problems))
    except RatchetError:
        return {}


def _writing(recipe: Recipe, name: str, tokens: float, known: dict[str, Pace], length: float) -> float | None:
    """Of tokens that a model writes; None where its speed is unknown."""
    speed = pace_of(_base(recipe, name), known, length).tokens
    return tokens / speed if speed else (None if tokens else 0.0)


def _reading(
    recipe: Recipe, name: str, tokens: float, known: dict[str, Pace], length: float, writes: bool
) -> float | None:
    """Of tokens that a model reads; None where its speed is unknown. writes: the stage writes too; what an
    earlier run measured of that is the stage's whole time, reading included."""
    base = _base(recipe, name)
    if writes and known.get(base, Pace()).tokens:
        return 0.0
    speed = pace_of(base, known, length).reads
    return tokens / speed if speed else (None if tokens else 0.0)


def _base(recipe: Recipe, name: str) -> str:
    return getattr(recipe.models.get(first_part(name)), "base", "")


def _training(recipe: Recipe, stage: Stage, known: dict[str, Pace], number: int, length: float) -> Estimate:
    """Steps as set; a training by epochs, or whose steps take all rows that there are, depends on what is
    kept, and nothing is claimed of it."""
    steps = stage.settings.steps_in(number)
    if not steps or not stage.settings.batch_size:
        return Estimate(seconds=None)
    rows = steps * stage.settings.batch_size
    speed = pace_of(recipe.models[stage.settings.model].base, known, length).rows
    return Estimate(rows=rows, seconds=rows / speed if speed else None)


def _cost(costs: list[Estimate]) -> str:
    """The figures of a stage, of its first and last round where they differ."""
    first, last = costs[0], costs[-1]
    if first.each:
        return f"all problems of the data, about {first.each:,} tokens each, time unknown"
    took = "time unknown" if first.seconds is None else _time(first.seconds)
    if first.rows:
        grown = f" (last round {last.rows:,})" if last.rows != first.rows else ""
        return f"{first.rows:,} rows{grown}, {took}"
    told = [f"about {first.tokens:,} tokens"] if first.tokens else []
    told += [f"{first.read:,} read"] if first.read else []
    return f"{first.problems:,} problems, {' and '.join(told)}, {took}"


def _sum(costs: list[Estimate]) -> Estimate:
    """Of figures that are known."""
    return Estimate(
        problems=sum(cost.problems for cost in costs),
        tokens=sum(cost.tokens for cost in costs),
        read=sum(cost.read for cost in costs),
        rows=sum(cost.rows for cost in costs),
        seconds=sum(cost.seconds or 0.0 for cost in costs),
        disk=sum(cost.disk for cost in costs),
    )


def _time(seconds: float | None) -> str:
    seconds = seconds or 0.0
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
