"""The panels of the HTML report: headings, sentences, figures and the tables beside them.

Every text goes through `escape`; what a model wrote is not here at all (it travels packed, and the page
inserts it as text). A figure is a place that the page fills with a chart of `charts.py`, with the same
numbers in a table below it for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pipeline.report import wording
from pipeline.report.html import charts, data, data_panels, words
from pipeline.report.html.data import RunData

Rows = list[dict[str, Any]]
SHARE = wording.percent
MOST_LINES = 400  #: of a table


@dataclass
class Page:
    """What has been put on the page so far."""

    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)  #: of the same charts

    def figure(self, name: str, spec: dict[str, Any], title: str, note: str, table: str) -> str:
        """A chart with its caption and its numbers."""
        assert name not in self.specs, name
        self.specs[name], self.titles[name] = spec, title
        small = f"<small>{escape(note)}</small>" if note else ""
        return (
            f"<figure><figcaption>{escape(title)}{small}</figcaption>"
            f'<div class="chart" data-chart="{escape(name)}"></div>'
            f'<details><summary>Numbers</summary><div class="scroll">{table}</div></details></figure>'
        )


def table(
    rows: Rows, columns: dict[str, str], forms: Mapping[str, Callable[[Any], str]] | None = None
) -> str:
    """Rows as an HTML table. columns: key -> heading; forms: key -> how a number is written."""
    forms = forms or {}
    head = "".join(f'<th scope="col"{_side(rows, key)}>{escape(name)}</th>' for key, name in columns.items())
    lines = []
    for row in rows[:MOST_LINES]:
        cells = (
            f"<td{_side([row], key)}>{escape(_cell(row.get(key), forms.get(key)))}</td>" for key in columns
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    more = len(rows) - MOST_LINES
    rest = f"<p>{more:,} more rows are in metrics.jsonl.</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{rest}"


def _side(rows: Rows, key: str) -> str:
    number = rows and isinstance(rows[0].get(key), (int, float)) and key not in ("round", "k")
    return ' class="n"' if number else ""


def _cell(value: Any, form: Callable[[Any], str] | None) -> str:
    if value is None:
        return ""
    if form is not None:
        return form(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace(" %", "\u00a0%")


LINKS = {
    "learning": "See the curves",
    "stall": "See each round's change",
    "learned": "See which",
    "traces": "Read good traces",
    "trees": "See the trees",
    "prm": "See its calibration",
}
RANGE = {"value": "value", "low": "95 % from", "high": "to"}
SHARES = dict.fromkeys(("value", "low", "high"), SHARE)


def section(name: str, title: str, lead: str, body: str) -> str:
    """One panel."""
    said = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>'
        f"{said}{body}</section>"
    )


def by_run(found: Sequence[RunData], body: Callable[[int, RunData], str]) -> str:
    """A panel's part for each run, side by side where there are several."""
    several = len(found) > 1
    parts = []
    for number, one in enumerate(found):
        head = f"<h3>{escape(one.name)}</h3>" if several else ""
        parts.append(f"<div>{head}{body(number, one)}</div>")
    return f'<div class="runs{" many" if several else ""}">{"".join(parts)}</div>'


def nothing(text: str) -> str:
    """In place of a chart that has no data."""
    return f'<p class="note">{escape(text)}</p>'


def header(found: Sequence[RunData], learned: Sequence[Rows], num_trees: Sequence[int]) -> str:
    """Headline, verdict, tiles; then the questions, each with its answer."""
    names = " and ".join(one.name for one in found)
    parts = [f'<p class="kicker">Ratchet report</p><h1>{escape(names)}</h1>']
    for one in found:
        said = words.verdict(one)
        name = f"{one.name}: " if len(found) > 1 else ""
        parts.append(
            f'<div><p class="verdict {said.state}"><b>{escape(name + said.word)}</b>'
            f"{_whole(said.sentence)}</p>{_tiles(one)}</div>"
        )
    asked = by_run(found, lambda number, one: _asked(one, learned[number], num_trees[number]))
    return f"<header>{''.join(parts)}<div>{asked}</div></header>"


def _whole(text: str) -> str:
    """A sentence in which no number parts from its percent sign."""
    return escape(text.replace(" %", "\u00a0%"))


