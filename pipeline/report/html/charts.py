"""The charts of the HTML report, as Vega-Lite specifications made by altair.

Colours are names ("$c1", "$good", "$ink", ...) that the page fills in for light or dark. Each chart takes
long-form rows of `data.py`, draws them as they are, and has a description for screen readers. Not here: how
they are laid out (`page.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

Rows = list[dict[str, Any]]
SERIES = [f"$c{number}" for number in range(1, 13)]
HEIGHT = 240
MANY = 40  #: rounds above which a line is the running mean, and each round a small dot
MOST_BARS = 40  #: rounds that a chart of bars shows; more are thinned
COUNT = "datum.value == 0 ? '0' : format(datum.value, '~s')"  # Vega writes 0k beside 20k
COUNTS = alt.Axis(labelExpr=COUNT, tickCount=5, tickMinStep=1)


def _spec(chart: Any, description: str, height: int | None = HEIGHT) -> dict[str, Any]:
    """A chart as plain data, as wide as its place."""
    sized = {"width": "container", **({} if height is None else {"height": height})}
    return chart.properties(description=description, **sized).to_dict()


def _values(rows: Rows) -> alt.Data:
    return alt.Data(values=rows)


def thinned(rows: Rows, most: int = 8) -> Rows:
    """The rows of at most so many rounds, spread evenly, the first and the last among them."""
    rounds = sorted({row["round"] for row in rows})
    if len(rounds) <= most:
        return rows
    kept = {rounds[place * (len(rounds) - 1) // (most - 1)] for place in range(most)}
    return [row for row in rows if row["round"] in kept]


def _series(rows: Rows, key: str = "what") -> alt.Color:
    """Colours in order of appearance; no legend for a single series."""
    names = list(dict.fromkeys(str(row[key]) for row in rows))
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1) if len(names) > 1 else None
    return alt.Color(
        f"{key}:N", scale=alt.Scale(domain=names, range=SERIES[: len(names)] or SERIES), legend=legend
    )


def _rounds(rows: Rows, key: str = "round") -> alt.X:
    """Rounds on the x axis: whole numbers only."""
    last = max((row[key] for row in rows), default=1)
    ticks = list(range(int(last) + 1)) if last <= 20 else alt.Undefined
    return alt.X(
        f"{key}:Q",
        title=key,
        scale=alt.Scale(nice=False, padding=10),
        axis=alt.Axis(format="d", values=ticks, grid=False, tickMinStep=1),
    )


def _round_bands(rows: Rows) -> alt.X:
    """Rounds side by side, as many labels as there is room for."""
    every = -(-len({row["round"] for row in rows}) // 24)
    axis = alt.Axis(labelAngle=0, labelExpr=f"datum.value % {every} == 0 ? datum.label : ''", tickWidth=0)
    return alt.X("round:O", axis=axis)


def running(rows: Rows, series: str) -> Rows:
    """Each line with the mean of the nine rounds around each of its points, for runs of many rounds."""
    found = []
    for name in dict.fromkeys(row[series] for row in rows):
        line = [row for row in rows if row[series] == name]
        for at, row in enumerate(line):
            near = line[max(at - 4, 0) : at + 5]
            means = {key: sum(each[key] for each in near) / len(near) for key in ("value", "low", "high")}
            found.append(row | {"mean": means["value"], "mean_low": means["low"], "mean_high": means["high"]})
    return found


def lines(
    rows: Rows,
    *,
    y: str,
    description: str,
    series: str = "what",
    x: alt.X | None = None,
    share: bool = True,
    zero: bool = True,
    height: int = HEIGHT,
    tips: Sequence[str] = (),
) -> dict[str, Any]:
    """Lines with their 95 % intervals as bands."""
    form = ".1%" if share else ".4~g"
    # what is zero everywhere is a line on the axis, not in the air
    top = max((row["high"] for row in rows), default=0.0)
    least = max(top, 0.05) if share and top < 0.05 else 1 if top <= 0 else alt.Undefined
    where = x or _rounds(rows)
    colour = _series(rows, series)
    axis = alt.Axis(format=".2~%" if share else ".3~g" if top < 1000 else "~s", tickCount=5)
    many = x is None and len({row["round"] for row in rows}) > MANY
    rows = running(rows, series) if many else rows
    base = alt.Chart(_values(rows)).encode(x=where, color=colour)
    tooltip = [
        *(alt.Tooltip(f"{name}:N") for name in (series, *tips)),
        alt.Tooltip(f"{getattr(where, 'shorthand', 'round:Q')}"),
        alt.Tooltip("value:Q", format=form),
        alt.Tooltip("low:Q", format=form, title="95 % from"),
        alt.Tooltip("high:Q", format=form, title="to"),
    ]
    band = base.mark_area(opacity=0.16, aria=False).encode(
        y=alt.Y(
            "mean_low:Q" if many else "low:Q",
            title=y,
            axis=axis,
            scale=alt.Scale(zero=zero, domainMax=least),
        ),
        y2="mean_high:Q" if many else "high:Q",
    )
    line = base.mark_line(strokeWidth=2.5, aria=False).encode(
        y=alt.Y("mean:Q" if many else "value:Q", title=y)
    )
    dots = base.mark_point(filled=True, size=12 if many else 64, opacity=0.45 if many else 1).encode(
        y=alt.Y("value:Q", title=y), tooltip=tooltip
    )
    return _spec(alt.layer(band, line, dots), description, height)


def pass_curves(rows: Rows, description: str, y: str = "share of problems") -> dict[str, Any]:
    """pass@k over k, a line a round."""
    shown = [row | {"series": f"round {row['round']}"} for row in thinned(rows)]
    ks = sorted({row["k"] for row in shown})
    x = alt.X(
        "k:Q", title="k (samples a problem)", scale=alt.Scale(type="log", base=2, nice=False, padding=10)
    )
    x = x.axis(values=ks, format="d", grid=False)
    return lines(shown, y=y, series="series", x=x, description=description)


def budget_lines(rows: Rows, description: str, y: str, share: bool) -> dict[str, Any]:
    """What stands at each number, a line for each name."""
    ns = sorted({row["k"] for row in rows})
    x = alt.X("k:Q", title="budget", scale=alt.Scale(type="log", base=2, nice=False, padding=10))
    x = x.axis(values=ns, format="d", grid=False)
    return lines(rows, y=y, x=x, share=share, description=description)


def change_bars(rows: Rows, description: str, share: bool = True) -> dict[str, Any]:
    """The change of each round with its interval, coloured by whether it is sure."""
    colour = alt.Color(
        "sure:N",
        scale=alt.Scale(
            domain=["surely better", "not sure", "surely worse"], range=["$good", "$muted", "$bad"]
        ),
        legend=alt.Legend(title=None, orient="top"),
    )
    rows = thinned(rows, 2 * MOST_BARS)
    base = alt.Chart(_values(rows)).encode(x=_round_bands(rows), color=colour)
    label = f"format({100 if share else 1} * datum.value, '+.3~f')"
    axis = alt.Axis(labelExpr=label, tickCount=5)
    title, form = ("change in points", "+.1%") if share else ("change", "+.3~g")
    y = alt.Y("low:Q", title=title, axis=axis, scale=alt.Scale(padding=12))
    few = len({row["round"] for row in rows}) <= MOST_BARS
    rule = base.mark_rule(strokeWidth=3 if few else 1.5, aria=False).encode(y=y, y2="high:Q")
    tooltip = [
        alt.Tooltip("round:O"),
        *(alt.Tooltip(f"{n}:Q", format=form) for n in ("value", "low", "high")),
    ]
    dots = base.mark_point(filled=True, size=110 if few else 30, opacity=1).encode(
        y="value:Q", tooltip=tooltip
    )
    zero = (
        alt.Chart(_values([{"y": 0}])).mark_rule(color="$ink", strokeDash=[3, 3], aria=False).encode(y="y:Q")
    )
    return _spec(alt.layer(zero, rule, dots), description)


def heat(rows: Rows, description: str) -> dict[str, Any]:
    """Accuracy by difficulty (down) and round (across), the number in each cell, and how many that are."""
    rows = [row | {"label": _counted(row)} for row in thinned(rows, MOST_BARS)]
    order = list(dict.fromkeys(row["label"] for row in rows))
    most = max((row["value"] for row in rows), default=1.0) or 1.0
    base = alt.Chart(_values(rows)).encode(
        x=_round_bands(rows),
        y=alt.Y("label:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8)),
    )
    tooltip = [alt.Tooltip("bin:N", title="difficulty"), alt.Tooltip("round:O")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".1%") for name in ("value", "low", "high")]
    counted = all("right" in row for row in rows)
    tooltip += [alt.Tooltip(f"{name}:Q") for name in ("right", "problems") if counted]
    cells = base.mark_rect(cornerRadius=3, stroke="$surface", strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=alt.Scale(domain=[0, most], range=["$cold", "$hot"]), legend=None),
        tooltip=tooltip,
    )
    dark = alt.condition(f"datum.value > {0.55 * most:.6f}", alt.value("$onhot"), alt.value("$ink"))
    num = len({row["round"] for row in rows})
    above = base.mark_text(fontSize=12, dy=-7 if counted else 0, aria=False)
    words = [above.encode(text=alt.Text("value:Q", format=".0%"), color=dark)]
    if counted:
        text = base.transform_calculate(
            count="datum.right" if num > 6 else "datum.right + ' of ' + datum.problems"
        )
        words += [text.mark_text(fontSize=10, dy=9, aria=False).encode(text="count:N", color=dark)]
    return _spec(cells if num > 12 else alt.layer(cells, *words), description, 48 * max(len(order), 1) + 10)


def _counted(row: dict[str, Any]) -> str:
    return f"{row['bin']} (of {row['problems']:,})" if "problems" in row else str(row["bin"])


def funnel(rows: Rows, description: str) -> dict[str, Any]:
    """Generated, labelled, right, kept: bars side by side in each round."""
    colours = {"generated": "$muted", "labelled": "$c7", "right": "$c1"}
    kept = [name for name in dict.fromkeys(row["step"] for row in rows) if name not in colours]
    colours |= {name: ("$good", "$c4", "$c5", "$c6")[place % 4] for place, name in enumerate(kept)}
    steps = [name for name in colours if any(row["step"] == name for row in rows)]
    rows = thinned(rows, 20)
    chart = (
        alt.Chart(_values(rows))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=_round_bands(rows),
            xOffset=alt.XOffset("step:N", sort=steps),
            y=alt.Y("sum(count):Q", title="rows", axis=COUNTS),
            color=alt.Color(
                "step:N",
                scale=alt.Scale(domain=steps, range=[colours[name] for name in steps]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=["round:O", "step:N", alt.Tooltip("sum(count):Q", title="rows", format=",")],
        )
    )
    return _spec(chart, description)


def stacked(
    rows: Rows,
    *,
    value: str,
    series: str,
    title: str,
    description: str,
    first: str | None = None,
    order: Sequence[str] = (),
) -> dict[str, Any]:
    """Bars across, one a round, stacked by a series, in the given order; `first` has the good colour."""
    rows = thinned(rows, MOST_BARS)
    names = list(dict.fromkeys(str(row[series]) for row in rows))
    known = {name: place for place, name in enumerate(order)}
    names.sort(key=lambda name: (name != first, known.get(name, len(known))))
    palette = [colour for colour in SERIES if colour != "$c3"] if first else SERIES
    rest = [palette[number % len(palette)] for number in range(len(names))]
    shown = ["$good", *rest[: len(names) - 1]] if first in names else rest
    chart = (
        alt.Chart(_values(rows))
        .mark_bar(stroke="$surface", strokeWidth=1)
        .encode(
            y=alt.Y("round:O", title="round"),
            x=alt.X(f"sum({value}):Q", title=title, axis=COUNTS),
            color=alt.Color(
                f"{series}:N",
                scale=alt.Scale(domain=names, range=shown),
                legend=alt.Legend(title=None, orient="top"),
            ),
            order=alt.Order("place:Q"),
            tooltip=["round:O", f"{series}:N", alt.Tooltip(f"sum({value}):Q", title=title, format=",.4~g")],
        )
    )
    placed = [row | {"place": names.index(str(row[series]))} for row in rows]
    chart = chart.properties(data=_values(placed))
    num = len({row["round"] for row in rows})
    return _spec(chart, description, min(34, max(12, 640 // num)) * num + 20)


def reliability(rows: Rows, description: str) -> dict[str, Any]:
    """Calibration: the share that was true over the mean score, a line a round, the diagonal dashed."""
    shown = [row | {"what": f"round {row['round']}"} for row in thinned(rows)]
    unit = alt.Scale(domain=[-0.02, 1.02], nice=False)
    base = alt.Chart(_values(shown)).encode(
        x=alt.X("score:Q", scale=unit, title="score that the PRM gave", axis=alt.Axis(tickCount=5)),
        y=alt.Y("true:Q", scale=unit, title="share that was true", axis=alt.Axis(tickCount=5, format=".0%")),
        color=_series(shown),
    )
    line = base.mark_line(strokeWidth=2, aria=False)
    tooltip = [alt.Tooltip("what:N", title="round"), alt.Tooltip("score:Q", format=".3f")]
    tooltip += [
        alt.Tooltip("true:Q", format=".1%"),
        alt.Tooltip("share:Q", format=".1%", title="of all points"),
    ]
    dots = base.mark_point(filled=True, opacity=1).encode(
        size=alt.Size("share:Q", scale=alt.Scale(range=[25, 320]), legend=None), tooltip=tooltip
    )
    ideal = (
        alt.Chart(_values([{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        .mark_line(color="$muted", strokeDash=[4, 4], strokeWidth=1.5, aria=False)
        .encode(x="x:Q", y="y:Q")
    )
    return _spec(alt.layer(ideal, line, dots), description, 300)


def roc(rows: Rows, description: str) -> dict[str, Any]:
    """ROC: true points found over false ones let through, a line a round, chance dashed."""
    shown = [row | {"what": f"round {row['round']}"} for row in thinned(rows)]
    unit, axis = alt.Scale(domain=[-0.02, 1.02], nice=False), alt.Axis(tickCount=5, format=".0%")
    base = alt.Chart(_values(shown)).encode(
        x=alt.X("false:Q", scale=unit, axis=axis, title="unsound steps that pass"),
        y=alt.Y("true:Q", scale=unit, axis=axis, title="sound steps found"),
        color=_series(shown),
    )
    tooltip = [alt.Tooltip("what:N", title="round")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".0%") for name in ("false", "true")]
    line = base.mark_line(strokeWidth=2, aria=False)
    dots = base.mark_point(filled=True, size=30, opacity=1).encode(tooltip=tooltip)
    chance = (
        alt.Chart(_values([{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        .mark_line(color="$muted", strokeDash=[4, 4], strokeWidth=1.5, aria=False)
        .encode(x="x:Q", y="y:Q")
    )
    return _spec(alt.layer(chance, line, dots), description, 300)


def losses(rows: Rows, description: str) -> dict[str, Any]:
    """Training loss by step, a line a round."""
    shown = [row | {"what": f"round {row['round']}"} for row in thinned(rows)]
    chart = (
        alt.Chart(_values(shown))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X(
                "step:Q",
                title="optimizer step",
                scale=alt.Scale(nice=False, padding=8),
                axis=alt.Axis(format="~s", grid=False),
            ),
            y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title=None, axis=alt.Axis(tickCount=5)),
            color=_series(shown),
            tooltip=["what:N", "step:Q", alt.Tooltip("loss:Q", format=".4~g")],
        )
    )
    return _spec(chart, description, 150)


def flips(rows: Rows, description: str) -> dict[str, Any]:
    """Problems newly solved (up) and newly lost (down) by round."""
    shown = [
        {"round": row["round"], "what": what, "count": sign * row[key], "problems": row[key]}
        for row in thinned(rows, 2 * MOST_BARS)
        for key, what, sign in (("num_solved", "newly solved", 1), ("num_lost", "newly lost", -1))
    ]
    chart = (
        alt.Chart(_values(shown))
        .mark_bar(cornerRadiusEnd=2, width={"band": 0.5})
        .encode(
            x=_round_bands(shown),
            y=alt.Y("count:Q", title="problems", axis=COUNTS),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=["newly solved", "newly lost"], range=["$good", "$bad"]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=["round:O", "what:N", "problems:Q"],
        )
    )
    return _spec(chart, description)


def bars(rows: Rows, *, share: bool, description: str) -> dict[str, Any]:
    """Metrics of one round side by side, with their 95 % intervals."""
    order = [row["what"] for row in rows]
    y = alt.Y("what:N", sort=order, title=None, axis=alt.Axis(labelLimit=280))
    axis = alt.Axis(format=".2~%" if share else ".3~g", tickCount=5)
    base = alt.Chart(_values(rows)).encode(y=y)
    form = ".1%" if share else ".4~g"
    tooltip = ["what:N", *(alt.Tooltip(f"{name}:Q", format=form) for name in ("value", "low", "high"))]
    bar = base.mark_bar(color="$c1", cornerRadiusEnd=2).encode(
        x=alt.X("value:Q", title=None, axis=axis), tooltip=tooltip
    )
    rule = base.mark_rule(color="$ink", aria=False).encode(x="low:Q", x2="high:Q")
    return _spec(alt.layer(bar, rule), description, 28 * len(rows) + 10)
