"""An evaluate stage: the round's candidate and the incumbent on the same problems with the same draws,
paired.

Draws have round 0's names, so a model's rows on a fixed split never change; where an earlier round measured
the incumbent already, its rows are read, not made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.errors import NothingKept
from pipeline.models.registry import Weights
from pipeline.recipe.measures import mark_of
from pipeline.recipe.methods import hook, method
from pipeline.recipe.shape import Stage, measured
from pipeline.rows import Dropped, Label, Problem, Trace
from pipeline.run.run import Run
from pipeline.stages.search import TOO_LONG, UNTRIED, Drive
from pipeline.store.folder import StageFolder
from pipeline.store.parts import read_part
from pipeline.store.plan import ChunkPlan
from pipeline.tasks import BaseTask

LONGER = "take a model with a longer context, fewer worked examples, or shorter questions"
INCUMBENT = "@incumbent"


def with_incumbents(run: Run, stage: Stage, number: int, models: dict[str, Weights]) -> dict[str, Weights]:
    """The acting models of an evaluate stage: in a round, each candidate's incumbent stands beside it; a
    version that never changes (`policy@0`) has none."""
    found = dict(models)
    if stage.section == "stages" and number > 0:
        for name in (name for name in measured(stage) if "@" not in name):
            incumbent = run.versions.standing(name, number - 1)
            if incumbent.hash != models[name].hash and not incumbent.fresh_head:
                found[name + INCUMBENT] = incumbent
    return found


def measured_before(run: Run, stage: Stage, number: int, models: dict[str, Weights]) -> dict[str, str]:
    """`NAME@incumbent`, or a version that never changes (`policy@0`), -> the folder (relative to data/) of an
    earlier round whose rows of NAME are of these very weights.

    The other models that act (a reward model that scores, a policy that writes) must be the same too.
    """
    found: dict[str, str] = {}
    if stage.sources:
        return found  # what it measures is this round's rows
    others = {n: w.hash for n, w in models.items() if n.removesuffix(INCUMBENT) not in measured(stage)}
    fixed = [n for n in measured(stage) if "@" in n] if stage.section == "stages" else []
    for name in (n for n in models if n.endswith(INCUMBENT) or n in fixed):
        base = name.removesuffix(INCUMBENT)
        for earlier in range(number - 1, -1, -1):
            if stage not in run.stages_in(earlier):
                continue
            folder = run.stage_folder(stage, earlier)
            plan, manifest = folder.plan(), folder.manifest()
            if plan is None or manifest is None or base in manifest.extra.get("reused", {}):
                continue
            same = all(plan.models.get(n) == digest for n, digest in others.items())
            if same and plan.models.get(base) == models[name].hash:
                found[name] = run.path(stage, earlier)
                break
    return found


def evaluate_stage(work: Any) -> Callable[[], dict[str, Any]]:
    """Answer every problem with each model; measure when all chunks are there."""
    run, stage, settings = work.run, work.stage, work.stage.settings
    module = method("evaluate", stage.method)
    grade, health_of = hook("evaluate", module, "grade"), hook("evaluate", module, "health")
    names = measured(stage)
    reused = measured_before(run, stage, work.round, work.models)
    fresh = [n for n in work.models if (n in names or n.endswith(INCUMBENT)) and n not in reused]

    def searches(chunk: ChunkPlan) -> Iterator[Any]:
        from pipeline.stages.work import make_search, question_of, template_of

        templates = {name: template_of(run, work.models[name]) for name in fresh}
        groups = work.reader.groups(chunk) if stage.sources else {}
        for problem_id in chunk.ids:
            problem = work.problem(problem_id)
            task = run.task_of(problem)
            more = {"problem": problem, "task": task} if settings.answers_with_gold else {}
            for name in fresh:
                question = question_of(task, problem, templates[name], work.models[name].round)
                assert question is not None  # no hint was asked for
                search = searcher(stage, name, problem, task) if settings.search else None
                asks = module.answer(question, settings, name, search, groups.get(problem_id), **more)
                yield make_search(task, settings, problem_id, asks, question.stem)

    def finish(problem_id: str, rows: list[Any]) -> list[Any]:
        problem = work.problem(problem_id)
        labels = grade(problem, rows, run.task_of(problem))
        whole = [*rows, *labels]
        return sorted(whole, key=lambda row: _place(problem_id, fresh, row))

    drive = Drive(work, searches, lambda chunk: list(chunk.ids), finish, len(fresh), draw=(0, stage.name))
    drive.run()

    def extra() -> dict[str, Any]:
        metrics = measure(work, module, fresh, reused)
        health = health_of(metrics, settings)
        return {
            "metrics": {f"{mark_of(stage)}{name}": value for name, value in metrics.items()},
            "reused": {name: path.removeprefix(f"{run.name}/") for name, path in reused.items()},
            "warnings": list(health.warnings),
            "failures": list(health.failures),
        }

    return extra


def _place(problem_id: str, names: list[str], row: Any) -> int:
    """Rows of one problem stand by model, whichever finished first."""
    text = getattr(row, "trace_id", None) or getattr(row, "id", None) or getattr(row, "what", "") or ""
    for place, name in enumerate(names):
        if text.startswith(f"{problem_id}/{name}/"):
            return place
    return len(names)


def measure(work: Any, module: Any, fresh: list[str], reused: dict[str, str]) -> dict[str, float]:
    """The metrics of a stage whose chunks are all there, problems streamed chunk by chunk."""
    found: dict[str, list[Any]] = {name: [] for name in fresh}
    left_out: Counter[str] = Counter()
    for name in fresh:
        left_out |= gather(work, work.folder, name, name, found[name], module)
    for name, path in reused.items():
        found[name] = []
        folder = StageFolder(work.run.workspace.data / path)
        gather(work, folder, name.removesuffix(INCUMBENT), name, found[name], module)
    if not set.intersection(*({outcome.problem_id for outcome in rows} for rows in found.values())):
        where = f"{work.stage.section}.{work.stage.name}"
        why = ", ".join(f"{number:,} as {reason}" for reason, number in left_out.most_common())
        cure = LONGER if TOO_LONG in left_out else "see what the stages before it left"
        raise NothingKept(
            f"{where}: nothing was measured: no problem was left that {', '.join(found)} could be measured "
            f"on; left out were {why or 'none of them'} ({work.folder.path}/dropped): {cure}"
        )
    return module.measure(found, work.stage.settings)


def gather(
    work: Any, folder: StageFolder, written: str, name: str, into: list[Any], module: Any
) -> Counter[str]:
    """The outcomes of a model from the rows of a stage, problem by problem; returns how many problems were
    left out, by reason. Left out is what could not be put to it and, without a search, what the evaluation
    itself dropped whole; a search that came to no trace was tried, and is wrong. work: the run, the stage and
    its `problem`."""
    left_out: Counter[str] = Counter()
    plan, searched = folder.plan(), work.stage.settings.search is not None
    assert plan is not None
    for sidecar in folder.sidecars():  # the stage's own manifest is written after this
        chunk = plan.chunks[sidecar.chunk]
        traces: dict[str, list[Trace]] = {}
        labels: dict[str, list[Label]] = {}
        untried: dict[str, str] = {}
        for row in (row for entry in sidecar.parts for row in read_part(folder.path, entry)):
            if isinstance(row, Trace):
                traces.setdefault(row.problem_id, []).append(row)
            elif isinstance(row, Label):
                labels.setdefault(row.problem_id, []).append(row)
            elif isinstance(row, Dropped) and (row.reason in UNTRIED or not searched):
                untried[row.problem_id] = row.reason
        for problem_id in chunk.ids:
            if problem_id in untried and problem_id not in traces:
                left_out[untried[problem_id]] += 1
                continue
            problem = work.problem(problem_id)
            outcome = module.outcomes(
                problem,
                traces.get(problem_id, []),
                labels.get(problem_id, []),
                work.stage.settings,
                written,
                work.run.task_of(problem),
            )
            into.append(outcome)
    return left_out


def searcher(stage: Stage, model: str, problem: Problem, task: BaseTask) -> Callable[[Any], Any]:
    """The generate method that an evaluation acts by, with the measured model in its `by`. One that sees gold
    is given it, and the stage's metrics say so (`Stage.saw_gold`)."""
    module = method("generate", stage.settings.search["generate"])
    settings = stage.settings.acting(model)
    more = {"problem": problem, "task": task} if settings.sees_gold else {}
    return lambda question: module.generate(question, settings, None, **more)