def _tiles(found: RunData) -> str:
    charged = sum(row["tokens"] for row in data_panels.tokens(found))
    decisions = [row for row in words.gate_lines(found) if not row["trial"]]
    promoted = sum(row["promoted"] for row in decisions)
    tiles = {
        "state": words.state_of(found),
        "rounds done": f"{max(found.last_round, 0)} of {found.run.recipe.rounds}",
        "gate": f"{promoted} of {len(decisions)} promoted" if decisions else "no decision yet",
        "work": wording.duration(sum(found.seconds.values())),
        "tokens charged": wording.count(charged),
    }
    items = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in tiles.items())
    return f'<dl class="tiles">{items}</dl>'


def _asked(found: RunData, learned: Rows, num_trees: int) -> str:
    items = "".join(
        f"<div><dt>{escape(row['question'])}</dt><dd>{_whole(row['answer'])} {_link(row['panel'])}</dd></div>"
        for row in words.questions(found, learned, num_trees)
    )
    return f'<dl class="asked">{items}</dl>'


def _link(panel: str) -> str:
    """To the panel that shows more, where there is one."""
    preset = " data-preset" if panel == "traces" else ""
    return f'<a href="#{panel}"{preset}>{LINKS[panel]}</a>' if panel else ""


# --- panels


def learning(page: Page, found: Sequence[RunData]) -> str:
    """Learning curves; of several runs one chart with a line a run, then each run's own."""
    parts = []
    if len(found) > 1:
        heads = [(one, *data.heads(one)[0]) for one in found if data.heads(one)]
        rows = [
            row | {"what": one.name}
            for one, stage, head in heads
            for row in data.curves(one)
            if row["stage"] == stage and row["what"].split(" ")[0] == head.removeprefix("accuracy/")
        ]
        if rows:
            shown = table(rows, {"what": "run", "round": "round", **RANGE}, SHARES)
            spec = charts.lines(rows, y="accuracy", description="Accuracy by round, a line a run.")
            parts.append(page.figure("runs", spec, "Side by side", "each run's first accuracy on dev", shown))
    parts.append(by_run(found, lambda number, one: _learning(page, number, one)))
    lead = "Accuracy on problems held out from training, after each round; the bands are 95 % intervals."
    return section("learning", "Is it getting better?", lead, "".join(parts))


def _learning(page: Page, number: int, found: RunData) -> str:
    curves, samples, ends = data.curves(found), data.pass_at(found), data_panels.final_table(found)
    if not curves:
        return nothing("No evaluation is finished yet.")
    columns = {"stage": "stage", "round": "round", "what": "metric", **RANGE}
    spec = charts.lines(curves, y="accuracy", description="Accuracy by round with 95 % intervals.")
    parts = [page.figure(f"learning-{number}", spec, "Accuracy by round", "", table(curves, columns, SHARES))]
    parts += [_ends(found, ends)] if ends else []
    for kind, title in (
        ("pass", "One of k samples is right (pass@k)"),
        ("maj", "The majority of k is right (maj@k)"),
    ):
        rows = [row for row in samples if row["what"] == f"{kind}@k"]
        if len({row["k"] for row in rows}) > 1:
            shown = table(rows, {"round": "round", "k": "k", **RANGE}, SHARES)
            spec = charts.pass_curves(rows, f"{kind}@k over k, a line a round.")
            parts.append(page.figure(f"{kind}-{number}", spec, title, "", shown))
    return f'<div class="pair">{"".join(parts)}</div>'


def _ends(found: RunData, ends: Rows) -> str:
    """The table of `finally`: seed, end, gain."""
    read = found.status["final"]["test_read"]
    again = f" Test was read {read} times, as the run was extended; this is the newest." if read > 1 else ""
    columns = {"what": "metric", "before": "seed", "after": "at the end", "gain": "gain in points"}
    rows = [
        {
            "what": row["what"],
            "before": "" if row["before"] is None else SHARE(row["before"]),
            "after": wording.within(_parts(row, "after"), "after"),
            "gain": wording.moved(_parts(row, "gain"), "gain"),
        }
        for row in ends
    ]
    last = found.finals()[0]["round"]
    told = f"Seed and final model on test, by which nothing was chosen. Brackets: 95 % intervals.{again}"
    head = f"<h3>The end, after round {last}</h3>"
    shown = table(rows, columns)
    return f'<div>{head}<p class="note">{escape(told)}</p><div class="scroll">{shown}</div></div>'


