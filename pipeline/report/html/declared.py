"""Figures that evaluations declare, drawn by the names of their metrics: curves, bars, tables, pass@k over k,
changes, bins, calibration and ROC. Which section a figure stands in is what its panel says. No method is
named here, and no metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.evaluate import LEARNING, TROUBLE, TRUST, Panel
from pipeline.recipe.measures import Measure, declared, mark_of, panels_of
from pipeline.recipe.methods import hook, method
from pipeline.recipe.shape import Stage
from pipeline.report.html import charts, data, data_panels, data_traces
from pipeline.report.html.data import RunData
from pipeline.report.html.pieces import RANGE, SHARE, SHARES, Page, part, table

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline.report.html.data_traces import Traces

OWN = (LEARNING, TROUBLE, TRUST)  #: the page's own sections
ROUNDS = (LEARNING, TROUBLE)  #: those that compare rounds
Rows = list[dict[str, Any]]


@dataclass
class Figure:
    """A panel and the stages that declare it; only curves have several."""

    panel: Panel
    stages: list[Stage] = field(default_factory=list)
    alone: bool = True  #: no other stage declares a panel of this section, title and kind

    @property
    def stage(self) -> Stage:
        return self.stages[0]

    @property
    def title(self) -> str:
        return self.panel.title if self.alone else f"{self.panel.title} ({self.stage.name})"


def figures(found: RunData, *sections: str) -> list[Figure]:
    """The figures of these sections in the order declared; of all but the page's own without any."""
    made: dict[tuple[str, ...], Figure] = {}
    alike: dict[tuple[str, ...], list[Figure]] = {}
    for stage in found.run.recipe.stages:
        for panel in panels_of(stage):
            if stage.section == "finally" and (panel.section in ROUNDS or panel.kind in ("curve", "changes")):
                continue  # of one end there is no curve, and its accuracies have a table of their own
            if panel.section in sections if sections else panel.section not in OWN:
                key = (panel.section, panel.title, panel.kind)
                one = made.setdefault(key if panel.kind == "curve" else (*key, stage.name), Figure(panel))
                one.stages.append(stage)
                alike.setdefault(key, []).append(one)
    for same in alike.values():
        for one in same:
            one.alone = all(other is one for other in same)
    return list(made.values())


def rows_of(found: RunData, figure: Figure, traces: Traces | None = None) -> Rows:
    """What a figure shows, a row a mark."""
    panel, stage = figure.panel, figure.stage
    found, front = found.seen_by(stage), next(iter(panel.metrics))
    if panel.kind == "calibration":
        return data_panels.calibration(found, stage.name, front)
    if panel.kind == "roc":
        return data_panels.roc(found, stage.name, front)
    if panel.kind == "changes":
        known = {one.name: one for one in declared(stage)}
        return data.changes_of(found, Measure(stage.name, known[front])) if front in known else []
    rows = [row for one in figure.stages for row in data.points_of(found, one.name, panel.metrics)]
    if panel.kind == "bins":
        return data.bins_of(rows, data_traces.bin_sizes(traces) if traces else None)
    if panel.kind == "over":
        return [row | {"k": int(row["what"])} for row in rows]
    if panel.kind == "lines":
        newest = max((row["round"] for row in rows), default=0)
        kept = [row | {"k": int(row["metric"].rpartition("@")[2])} for row in rows if row["round"] == newest]
        return sorted(kept, key=lambda row: row["k"])
    if panel.kind == "curve" and len({row["stage"] for row in rows}) > 1 and not panel.small:
        return [row | {"what": f"{row['what']} ({row['stage']})"} for row in rows]
    return rows


def draw(
    page: Page, number: int, found: RunData, figure: Figure, traces: Traces | None = None, wide: bool = False
) -> Markup | None:
    """A figure on the page; None where nothing of it was measured."""
    panel, rows = figure.panel, rows_of(found, figure, traces)
    if not rows or (panel.kind in ("over", "lines") and len({row["k"] for row in rows}) < 2):
        return None
    if panel.kind == "table":
        return _table(figure, rows)
    if panel.kind == "bars":
        newest = max(row["round"] for row in rows)
        rows = [row for row in rows if row["round"] == newest]
    spec, columns, forms = _drawn(figure, rows)
    several = panel.kind != "curve" and (panel.kind == "bins" or not figure.alone)
    front = panel.picture or _slug(panel.title)
    name = f"{front}-{figure.stage.name}-{number}" if several else f"{front}-{number}"
    picture = f"{panel.picture}/{figure.stage.name}" if several else panel.picture
    title = f"{figure.title}, {when(figure.stage, newest)}" if panel.kind == "bars" else figure.title
    if panel.kind == "bins" and figure.alone:
        title = f"{title} ({figure.stage.name})"
    return page.figure(
        name, spec, title, panel.note, table(rows, columns, forms), wide, picture if panel.picture else ""
    )


