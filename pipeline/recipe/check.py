"""What a recipe means: is every input there, may each model act as asked, does the gate read what exists?

`recipe.build` calls `problems_of` once a recipe is well-formed; `loop.py` asks `kinds_from` for `plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import nearest
from pipeline.label import Draw
from pipeline.models.heads import DOES, can, fitting, head_of
from pipeline.models.registry import brings_head
from pipeline.recipe.cost import Lengths
from pipeline.recipe.gates import gates
from pipeline.recipe.methods import NotBuilt, method
from pipeline.recipe.shape import Recipe, Stage, first_part, split_name
from pipeline.recipe.validate import validate
from pipeline.settings import Actor, FileSource


def kinds_from(recipe: Recipe, stage: Stage) -> set[str]:
    """The row kinds that stand in a stage's input, labels bringing the traces they label."""
    found: set[str] = set()
    for source in stage.sources:
        if isinstance(source, FileSource):
            found |= set(source.kinds)
        elif source == "train":
            found.add("Problem")
        elif earlier := next((s for s in recipe.stages if s.name == source), None):
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
    return stage.settings.kinds_made


def problems_of(recipe: Recipe) -> Iterator[str]:
    """What is well-formed but makes no sense, a sentence each."""
    if not recipe.section("stages") and recipe.rounds:
        yield f"rounds: {recipe.rounds} rounds, but there are no stages"
    earlier: dict[str, Stage] = {}
    for stage in recipe.stages:
        here = f"{stage.section}.{stage.name}"
        if stage.name in earlier:
            yield f"{here}: the name {stage.name} is taken; stage names are unique in a recipe"
        yield from _reads(recipe, stage, here, earlier)
        yield from _reuses(recipe, stage, here, earlier)
        yield from _acts(recipe, stage, here)
        yield from _searches(stage, here)
        yield from _scores(recipe, stage, here)
        yield from _alone(recipe, stage, here)
        yield from _untrained(recipe, stage, here)
        if any(task.chat for task in recipe.tasks) and (fault := stage.settings.fault_over_chat):
            yield f"{here}.{fault}"
        earlier[stage.name] = stage
    yield from gates(recipe)
    yield from _served(recipe)


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
    for kind in stage.settings.kinds_needed:
        if kind not in there:
            always = kind in stage.settings.needs
            why = "needs" if always else "under these settings needs"
            cure = "" if always else "; name the stage that makes them in `from`"
            yield f"{here}: {why} {kind} rows; its input has {', '.join(sorted(there)) or 'none'}{cure}"


def _reuses(recipe: Recipe, stage: Stage, here: str, earlier: dict[str, Stage]) -> Iterator[str]:
    """Roll-outs that a labeller reads instead of drawing: are they there, and those that it would draw?"""
    for name in stage.settings.reused if stage.room == "label" and stage.built else ():
        other = earlier.get(name)
        if name not in stage.sources or other is None:
            known = [source for source in stage.sources if isinstance(source, str)]
            yield f"{here}.reuse: {name} is not in from{nearest(name, known)}: list it in both"
            continue
        if not other.built:
            continue
        if other.room != "label" or not other.settings.keeps_rollouts:
            what = f"{other.room}: {other.method}"
            kept = "keep_rollouts: false" if other.room == "label" and other.settings.draws_by else what
            yield (
                f"{here}.reuse: {name} leaves no roll-outs ({kept}); name a label stage that draws and keeps "
                "them"
            )
            continue
        mine, theirs = stage.settings.draws_by, other.settings.draws_by
        if not set(mine) & set(theirs):
            yield (
                f"{here}.reuse: {name} draws {_drawn(theirs)}, this stage {_drawn(mine)}: they share no "
                "roll-outs. Take the same completer and sampling, or leave it out of reuse"
            )
        shared = {draw.by for draw in set(mine) & set(theirs)}
        if other.section != stage.section:
            yield (
                f"{here}.reuse: {name} is in {other.section}: only stages of one section act with equal "
                "weights"
            )
        elif stage.section == "before":
            order = recipe.section("before")
            for one in order[order.index(other) : order.index(stage)]:
                if one.room == "train" and one.settings.model in shared:
                    model = one.settings.model
                    yield f"{here}.reuse: {one.name} trains {model} after {name} drew its roll-outs"


def _drawn(draws: Sequence[Draw]) -> str:
    """How roll-outs are drawn, for a message: `by policy at temperature 1`."""
    return " and ".join(
        f"by {draw.by} at temperature {draw.temperature:g}"
        + (f", top_p {draw.top_p:g}" if draw.top_p < 1 else "")
        + (f", top_k {draw.top_k}" if draw.top_k else "")
        + (f", max_tokens {draw.limit}" if draw.limit else "")
        for draw in draws
    )


