"""A look at a recipe before anything runs: are its files, models and servers there, do the libraries know the
keys that it passes through, does each length fit, can its gate see what it guards against?

    seen = look(recipe, workspace)
    seen.wrong     cannot work: a file that is not there, `lora: {rank: 8}`
    seen.odd       works, and surely was not meant: four equal samples at temperature 0
    seen.notes     works, and is worth knowing: what the gate's interval will be

`check` says all of it; `run` asks before it makes anything, so that a first mistake leaves nothing behind.
Loads no torch and reads little: of small data files everything, of others the first rows. What a recipe
means by itself is `recipe/check.py`'s.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import DamagedData, RatchetError, RecipeError, UnsafeFile, nearest
from pipeline.models import seeds
from pipeline.models.folder import chatting, context_of, lacking, modules_of
from pipeline.models.packaged import packaged
from pipeline.models.registry import local_folder, standing_of
from pipeline.recipe.libraries import schedules, wrong_values
from pipeline.recipe.methods import method
from pipeline.recipe.shape import Recipe, Stage, measured, split_name
from pipeline.settings import FileSource
from pipeline.store.model_folder import check_model_folder
from pipeline.store.passages import read_passages
from pipeline.store.workspace import Workspace
from pipeline.tasks import BaseTask
from pipeline.tasks.prepare import gather

SMALL = 2 << 20  #: bytes of data files that are read whole
CHANGED = 0.2  #: share of answers that a round changes, for a guess at a gate's interval
BLIND = 0.1  #: half an interval from which on a gate is told to see little
OWN_UNIT = ("length/", "kl")  #: metrics that are no shares: a margin of 1 or more may be meant
LIMITS = {"r": (1, math.inf), "lora_dropout": (0, 0.999)}  #: of `lora`, where the library says less


@dataclass
class Findings:
    """What a look found. wrong: with the error that each would end in."""

    wrong: list[tuple[type[RatchetError], str]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *lines: str, kind: type[RatchetError] = RecipeError) -> None:
        self.wrong += [(kind, line) for line in lines]

    def lines(self) -> list[str]:
        """Every mistake."""
        return [*(line for _, line in self.wrong), *self.odd]

    def refuse(self, where: str) -> None:
        """Raise what cannot work, all of it: its own error where it is of one kind."""
        kinds = {kind for kind, _ in self.wrong}
        lines = list(dict.fromkeys(f"{where}: {line}" for _, line in self.wrong))
        if kinds and kinds != {RecipeError} and len(kinds) == 1:
            raise kinds.pop()("\n".join(lines))
        if lines:
            raise RecipeError(lines)


def look(recipe: Recipe, workspace: Workspace) -> Findings:
    """Everything that a look finds."""
    seen = Findings()
    folders = _models(recipe, workspace, seen)
    tasks = _tasks(recipe, seen)
    counts = _counts(recipe, tasks, seen)
    for stage in recipe.stages:
        here = f"{stage.section}.{stage.name}"
        for source in stage.sources:
            if isinstance(source, FileSource):
                _file(source, stage.room, here, seen)
        for text in stage.settings.texts if stage.built and stage.room == "label" else ():
            try:
                read_passages(Path(text).expanduser())
            except DamagedData as error:
                seen.add(f"{here}.{error}", kind=DamagedData)
        if stage.built:
            _training(stage, here, seen)
            _draws(stage, here, seen)
            _turns(recipe, stage, here, seen)
            _splits(stage, here, counts, seen)
    chats = [stage for stage in recipe.stages if stage.built and any(task.chat for task in recipe.tasks)]
    for name in dict.fromkeys(split_name(named)[0] for stage in chats for named in _writers(stage)):
        if name in folders and not chatting(folders[name]):
            cure = "set task.chat=false, or take a chat model"
            seen.add(f"models.{name}.base: {folders[name]}: its tokenizer has no chat template: {cure}")
    _lengths(recipe, tasks, folders, seen)
    _gates(recipe, counts, seen)
    return seen


# --- models


def _models(recipe: Recipe, workspace: Workspace, seen: Findings) -> dict[str, Path]:
    """The local folders of the models, those that can be used."""
    folders: dict[str, Path] = {}
    for name, model in recipe.models.items():
        if isinstance(model.lora, dict):
            seen.add(*wrong_values("LoraConfig", model.lora, f"models.{name}.lora", {}))
            for key, (low, high) in LIMITS.items():
                value = model.lora.get(key)
                if isinstance(value, int | float) and not low <= value <= high:
                    seen.add(f"models.{name}.lora.{key}: {value}: {low:g} or more" + _below(high))
        path = f"models.{name}.base"
        try:
            if model.base.startswith("seed://"):
                seeds.look(model.base, recipe.tasks[0] if recipe.tasks else None)
            elif model.base.startswith("run://"):
                standing_of(model.base, workspace)
            elif (folder := local_folder(model.base)) is not None:
                problems = lacking(folder)
                with contextlib.suppress(*([DamagedData] if problems else [])):
                    check_model_folder(folder)  # what lacks is said in its own words
                if problems:
                    seen.add(*(f"{path}: {line}" for line in problems), kind=DamagedData)
                else:
                    folders[name] = folder
                    seen.add(*_targets(name, model.lora, folder))
        except (RecipeError, UnsafeFile, DamagedData) as error:
            seen.add(f"{path}: {str(error).removeprefix('base: ')}", kind=type(error))
    return folders


def _targets(name: str, lora: Any, folder: Path) -> Iterator[str]:
    """Modules that LoRA is to change and that a model does not have: peft says it after hours of sampling."""
    given = lora.get("target_modules") if isinstance(lora, dict) else None
    if not isinstance(given, list):
        return
    modules = modules_of(folder)
    last = {module.rpartition(".")[2] for module in modules}
    for wanted in map(str, given):
        if not any(module == wanted or module.endswith(f".{wanted}") for module in modules):
            there = nearest(wanted, last) or f" (it has {', '.join(sorted(last)[:12])}, ...)"
            yield f"models.{name}.lora.target_modules: {folder} has no module {wanted!r}{there}"


def _below(high: float) -> str:
    return "" if high == math.inf else f" and below {math.ceil(high)}"


# --- data


def _file(source: FileSource, room: str, here: str, seen: Findings) -> None:
    """A file that is not there, or, where it is small and of a published form, not as it says; rows of ours
    where no training reads them.
    """
    path = Path(source.file).expanduser()
    if source.row and room != "train":
        seen.add(
            f"{here}.from: {source.file}: rows (row: {source.row}) are read by a training alone; {room} "
            "takes files of step labels (form: prm800k, processbench)"
        )
    if not path.is_file():
        seen.add(f"{here}.from: {source.file}: no such file", kind=DamagedData)
    elif source.form and path.stat().st_size <= SMALL:
        from pipeline.evaluate.step_files import read_whole

        try:
            read_whole(path, source.form)
        except DamagedData as error:
            seen.add(f"{here}.from: {error}", kind=DamagedData)


def _tasks(recipe: Recipe, seen: Findings) -> list[BaseTask]:
    """The tasks that could be made, each looked at."""
    made: list[BaseTask] = []
    for number, settings in enumerate(recipe.tasks):
        path = "task" if len(recipe.tasks) == 1 else f"task.{number}"
        try:
            task = method("tasks", settings.use).Task(settings)
            problems = task.look()
        except RatchetError as error:
            problems, task = str(error).split("\n"), None
        kind = RecipeError if task is None else DamagedData
        seen.add(*(line.replace("task.", f"{path}.", 1) for line in problems), kind=kind)
        if task is not None and not problems:
            made.append(task)
    return made


def _counts(recipe: Recipe, tasks: list[BaseTask], seen: Findings) -> dict[str, int | None]:
    """Problems a split, None where nobody knows yet. Small files are read whole, as `run` will."""
    sizes = [task.source_bytes() for task in tasks]
    if (
        tasks
        and len(tasks) == len(recipe.tasks)
        and all(size is not None and size <= SMALL for size in sizes)
    ):
        try:
            return dict(gather(tasks).counts)
        except RatchetError as error:
            seen.add(*str(error).split("\n"), kind=type(error))
    found: dict[str, int | None] = {}
    for split in ("train", "dev", "test"):
        counts = [getattr(task, split) for task in recipe.tasks]
        found[split] = None if None in counts or not counts else sum(counts)
    return found


def _splits(stage: Stage, here: str, counts: dict[str, int | None], seen: Findings) -> None:
    """A stage that reads a split without problems."""
    split = stage.settings.on_split if stage.room in ("generate", "evaluate") else None
    if split and counts.get(split) == 0 and not stage.sources:
        seen.add(
            f"{here}: reads the {split} split, which has no problems: set task.{split} to 1 or more, or "
            "leave this stage out"
        )


# --- what a stage asks for


def _training(stage: Stage, here: str, seen: Findings) -> None:
    """Keys for the trainer, and the learning-rate schedule."""
    if stage.room != "train":
        return
    settings = stage.settings
    owned = method("train", stage.method).Settings.owned
    seen.add(*wrong_values(settings.trainer_arguments, settings.args, f"{here}.args", owned))
    known = schedules()
    if known and settings.schedule not in known:
        near = nearest(settings.schedule, known)
        seen.add(f"{here}.schedule: {settings.schedule!r}: transformers has no such schedule{near}")


def _draws(stage: Stage, here: str, seen: Findings) -> None:
    """Several draws of one prompt at temperature 0."""
    parts: list[tuple[str, Any]] = [(here, stage.settings)]
    if stage.room == "evaluate":
        try:
            searching = stage.settings.acting()
        except ValidationError:
            return
        parts += [(f"{here}.search", searching)] if searching is not None else []
    for path, settings in parts:
        if settings.draws_alike:
            many = {key: getattr(settings, key) or 0 for key in settings.draws}
            for key, count in ((key, count) for key, count in many.items() if count > 1):
                seen.odd.append(
                    f"{path}: temperature 0 writes the same text each time, and {key} asks for {count}: "
                    f"raise the temperature, or set {key}: 1"
                )


def _turns(recipe: Recipe, stage: Stage, here: str, seen: Findings) -> None:
    """Turns that an embedded seed was never taught the words of."""
    asked: tuple[str, ...] = ()
    with contextlib.suppress(ValidationError):  # a search with wrong keys: told elsewhere
        asked = stage.settings.asked_acts
    for name in dict.fromkeys(split_name(named)[0] for named in _writers(stage)):
        base = recipe.models[name].base if name in recipe.models else ""
        if not base.startswith("seed://") or packaged(base):
            continue
        new, unknown = set(asked) - _taught(recipe, name), set[str]()
        with contextlib.suppress(RecipeError):  # no such seed: told among the models
            unknown = {act for act in new for task in recipe.tasks if seeds.unsaid(base, task, act)}
        if unknown:
            turns = ", ".join(sorted(unknown))
            talks = [seeds.talking(base, task, unknown) for task in recipe.tasks]
            seen.odd.append(
                f"{here}: asks {name} for turns ({turns}) that {base} was never taught: leave those actions "
                f"out, or take {talks[0] if all(talks) else 'a model of language'}"
            )


def _taught(recipe: Recipe, model: str) -> set[str]:
    """The acts whose turns a model is trained on: those of the stages that its training's rows come from."""
    by_name = {stage.name: stage for stage in recipe.stages if stage.built}
    trained = [s for s in by_name.values() if s.room == "train" and s.settings.model == model]
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [source for stage in trained for source in stage.sources]
    while waiting:
        source = waiting.pop()
        if isinstance(source, str) and source in by_name and source not in seen:
            seen.add(source)
            found |= set(by_name[source].settings.acts)
            waiting += by_name[source].sources
    return found


