"""What the HTML report says of one run, as plain numbers: everything derived from metrics rows, gates, plans
and timings.

Each function gives long-form rows (one dict a mark), which the charts draw and the tables show, so that a
number stands in one place only. It writes nothing and loads no torch. Not here: the filter, the
reward model, costs and the end (`data_panels.py`), traces (`data_traces.py`), trees (`data_trees.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.recipe.measures import Measure, main_of
from pipeline.recipe.shape import Stage
from pipeline.run.record import known_rows
from pipeline.run.run import Run
from pipeline.run.session import open_run
from pipeline.run.status import run_status, seconds_by_stage
from pipeline.store.workspace import Workspace

Numbers = Mapping[str, float]
PARTS = ("low", "high", "change")  #: what may stand behind a metric's name


@dataclass(frozen=True)
class RunData:
    """One run as the report reads it."""

    run: Run
    rows: list[dict[str, Any]]  #: as metrics.jsonl has them
    gates: dict[int, dict[str, Any]]  #: by round
    seconds: dict[tuple[int, str], float]  #: (round, stage); `finally` under the round it came after
    status: dict[str, Any]
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)  #: by round, without `finally`

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def complete(self) -> bool:
        return bool(self.status["complete"])

    @property
    def last_round(self) -> int:
        """The last round that its gate closed; -1: none."""
        return max(self.gates, default=-1)

    def stages(self, room: str, method: str | None = None, section: str | None = None) -> list[Stage]:
        """The recipe's stages of a room."""
        return [
            stage
            for stage in self.run.recipe.stages
            if stage.room == room
            and (method is None or stage.method == method)
            and (section is None or stage.section == section)
        ]

    def recipe_text(self) -> str:
        """The recipe as resolved."""
        path = self.run.folder / "recipe.yaml"
        return path.read_text(encoding="utf-8")

    def finals(self) -> list[dict[str, Any]]:
        """The metrics rows of the newest `finally`."""
        found = [row for row in self.rows if row.get("final")]
        newest = max((row["round"] for row in found), default=None)
        return [row for row in found if row["round"] == newest]

    def seen_by(self, stage: Stage) -> RunData:
        """The run as a stage measured it: one of `finally` has the metrics of the newest end, all others
        those of the rounds."""
        if stage.section != "finally":
            return self
        known: dict[int, dict[str, float]] = {}
        for row in self.finals():
            known.setdefault(row["round"], {}).update(row["metrics"])
        return replace(self, metrics=known)


def load_run(name: str, workspace: Workspace) -> RunData:
    """A run from its folder, finished or not.

    Raises:
        RecipeError: there is none of that name.
        DamagedData: a manifest or a gate cannot be believed.
    """
    run = open_run(name, workspace)
    rows = known_rows(run)
    gates: dict[int, dict[str, Any]] = {}
    for number in range(run.recipe.rounds + 1):
        if (gate := run.gate(number)) is not None:
            gates[number] = gate
    metrics: dict[int, dict[str, float]] = {}
    for row in rows:
        if not row.get("final"):
            metrics.setdefault(row["round"], {}).update(row["metrics"])
    return RunData(run, rows, gates, seconds_by_stage(run), run_status(name, workspace), metrics)


# --- learning


def heads(found: RunData) -> list[Measure]:
    """The main metric of each stage of the rounds that judges its models by one, where it was measured."""
    known = {name for values in found.metrics.values() for name in values}
    stages = found.stages("evaluate", section="stages")
    mains = (Measure(stage.name, metric) for stage in stages if (metric := main_of(stage)))
    return [head for head in mains if head.name in known]


def points_of(found: RunData, stage: str, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a round and metric that a panel names: `what` a reader calls it, `rest` what stands behind a name
    that ends in "/"."""
    rows = []
    for number, name, value, values in each_metric(found.metrics):
        front, _, metric = name.partition("/")
        for begin, says in wanted.items() if front == stage else ():
            rest = metric.removeprefix(begin) if begin.endswith("/") and metric.startswith(begin) else ""
            if metric == begin or (rest and "@" not in rest and not {*PARTS} & {*rest.split("/")}):
                row = {"round": number, "stage": stage, "metric": metric, "rest": rest}
                rows.append(ranged(values, name, value) | row | {"what": f"{says} {rest}".strip()})
    return rows


def changes(found: RunData) -> list[dict[str, Any]]:
    """What each round changed against the model that stood before it, paired, by the main metrics."""
    return [row for head in heads(found) for row in changes_of(found, head)]


def changes_of(found: RunData, head: Measure) -> list[dict[str, Any]]:
    """The same by one metric."""
    rows, name = [], f"{head.name}/change"
    for number, values in found.metrics.items():
        if name in values:
            told = {"round": number, "stage": head.stage, "sure": _sure(values, name, head.metric.less)}
            rows.append(ranged(values, name, values[name]) | told)
    return rows


def _sure(values: Numbers, name: str, less: bool) -> str:
    low, high = values.get(f"{name}/low", 0.0), values.get(f"{name}/high", 0.0)
    if low > 0 or high < 0:
        return "surely better" if (low > 0) != less else "surely worse"
    return "not sure"


def bins_of(
    rows: list[dict[str, Any]], sizes: Mapping[tuple[str, str], int] | None = None
) -> list[dict[str, Any]]:
    """Points of a panel of bins, the bins in order. sizes: problems by stage and bin, for the counts."""
    found = []
    for row in rows:
        size = (sizes or {}).get((row["stage"], row["rest"]))
        counts = {} if size is None else {"problems": size, "right": round(row["value"] * size)}
        kept = {key: row[key] for key in ("value", "low", "high", "round", "stage")}
        found.append(kept | {"bin": row["rest"]} | counts)
    return sorted(found, key=lambda row: (row["stage"], natural(row["bin"]), row["round"]))


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that puts `10 ways` after `2 ways`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in parts]


def best_round(found: RunData) -> dict[str, Any] | None:
    """The measured round that is best by the first main metric among those whose policy took over, and the
    last one: {best, last, value, last_value, head}; None before two rounds."""
    for head in heads(found)[:1]:
        points = {n: values[head.name] for n, values in found.metrics.items() if head.name in values}
        refused = {
            number
            for number, gate in found.gates.items()
            for model, decision in gate["decisions"].items()
            if not decision["promote"] and model in found.run.recipe.policies
        }
        kept = {number: value for number, value in points.items() if number not in refused}
        sign = -1 if head.metric.less else 1
        if len(kept) > 1:
            best, last = max(kept, key=lambda number: (sign * kept[number], number)), max(points)
            return {"best": best, "last": last, "value": kept[best], "last_value": points[last], "head": head}
    return None


def losses(found: RunData) -> list[dict[str, Any]]:
    """The training curves."""
    return [
        {"round": row["round"], "stage": row["stage"], "step": entry["step"], "loss": entry["loss"]}
        for row in found.rows
        for entry in row.get("history", [])
        if isinstance(entry.get("loss"), (int, float)) and "step" in entry
    ]


# --- small things


def each_metric(metrics: Mapping[int, Numbers]) -> Iterator[tuple[int, str, float, Numbers]]:
    """Every metric that has a value, by round."""
    for number, values in metrics.items():
        for name, value in values.items():
            if value is not None:
                yield number, name, value, values


def ranged(values: Numbers, name: str, value: float) -> dict[str, Any]:
    """A value and its interval; the value itself where there is none."""
    low, high = values.get(f"{name}/low"), values.get(f"{name}/high")
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}
