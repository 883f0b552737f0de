"""The report's charts as pictures, for a monitor: the same numbers, drawn by the same
code, a picture a round.

    for name, title, spec in plots(found): page = picture(title, spec)

Colours are those of the report in light. Not here: the charts themselves (`charts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.report.html.data import RunData

WIDTH = 560  #: of a picture, in pixels of the screen


def plots(found: RunData) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, title, Vega-Lite specification) of each chart that this run can fill."""
    from pipeline.report.html import page, panels, pieces

    drawn = pieces.Page()
    page.learning(drawn, [found])
    page.stall(drawn, [found])
    for panel in (panels.filtering, panels.reward, panels.more, panels.costs):
        panel(drawn, [found])
    for chart, name in drawn.pictures.items():
        yield name, drawn.titles[chart], drawn.specs[chart]


@cache
def palette() -> dict[str, str]:
    """The report's colours in light, by name."""
    css = (Path(__file__).parents[1] / "html" / "page.css").read_text(encoding="utf-8")
    light = css.split("@media", 1)[0]
    return {f"${name}": colour for name, colour in re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})", light)}


def coloured(value: Any) -> Any:
    """A specification with colours for their names; its data as they are."""
    if isinstance(value, str):
        return palette().get(value, value)
    if isinstance(value, list):
        return [coloured(each) for each in value]
    if isinstance(value, dict):
        return {key: each if key in ("data", "datasets") else coloured(each) for key, each in value.items()}
    return value


def whole(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification with its size and colours, which a page would give it."""
    text = {"labelColor": "$soft", "titleColor": "$soft", "labelFontSize": 12, "titleFontSize": 12}
    config = {
        "background": "$surface",
        "view": {"stroke": None},
        "axis": {**text, "gridColor": "$line", "domainColor": "$muted", "tickColor": "$muted"},
        "legend": {**text, "labelColor": "$ink", "columns": 5, "symbolType": "circle"},
        "point": {"size": 60},
    }
    return coloured({**spec, "width": WIDTH, "padding": 12, "config": config})


def picture(title: str, spec: dict[str, Any]) -> str:
    """A chart as a small HTML page that holds an SVG: sharp at any size, no script, no request."""
    from html import escape

    import vl_convert

    head = '<!doctype html><meta charset="utf-8"><style>p{font:600 14px sans-serif;margin:8px}</style>'
    return f"{head}<p>{escape(title)}</p>{vl_convert.vegalite_to_svg(whole(spec))}"
