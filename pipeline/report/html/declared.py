"""Figures that evaluations declare, drawn by the names of their metrics.

An evaluation's file may have `panels(settings)`: each with `section` (the question it answers), `title`,
`kind` (curve, bars, table, calibration, roc), `metrics` {name: what a reader calls it; a name that ends in
"/" stands for all that begin so}, `note` and `share`. What the page shows already of the same metrics is not
drawn twice. No method is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.recipe.methods import method
from pipeline.recipe.shape import Stage
from pipeline.report.html import charts, data, data_panels, page
from pipeline.report.html.data import RunData

if TYPE_CHECKING:
    from markupsafe import Markup

#: how the names begin that the page's own panels draw
OWN = (
    "accuracy/",
    "pass@",
    "maj@",
    "calibration/",
    "roc/",
    "score/",
    "unusable",
    *data.SIGNS,
    *data_panels.PRM_NUMBERS,
)


class Panel(Protocol):
    """A figure as an evaluation declares it."""

    section: str
    title: str
    kind: str
    metrics: Mapping[str, str]
    note: str
    share: bool


def panels_of(stage: Stage) -> list[Panel]:
    """What a stage's method declares beyond what the page draws by itself."""
    if stage.room != "evaluate" or not stage.built:
        return []
    declare = getattr(method("evaluate", stage.method), "panels", None)
    found = declare(stage.settings) if declare else []
    return [panel for panel in found if not all(name.startswith(OWN) for name in panel.metrics)]


def more(whole: page.Page, found: Sequence[RunData]) -> Markup:
    """The section of what evaluations declare; empty where they declare nothing more."""
    lead = "What this run's evaluations measured beside the above."
    return page.section(
        "more", "What else was measured?", lead, page.by_run(found, lambda n, one: _drawn(whole, n, one))
    )


def _drawn(whole: page.Page, number: int, found: RunData) -> Markup:
    parts = []
    for stage in found.run.recipe.stages:
        if stage.section == "finally":
            continue
        for place, panel in enumerate(panels_of(stage)):
            name = f"{stage.name}-{place}-{number}"
            if made := _panel(whole, name, panel, list(_points(found, stage, panel))):
                parts.append(made)
    return page.pair(parts)


def _points(found: RunData, stage: Stage, panel: Panel) -> Iterator[dict[str, Any]]:
    """A row a round and metric that the panel names."""
    for number, name, value, values in data.each_metric(found.metrics):
        front, _, metric = name.partition("/")
        if front != stage.name:
            continue
        for wanted, says in panel.metrics.items():
            if metric == wanted or (wanted.endswith("/") and metric.startswith(wanted)):
                rest = metric.removeprefix(wanted) if wanted.endswith("/") else ""
                if "@" in rest or rest.split("/")[-1] in data.PARTS:
                    continue
                what = f"{says} {rest}".strip()
                yield data.ranged(values, name, value) | {"round": number, "metric": metric, "what": what}


def _panel(whole: page.Page, name: str, panel: Panel, rows: list[dict[str, Any]]) -> Markup | None:
    if not rows:
        return None
    said = f"{panel.title}, by round."
    forms = page.SHARES if panel.share else None
    columns = {"what": "metric", "round": "round", **page.RANGE}
    if panel.kind == "table":
        rounds: dict[int, dict[str, Any]] = {}
        for row in rows:
            rounds.setdefault(row["round"], {"round": row["round"]})[row["what"]] = row["value"]
        heads = {"round": "round"} | {row["what"]: row["what"] for row in rows}
        return page.part("box", panel.title, panel.note, page.table(list(rounds.values()), heads))
    if panel.kind == "bars":
        newest = max(row["round"] for row in rows)
        rows = [row for row in rows if row["round"] == newest]
        spec = charts.bars(rows, share=panel.share, description=f"{panel.title} in round {newest}.")
        return whole.figure(
            f"more-{name}",
            spec,
            f"{panel.title}, round {newest}",
            panel.note,
            page.table(rows, columns, forms),
        )
    spec = charts.lines(rows, y="", share=panel.share, description=said)
    return whole.figure(f"more-{name}", spec, panel.title, panel.note, page.table(rows, columns, forms))