def when(stage: Stage, number: int) -> str:
    """When a stage measured: in a round, or at the end."""
    return "at the end" if stage.section == "finally" else f"round {number}"


def _slug(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _table(figure: Figure, rows: Rows) -> Markup:
    """A row a round, a column a metric, in the order declared."""
    rounds: dict[int, dict[str, Any]] = {}
    for row in rows:
        rounds.setdefault(row["round"], {"round": row["round"]})[row["what"]] = row["value"]
    said = {row["what"] for row in rows}
    named = [says for says in figure.panel.metrics.values() if says in said]
    heads = {"round": "round"} | dict.fromkeys([*named, *(row["what"] for row in rows)])
    shown = table(list(rounds.values()), {key: key for key in heads})
    title = figure.title
    return part("box", title, figure.panel.note, shown) if title else part("scroll", shown)


def _drawn(figure: Figure, rows: Rows) -> tuple[dict[str, Any], dict[str, str], Mapping[str, Any] | None]:
    """A specification, and the columns of the numbers below it with how they are written."""
    panel = figure.panel
    forms, kind = SHARES if panel.share else None, panel.kind
    spread = RANGE if any(row.get("low") != row.get("high") for row in rows) else {"value": "value"}
    columns = {"stage": "stage", "round": "round", "what": "metric", **spread}
    if kind == "calibration":
        columns = {"round": "round", "bin": panel.metrics[next(iter(panel.metrics))]}
        columns |= {"score": "mean score", "true": "true", "share": "of points"}
        forms = {"true": SHARE, "share": SHARE}
        return charts.reliability(rows, f"{panel.title}, a line a round."), columns, forms
    if kind == "roc":
        columns = {"round": "round", "false": "unsound steps that pass", "true": "sound steps found"}
        spec = charts.roc(rows, f"{panel.title}, a line a round; chance is dashed.")
        return spec, columns, {"false": SHARE, "true": SHARE}
    if kind == "changes":
        columns = {"stage": "stage", "round": "round", **RANGE, "sure": "verdict"}
        said = f"{panel.title}, with 95 % intervals."
        return charts.change_bars(rows, said, panel.share), columns, forms
    if kind == "bins":
        columns = {"bin": panel.metrics[next(iter(panel.metrics))], "round": "round", **RANGE}
        columns |= {"right": "right", "problems": "problems"} if "problems" in rows[0] else {}
        return charts.heat(rows, f"{panel.title} and round, as a heat map."), columns, forms
    if kind == "over":
        spec = charts.pass_curves(rows, f"{panel.title}, a line a round.", panel.axis)
        return spec, {"round": "round", "k": "k", **RANGE}, forms
    if kind == "lines":
        said = f"{panel.title} in round {rows[0]['round']}, over the budget."
        spec = charts.budget_lines(rows, said, panel.axis, panel.share)
        return spec, {"what": "metric", "k": "budget", **RANGE}, forms
    if kind == "bars":
        said = f"{panel.title} in round {rows[0]['round']}."
        return charts.bars(rows, share=panel.share, description=said), columns, forms
    if panel.small:
        told = f"{panel.title}, by round."
        spec = charts.lines(rows, y="", series="stage", share=panel.share, height=130, description=told)
        return spec, {"stage": "stage", "round": "round", **RANGE}, forms
    said = f"{panel.title} with 95 % intervals."
    spec = charts.lines(rows, y=panel.axis, share=panel.share, zero=panel.zero, description=said)
    return spec, columns, forms


def drawn(
    page: Page, number: int, found: RunData, *sections: str, small: bool, traces: Traces | None = None
) -> list[Markup]:
    """All figures of some sections that there is something to draw of."""
    made = (
        draw(page, number, found, figure, traces)
        for figure in figures(found, *sections)
        if figure.panel.small == small
    )
    return [one for one in made if one is not None]


def own_remarks(found: RunData) -> list[str]:
    """What evaluations say to questions of their own, a sentence or two each."""
    asked = dict.fromkeys(figure.panel.section for figure in figures(found))
    return [
        f"{section} {when(stage, number).capitalize()} ({stage.name}): {said}"
        for section in asked
        for number, stage, said in remarks(found, section)
    ]


def remarks(found: RunData, section: str) -> Sequence[tuple[int, Stage, str]]:
    """What evaluations say to a section's question, by the newest round that each has measured."""
    told = []
    for stage in found.run.recipe.stages:
        if stage.room != "evaluate" or not stage.built:
            continue
        says = hook("evaluate", method("evaluate", stage.method), "remarks")
        front = f"{stage.name}/{mark_of(stage)}"
        measured = {
            number: own
            for number, values in found.seen_by(stage).metrics.items()
            if (own := {n.removeprefix(front): v for n, v in values.items() if n.startswith(front)})
        }
        for number in sorted(measured, reverse=True)[:1]:
            if said := says(measured[number], stage.settings).get(section):
                told.append((number, stage, said))
    return told
