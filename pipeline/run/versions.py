"""Which version of each model acts and stands: the base, what a round trained, what its gate promoted.

Everything here is derived from what is committed (manifests, gates); nothing is remembered on the side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError
from pipeline.models.folder import require_readable
from pipeline.models.packaged import about
from pipeline.models.registry import Weights, resolve_base, trained_at
from pipeline.processes.pulse import long
from pipeline.recipe.shape import Stage, split_name, standing_in
from pipeline.store.weights import optimizer_beside

if TYPE_CHECKING:
    from pipeline.run.run import Run


class Versions:
    """The versions of a run's models."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._bases: dict[str, Path] = {}
        self._hashes: dict[Path, str] = {}
        #: by round that is not done: models whose version after it is sure all the same (a fork looks ahead)
        self.foreseen: dict[int, dict[str, Any]] = {}

    def base(self, name: str) -> Path:
        """The folder of a model's base; seeds are built when first asked for."""
        bases = self._bases
        if name not in bases:
            spec = self.run.recipe.models[name].base
            long(f"looking up {spec}", 7200)

            def look_up() -> None:
                verb = "building" if spec.startswith("seed://") else "loading"
                if told := about(spec, self.run.workspace.checkpoints):
                    self.run.console.note(told)
                with self.run.console.task(f"{verb} {spec}") as tick:
                    folder = resolve_base(spec, self.run.recipe.tasks[0], self.run.workspace, tick)
                if not spec.startswith(("seed://", "run://")):
                    require_readable(folder)

            self.run.processes.together(look_up)
            bases[name] = resolve_base(spec, self.run.recipe.tasks[0], self.run.workspace)
        return bases[name]

    def base_weights(self, name: str) -> Weights:
        """A model as it came."""
        from pipeline.store.model_folder import hash_folder

        hashes = self._hashes
        folder = self.base(name)
        if folder not in hashes:
            hashes[folder] = hash_folder(folder)
        return Weights(name, folder, None, hashes[folder], -1, self.run.recipe.models[name].head)

    def standing(self, name: str, after_round: int) -> Weights:
        """The version of a model that stands after a round (-1: the base as it came)."""
        return self.weights_from(self.record_after(name, after_round))

    def record_after(self, name: str, after_round: int) -> dict[str, Any]:
        """The record of the version that stands after a round (-1: the base as it came)."""
        if after_round < 0:
            return self.record(self.base_weights(name))
        gate = self.run.gate(after_round)
        standing = self.foreseen.get(after_round, {}) if gate is None else gate["standing"]
        if name not in standing:
            raise RecipeError(
                f"run {self.run.name}: round {after_round} is not finished, so no model stands after it"
            )
        return standing[name]

    def weights_from(self, record: dict[str, Any]) -> Weights:
        """A version of a model from its record in a gate file or a train stage's manifest."""
        own = self.run.workspace.checkpoints / self.run.name
        whole = not record["adapter"] and record["round"] >= 0
        base = trained_at(own, record["base"]) if whole else self.base(record["model"])
        adapter = trained_at(own, record["adapter"]) if record["adapter"] else None
        return Weights(record["model"], base, adapter, record["hash"], record["round"], record["head"])

    def record(self, weights: Weights) -> dict[str, Any]:
        """A version of a model as gate.json holds it: the base as the recipe names it, what was trained as
        `round-003/policy`, a folder of checkpoints/<run>/. So a record does not hold the run's name."""
        whole = weights.round >= 0 and weights.adapter is None
        own = self.run.workspace.checkpoints / self.run.name

        def inside(folder: Path) -> str:
            return (folder.relative_to(own) if folder.is_relative_to(own) else folder).as_posix()

        return {
            "model": weights.model,
            "base": inside(weights.base) if whole else self.run.recipe.models[weights.model].base,
            "adapter": inside(weights.adapter) if weights.adapter else None,
            "hash": weights.hash,
            "round": weights.round,
            "head": weights.head,
        }

    def trained(self, name: str, round_number: int, before: Stage | None = None) -> Weights | None:
        """The version of a model that a round trained, None where it trained none (yet)."""
        for stage in self.run.stages_in(round_number):
            if before is not None and stage.name == before.name:
                return None
            if stage.room == "train" and stage.settings.model == name:
                manifest = self.run.stage_folder(stage, round_number).manifest()
                if manifest is not None and "weights" in manifest.extra:
                    return self.weights_from(manifest.extra["weights"])
        return None

    def optimizer_of(self, weights: Weights) -> tuple[Path, str] | None:
        """(folder, hash) of the optimizer's state that the training of these weights left; None where it left
        none."""
        if weights.round < 0:
            return None
        for stage in self.run.stages_in(weights.round):
            if stage.room != "train" or stage.settings.model != weights.model:
                continue
            manifest = self.run.stage_folder(stage, weights.round).manifest()
            made = manifest.extra if manifest is not None else {}
            if "optimizer" in made and made["weights"]["hash"] == weights.hash:
                return optimizer_beside(weights.adapter or weights.base), made["optimizer"]
        return None

    def needed_optimizers(self) -> set[Path]:
        """The folders of the optimizers that a training yet to come may go on from: of what stands after the
        last round, or may be gone back to, and of what was trained since."""
        closed = -1
        while self.run.gate(closed + 1) is not None:
            closed += 1
        found: set[Path] = set()
        for record in (self.run.gate(closed) or {"standing": {}})["standing"].values():
            for one in (record, record.get("measured") or record):
                weights = self.weights_from(one)
                found.add(optimizer_beside(weights.adapter or weights.base))
        later = self.run.weights.glob("round-*/*.optimizer")
        return found | {path for path in later if int(path.parent.name.removeprefix("round-")) > closed}

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
        if stage.room == "evaluate" and name not in standing_in(stage):
            return self.trained(base, round_number) or self.standing(base, round_number - 1)
        return self.standing(base, round_number - 1)

    def starting(self, name: str) -> Weights:
        """A model before the first round: round 0's, or the base where round 0 is not done."""
        return self.standing(name, 0) if self.run.gate(0) is not None else self.base_weights(name)
