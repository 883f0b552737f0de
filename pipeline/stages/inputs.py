"""What a stage reads: which folders, cut into which chunks, and each problem's rows as one Group.

A stage that reads one folder inherits its slices. Joining others (two sources, `mix: all_rounds`) is cut
anew, and the plan lists which input chunks each chunk reads. A label stage brings the traces it labels: its
group holds its own sources' rows too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.recipe.shape import Stage
from pipeline.rows import Dropped, Example, Group, Label, Node, Pair, Problem, StepExample, Trace
from pipeline.run.kept import Kept
from pipeline.run.run import Run
from pipeline.settings import FileSource
from pipeline.stages.files import path_of
from pipeline.stages.pieces import DEFAULT_CHUNK
from pipeline.store.folder import StageFolder
from pipeline.store.parts import read_part
from pipeline.store.plan import ChunkPlan, Plan


@dataclass(frozen=True)
class Source:
    """One committed stage folder that a stage reads; `path` is relative to data/."""

    path: str
    folder: StageFolder
    plan: Plan
    imagines: bool = False  #: does its method write Problem rows?

    @classmethod
    def at(cls, data: Path, path: str) -> Source:
        folder = StageFolder(data / path)
        plan = folder.plan()
        assert plan is not None, f"{path}: read before it was planned"
        return cls(path, folder, plan)


def slices(ids: list[str], chunk: int) -> list[ChunkPlan]:
    """Problem ids cut into chunks, reading nothing."""
    return [ChunkPlan(ids=ids[i : i + chunk], reads={}) for i in range(0, len(ids), chunk)]


def within(chunks: list[ChunkPlan], ids: set[str]) -> list[ChunkPlan]:
    """The chunks with these problems alone."""
    kept = [ChunkPlan(ids=[i for i in chunk.ids if i in ids], reads=chunk.reads) for chunk in chunks]
    return [chunk for chunk in kept if chunk.ids]


def chunks_imagined(sources: list[Source]) -> list[ChunkPlan]:
    """The chunks of a stage that works on the problems which these folders imagined; one that several chunks
    hold is worked on where it stands first."""
    seen: set[str] = set()
    found = []
    for source in sources:
        for number in range(len(source.plan.chunks)) if source.imagines else ():
            ids = [row.id for row in source.folder.read(Problem, [number])]
            fresh = [i for i in dict.fromkeys(ids) if i not in seen]
            seen.update(fresh)
            found.append(ChunkPlan(ids=fresh, reads={source.path: [number]}))
    return [chunk for chunk in found if chunk.ids]


def chunks_from(sources: list[Source]) -> list[ChunkPlan]:
    """The chunks of a stage that reads these folders."""
    if len(sources) == 1:
        [one] = sources
        return [ChunkPlan(ids=list(c.ids), reads={one.path: [i]}) for i, c in enumerate(one.plan.chunks)]
    where: dict[str, dict[str, int]] = {}  # problem id -> source path -> chunk
    for source in sources:
        for number, chunk in enumerate(source.plan.chunks):
            for problem_id in chunk.ids:
                where.setdefault(problem_id, {})[source.path] = number
    size = max((len(c.ids) for s in sources for c in s.plan.chunks), default=DEFAULT_CHUNK)
    ids = list(where)
    found = []
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        reads = {s.path: sorted({where[i][s.path] for i in part if s.path in where[i]}) for s in sources}
        found.append(ChunkPlan(ids=part, reads={path: numbers for path, numbers in reads.items() if numbers}))
    return found


class ChunkReader:
    """Reads chunks of groups; each folder's plan and manifest are read and checked once. With `keep` the rows
    stay for whoever reads them again: a stage that pools the rounds."""

    def __init__(self, data: Path, keep: Kept | None = None) -> None:
        self.data, self.keep = data, keep
        self._sources: dict[str, Source] = {} if keep is None else keep.sources

    def source(self, path: str) -> Source:
        """A committed stage folder, by its path relative to data/."""
        if path not in self._sources:
            self._sources[path] = Source.at(self.data, path)
        return self._sources[path]

    def groups(self, chunk: ChunkPlan) -> dict[str, Group]:
        """The rows of a chunk's problems, one Group a problem, in the chunk's order."""
        found = {problem_id: Group(problem_id) for problem_id in chunk.ids}
        seen: set[tuple[str, int]] = set()
        for path, numbers in chunk.reads.items():
            self._fill(path, numbers, found, seen)
            self._charge(path, numbers, found)
        return found

    def _charge(self, path: str, numbers: Iterable[int], found: dict[str, Group]) -> None:
        """What a label stage was charged, evenly over the problems of each chunk."""
        source = self.source(path)
        for number in numbers if source.plan.room == "label" else ():
            ids = source.plan.chunks[number].ids
            for counter, tokens in source.folder.require().chunks[number]["counters"].items():
                kind, _, model = counter.partition("/")
                for problem_id in ids if kind == "charged" else ():
                    if group := found.get(problem_id):
                        group.charged[model] = group.charged.get(model, 0.0) + tokens / len(ids)

    def _fill(
        self, path: str, numbers: Iterable[int], found: dict[str, Group], seen: set[tuple[str, int]]
    ) -> None:
        source = self.source(path)
        for number in numbers:
            if (path, number) in seen:
                continue  # a generate stage and label stages over it bring its traces once
            seen.add((path, number))
            if source.plan.room == "label":
                for deeper, inner in source.plan.chunks[number].reads.items():
                    self._fill(deeper, inner, found, seen)
            labels = list(self._rows(source, Label, number))
            named = {label.trace_id for label in labels}
            for kind in (Trace, Node, Label, Example, StepExample, Pair):
                for row in labels if kind is Label else self._rows(source, kind, number):
                    group = found.get(row.problem_id)
                    if group is None:
                        continue
                    if source.plan.room == "label" and isinstance(row, Trace) and row.id not in named:
                        group.rollouts.append(row)
                    else:
                        _add(group, row)

    def _rows(self, source: Source, kind: type, number: int) -> Iterator[Any]:
        """A chunk's rows of a kind."""
        folder = source.folder
        if self.keep is None:
            yield from folder.read(kind, [number])
            return
        for part in folder.parts(kind, number):
            yield from self.keep.rows(source.path, part, partial(read_part, folder.path, part))


