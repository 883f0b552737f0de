"""What the HTML report says of one run, as plain numbers: everything derived from metrics rows, gates, plans
and timings.

Each function gives long-form rows (one dict a mark), which the charts draw and the tables show, so that a
number stands in one place only. It writes nothing and loads no torch. Not here: the filter, the
reward model, costs and the end (`data_panels.py`), traces (`data_traces.py`), trees (`data_trees.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.recipe.shape import Stage
from pipeline.run.record import known_rows
from pipeline.run.run import Run
from pipeline.run.session import open_run
from pipeline.run.status import run_status, seconds_by_stage
from pipeline.store.workspace import Workspace

Numbers = Mapping[str, float]
HEADS = ("accuracy/greedy", "accuracy/search", "accuracy/sampled")
PARTS = ("low", "high", "change")  #: what may stand behind a metric's name
#: metrics that tell why a run stalls, and what each is
SIGNS = {
    "no_answer": "answers missing",
    "truncated": "cut by the length limit",
    "missing_eos": "answer given, but no end",
    "trace_error": "right by a wrong step",
    "length/mean": "tokens a trace",
    "distinct": "right or distinct traces",
    "kl": "distance from the base, nats a token",
}
SHARES = ("no_answer", "truncated", "missing_eos", "trace_error", "distinct")


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


def heads(found: RunData) -> list[tuple[str, str]]:
    """(stage, metric) of the first number of each accuracy stage: `measure`, `accuracy/greedy`."""
    pairs = []
    for stage in found.stages("evaluate", section="stages"):
        known = {name for values in found.metrics.values() for name in values}
        head = next((head for head in HEADS if f"{stage.name}/{head}" in known), None)
        if head is not None:
            pairs.append((stage.name, head))
    return pairs


def curves(found: RunData) -> list[dict[str, Any]]:
    """Every accuracy of every round, with its 95 % interval."""
    rows = []
    for number, name, value, values in each_metric(found.metrics):
        stage, _, metric = name.partition("/")
        if metric.startswith("accuracy/") and metric.count("/") == 1 and not _of_incumbent(metric):
            rows.append(
                ranged(values, name, value)
                | {"run": found.name, "round": number, "stage": stage, "what": _said(stage, metric, found)}
            )
    return rows


def _said(stage: str, metric: str, found: RunData) -> str:
    """`greedy`; with several accuracy stages `greedy (measure)`."""
    what = metric.removeprefix("accuracy/")
    return what if len(heads(found)) < 2 else f"{what} ({stage})"


def pass_at(found: RunData) -> list[dict[str, Any]]:
    """pass@k and maj@k of every round."""
    rows = []
    for number, name, value, values in each_metric(found.metrics):
        match = re.fullmatch(r"([^/]+)/(pass|maj)@(\d+)", name)
        if match:
            stage, kind, k = match.groups()
            rows.append(
                ranged(values, name, value)
                | {"round": number, "stage": stage, "what": f"{kind}@k", "k": int(k)}
            )
    return rows


def changes(found: RunData) -> list[dict[str, Any]]:
    """What each round changed against the model that stood before it, paired, by the first accuracy."""
    rows = []
    for stage, head in heads(found):
        for number, values in found.metrics.items():
            name = f"{stage}/{head}/change"
            if name in values:
                rows.append(
                    ranged(values, name, values[name])
                    | {"round": number, "stage": stage, "sure": _sure(values, name)}
                )
    return rows


def _sure(values: Numbers, name: str) -> str:
    low, high = values.get(f"{name}/low", 0.0), values.get(f"{name}/high", 0.0)
    return "surely better" if low > 0 else "surely worse" if high < 0 else "not sure"


def heat(found: RunData, sizes: Mapping[tuple[str, str], int] | None = None) -> list[dict[str, Any]]:
    """Accuracy by difficulty and round. sizes: problems by stage and difficulty, for the counts."""
    rows = []
    for stage, head in heads(found):
        for number, name, value, values in each_metric(found.metrics):
            bin_name = name.removeprefix(f"{stage}/{head}/")
            plain = "@" not in name and bin_name.split("/")[0] not in PARTS and bin_name.split("/")[-1]
            if bin_name != name and plain and plain not in PARTS:
                size = (sizes or {}).get((stage, bin_name))
                counts = {} if size is None else {"problems": size, "right": round(value * size)}
                row = {"round": number, "stage": stage, "bin": bin_name}
                rows.append(ranged(values, name, value) | row | counts)
    return sorted(rows, key=lambda row: (row["stage"], natural(row["bin"]), row["round"]))


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that puts `10 ways` after `2 ways`."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in parts]


def best_round(found: RunData) -> dict[str, Any] | None:
    """The measured round with the highest first accuracy among those whose policy took over, and the last
    one: {best, last, value, last_value, stage, head}; None before two rounds."""
    for stage, head in heads(found)[:1]:
        name = f"{stage}/{head}"
        points = {n: values[name] for n, values in found.metrics.items() if name in values}
        refused = {
            number
            for number, gate in found.gates.items()
            for model, decision in gate["decisions"].items()
            if not decision["promote"] and not found.run.recipe.models[model].head
        }
        kept = {number: value for number, value in points.items() if number not in refused}
        if len(kept) > 1:
            best, last = max(kept, key=lambda number: (kept[number], number)), max(points)
            return {"best": best, "last": last, "value": kept[best], "last_value": points[last], "name": name}
    return None


def signs(found: RunData) -> list[dict[str, Any]]:
    """What tells why a run stalls: missing answers, cut traces, length, distance, ..."""
    rows = []
    for number, name, value, values in each_metric(found.metrics):
        stage, _, metric = name.partition("/")
        if metric in SIGNS:
            rows.append(
                ranged(values, name, value)
                | {"round": number, "stage": stage, "metric": metric, "what": SIGNS[metric]}
            )
    return rows


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


def _of_incumbent(metric: str) -> bool:
    return metric.endswith("@incumbent")


def ranged(values: Numbers, name: str, value: float) -> dict[str, Any]:
    """A value and its interval; the value itself where there is none."""
    low, high = values.get(f"{name}/low"), values.get(f"{name}/high")
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}