def _acts(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    known = {one.key for one in stage.actors}
    others = [Actor(key, name) for key, name in stage.models.items() if not stage.built and key not in known]
    for one in (*stage.actors, *others):
        base, at = split_name(one.name)
        if not stage.built and base not in recipe.models:
            continue  # an unknown method's text key may be no model at all
        if base not in recipe.models:
            yield f"{here}.{one.key}: no model {base!r}{nearest(base, recipe.models)}"
            continue
        head = recipe.models[base].head
        if stage.built and not can(head, one.does):
            what = f"has head: {head}, which" if head else "has no head, so it"
            yield (
                f"{here}.{one.key}: {base} {what} {DOES[one.does]}; name a model that does "
                f"({fitting(one.does)})"
            )
        if at and (not at.isdigit() or stage.room not in ("evaluate", "label")):
            only = "only an evaluate or a label stage may name a model as it was, as in policy@0"
            yield f"{here}.{one.key}: {one.name}: {only}"
    if stage.room == "train" and stage.built:
        yield from _trainable(recipe, stage, here)
    if stage.settings.on_split == "test" and stage.section != "finally":
        yield f"{here}: split: test is read once, in finally; use dev here"
    if stage.room == "generate" and stage.settings.on_split == "dev" and stage.section == "stages":
        yield f"{here}: split: dev feeds the gate and is never learned from; use train here"


def _trainable(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    """A trainer says which heads it trains, and what of `lora` it cannot."""
    model = recipe.models.get(stage.settings.model)
    if model is None:
        return
    if model.lora != "none" and (fault := stage.settings.fault_of_lora(model.lora)):
        yield f"models.{stage.settings.model}.lora.{fault}"
    given = [(one.name, one.settings) for one in upstream(recipe, stage) if one.built]
    for fault in stage.settings.faults(model.restart_from, given):
        yield f"{here}.{fault}"
    spans, trainings = stage.settings.schedule_rounds, map(stage.runs_in, range(1, recipe.rounds + 1))
    constant = stage.settings.schedule.startswith("constant")
    if spans and stage.section == "stages" and not constant and (number := sum(trainings)) > spans:
        yield (
            f"{here}.schedule_rounds: its {stage.settings.schedule} schedule is over after {spans} "
            f"trainings, and the recipe has {number}: nothing would be learned then. Give both at the start"
        )
    if stage.settings.on_policy and any(task.shots(recipe.rounds) for task in recipe.tasks):
        yield (
            f"{here}: worked examples stand before every prompt (few_shot), and {stage.method} needs traces "
            "that were drawn under the prompt that training shows; give them to the base alone: "
            "few_shot: {examples: 4, rounds: [0, 1]}, or to nobody"
        )
    if (model.head or "policy") in stage.settings.heads:
        if fault := stage.settings.fault_of_head(model.head, model.lora == "none"):
            yield f"{here}: {fault}"
        return
    has = f"head: {model.head}" if model.head else "no head"
    trained = " or ".join(
        "a policy (no head)" if h == "policy" else f"head: {h}" for h in stage.settings.heads
    )
    yield f"{here}: models.{stage.settings.model} has {has}; train: {stage.method} trains {trained}"


def upstream(recipe: Recipe, stage: Stage) -> list[Stage]:
    """Every stage whose rows reach a stage, through whatever stands between, the first ones first."""
    by_name = {one.name: one for one in recipe.stages}
    found: dict[str, Stage] = {}

    def follow(one: Stage) -> None:
        for source in one.sources:
            earlier = by_name.get(source) if isinstance(source, str) else None
            if earlier is None or earlier.name in (stage.name, *found):
                continue  # a circle is told as what it is
            found[earlier.name] = earlier
            follow(earlier)

    follow(stage)
    return [one for one in recipe.stages if one.name in found]


def _untrained(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    """A stage that asks a reward model which nothing has trained by then."""
    for one in stage.actors if stage.built else ():
        name = split_name(one.name)[0]
        model = recipe.models.get(name)
        if one.does not in ("scores", "chooses") or model is None or not model.head:
            continue
        if one.does == "chooses" and head_of(model.head).policy:
            continue
        before = [other for other in recipe.stages if trains(other, name)]
        if not _bare(model.base) or any(taught(recipe, stage, other) for other in before):
            continue
        yield (
            f"{here}.{one.key}: {name} has no trained head by then: train it in before "
            f"(model: {name}), or give models.{name}.base a trained reward model"
        )


def trains(stage: Stage, model: str) -> bool:
    """Does this stage train that model?"""
    return stage.room == "train" and stage.settings.model == model


def learns(recipe: Recipe, model: str) -> bool:
    """Is that model trained in this recipe, in `before` or in a round?"""
    return any(
        trains(stage, model) and (recipe.rounds or stage.section != "stages") for stage in recipe.stages
    )


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
    if stage.room != "evaluate" or stage.settings.search is None:
        return
    given = dict(stage.settings.search)
    name = given.pop("generate", None)
    if not isinstance(name, str):
        yield f"{here}.search: say by which method: {{generate: beam, ...}}"
        return
    try:
        kind = method("generate", name).Settings
    except NotBuilt:
        return  # reported among what is not built
    problems: list[str] = []
    validate(kind, given, "", f"{here}.search", problems)
    yield from (problem.removeprefix(": ") for problem in problems)


def _labels(recipe: Recipe, stage: Stage) -> list[Stage]:
    """The label stages whose labels a stage reads: those in its `from`, and those that these read."""
    earlier = recipe.stages[: recipe.stages.index(stage)]
    found = [other for other in earlier if other.name in stage.sources and other.room == "label"]
    return [label for one in found for label in (one, *_labels(recipe, one))]


def _scores(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    """An evaluation that adds up scores of traces in `from`: does it take them for what their search says?
    One that answers by labels: are there some, and by whom?
    """
    if stage.built and stage.room == "evaluate" and stage.settings.answers_by_labels:
        labels = _labels(recipe, stage)
        if not labels:
            yield f"{here}: answers by labels, and no label stage is in its from"
        peeked = [one for one in labels if one.built and one.settings.sees_gold]
        for one in (one for one in peeked if not one.settings.leaks):
            seen = f"{one.name} (label: {one.method}) has seen what is right"
            yield f"{here}: answers by labels, and {seen}: name a label stage that sees no gold"
    taken = stage.settings.takes_scores_as if stage.built and stage.room == "evaluate" else None
    if taken is None:
        return
    for source in stage.sources:
        earlier = next((s for s in recipe.stages if s.name == source), None)
        if earlier is None or not earlier.built or earlier.room != "generate":
            continue
        if (given := earlier.settings.score_kind) != taken:
            yield (
                f"{here}: takes the scores of {source} as {taken.replace('_', '-')} and they are "
                f"{given.replace('_', '-')}: set its aggregate to that of {source}"
            )


def _alone(recipe: Recipe, stage: Stage, here: str) -> Iterator[str]:
    """A stage that compares a problem's samples with one another, where a problem has too few."""
    wanted = stage.settings.samples_wanted if stage.built else 0
    behind = upstream(recipe, stage) if wanted else []
    if any(isinstance(source, FileSource) for one in (stage, *behind) for source in one.sources):
        return  # how many a file holds is told by reading it
    writers = [one for one in behind if one.built and one.room == "generate"]
    lengths = Lengths(recipe.tasks)
    number = sum(one.settings.cost(lengths).traces for one in writers)
    if writers and number <= wanted - 1:
        wrote, few = writers[0].name, "one" if number <= 1 else f"{number:g}, fewer than its {wanted}"
        yield (
            f"{here}: {stage.method} compares a problem's samples with one another, and {wrote} writes "
            f"{few}: nothing would be learned. Let {wrote} write more "
            f"({writers[0].section}.{wrote}.n={max(8, wanted)})"
        )


def _served(recipe: Recipe) -> Iterator[str]:
    """Models that servers hold: what no server can do."""
    for stage in recipe.stages:
        decoding: Any = stage.settings.decoding if stage.built else None
        for one in stage.actors if decoding else ():
            model = recipe.models.get(first_part(one.name))
            if one.does in ("writes", "any") and model is not None and model.engine.server:
                yield (
                    f"{stage.section}.{stage.name}: {decoding.said}: servers do not draw so: drop it, or "
                    f"models.{first_part(one.name)}.engine.server"
                )
    for name, model in recipe.models.items():
        if not model.engine.server:
            continue
        if head_of(model.head).reads in ("scalar", "hidden", "state"):
            yield f"models.{name}: head: {model.head} cannot be served; use head: token, or no engine.server"
        if model.lora == "none" and learns(recipe, name):
            yield (
                f"models.{name}: lora: none trains all weights, which a server does not take while it runs, "
                "so every round would sample from the base; train an adapter (lora: {r: 16}), or leave "
                "engine.server out (docs/servers.md: whole weights)"
            )
