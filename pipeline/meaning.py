"""What a recipe means: is every input there, may every model act as it is asked to, does the gate read
something that exists?

`recipe.build` calls `meaning` once a recipe is well-formed; every problem is a sentence. `loop.py` asks
`kinds_from` for `plan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.models.registry import brings_head
from pipeline.recipe import NotBuilt, Recipe, Stage, method, nearest, search_settings, validate
from pipeline.settings import FileSource


def split_name(name: str) -> tuple[str, str]:
    """`policy@0` -> ("policy", "0"); `policy` -> ("policy", "")."""
    base, _, at = name.partition("@")
    return base, at


def kinds_from(recipe: Recipe, stage: Stage) -> set[str]:
    """The row kinds that stand in a stage's input, labels bringing the traces they label."""
    found: set[str] = set()
    for source in stage.sources:
        if isinstance(source, FileSource):
            found.add(source.row)
        elif source == "train":
            found.add("Problem")
        else:
            earlier = recipe.stage(source)
            found |= set(makes(earlier))
            if earlier.room == "label":
                found |= kinds_from(recipe, earlier)
    return found


def makes(stage: Stage) -> tuple[str, ...]:
    """The row kinds that a stage writes; a trainer writes weights."""
    if not stage.built and stage.room == "select":
        return ("Example", "StepExample", "Pair", "Dropped")
    if not stage.built and stage.room in ("generate", "label"):
        return (
            ("Trace", "Node", "Problem", "Dropped")
            if stage.room == "generate"
            else ("Label", "Trace", "Dropped")
        )
    return stage.settings.makes


def meaning(recipe: Recipe) -> Iterator[str]:
    """What is well-formed but makes no sense, a sentence each."""
    if not recipe.section("stages") and recipe.rounds:
        yield f"rounds: {recipe.rounds} rounds, but there are no stages"
    earlier: dict[str, Stage] = {}
    for stage in recipe.stages:
        here = f"{stage.section}.{stage.name}"
        if stage.name in earlier:
            yield f"{here}: the name {stage.name} is taken; stage names are unique in a recipe"
        yield from _reads(recipe, stage, here, earlier)
        yield from _acts(recipe, stage, here)
        yield from _searches(stage, here)
        yield from _untrained(recipe, stage, here)
        earlier[stage.name] = stage
    yield from _gates(recipe)


def _reads(recipe: Recipe, stage: Stage, here: str, earlier: dict[str, Stage]) -> Iterator[str]:
    for source in stage.sources:
        if isinstance(source, str) and source != "train" and source not in earlier:
            later = source in {s.name for s in recipe.stages}
            why = "it runs later" if later else f"no such stage{nearest(source, [*earlier, 'train'])}"
            yield f"{here}: from {source}: {why}"
            return
    if not stage.sources and stage.room in ("label", "select", "train"):
        yield f"{here}: from: says what to read; {stage.room} has nothing to work on"
        return
    if stage.settings.chunk and any(s != "train" for s in stage.sources):
        yield f"{here}: chunk: only the first stage of a chain has it; this stage inherits its slices"
    if not stage.built:
        return
    there = kinds_from(recipe, stage)
    for kind in stage.settings.needs:
        if kind not in there:
            yield f"{here}: needs {kind} rows; its input has {', '.join(sorted(there)) or 'none'}"
    if getattr(stage.settings, "where", "all") == "unsolved" and "Label" not in there:
        yield f"{here}: where: unsolved needs labelled traces in `from`, for example from: check"


