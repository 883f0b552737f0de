"""What a round and a run come to, from metrics rows: the lines of the round table and the sentences of the
end.

Used by the console and by `status`; nothing here prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.run.run import Run


from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.recipe.measures import Measure, main_measure, measures
from pipeline.report import wording

POLICY = "policy"  #: what a recipe calls its policy unless it says otherwise
KEPT = "kept_share"  #: the share of rows that a filter kept, as the record names it


def round_line(
    row: Mapping[str, Any], known: Sequence[Measure], seconds: float | None = None
) -> dict[str, str]:
    """A round's row of the table, by column; empty where a recipe has no such thing. known: what the recipe's
    evaluations declare, which name their own columns."""
    metrics: Mapping[str, float] = row["metrics"]
    tokens = sum(value for name, value in metrics.items() if "/charged/" in name)
    kept = next((name for name in metrics if name.endswith(f"/{KEPT}")), None)
    return {
        "round": str(row["round"]),
        **measured_columns(metrics, known),
        "kept": wording.percent(metrics[kept]) if kept else "",
        "tokens": wording.count(tokens) if tokens else "",
        "time": wording.clock(seconds) if seconds is not None else "",
        "gate": _gate(metrics, row["round"]),
    }


def measured_columns(metrics: Mapping[str, float], known: Sequence[Measure]) -> dict[str, str]:
    """The declared columns: the main metric with its interval and change, then the others."""
    cells: dict[str, str] = {}
    head = main_measure(metrics, known)
    for one in sorted(known, key=lambda each: not each.metric.main):
        column = one.metric.column
        if not column or cells.get(column):
            continue
        there = one.name in metrics
        if one.metric.main:
            cells[column] = wording.within(metrics, one.name, one.metric.share) if there else ""
            change = f"{one.name}/change"
            if one is head or "change" not in cells:
                share = one.metric.share
                cells["change"] = wording.points(metrics[change], share) if change in metrics else ""
        else:
            form = wording.percent if one.metric.share else "{:.3f}".format
            cells[column] = form(metrics[one.name]) if there else ""
    return cells


def _gate(metrics: Mapping[str, float], number: int) -> str:
    """`promoted`, of the policy whose accuracy stands beside it; else, and with several models, by name:
    `policy promoted, prm REFUSED`. In the order of their names: a record and a run tell them alike."""
    ends = {name: value for name, value in metrics.items() if name.startswith("gate/")}
    said = {
        n.split("/")[1]: "promoted" if v else "REFUSED" for n, v in ends.items() if n.endswith("/promoted")
    }
    if list(said) == [POLICY]:
        return said[POLICY]
    return ", ".join(f"{model} {what}" for model, what in sorted(said.items())) or (
        "start" if number == 0 else ""
    )


def used_columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns in which some round has something to say."""
    return [column for column in (lines[0] if lines else ()) if any(line[column] for line in lines)]


def caption(rows: Sequence[Mapping[str, Any]], known: Sequence[Measure]) -> str:
    """What the table's main column is: `greedy accuracy by measure, with its 95 % interval`."""
    for row in reversed(rows):
        if head := main_measure(row["metrics"], known):
            return f"{head.metric.says} by {head.stage}, with its 95 % interval"
    return ""


def result(metrics: Mapping[str, float], known: Sequence[Measure]) -> list[str]:
    """The result in a sentence or two: the end against the beginning, with the interval of the gain."""
    head = main_measure(metrics, known)
    if head is None:
        return []
    stage, says, share, name = head.stage, head.metric.says, head.metric.share, head.name
    where = f"{int(metrics[f'{stage}/problems']):,} problems" if f"{stage}/problems" in metrics else stage
    before, gain = f"{name}@0", f"{stage}/{head.metric.gain}"
    lines = [f"{says} {wording.within(metrics, name, share)} on {where}"]
    if before in metrics and gain in metrics:
        low, high = metrics.get(f"{gain}/low"), metrics.get(f"{gain}/high")
        sure = "" if low is None or high is None else f" (95 %: {_span(low, high, share)})"
        unit = " points" if share else ""
        lines = [
            f"{says} {wording.amount(metrics[before], share)} -> {wording.amount(metrics[name], share)}"
            f" on {where}",
            f"gain {wording.points(metrics[gain], share)}{unit}{sure}",
        ]
    if others := _others(metrics, head, known):
        said = (f"{m.metric.brief} {wording.amount(metrics[m.name], m.metric.share)}" for m in others)
        lines.append(", ".join(said))
    return lines


def _span(low: float, high: float, share: bool) -> str:
    return f"{wording.points(low, share)} to {wording.points(high, share)}"


def _others(metrics: Mapping[str, float], head: Measure, known: Sequence[Measure]) -> list[Measure]:
    """What else the same stage counts of the same kind, as the record orders it: headlines first."""
    kin = {one.name: one for one in known if one.stage == head.stage and one.metric.gain and one != head}
    found = [kin[name] for name in metrics if name in kin]
    return sorted(found, key=lambda one: not one.metric.headline)


def closing_words(run: Run) -> dict[str, Any]:
    """What the console says at the end: the result, where everything lies, what to try next."""
    from pipeline.run.record import read

    rows = read(run.folder / "metrics.jsonl")
    last = [row for row in rows if row.get("final") and row["round"] == run.recipe.rounds] or rows[-1:]
    metrics: dict[str, float] = {}
    for row in last:
        metrics.update(row["metrics"])
    policy = run.recipe.policy or "policy"
    seconds = sum(entry["seconds"] for entry in run.timings())
    return {
        "run": run.name,
        "metrics": metrics,
        "result": result(metrics, measures(run.recipe)),
        "seconds": seconds,
        "where": {
            "rows": str(run.folder),
            "weights": str(run.weights),
            "metrics": str(run.folder / "metrics.jsonl"),
        },
        "next": [
            f"ratchet report {run.name}",
            f"ratchet show {run.name} {max(run.recipe.rounds, 0)} {_shown(run)}",
            f"ratchet status {run.name}",
            *(
                [f"ratchet run {run.name} rounds={run.recipe.rounds + 2}"]
                if run.recipe.section("stages")
                else []
            ),
            f"ratchet export {run.name} {run.recipe.rounds} --model {policy}",
        ],
    }


def _shown(run: Run) -> str:
    """A stage whose rows are worth a look."""
    stages = run.recipe.section("stages") or list(run.recipe.stages)
    return next((stage.name for stage in stages if stage.room == "label"), stages[0].name)
