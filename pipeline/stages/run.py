"""`run_stage`, the only unit of work: it plans a stage's chunks, does those that are not done, and commits
the manifest.

generate, label and evaluate drive searches through the engines; select is plain code over groups; train makes
weights. Ranks claim chunks; rank 0 commits. A stage's rows depend on its inputs, models, settings and seeds
alone."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, RecipeError, WorkerLost
from pipeline.models.registry import Weights
from pipeline.processes.pulse import long
from pipeline.recipe.measures import declared
from pipeline.recipe.methods import method
from pipeline.recipe.shape import Stage, data_settings, first_part
from pipeline.rows import SCHEMA_VERSION, Dropped, Group, without_gold
from pipeline.run.reporter import Share
from pipeline.run.run import Run
from pipeline.stages.evaluate import evaluate_stage, measured_before, with_incumbents
from pipeline.stages.imagined import admit
from pipeline.stages.inputs import (
    ChunkReader,
    Source,
    chunks_from,
    chunks_imagined,
    inputs_of,
    reader_of,
    slices,
    within,
)
from pipeline.stages.pieces import chunk_size
from pipeline.stages.rollouts import brought, require_equal_weights
from pipeline.stages.search import Drive
from pipeline.stages.selection import select_stage, surveyed
from pipeline.stages.train import starting_point, train_stage
from pipeline.stages.work import Work, connect, make_search, question_of, template_of
from pipeline.store.folder import StageFolder
from pipeline.store.manifest import Manifest
from pipeline.store.passages import hash_of, leak, read_passages
from pipeline.store.plan import ChunkPlan, Plan

Finish = Callable[[], dict[str, Any]]  #: what is left once every rank is through: gives the manifest's extra
MAIN_KIND = {"generate": "Trace", "label": "Label", "evaluate": "Trace", "train": ""}


def plan_stage(
    run: Run, stage: Stage, number: int, planned: Plan | None = None
) -> tuple[Plan, dict[str, Weights]]:
    """What a stage will do: its chunks, inputs and acting models, with their fingerprint. Writes nothing.
    planned: an earlier plan, whose chunks are kept where the recipe says nothing of them."""
    reader = ChunkReader(run.workspace.data)
    sources = inputs_of(run, stage, number)
    chunks: list[ChunkPlan] = []
    if stage.room == "train":
        models = {stage.settings.model: starting_point(run, stage, number)}
    else:
        models = {
            name: run.versions.acting(stage, number, name) for name in dict.fromkeys(stage.models.values())
        }
    size = 0
    if not sources and stage.room != "train":
        before = planned or run.stage_folder(stage, number).plan()
        size = chunk_size(run.recipe, stage, models.values(), before)
    if stage.room == "evaluate":
        chunks = _measured(run, stage, sources, size)
        models = with_incumbents(run, stage, number, models)
        sources += [reader.source(path) for path in measured_before(run, stage, number, models).values()]
    elif stage.room != "train":
        chunks = _worked_on(run, stage, number, sources, size)
    plan = Plan.make(
        run=run.name,
        round=number,
        stage=stage.name,
        room=stage.room,
        method=stage.method,
        main=MAIN_KIND.get(stage.room) or next(iter(stage.settings.kinds_made), ""),
        settings=data_settings(stage.settings)
        | model_settings(run, stage)
        | carried(run, stage, models)
        | looked_up(stage),
        inputs={source.path: source.folder.require().hash for source in sources}
        | {f"{run.name}/prepare": run.prepare_folder.require().hash},
        models={name: weights.hash for name, weights in models.items()},
        schema=SCHEMA_VERSION,
        seed=run.recipe.seed,
        chunks=chunks,
        recorded=run.recorded(),
    )
    return plan, models


def _measured(run: Run, stage: Stage, sources: list[Source], size: int) -> list[ChunkPlan]:
    """The chunks of an evaluation.

    Raises:
        RecipeError: it has nothing to measure on.
    """
    split = stage.settings.on_split
    ids = run.ids(split)[: stage.settings.problems]
    there = brought_by(sources, stage.settings.problems)
    if not ids and not there:
        raise RecipeError(
            f"{stage.section}.{stage.name}: reads the {split} split, which has no problems: set "
            f"task.{split} to 1 or more, or leave this stage out"
        )
    chunks = within(chunks_from(sources), {*ids, *there}) if sources else slices(ids, size)
    if not chunks:
        raise RecipeError(
            f"{stage.section}.{stage.name}: none of the problems that its input is about is among the "
            f"{split} problems that it measures: set its `split` to theirs, or raise its `problems`"
        )
    return chunks


def _worked_on(run: Run, stage: Stage, number: int, sources: list[Source], size: int) -> list[ChunkPlan]:
    """The chunks of a stage that writes, labels or selects.

    Raises:
        RecipeError: it works on imagined problems, and none was imagined.
    """
    if stage.room == "generate" and any(source.imagines for source in sources):
        if chunks := chunks_imagined(sources):
            return chunks
        raise RecipeError(
            f"{stage.section}.{stage.name}: its input imagined no problem that may stand: see what it "
            "dropped and why, let it propose more, or begin from a model that writes such questions"
        )
    if sources:
        return [chunk for chunk in chunks_from(sources) if chunk.ids]
    return slices(first_problems(run, stage, number), size)


def first_problems(run: Run, stage: Stage, number: int) -> list[str]:
    """The problems of a stage that reads no other."""
    split = stage.settings.on_split
    wanted = stage.settings.problems_wanted
    return run.round_ids(number, wanted) if split == "train" else run.ids(split)[:wanted]


def carried(run: Run, stage: Stage, models: dict[str, Weights]) -> dict[str, str]:
    """The optimizer's state that a training goes on from: it changes weights, so it belongs to the
    fingerprint."""
    if stage.room != "train" or not stage.settings.carry_optimizer:
        return {}
    known = run.versions.optimizer_of(models[stage.settings.model])
    return {"carried": known[1]} if known else {}


def brought_by(sources: list[Source], most: int | None) -> list[str]:
    """The problems of files of step labels: of no split, so an evaluation takes them as they come."""
    return [i for s in sources if s.plan.room == "file" for chunk in s.plan.chunks for i in chunk.ids][:most]


def model_settings(run: Run, stage: Stage) -> dict[str, Any]:
    """What a training takes from the recipe's `models`: it changes weights, so it belongs to the
    fingerprint."""
    if stage.room != "train":
        return {}
    settings = data_settings(run.recipe.models[stage.settings.model])
    return {"model_settings": {key: value for key, value in settings.items() if key != "gate"}}


def looked_up(stage: Stage) -> dict[str, Any]:
    """What the texts say that a labeller looks things up in: it changes labels, so it belongs to the
    fingerprint."""
    texts = stage.settings.texts if stage.room == "label" else ()
    return {"texts": [hash_of(Path(text).expanduser()) for text in texts]} if texts else {}


def require_unseen(run: Run, stage: Stage) -> None:
    """No problem that is measured later stands in a text that a labeller looks things up in.

    Raises:
        DamagedData: one does.
    """
    measured = [problem for problem in run.problems.values() if problem.split != "train"]
    for text in stage.settings.texts:
        if said := leak(read_passages(Path(text).expanduser()), measured):
            raise DamagedData(f"{stage.section}.{stage.name}: store: {text}: {said}")


def run_stage(run: Run, stage: Stage, number: int) -> Manifest:
    """Do what is not done of a stage and commit it. Returns its manifest.

    Raises:
        RatchetError: with the sentence for the user; what was committed stays.
    """
    if not stage.built:
        raise RecipeError(
            f"{run.recipe.path}: {stage.section}.{stage.name}: {stage.room}: {stage.method} is not built yet"
        )
    folder = run.stage_folder(stage, number)
    world = run.processes
    long(f"planning {stage.name}")
    plan, models = plan_stage(run, stage, number)
    together(run, lambda: folder.begin(plan))
    if not together(run, lambda: _is_done(run, folder)):
        work = Work(run, stage, number, folder, plan, models, reader_of(run, stage))
        together(run, lambda: connect(run))
        run.console.stage_started(number, stage.name, stage.sentence())
        long(f"beginning {stage.name}")
        with full_memory_told(stage, number):
            finish = RUNNERS[stage.room](work)
        world.barrier()
        manifest = together(run, lambda: folder.commit(finish()))
        seconds = time.monotonic() - work.started
        run.timing(number, stage.name, seconds, work.spent)
        run.console.stage_done(number, stage.name, facts(stage, manifest), seconds)
        warn_of(run, stage, number, manifest)
    return folder.require()


@contextlib.contextmanager
def full_memory_told(stage: Stage, number: int) -> Iterator[None]:
    """A stage that asks for more memory than there is: a sentence with what makes it ask for less, none of
    which changes a row.

    Raises:
        WorkerLost: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as problem:  # torch has no class for a CPU's memory
        full = isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"
        if not full and "DefaultCPUAllocator" not in str(problem):
            raise
        if stage.room == "train":
            less = f"stages.{stage.name}.micro_batch=1"
        else:
            names = list(dict.fromkeys(map(first_part, stage.models.values())))
            less = " ".join([*(f"models.{name}.engine.max_rows=64" for name in names), "window=1"])
        raise WorkerLost(
            f"round {number}: {stage.name}: out of memory ({str(problem).splitlines()[0][:160]}). Start the "
            f"same command again with less at once: {less}. What is committed stays"
        ) from problem


