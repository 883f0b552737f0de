"""One run on disk: its folders, its problems, and which version of each model stands after each round.

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

from pipeline.conditions import changed, conditions
from pipeline.errors import DamagedData, RecipeError
from pipeline.inputs import Reader, Source
from pipeline.meaning import split_name
from pipeline.models.registry import Weights, resolve_base, trained_at
from pipeline.recipe import Recipe, Stage, fingerprint, method
from pipeline.rows import Problem
from pipeline.settings import FileSource
from pipeline.store.disk import DISK, Disk
from pipeline.store.folder import StageFolder
from pipeline.tasks import BaseTask
from pipeline.watch import long
from pipeline.world import World

if TYPE_CHECKING:
    from pipeline.report.console import Console


def first_part(name: str) -> str:
    """`policy@0` -> policy."""
    return split_name(name)[0]


def by_of(stage: Stage) -> list[str]:
    """The models that only write for an evaluation (its `by`): they act as promoted, not as this round's
    candidates."""
    of = getattr(stage.settings, "of", [])
    by = getattr(stage.settings, "by", None)
    return [by] if by and by not in ([of] if isinstance(of, str) else of) else []


@dataclass
class Run:
    """A run under way (or being looked at). `data` and `checkpoints` are the project's folders of those
    names."""

    recipe: Recipe
    console: Console
    data: Path = Path("data")
    checkpoints: Path = Path("checkpoints")
    world: World = field(default_factory=World)
    disk: Disk = DISK
    engines: dict[str, Any] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)  #: settings that changed since the last launch, and may

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def folder(self) -> Path:
        return self.data / self.name

    def path(self, stage: Stage, round_number: int) -> str:
        """A stage's folder relative to data/."""
        if stage.section == "apart":
            return f"{self.name}/eval-{stage.name}"
        kind = "final" if stage.section == "finally" else "round"
        return f"{self.name}/{kind}-{round_number:03d}/{stage.name}"

    def stage_folder(self, stage: Stage, round_number: int) -> StageFolder:
        return StageFolder(self.data / self.path(stage, round_number), self.disk)

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

    def same_conditions(self) -> None:
        """Hold package versions, threads and code against those the run began with: other bits may follow.

        Raises:
            RecipeError: they differ, and the recipe is `strict`.
        """
        plan = self.prepare_folder.plan()
        lines, code = changed(plan.recorded if plan else {}, self.recorded())
        if (lines or code) and self.recipe.header.strict:
            refused = [
                f"{self.name}: {line}" for line in (*lines, *(f"code of {room} changed" for room in code))
            ]
            raise RecipeError([*refused, "strict: true refuses to go on under these"])
        if lines:
            told = f"not as the run began: {', '.join(lines)}"
            self.console.warn(f"{told}. The same rows are promised, not the same bytes")
        if code:
            told = f"code changed since the run began: {', '.join(code)}"
            self.console.warn(f"{told}. What is committed stays; what follows is the new code's")

    def mirrored(self) -> contextlib.AbstractContextManager[Any]:
        """wandb follows metrics.jsonl while the block lasts: rank 0 alone, and only where it is wanted."""
        from pipeline.report.mirror import Mirror

        settings = self.recipe.header.wandb
        wanted = self.world.main and settings.mode != "disabled"
        if not wanted:
            return contextlib.nullcontext()
        return Mirror(self.folder, settings, checkpoints=self.checkpoints)

    def timing(self, number: int, stage: str, seconds: float, spent: dict[str, Any]) -> None:
        """One line in timing.jsonl, which is outside the promise: wall time and tokens really used."""
        if self.world.main:
            line = {"round": number, "stage": stage, "seconds": round(seconds, 3), "spent": spent}
            with (self.folder / "timing.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def timings(self) -> Iterator[dict[str, Any]]:
        """The lines of timing.jsonl. It is outside the promise: a finished run's fork has none, and a launch
        that was killed may have left half a line, which is passed over."""
        path = self.folder / "timing.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def warn_of(self, stage: Stage, number: int, extra: dict[str, Any]) -> None:
        """Say what a stage's health check found; stop where it must not go on.

        Raises:
            Diverged: the policy collapsed.
        """
        for text in extra.get("warnings", []):
            self.console.warn(f"round {number}: {stage.name}: {text}")

    def _can_measure(self, stage: Stage) -> bool:
        """Round 0 leaves out what asks a reward model that nobody has trained yet."""
        taught = {s.settings.model for s in self.recipe.section("before") if s.room == "train"}
        heads = (
            n
            for n in map(first_part, stage.models.values())
            if self.recipe.models[n].head and n not in taught
        )
        return not any(
            self.recipe.models[n].base.startswith("seed://") or self.base_weights(n).fresh_head for n in heads
        )

    def announce(self) -> None:
        """Say that a launch begins or from where it goes on, then which settings it takes over."""
        self.console.run_started(self.name, self.recipe.path, self.resumed_from())
        self.console.changed(self.taken)

    def resumed_from(self) -> str:
        """Where a launch goes on, for its first line; empty for a new run."""
        if self.prepare_folder.manifest() is None:
            return ""
        for number in range(self.recipe.rounds + 1):
            if self.gate(number) is not None:
                continue
            for stage in self.stages_in(number):
                folder = self.stage_folder(stage, number)
                if folder.manifest() is None:
                    plan = folder.plan()
                    chunks = (
                        f", chunk {len(folder.done())} of {len(plan.chunks)}" if plan and plan.chunks else ""
                    )
                    return f"round {number}, {stage.name}{chunks}"
            return f"round {number}, gate"
        return "finally"

    def summary(self) -> dict[str, Any]:
        """What the console says at the end: the result, where everything lies, what to try next."""
        from pipeline.report.metrics import read

        rows = read(self.folder / "metrics.jsonl")
        last = [row for row in rows if row.get("final") and row["round"] == self.recipe.rounds] or rows[-1:]
        metrics: dict[str, float] = {}
        for row in last:
            metrics.update(row["metrics"])
        policy = next((name for name, model in self.recipe.models.items() if model.head is None), "policy")
        seconds = sum(entry["seconds"] for entry in self.timings())
        return {
            "run": self.name,
            "metrics": metrics,
            "seconds": seconds,
            "where": {
                "rows": str(self.folder),
                "weights": str(self.checkpoints / self.name),
                "metrics": str(self.folder / "metrics.jsonl"),
            },
            "next": [
                f"ratchet show {self.name} {max(self.recipe.rounds, 0)} {self._shown()}",
                f"ratchet status {self.name}",
                f"ratchet run {self.name} rounds={self.recipe.rounds + 2}",
                f"ratchet export {self.name} {self.recipe.rounds} --model {policy}",
            ],
        }

    def _shown(self) -> str:
        """A stage whose rows are worth a look."""
        stages = self.recipe.section("stages") or list(self.recipe.stages)
        return next((stage.name for stage in stages if stage.room == "label"), stages[0].name)

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

    def round_ids(self, round_number: int) -> list[str]:
        """The training problems of a round: all, or `problems_per_round` drawn without replacement until all
        were seen."""
        ids, wanted = self.ids("train"), self.recipe.header.problems_per_round
        if wanted is None or wanted >= len(ids):
            return ids
        drawn: list[str] = []
        start, cycle = max(round_number - 1, 0) * wanted, -1
        order: list[str] = []
        while len(drawn) < wanted:
            place = start + len(drawn)
            if place // len(ids) != cycle:
                cycle = place // len(ids)
                order = sorted(ids, key=lambda i: fingerprint([self.recipe.seed, "problems", cycle, i]))
            drawn += order[place % len(ids) : place % len(ids) + wanted - len(drawn)]
        return list(dict.fromkeys(drawn))

    # --- models ---

    def base(self, name: str) -> Path:
        """The folder of a model's base; seeds are built when first asked for."""
        bases = self.__dict__.setdefault("_bases", {})
        if name not in bases:
            spec = self.recipe.models[name].base
            long(f"looking up {spec}", 7200)

            def look_up() -> None:
                verb = "building" if spec.startswith("seed://") else "loading"
                with self.console.task(f"{verb} {spec}") as tick:
                    resolve_base(spec, self.recipe.tasks[0], self.data, self.checkpoints, tick)

            self.world.together(look_up)
            bases[name] = resolve_base(spec, self.recipe.tasks[0], self.data, self.checkpoints)
        return bases[name]

    def base_weights(self, name: str) -> Weights:
        """A model as it came."""
        from pipeline.store.weights import hash_folder

        hashes = self.__dict__.setdefault("_hashes", {})
        folder = self.base(name)
        if folder not in hashes:
            hashes[folder] = hash_folder(folder)
        return Weights(name, folder, None, hashes[folder], -1, self.recipe.models[name].head)

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

    def standing(self, name: str, after_round: int) -> Weights:
        """The version of a model that stands after a round (-1: the base as it came)."""
        gate = self.gate(after_round) if after_round >= 0 else None
        if gate is None:
            if after_round >= 0:
                raise RecipeError(
                    f"run {self.name}: round {after_round} is not finished, so no model stands after it"
                )
            return self.base_weights(name)
        return self.weights_from(gate["standing"][name])

    def weights_from(self, record: dict[str, Any]) -> Weights:
        """A version of a model from its record in a gate file or a train stage's manifest."""
        own = self.checkpoints / self.name
        whole = not record["adapter"] and record["round"] >= 0
        base = trained_at(own, record["base"]) if whole else self.base(record["model"])
        adapter = trained_at(own, record["adapter"]) if record["adapter"] else None
        return Weights(record["model"], base, adapter, record["hash"], record["round"], record["head"])

    def record(self, weights: Weights) -> dict[str, Any]:
        """A version of a model as gate.json holds it: the base as the recipe names it, what was trained as
        `round-003/policy`, a folder of checkpoints/<run>/. So a record does not hold the run's name."""
        whole = weights.round >= 0 and weights.adapter is None
        own = self.checkpoints / self.name

        def inside(folder: Path) -> str:
            return (folder.relative_to(own) if folder.is_relative_to(own) else folder).as_posix()

        return {
            "model": weights.model,
            "base": inside(weights.base) if whole else self.recipe.models[weights.model].base,
            "adapter": inside(weights.adapter) if weights.adapter else None,
            "hash": weights.hash,
            "round": weights.round,
            "head": weights.head,
        }

    def trained(self, name: str, round_number: int, before: Stage | None = None) -> Weights | None:
        """The version of a model that a round trained, None where it trained none (yet)."""
        for stage in self.stages_in(round_number):
            if before is not None and stage.name == before.name:
                return None
            if stage.room == "train" and stage.settings.model == name:
                manifest = self.stage_folder(stage, round_number).manifest()
                if manifest is not None and "weights" in manifest.extra:
                    return self.weights_from(manifest.extra["weights"])
        return None

    def acting(self, stage: Stage, round_number: int, name: str) -> Weights:
        """The version of a model that acts in a stage.

        generate and label: the models that stood before the round; in `before`, also what an earlier stage
        there trained (a first training needs no gate). evaluate: the round's candidates. finally: what stands
        at the end. `policy@2`: after round 2."""
        base, at = split_name(name)
        if at:
            return self.standing(base, int(at)) if int(at) else self.starting(base)
        if stage.section in ("finally", "apart"):
            return self.standing(base, round_number)
        if round_number == 0:
            return self.trained(base, 0, before=stage) or self.base_weights(base)
        if stage.room == "evaluate" and name not in by_of(stage):
            return self.trained(base, round_number) or self.standing(base, round_number - 1)
        return self.standing(base, round_number - 1)

    def starting(self, name: str) -> Weights:
        """A model before the first round: round 0's, or the base where round 0 is not done."""
        return self.standing(name, 0) if self.gate(0) is not None else self.base_weights(name)

    # --- inputs ---

    def sources(self, stage: Stage, round_number: int) -> list[Source]:
        """The committed folders that a stage reads, in the order of `from`; with `mix: all_rounds` those of
        every round so far."""
        reader = Reader(self.data)
        found: list[Source] = []
        every = getattr(stage.settings, "mix", "this_round") == "all_rounds" and stage.section == "stages"
        for source in stage.sources:
            if isinstance(source, FileSource) or source == "train":
                continue
            earlier = self.recipe.stage(source)
            if earlier.section == "before" and stage.section != "before":
                rounds: list[int] = [0]
            elif earlier.section == "stages" and stage.section == "finally":
                rounds = [round_number]
            else:
                rounds = list(range(1, round_number + 1)) if every else [round_number]
            for number in rounds:
                if earlier.section == stage.section == "stages" and not earlier.runs_in(number):
                    continue  # a phase that is over, or has not begun: its readers do without it
                if self.stage_folder(earlier, number).manifest() is None:
                    raise RecipeError(
                        f"run {self.name}: round {number}: {stage.name} reads {source}, not finished yet; "
                        f"run it first: ratchet stage {self.name} --round {number} {source}"
                    )
                found.append(reader.source(self.path(earlier, number)))
        return found
