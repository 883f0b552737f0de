"""From the runs of a claim to its row: what is absent is made, outcomes are paired by problem over seeds.

A run is an ordinary one in data/, named by its recipe, changes and seed, so that claims share it and an
interrupted start goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from claims_files import Arm, Claim, Claims, RunOf, behind
from claims_rows import Row

from pipeline.errors import RecipeError
from pipeline.evaluate import GOLD
from pipeline.evaluate.intervals import Floats, Statistic, percentile95, resample
from pipeline.evaluate.paired import Seen, statistics_of
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.methods import method
from pipeline.recipe.shape import Recipe, Stage, fingerprint, measured
from pipeline.report.console import Console
from pipeline.rows import Label, Trace, critiques_of
from pipeline.run.record import read
from pipeline.run.run import Run
from pipeline.run.session import open_run, session
from pipeline.run.status import run_status
from pipeline.stages.evaluate import gather
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace


@dataclass(frozen=True)
class Side:
    """One arm on one seed: the problems and a statistic over them, or a bare number."""

    ids: Sequence[str]
    value: float
    statistic: Statistic | None = None
    critic: tuple[float, float, int] | None = None  #: of the arm's stage (`critic_of`)


def is_complete(workspace: Workspace, name: str) -> bool:
    """Is there a run of this name, and at its end?"""
    path = workspace.data / name / "recipe.yaml"
    return path.is_file() and bool(run_status(name, workspace)["complete"])


def complete_run(workspace: Workspace, name: str, recipe: Callable[[], Recipe]) -> Run:
    """The run of this name at its end: one that is absent is made, one that stopped goes on."""
    if not is_complete(workspace, name):
        with session(recipe(), Console(), Processes(), workspace) as run:
            run_loop(run)
    return open_run(name, workspace)


@dataclass
class Runs:
    """The runs of all claims. make: those that are absent are made; else a seed without them is left out."""

    workspace: Workspace
    make: bool = True

    def __post_init__(self) -> None:
        self._opened: dict[str, Run] = {}
        self._seen: dict[tuple[str, str, int], Seen] = {}
        self._critics: dict[tuple[str, str, int, str], tuple[float, float, int] | None] = {}

    def get(self, wanted: RunOf, seed: int) -> Run | None:
        """A complete run; None where it is not and none may be made."""
        name = wanted.name(seed)
        if name not in self._opened:
            if not self.make and not is_complete(self.workspace, name):
                return None
            self._opened[name] = complete_run(self.workspace, name, lambda: wanted.load(seed))
        return self._opened[name]

    def outcomes(self, run: Run, stage: Stage, number: int) -> Seen:
        """The statistics of an evaluation in a run, each model's, read from its rows once."""
        key = (run.name, stage.name, number)
        if key not in self._seen:
            module = method("evaluate", stage.method)
            work = SimpleNamespace(run=run, stage=stage, problem=run.problems.__getitem__)
            folder = run.stage_folder(stage, number)
            manifest = folder.manifest()
            if manifest is None:
                raise RecipeError(f"{run.name}: {stage.name} was not measured in round {number}")
            reused = manifest.extra.get("reused", {})
            found: dict[str, list[Any]] = {}
            for name in measured(stage):
                found[name] = []
                place = self.workspace.data / run.name / reused[name] if name in reused else folder.path
                gather(work, StageFolder(place), name, name, found[name], module)
            self._seen[key] = statistics_of(module.measure, found, stage.settings)
        return self._seen[key]

    def critic(self, run: Run, stage: Stage, number: int, model: str) -> tuple[float, float, int] | None:
        """`critic_of` the rows that a model's figures are made of, read once."""
        key = (run.name, stage.name, number, model)
        if key not in self._critics:
            folder = run.stage_folder(stage, number)
            manifest = folder.manifest()
            reused = manifest.extra.get("reused", {}) if manifest is not None else {}
            if model in reused:
                folder = StageFolder(self.workspace.data / run.name / reused[model])
            self._critics[key] = critic_of(folder.read(Trace), folder.read(Label), model)
        return self._critics[key]

    def side(self, claims: Claims, claim: Claim, arm: Arm, seed: int) -> Side | None:
        """An arm on a seed; None where its run is not there.

        Raises:
            RecipeError: the run has no such figure.
        """
        wanted = claims.file.runs[arm.run]
        run = self.get(wanted, seed)
        if run is None:
            return None
        if fingerprint(behind(run.recipe, arm.stage)) != fingerprint(behind(wanted.load(seed), arm.stage)):
            raise RecipeError(
                f"{claims.path}: {claim.says}: {run.name} was made by an older recipes/{wanted.recipe}.yaml: "
                f"`ratchet rm {run.name}`, and start again"
            )
        number = run.recipe.rounds if arm.round is None else arm.round
        stage = run.recipe.stage(arm.stage)
        if claims.place(claim, arm).metric is None:
            return Side((), said_by_training(self.workspace.data / run.name, arm, number))
        seen = self.outcomes(run, stage, number)
        model = arm.model or measured(stage)[0]
        known, critic = seen.models[model], self.critic(run, stage, number, model)
        if (statistic := (known.compared | known.shown).get(arm.metric)) is not None:
            return Side(seen.ids, statistic.value, statistic, critic)
        if arm.metric in known.plain:
            return Side(seen.ids, known.plain[arm.metric], None, critic)
        measures = sorted({**known.compared, **known.shown, **known.plain})
        raise RecipeError(f"{claims.path}: {claim.says}: {run.name}: {arm.stage} has {', '.join(measures)}")