def together(run: Run, act: Callable[[], Any]) -> Any:
    """Rank 0 acts, which may take long; every rank gets what it returned, or raises what it raised."""
    long("work of rank 0")
    return run.processes.together(act)


def _is_done(run: Run, folder: StageFolder) -> bool:
    """A stage is done when its manifest stands and no chunk waits to be made again; a train stage when its
    weights verify too. Weights without a manifest were never finished, or `repair` took them away."""
    from pipeline.store.weights import optimizer_beside, read_weights

    if not folder.is_complete():
        return False
    if record := folder.require().extra.get("weights"):
        weights = run.versions.weights_from(record)
        place = weights.adapter or weights.base
        if not (place / "manifest.json").exists():
            return False
        found = read_weights(place).hash
        if found != record["hash"]:
            raise DamagedData(
                f"{place}: other weights stand there than {folder.path} trained: {found[:12]}, not "
                f"{record['hash'][:12]}. Remove that folder and start the run again"
            )
        if "optimizer" in folder.require().extra:
            beside = optimizer_beside(place)
            return (beside / "manifest.json").exists() or beside not in run.versions.needed_optimizers()
    return True


def facts(stage: Stage, manifest: Manifest) -> dict[str, Any]:
    """What the console says of a finished stage."""
    metrics = manifest.extra.get("metrics", {})
    if stage.room == "train":
        return {key: metrics[key] for key in ("examples", "steps", "loss") if key in metrics}
    if stage.room == "evaluate":
        shown = [one for one in declared(stage) if one.headline]
        shares = {one.name: one.share for one in shown} | {one.gain: one.share for one in shown if one.gain}
        names = [name for name in shares if name in metrics][:5]
        return {name: Share(metrics[name]) if shares[name] else metrics[name] for name in names}
    said: dict[str, Any] = {
        f"{kind.lower()}s": rows for kind, rows in manifest.counts.rows.items() if kind != "Dropped"
    }
    for name, count in manifest.counts.counters.items():
        if name == "right" or name.startswith("charged/"):
            said[name.replace("charged/", "tokens by ")] = count
    dropped = Counter(manifest.counts.dropped).most_common(3)
    return said | {f"dropped {reason}": count for reason, count in dropped}


