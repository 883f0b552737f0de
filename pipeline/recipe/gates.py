"""What a recipe's gates ask for: is each metric one that a stage measures, and does the rule fit it?"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import nearest
from pipeline.evaluate._rules import GateRule
from pipeline.recipe.measures import declared, gains_of, watched
from pipeline.recipe.shape import Recipe, Stage


def _unknown_metric(stage: Stage, metric: str) -> list[str]:
    """What an evaluate stage measures, where `metric` is none of it; empty where it is or none can tell."""
    if not stage.built:
        return []
    names = [*(one.name for one in declared(stage)), *gains_of(stage)]
    known = any(metric == name or metric.startswith((f"{name}/", f"{name}@")) for name in names)
    return [] if known else names


def _bounds(stage: Stage, model: str, metric: str, rule: GateRule) -> Iterator[str]:
    """A gate's bound on what a training says of itself."""
    known, here = watched(stage), f"models.{model}.gate"
    if stage.settings.model != model:
        yield f"{here}: {stage.name} trains {stage.settings.model}, not {model}"
    elif stage.built and metric not in known:
        says = f"{stage.name} watches no {metric!r}{nearest(metric, known)}"
        yield f"{here}: {says if known else f'train: {stage.method} watches nothing a gate may bound'}"
    elif not rule.bound:
        yield f"{here}: {rule.metric} has no interval: a training's numbers take at_most or at_least"


def gates(recipe: Recipe) -> Iterator[str]:
    measures = {s.name: s for s in recipe.section("stages") if s.room == "evaluate"}
    trainings = {s.name: s for s in recipe.section("stages") if s.room == "train"}
    trained = {s.settings.model for s in recipe.stages if s.room == "train"}
    for name, model in recipe.models.items():
        for rule in model.gate:
            read, _, metric = rule.metric.partition("/")
            if read in trainings:
                yield from _bounds(trainings[read], name, metric, rule)
            elif read not in measures:
                known = [*measures, *trainings]
                yield f"models.{name}.gate: no evaluate stage {read!r} in stages{nearest(read, known)}"
            elif known := _unknown_metric(measures[read], metric):
                yield f"models.{name}.gate: {read} measures no {metric!r}{nearest(metric, known)}"
            elif not rule.bound and metric in gains_of(measures[read]):
                yield f"models.{name}.gate: {rule.metric} is a change itself: it takes at_most or at_least"
        if model.gate and name not in trained:
            yield f"models.{name}.gate: {name} is never trained, so nothing passes its gate"
    seen: dict[str, Stage] = {}
    for stage in recipe.section("stages"):
        if stage.room != "train":
            continue
        other = seen.get(stage.settings.model)
        if other and any(other.runs_in(r) and stage.runs_in(r) for r in range(1, max(recipe.rounds, 1) + 1)):
            yield f"stages.{stage.name}: {other.name} already trains {stage.settings.model} in that round"
        seen[stage.settings.model] = stage
    if unnamed := [
        s.name for s in recipe.stages if s.room == "train" and s.settings.model not in recipe.models
    ]:
        yield f"stages.{unnamed[0]}: trains a model that is not in models"