def _lengths(recipe: Recipe, tasks: list[BaseTask], folders: dict[str, Path], seen: Findings) -> None:
    """Limits that a model's context does not hold."""
    longest = max((task.max_tokens for task in recipe.tasks), default=0)
    told: set[tuple[str, int]] = set()
    for stage in recipe.stages:
        here = f"{stage.section}.{stage.name}"
        for name in dict.fromkeys(split_name(named)[0] for named in _writers(stage)):
            context = context_of(folders[name]) if name in folders else None
            if context is None:
                continue
            own = stage.settings.completion_limit
            limit, key = (own, f"{here}.max_tokens") if own else (longest, "task.max_tokens")
            if (name, limit) in told:
                continue
            told.add((name, limit))
            if limit >= context:
                seen.add(f"{key}: {limit:,} tokens, but the context of {name} is {context:,} (config.json)")
            elif (asked := _prompt_tokens(tasks, folders[name])) + limit > context:
                seen.add(
                    f"{key}: {limit:,} tokens after prompts of about {asked:,} are more than the {context:,} "
                    f"of {name}'s context: lower it or task.few_shot, or take a model with a longer context"
                )
    for stage in (s for s in recipe.section("before") + recipe.section("stages") if s.room == "train"):
        name, settings = stage.settings.model, stage.settings
        context = context_of(folders[name]) if name in folders else None
        default = type(settings).model_fields["max_length"].default  # longer rows than it do not exist
        if context and settings.max_length > context and settings.max_length != default:
            here = f"{stage.section}.{stage.name}.max_length"
            seen.add(f"{here}: {settings.max_length:,} tokens, but the context of {name} is {context:,}")