def _parts(row: dict[str, Any], name: str) -> dict[str, float]:
    """A value and its interval under the names that `wording` knows; empty where there is no value."""
    parts = {name: row[name], f"{name}/low": row[f"{name}_low"], f"{name}/high": row[f"{name}_high"]}
    return {key: value for key, value in parts.items() if value is not None}


def stall(page: Page, found: Sequence[RunData]) -> str:
    """What each round changed, by difficulty, and the signs of trouble."""
    lead = (
        "What each round changed against the model that stood before it, measured on the same problems. "
        "A bar that crosses zero proves nothing. Below: where it improves, and what usually goes wrong."
    )
    return section(
        "stall", "Why did it stall?", lead, by_run(found, lambda number, one: _stall(page, number, one))
    )


def _stall(page: Page, number: int, found: RunData) -> str:
    parts = []
    if changes := data.changes(found):
        shown = table(changes, {"stage": "stage", "round": "round", **RANGE, "sure": "verdict"}, SHARES)
        spec = charts.change_bars(changes, "Change of accuracy in each round with 95 % intervals.")
        parts.append(
            page.figure(f"change-{number}", spec, "Change of each round", "paired, with 95 % interval", shown)
        )
    if cells := data.heat(found):
        for stage in dict.fromkeys(row["stage"] for row in cells):
            rows = [row for row in cells if row["stage"] == stage]
            shown = table(rows, {"bin": "difficulty", "round": "round", **RANGE}, SHARES)
            spec = charts.heat(rows, "Accuracy by difficulty and round, as a heat map.")
            title = f"Accuracy by difficulty ({stage})"
            parts.append(page.figure(f"heat-{stage}-{number}", spec, title, "", shown))
    small = _signs(page, number, found)
    return (
        f'<div class="pair">{"".join(parts)}</div>{small}'
        if parts or small
        else nothing("Nothing measured yet.")
    )


def _signs(page: Page, number: int, found: RunData) -> str:
    rows, parts = data.signs(found), []
    for metric, what in data.SIGNS.items():
        mine = [row for row in rows if row["metric"] == metric]
        if mine:
            share = metric in data.SHARES
            shown = table(mine, {"stage": "stage", "round": "round", **RANGE}, SHARES if share else None)
            told = f"{what}, by round."
            spec = charts.lines(mine, y="", series="stage", share=share, height=130, description=told)
            parts.append(page.figure(f"sign-{metric}-{number}", spec, what, "", shown))
    curve = data.losses(found)
    for stage in dict.fromkeys(row["stage"] for row in curve):
        mine = [row for row in curve if row["stage"] == stage]
        shown = table(mine, {"round": "round", "step": "step", "loss": "loss"})
        spec = charts.losses(mine, f"Training loss of {stage} by step.")
        parts.append(page.figure(f"loss-{stage}-{number}", spec, f"training loss of {stage}", "", shown))
    return f'<h3>Signs of trouble</h3><div class="small">{"".join(parts)}</div>' if parts else ""


def learned(page: Page, found: Sequence[RunData], rows: Sequence[Rows]) -> str:
    """Problems newly solved and lost; the page lists them from the packed data."""

    def body(number: int, one: RunData) -> str:
        if not rows[number]:
            return nothing("No two rounds were measured on the same problems yet.")
        columns = {"stage": "stage", "round": "round", "problems": "problems"}
        columns |= {"num_solved": "newly solved", "num_lost": "newly lost"}
        spec = charts.flips(rows[number], "Problems newly solved (up) and newly lost (down) in each round.")
        figure = page.figure(
            f"flips-{number}", spec, "Problems won and lost", "", table(rows[number], columns)
        )
        return f'<div class="pair">{figure}<div data-learned="{number}"></div></div>'

    lead = (
        "Held-out problems whose main answer became right, or wrong again, against the model before. "
        "Choose one to read its traces."
    )
    return section("learned", "Which problems did it learn?", lead, by_run(found, body))