def critic_of(
    traces: Iterable[Trace], labels: Iterable[Label], model: str
) -> tuple[float, float, int] | None:
    """(the share of the right answers that the critiques among these rows pass, that of the wrong ones, how
    many verdicts that is); None where they speak of no right or of no wrong answer."""
    gold = {row.trace_id: bool(row.correct) for row in labels if row.labeller == GOLD}
    passed: dict[bool, list[bool]] = {True: [], False: []}
    for name, critiques in critiques_of(trace for trace in traces if trace.model == model).items():
        said = [one.answer == "right" for one in critiques if one.answer is not None]
        if name in gold:
            passed[gold[name]] += said
    if not all(passed.values()):
        return None
    shares = [sum(said) / len(said) for said in (passed[True], passed[False])]
    return shares[0], shares[1], sum(map(len, passed.values()))


def critics(claims: Claims, claim: Claim, sides: Sequence[Sequence[Side]]) -> dict[str, list[float]]:
    """What `critic_of` says of each arm's stage, the mean of the seeds."""
    found: dict[str, list[float]] = {}
    for arm, mine in zip((claim.a, claim.b), sides, strict=True):
        known = [one.critic for one in mine if one.critic is not None]
        if known:
            shares = [round(float(np.mean([one[place] for one in known])), 4) for place in (0, 1)]
            name = f"{claims.file.runs[arm.run].recipe}: {arm.stage}"
            found[name] = [*shares, sum(one[2] for one in known)]
    return found


def said_by_training(folder: Path, arm: Arm, number: int) -> float:
    """A number of a training's own, from the run's record; without `round` of the last one that has it.

    Raises:
        RecipeError: no round has it.
    """
    key = f"{arm.stage}/{arm.metric}"
    found = {
        row["round"]: row["metrics"][key]
        for row in read(folder / "metrics.jsonl")
        if key in row.get("metrics", {})
    }
    wanted = number if arm.round is not None else max(found, default=number)
    if wanted not in found:
        raise RecipeError(f"{folder.name}: no {key} in round {wanted} (rounds that have it: {sorted(found)})")
    return float(found[wanted])