def _writers(stage: Stage) -> list[str]:
    """The models that write in a stage."""
    if stage.room == "generate":
        return [stage.settings.by]
    if stage.room == "evaluate":
        return measured(stage)
    return []


def _prompt_tokens(tasks: list[BaseTask], folder: Path) -> int:
    """Tokens of a prompt in the middle of those at hand, worked examples included; 0: none is at hand."""
    from pipeline.tasks.prepare import render

    found: list[str] = []
    for task in tasks:
        for problem in task.first()[:20]:
            shown = render(task, problem, template=_as_text)
            found.append(shown.prompt_used)
    file = folder / "tokenizer.json"
    if not found or not file.is_file():
        return 0
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the library raises a bare Exception; the engine says what is wrong with it
        return 0
    return int(statistics.median_low([len(tokenizer.encode(text).ids) for text in found]))


def _as_text(turns: list[dict[str, str]]) -> str:
    """Chat turns without a template's marks: a lower bound of their length."""
    return "\n".join(turn["content"] for turn in turns)


# --- gates


def _gates(recipe: Recipe, counts: dict[str, int | None], seen: Findings) -> None:
    """Margins that let everything pass, and dev splits in which a gate sees little."""
    stages = {stage.name: stage for stage in recipe.section("stages")}
    for name, model in recipe.models.items():
        for rule in model.gate:
            read, _, metric = rule.metric.partition("/")
            stage = stages.get(read)
            if rule.margin is None or stage is None or stage.room != "evaluate":
                continue
            here = f"models.{name}.gate"
            if rule.margin >= 1 and not metric.startswith(OWN_UNIT):
                cure = f"write {rule.margin / 100:g} for {rule.margin:g} points"
                points = f"{rule.margin * 100:g} points"
                seen.odd.append(f"{here}: margin {rule.margin:g} is {points}, so everything passes: {cure}")
                continue
            problems = counts.get(stage.settings.split)
            problems = min(filter(None, (problems, stage.settings.problems)), default=None)
            if problems and not metric.startswith(OWN_UNIT):
                seen.notes += _little(f"{here}: {rule.metric}", rule.margin, problems, stage.settings.split)


def _little(here: str, margin: float, problems: int, split: str) -> Iterator[str]:
    """What a gate's interval will be, where it is wide: 1.96 standard errors of a paired change."""
    half = 1.96 * math.sqrt(CHANGED / problems)
    if half <= BLIND and not (margin and half > 5 * margin):
        return
    aim = max(2 * margin, 0.03)
    wanted = math.ceil(CHANGED * (1.96 / aim) ** 2)
    passes, known = (half + margin) * 100, half * 100
    yield (
        f"{here}: {problems} {split} problems are few for a margin of {margin:g}: its change will be known "
        f"to about +-{known:.0f} points (95 %), so a loss of up to {passes:.0f} points passes; {wanted:,} "
        f"problems would know it to +-{aim * 100:.0f}"
    )