def _acts(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    for key, name in stage.models.items():
        base, at = split_name(name)
        if not stage.built and base not in recipe.models:
            continue  # an unknown method's text key may be no model at all
        if base not in recipe.models:
            yield f"{here}.{key}: no model {base!r}{nearest(base, recipe.models)}"
            continue
        head = recipe.models[base].head
        if key.split(".")[-1] in ("value", "plus") and not head:
            yield f"{here}.{key}: {base} has no head, so it scores nothing; give models.{base}.head: value"
        if key == "by" and head == "value" and stage.room == "generate":
            yield f"{here}.by: {base} is a reward model (head: value) and writes nothing"
        if at and (not at.isdigit() or stage.room != "evaluate"):
            yield f"{here}.{key}: {name}: only an evaluate stage may name a model as it was, as in policy@0"
    if stage.room == "train" and stage.built:
        model = recipe.models.get(stage.settings.model)
        if model and stage.method == "prm" and not model.head:
            yield f"{here}: trains a reward model, but models.{stage.settings.model} has no head"
        if model and stage.method == "sft" and model.head == "value":
            yield f"{here}: trains a policy, but models.{stage.settings.model} has a value head"
        if model and model.lora != "none" and (fault := stage.settings.fault_of_lora(model.lora)):
            yield f"models.{stage.settings.model}.lora.{fault}"
    if getattr(stage.settings, "split", "train") == "test" and stage.section != "finally":
        yield f"{here}: split: test is read once, in finally; use dev here"
    if (
        stage.room == "generate"
        and getattr(stage.settings, "split", "train") == "dev"
        and stage.section == "stages"
    ):
        yield f"{here}: split: dev feeds the gate and is never learned from; use train here"


def _untrained(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    """A stage that scores with a reward model which nothing has trained by then."""
    for key, named in stage.models.items():
        name = split_name(named)[0]
        model = recipe.models.get(name)
        if key.split(".")[-1] not in ("value", "plus") or model is None or not model.head:
            continue
        before = [other for other in recipe.stages if trains(other, name)]
        if not _bare(model.base) or any(taught(recipe, stage, other) for other in before):
            continue
        yield (
            f"{here}.{key}: {name} has no trained head by then: train it in before "
            f"(train: prm, model: {name}), or give models.{name}.base a trained reward model"
        )


def trains(stage: Stage, model: str) -> bool:
    """Does this stage train that model?"""
    return stage.room == "train" and getattr(stage.settings, "model", None) == model


def taught(recipe: Recipe, stage: Stage, training: Stage) -> bool:
    """Has a train stage been through when `stage` first acts?

    generate and label act with what stood before the round, evaluate with the round's candidates."""
    if training.section == "before":
        places = recipe.section("before")
        return stage.section != "before" or places.index(training) < places.index(stage)
    if training.section == "stages":
        later = (stage.settings.rounds or (1, None))[0] > (training.settings.rounds or (1, None))[0]
        return stage.section == "finally" or (
            stage.section == "stages" and (stage.room == "evaluate" or later)
        )
    return False


def _bare(base: str) -> bool:
    """Does a base surely bring no trained head? A seed is a language model; of a folder its files tell."""
    folder = Path(base).expanduser()
    return base.startswith("seed://") or ((folder / "config.json").is_file() and not brings_head(folder))


def _searches(stage: Stage, here: str) -> Iterator[str]:
    """An evaluation that acts by a generate method: is the method there, and does it know these keys?"""
    search = getattr(stage.settings, "search", None)
    if stage.room != "evaluate" or search is None:
        return
    name = search.get("generate")
    if not isinstance(name, str):
        yield f"{here}.search: say by which method: {{generate: beam, ...}}"
        return
    try:
        method("generate", name)
    except NotBuilt:
        return  # reported among what is not built
    problems: list[str] = []
    validate(method("generate", name).Settings, search_settings(stage), "", f"{here}.search", problems)
    yield from (problem.removeprefix(": ") for problem in problems)


def _unknown_metric(stage: Stage, metric: str) -> list[str]:
    """What an evaluate stage measures, where `metric` is none of it; empty where it is or none can tell."""
    if not stage.built:
        return []
    tell = getattr(method("evaluate", stage.method), "metric_names", None)
    names: list[str] = tell(stage.settings) if tell else []
    known = any(metric == name or metric.startswith((f"{name}/", f"{name}@")) for name in names)
    return [] if known else names


def _gates(recipe: Recipe) -> Iterator[str]:
    measures = {s.name: s for s in recipe.section("stages") if s.room == "evaluate"}
    trained = {s.settings.model for s in recipe.stages if s.room == "train"}
    for name, model in recipe.models.items():
        for rule in model.gate:
            read, _, metric = rule.metric.partition("/")
            if read not in measures:
                yield f"models.{name}.gate: no evaluate stage {read!r} in stages{nearest(read, measures)}"
            elif known := _unknown_metric(measures[read], metric):
                yield f"models.{name}.gate: {read} measures no {metric!r}{nearest(metric, known)}"
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
