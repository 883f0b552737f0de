"""One run on disk: its folders, its stages by round, its problems.

Everything here is derived from what is committed (plans, manifests, gates); nothing is remembered on the
side."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DamagedData
from pipeline.processes.group import Processes
from pipeline.recipe.methods import method
from pipeline.recipe.shape import Recipe, Stage, fingerprint, first_part
from pipeline.rows import Problem
from pipeline.run.conditions import conditions
from pipeline.run.kept import Kept
from pipeline.run.reporter import Reporter
from pipeline.run.versions import Versions
from pipeline.store.disk import DISK, Disk
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace
from pipeline.tasks import BaseTask

if TYPE_CHECKING:
    pass


@dataclass
class Run:
    """A run under way, or being looked at."""

    recipe: Recipe
    console: Reporter
    workspace: Workspace = field(default_factory=Workspace)
    processes: Processes = field(default_factory=Processes)
    disk: Disk = DISK
    engines: dict[str, Any] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    connected: bool = False  #: every server of the recipe was met
    taken: list[str] = field(default_factory=list)  #: settings that changed since the last launch, and may

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def folder(self) -> Path:
        """data/<run>/: rows, plans, metrics."""
        return self.workspace.rows_of(self.name)

    @property
    def weights(self) -> Path:
        """checkpoints/<run>/."""
        return self.workspace.weights_of(self.name)

    @cached_property
    def versions(self) -> Versions:
        """Which version of each model acts and stands."""
        return Versions(self)

    def path(self, stage: Stage, round_number: int) -> str:
        """A stage's folder relative to data/."""
        if stage.section == "apart":
            return f"{self.name}/eval-{stage.name}"
        kind = "final" if stage.section == "finally" else "round"
        return f"{self.name}/{kind}-{round_number:03d}/{stage.name}"

    def stage_folder(self, stage: Stage, round_number: int) -> StageFolder:
        return StageFolder(self.workspace.data / self.path(stage, round_number), self.disk)

    def gate_file(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number:03d}" / "gate.json"

    def stages_in(self, round_number: int) -> list[Stage]:
        """The stages of a round, in order. Round 0: `before`, then the evaluate stages on the starting
        models."""
        if round_number == 0:
            measures = [
                s for s in self.recipe.section("stages") if s.room == "evaluate" and self._can_measure(s)
            ]
            return self.recipe.section("before") + measures
        return [stage for stage in self.recipe.section("stages") if stage.runs_in(round_number)]

    def recorded(self) -> dict[str, Any]:
        """What the bits also depend on, kept in each plan beside the fingerprint."""
        return conditions(self.recipe)

    def timing(self, number: int, stage: str, seconds: float, spent: dict[str, Any]) -> None:
        """One line in timing.jsonl, which is outside the promise: wall time and tokens really used."""
        if self.processes.main:
            line = {"round": number, "stage": stage, "seconds": round(seconds, 3), "spent": spent}
            with (self.folder / "timing.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def timings(self) -> Iterator[dict[str, Any]]:
        """The lines of timing.jsonl."""
        return timings_of(self.folder)

    def _can_measure(self, stage: Stage) -> bool:
        """Round 0 leaves out what asks a reward model that nobody has trained yet, and what reads stages of a
        round."""
        made = [
            self.recipe.stage(source)
            for source in stage.sources
            if isinstance(source, str) and source != "train"
        ]
        if any(one.section == "stages" and one.room != "evaluate" for one in made):
            return False
        taught = {s.settings.model for s in self.recipe.section("before") if s.room == "train"}
        heads = (
            n
            for n in map(first_part, stage.models.values())
            if self.recipe.models[n].head and n not in taught
        )
        return not any(
            self.recipe.models[n].base.startswith("seed://") or self.versions.base_weights(n).fresh_head
            for n in heads
        )

    # --- problems ---

    @cached_property
    def tasks(self) -> dict[str, BaseTask]:
        """The recipe's tasks, by the name that Problem.source holds."""
        made = [method("tasks", settings.use).Task(settings) for settings in self.recipe.tasks]
        return {task.name: task for task in made}

    def task_of(self, problem: Problem) -> BaseTask:
        return self.tasks.get(problem.source) or next(iter(self.tasks.values()))

    @cached_property
    def prepare_folder(self) -> StageFolder:
        return StageFolder(self.folder / "prepare", self.disk)

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Every prepared problem, by id."""
        return {problem.id: problem for problem in self.prepare_folder.read(Problem)}

    def ids(self, split: str) -> list[str]:
        """The ids of a split, in the order of `prepare`."""
        return [problem.id for problem in self.problems.values() if problem.split == split]

    def round_ids(self, round_number: int, wanted: int | None = None) -> list[str]:
        """The training problems of a round: all, or `wanted` (none: `problems_per_round`) drawn without
        replacement until all were seen."""
        ids, wanted = self.ids("train"), wanted or self.recipe.header.problems_per_round
        if wanted is None or wanted >= len(ids):
            return ids
        drawn: list[str] = []
        start = max(round_number - 1, 0) * wanted
        while len(drawn) < wanted:
            cycle, place = divmod(start + len(drawn), len(ids))
            drawn += self._order(cycle)[place : place + wanted - len(drawn)]
        return list(dict.fromkeys(drawn))

    def _order(self, cycle: int) -> list[str]:
        """All training problems, in the order of their cycle-th pass; the newest is kept."""
        if self.kept.order[0] != cycle:
            seed, ids = self.recipe.seed, self.ids("train")
            self.kept.order = (cycle, sorted(ids, key=lambda i: fingerprint([seed, "problems", cycle, i])))
        return self.kept.order[1]

    # --- models ---

    def gate(self, round_number: int) -> dict[str, Any] | None:
        """A round's gate.json, None while the round is not done.

        Raises:
            DamagedData: it cannot be read.
        """
        path = self.gate_file(round_number)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as problem:
            raise DamagedData(
                f"{path}: not readable: {problem}; remove it, and `run` derives it again"
            ) from None

    # --- inputs ---


def timings_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's timing.jsonl. It is outside the promise: a finished run's fork has none, and a
    launch that was killed may have left half a line, which is passed over."""
    path = folder / "timing.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
