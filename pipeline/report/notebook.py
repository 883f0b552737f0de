"""A run in a notebook: metrics as a DataFrame, rows as a data set, a round's model, the report.

    from pipeline import Run

    run = Run("quickstart")
    run.metrics()                   # one row a round, pandas
    run.rows(2, "check")            # datasets.Dataset
    model, tokenizer = run.model(3)

Reading takes no lock and changes nothing, so a run may be looked at while it goes on. torch is loaded when a
model is asked for, datasets and pandas when rows or metrics are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DamagedData, RecipeError, nearest
from pipeline.recipe.measures import measures
from pipeline.report import summary
from pipeline.rows import KINDS
from pipeline.run.record import by_round, metrics_rows
from pipeline.run.session import open_run
from pipeline.run.status import run_status, state_of
from pipeline.store.folder import StageFolder
from pipeline.store.parts import check_part
from pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame


class RunReader:
    """One run of a project folder, by its name; `from pipeline import Run` gives this class.

    Raises:
        RecipeError: there is no such run; the message names the nearest.
    """

    def __init__(self, name: str, folder: str | Path = ".") -> None:
        place = Path(folder).expanduser()
        self.workspace = Workspace(place / "data", place / "checkpoints")
        self._run = open_run(name, self.workspace)
        self.name = name

    def __repr__(self) -> str:
        return f"Run({self.name!r}: {self.state})"

    @property
    def state(self) -> str:
        """complete, running or stopped."""
        return state_of(run_status(self.name, self.workspace))

    @property
    def recipe(self) -> dict[str, Any]:
        """Every setting, as plain data."""
        return self._run.recipe.resolved()

    @property
    def rounds(self) -> list[int]:
        """The rounds that are finished; 0 is before the first."""
        return [n for n in range(self._run.recipe.rounds + 1) if self._run.gate(n) is not None]

    @property
    def stages(self) -> list[str]:
        """The names of its stages, in order."""
        return [stage.name for stage in self._run.recipe.stages]

    def metrics(self, final: bool = False) -> DataFrame:
        """A row a round, a column a metric, as metrics.jsonl names them.

        final: those of `finally` instead, a row for each time that they were measured.
        """
        import pandas as pd

        found = by_round(row for row in metrics_rows(self._run) if bool(row.get("final")) == final)
        frame = pd.DataFrame.from_dict(found, orient="index")
        return frame.rename_axis("round")

    def rows(self, round_number: int, stage: str, kind: str | None = None) -> Dataset:
        """The rows of a stage; every file's hash is checked first.

        kind: Trace, Node, Label, Example, Dropped, ...; the stage's main kind by default.

        Raises:
            RecipeError: no such stage, round or kind, or nothing is committed yet.
            DamagedData: a file is not what its manifest says.
        """
        folder = self._run.stage_folder(self._run.recipe.stage(stage), round_number)
        return self._dataset(folder, f"round {round_number}, {stage}", kind)

    def problems(self) -> Dataset:
        """Every problem of the run, with its split."""
        return self._dataset(self._run.prepare_folder, "prepare", "Problem")

    def _dataset(self, folder: StageFolder, where: str, kind: str | None) -> Dataset:
        here = f"run {self.name}: {where}"
        manifest, plan = folder.manifest(), folder.plan()
        if manifest is None or plan is None:
            raise RecipeError(f"{here}: nothing is committed; finished rounds: {self.rounds}")
        counts = {name: num for name, num in manifest.counts.rows.items() if num}
        wanted = kind or plan.main or next(iter(counts), "")
        if wanted not in counts:
            there = ", ".join(f"{num:,} {name}" for name, num in counts.items()) or "no rows"
            raise RecipeError(f"{here}: no rows of kind {wanted!r}{nearest(wanted, KINDS)}; it has {there}")
        files: list[str] = []
        for entry in (e for chunk in manifest.chunks for e in chunk["parts"] if e["kind"] == wanted):
            if wrong := check_part(folder.path, entry):
                raise DamagedData(f"{wrong}: `ratchet verify {self.name} --repair` makes it again")
            files.append(str(folder.path / entry["file"]))
        from datasets import Dataset

        return Dataset.from_parquet(files)

    def model(self, round_number: int | None = None, name: str | None = None) -> tuple[Any, Any]:
        """(model, tokenizer) as it stood after a round, adapter merged, on the device of the recipe.

        round_number: the last finished one by default. name: the first policy by default.

        Raises:
            RecipeError: no such model, or the round is not finished.
        """
        models = self._run.recipe.models
        policy = self._run.recipe.policy or next(iter(models))
        wanted = name or policy
        if wanted not in models:
            raise RecipeError(f"run {self.name}: no model {wanted!r}{nearest(wanted, models)}")
        if not self.rounds:
            raise RecipeError(f"run {self.name}: no round is finished yet, so no model stands")
        number = self.rounds[-1] if round_number is None else round_number
        if number not in self.rounds:
            raise RecipeError(f"run {self.name}: round {number} is not finished; finished: {self.rounds}")
        weights = self._run.versions.standing(wanted, number)

        from pipeline.models.environment import prepare

        if "torch" not in sys.modules:  # a notebook that has loaded it keeps its own settings
            prepare()
        from transformers import AutoTokenizer

        from pipeline.models.load import device_of, dtype_of, load

        spec = models[wanted]
        device = device_of(spec.engine.device)
        dtype = dtype_of(spec.dtype, device)
        model = load(weights.base, weights.adapter, weights.head, dtype, device)
        return model, AutoTokenizer.from_pretrained(weights.base)

    def result(self) -> str:
        """The result in a sentence or two, of `finally` or else of the last round."""
        rows = metrics_rows(self._run)
        ended = [row for row in rows if row.get("final")] or rows
        newest = max((row["round"] for row in ended), default=None)
        metrics: dict[str, float] = {}
        for row in (row for row in ended if row["round"] == newest):
            metrics.update(row["metrics"])
        return "; ".join(summary.result(metrics, measures(self._run.recipe))) or "nothing is measured yet"

    def report(self, to: str | Path | None = None) -> Path:
        """Write the HTML report (by default into the run's folder) and return its path."""
        from pipeline.report.html.build import build_report

        return build_report([self.name], self.workspace, Path(to) if to else None)

    def html(self) -> str:
        """The HTML report as text: `IPython.display.HTML(run.html())`, or save it."""
        from pipeline.report.html.build import render
        from pipeline.report.html.data import load_run

        return render([load_run(self.name, self.workspace)])