def _add(group: Group, row: Trace | Node | Label | Example | StepExample | Pair) -> None:
    if isinstance(row, Label):
        group.labels[row.trace_id] = _merge(group.labels.get(row.trace_id), row)
    elif isinstance(row, Trace):
        group.traces.append(row)
    elif isinstance(row, Node):
        group.nodes.append(row)
    else:
        group.examples.append(row)


def _merge(old: Label | None, new: Label) -> Label:
    """A later labeller's fields win where it says something."""
    if old is None:
        return new
    return Label(
        problem_id=new.problem_id,
        round=new.round,
        stage=new.stage,
        trace_id=new.trace_id,
        correct=old.correct if new.correct is None else new.correct,
        step_scores=old.step_scores if new.step_scores is None else new.step_scores,
        value=old.value if new.value is None else new.value,
        advantage=old.advantage if new.advantage is None else new.advantage,
        reason=new.reason or old.reason,
        labeller=new.labeller or old.labeller,
    )


def training_rows(sources: list[Source], kind: type) -> Iterator[Example | StepExample | Pair]:
    """Every row of a kind, in the order of the manifests."""
    for source in sources:
        yield from source.folder.read(kind)


def unaccounted(given: Iterable[str], named: Iterable[str], dropped: Iterable[Dropped]) -> list[str]:
    """Ids of input rows that no output row names and no Dropped row explains, or that two Dropped rows do."""
    seen = list(named)
    reasons = [row.what for row in dropped]
    twice = (
        {what for what in reasons if reasons.count(what) > 1} if len(reasons) != len(set(reasons)) else set()
    )
    return sorted((set(given) - set(seen) - set(reasons)) | twice)


def pools(stage: Stage) -> bool:
    """Does a stage read every round so far (`mix: all_rounds`)?"""
    return stage.settings.pools_rounds and stage.section == "stages"


def reader_of(run: Run, stage: Stage) -> ChunkReader:
    """What reads a stage's chunks; of a stage that pools the rounds, what it reads is kept for the next."""
    return ChunkReader(run.workspace.data, run.kept if pools(stage) else None)


def inputs_of(run: Run, stage: Stage, round_number: int) -> list[Source]:
    """The committed folders that a stage reads, in the order of `from`; with `mix: all_rounds` those of
    every round so far."""
    reader = reader_of(run, stage)
    found: list[Source] = []
    for source in stage.sources:
        if isinstance(source, FileSource):
            if source.form:
                found.append(reader.source(path_of(run, source)))
            continue
        if source == "train":
            continue
        earlier = run.recipe.stage(source)
        if earlier.section == "before" and stage.section != "before":
            rounds: list[int] = [0]
        elif earlier.section == "stages" and stage.section == "finally":
            rounds = [round_number]
        else:
            rounds = list(range(1, round_number + 1)) if pools(stage) else [round_number]
        for number in rounds:
            if earlier.section == stage.section == "stages" and not earlier.runs_in(number):
                continue  # a phase that is over, or has not begun: its readers do without it
            path = run.path(earlier, number)
            if path not in run.kept.sources and run.stage_folder(earlier, number).manifest() is None:
                raise RecipeError(
                    f"run {run.name}: round {number}: {stage.name} reads {source}, not finished yet; "
                    f"run it first: ratchet stage {run.name} --round {number} {source}"
                )
            imagines = earlier.room == "generate" and "Problem" in earlier.settings.kinds_made
            found.append(replace(reader.source(path), imagines=imagines))
    return found
