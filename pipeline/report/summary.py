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

from pipeline.report import wording

HEADS = ("accuracy/greedy", "accuracy/search", "accuracy/sampled")
COLUMNS = ("round", "accuracy", "change", "PRM AUC", "kept", "tokens", "time", "gate")


def round_line(row: Mapping[str, Any], seconds: float | None = None) -> dict[str, str]:
    """A round's row of the table, by column; empty where a recipe has no such thing."""
    metrics: Mapping[str, float] = row["metrics"]
    head = wording.find(metrics, *HEADS)
    auc, kept = wording.find(metrics, "auc"), wording.find(metrics, "kept_share")
    tokens = sum(value for name, value in metrics.items() if "/charged/" in name)
    return {
        "round": str(row["round"]),
        "accuracy": wording.within(metrics, head) if head else "",
        "change": wording.points(metrics[f"{head}/change"]) if f"{head}/change" in metrics else "",
        "PRM AUC": f"{metrics[auc]:.3f}" if auc else "",
        "kept": wording.percent(metrics[kept]) if kept else "",
        "tokens": wording.count(tokens) if tokens else "",
        "time": wording.clock(seconds) if seconds is not None else "",
        "gate": _gate(metrics, row["round"]),
    }


def _gate(metrics: Mapping[str, float], number: int) -> str:
    """`promoted`; with several models `policy promoted, prm REFUSED`."""
    ends = {name: value for name, value in metrics.items() if name.startswith("gate/")}
    said = {
        n.split("/")[1]: "promoted" if v else "REFUSED" for n, v in ends.items() if n.endswith("/promoted")
    }
    if len(said) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{model} {what}" for model, what in said.items()) or ("start" if number == 0 else "")


def used_columns(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns in which some round has something to say."""
    return [column for column in COLUMNS if any(line[column] for line in lines)]


def caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the table's accuracy is: `greedy accuracy by measure, % [95 % interval]`."""
    for row in reversed(rows):
        if head := wording.find(row["metrics"], *HEADS):
            stage, _, name = head.partition("/")
            return f"{name.removeprefix('accuracy/')} accuracy by {stage}, with its 95 % interval"
    return ""


def result(metrics: Mapping[str, float]) -> list[str]:
    """The result in a sentence or two: the end against the beginning, with the interval of the gain."""
    head = wording.find(metrics, *HEADS)
    if head is None:
        return []
    stage, _, name = head.partition("/")
    kind = name.removeprefix("accuracy/")
    where = f"{int(metrics[f'{stage}/problems']):,} problems" if f"{stage}/problems" in metrics else stage
    before, gain = f"{head}@0", f"{stage}/gain/{kind}"
    lines = [f"{kind} accuracy {wording.within(metrics, head)} on {where}"]
    if before in metrics and gain in metrics:
        low, high = metrics.get(f"{gain}/low"), metrics.get(f"{gain}/high")
        sure = "" if low is None or high is None else f" (95 %: {_span(low, high)})"
        lines = [
            f"{kind} accuracy {wording.percent(metrics[before])} -> {wording.percent(metrics[head])}"
            f" on {where}",
            f"gain {wording.points(metrics[gain])} points{sure}",
        ]
    others = {n: metrics[f"{stage}/{n}"] for n in _others(metrics, stage) if n != name}
    if others:
        said = (f"{n.removeprefix('accuracy/')} {wording.percent(v)}" for n, v in others.items())
        lines.append(", ".join(said))
    return lines


def _span(low: float, high: float) -> str:
    return f"{wording.points(low)} to {wording.points(high)}"


def _others(metrics: Mapping[str, float], stage: str) -> list[str]:
    """Votes and pass@k of the same stage, without models, intervals and bins."""
    names = [name.removeprefix(f"{stage}/") for name in metrics if name.startswith(f"{stage}/")]
    plain = [n for n in names if n.startswith("accuracy/") and n.count("/") == 1 and "@" not in n]
    return plain + [
        n for n in names if n.startswith(("pass@", "maj@")) and "/" not in n and n.count("@") == 1
    ]


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
            f"ratchet run {run.name} rounds={run.recipe.rounds + 2}",
            f"ratchet export {run.name} {run.recipe.rounds} --model {policy}",
        ],
    }


def _shown(run: Run) -> str:
    """A stage whose rows are worth a look."""
    stages = run.recipe.section("stages") or list(run.recipe.stages)
    return next((stage.name for stage in stages if stage.room == "label"), stages[0].name)