def paired(
    a: Sequence[Side], b: Sequence[Side], resamples: int = 2000
) -> tuple[float, float | None, float | None]:
    """(difference, low, high) of the first arm over the second: the mean over seeds on each problem,
    resampled over problems; no interval where one side is a bare number. Seeds that drew other problems than
    one another are resampled each by itself.

    Raises:
        ValueError: the arms answered different problems.
    """
    difference = float(np.mean([one.value - other.value for one, other in zip(a, b, strict=True)]))
    statistics = [(one.statistic, other.statistic) for one, other in zip(a, b, strict=True)]
    if any(one is None or other is None for one, other in statistics):
        return difference, None, None
    for one, other in zip(a, b, strict=True):
        if list(one.ids) != list(other.ids):
            shared = len(set(one.ids) & set(other.ids))
            raise ValueError(f"{len(one.ids)} problems and {len(other.ids)}, {shared} of them the same")
    alike = all(list(side.ids) == list(a[0].ids) for side in a)
    drawn = [resample(len(side.ids), resamples, 0 if alike else number) for number, side in enumerate(a)]
    spread: Floats = np.mean(
        [
            one.spread(weights) - other.spread(weights)  # type: ignore[union-attr]
            for (one, other), weights in zip(statistics, drawn, strict=True)
        ],
        axis=0,
    )
    return difference, *percentile95(spread)


def apart(
    a: Sequence[Side], b: Sequence[Side], resamples: int = 2000
) -> tuple[float, float | None, float | None]:
    """(difference, low, high) where every side answered problems of its own: each is resampled by itself."""
    difference = float(np.mean([one.value - other.value for one, other in zip(a, b, strict=True)]))
    if any(side.statistic is None for side in (*a, *b)):
        return difference, None, None
    first, second = (
        [
            side.statistic.spread(resample(len(side.ids), resamples, 2 * number + place))  # type: ignore[union-attr]
            for number, side in enumerate(sides)
        ]
        for place, sides in enumerate((a, b))
    )
    return difference, *percentile95(np.mean(first, axis=0) - np.mean(second, axis=0))


def measure(runs: Runs, claims: Claims, claim: Claim, seeds: Sequence[int]) -> Row | None:
    """A claim's row over the seeds whose runs are there; None where none is.

    Raises:
        RecipeError: its arms do not fit.
    """
    sides = {s: [runs.side(claims, claim, arm, s) for arm in (claim.a, claim.b)] for s in seeds}
    whole = {s: (a, b) for s, (a, b) in sides.items() if a is not None and b is not None}
    if not whole:
        return None
    a, b = ([pair[side] for pair in whole.values()] for side in (0, 1))
    try:
        figures = paired(a, b) if claim.paired else apart(a, b)
    except ValueError as error:
        told = f"{claims.path}: {claim.says}: the arms answered different problems: {error}"
        raise RecipeError(
            f"{told}; give both the same task, seed aside, or say `paired: false` where they mean to"
        ) from None
    metric = claims.place(claim, claim.a).metric
    scale = 100.0 if metric is not None and metric.share else 1.0
    unit = "points" if scale == 100.0 else (metric.brief if metric is not None else claim.a.metric)
    difference, low, high = (None if one is None else round(scale * one, 4) for one in figures)
    assert difference is not None
    return Row(
        paper=claims.file.paper,
        says=claim.says,
        where=claim.where,
        names=[claim.a.called, claim.b.called],
        values=[round(scale * float(np.mean([one.value for one in side])), 4) for side in (a, b)],
        difference=difference,
        low=low,
        high=high,
        wants=claim.wants,
        by_seed=[round(scale * (one.value - other.value), 4) for one, other in zip(a, b, strict=True)],
        seeds=list(whole),
        problems=len(a[0].ids) or None,
        unit=unit,
        command=f"make claims ONLY={claims.stem}",
        fingerprint=claims.fingerprint(claim),
        note=claim.note,
        critics=critics(claims, claim, (a, b)),
    )


def measure_all(runs: Runs, claims: Claims, seeds: Sequence[int]) -> Iterator[Row]:
    """The rows of a file, seed by seed: all runs of the first seed are made before any of the next, so that
    what was interrupted has whole seeds.

    Raises:
        RecipeError: at the end, with every claim that could not be measured.
    """
    if runs.make:
        wanted = {claims.file.runs[arm.run] for claim in claims.file.claims for arm in (claim.a, claim.b)}
        for seed in seeds:
            for one in sorted(wanted, key=lambda one: one.name(seed)):
                runs.get(one, seed)
    problems: list[str] = []
    for claim in claims.file.claims:
        try:
            row = measure(runs, claims, claim, seeds)
        except RecipeError as error:
            problems += error.problems
            continue
        if row is not None:
            yield row
    if problems:
        raise RecipeError(problems)