# --- the rooms


def _generate(work: Work) -> Finish:
    module = method("generate", work.stage.method)
    settings, run = work.stage.settings, work.run
    acting = work.models[settings.by]
    template = template_of(run, acting)

    def items(chunk: ChunkPlan) -> Iterator[Any]:
        given = work.reader.groups(chunk) if chunk.reads else {}
        for problem_id in chunk.ids:
            problem, group = work.problem(problem_id), given.get(problem_id)
            task = run.task_of(problem)
            if settings.where == "unsolved" and group is not None and group.solved:
                yield problem_id, [Dropped(problem_id=problem_id, what=problem_id, reason="solved")]
                continue
            hint = settings.sees_gold and settings.shows_hint
            question = question_of(task, problem, template, acting.round, hint=hint)
            if question is None:
                yield problem_id, [Dropped(problem_id=problem_id, what=problem_id, reason="no_hint")]
                continue
            more = {"problem": problem, "task": task} if settings.sees_gold else {}
            asks = module.generate(question, settings, group, **more)
            yield make_search(task, settings, problem_id, asks, question.stem)

    Drive(work, items, lambda chunk: list(chunk.ids), admit(work)).run()
    return dict


def _label(work: Work) -> Finish:
    module = method("label", work.stage.method)
    settings = work.stage.settings
    require_unseen(work.run, work.stage)
    groups: dict[str, Group] = {}  # of the problems under way
    given: dict[str, list[str]] = {}  # first problem id of a chunk -> its traces
    hashes = {name: weights.hash for name, weights in work.models.items()}
    require_equal_weights(work.stage, work.reader, work.plan.chunks, hashes)
    more = {"whole": surveyed(work, module)} if hasattr(module, "reduce") else {}

    def items(chunk: ChunkPlan) -> Iterator[Any]:
        found = work.reader.groups(chunk)
        given[chunk.ids[0]] = [trace.id for group in found.values() for trace in group.traces]
        for problem_id, group in found.items():
            problem = work.problem(problem_id)
            task = work.run.task_of(problem)
            shown = problem if settings.sees_gold else without_gold(problem)
            groups[problem_id] = group
            asks = module.label(shown, group, settings, task, **more)
            yield make_search(task, settings, problem_id, asks, rollouts=brought(group, settings))

    Drive(work, items, lambda chunk: given.pop(chunk.ids[0]), group=groups.pop).run()
    return dict


RUNNERS: dict[str, Callable[[Work], Finish]] = {
    "generate": _generate,
    "label": _label,
    "select": select_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
}


# --- what the rooms share


def warn_of(run: Run, stage: Stage, number: int, manifest: Manifest) -> None:
    """Say what a stage's health check found, and roll-outs that say nothing; stop where it must not go on.

    Raises:
        Diverged: the policy collapsed.
    """
    counted = manifest.counts.counters
    drawn, cut = counted.get("rollouts", 0), counted.get("rollouts/truncated", 0)
    said = [*manifest.extra.get("warnings", [])]
    if cut > drawn / 2:
        limit = stage.settings.completion_limit
        here = f"its max_tokens is {limit}" if limit else "the task's max_tokens"
        said.append(
            f"{cut:,} of {drawn:,} roll-outs were cut by their limit ({here}); a cut one counts as wrong, "
            "so the labels say little: raise it, or take a completer that knows how to end"
        )
    elif drawn and not counted["rollouts/right"]:
        said.append(
            f"none of {drawn:,} roll-outs ended right, so no step is worth anything: does the completer know "
            "this task?"
        )
    for text in said:
        run.console.warn(f"round {number}: {stage.name}: {text}")
