"""The panels of the HTML report: headings, sentences, figures and the tables beside them.

The pieces are macros of `parts.html`, which jinja2 fills and escapes; what a model wrote is not here at all
(it travels packed, and the page inserts it as text). A figure is a place that the page fills with a chart of
`charts.py`, with the same numbers in a table below it for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import wording
from pipeline.report.html import charts, data, data_panels, data_traces, words
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Traces

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Rows = list[dict[str, Any]]
SHARE = wording.percent
MOST_LINES = 400  #: of a table


@cache
def environment() -> Environment:
    """jinja2 over this folder: everything is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def part(macro: str, *values: Any) -> Markup:
    """A piece of the page."""
    made: Markup = getattr(environment().get_template("parts.html").module, macro)(*values)
    return made


@dataclass
class Page:
    """What has been put on the page so far."""

    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)  #: of the same charts

    def figure(
        self, name: str, spec: dict[str, Any], title: str, note: str, table: Markup, wide: bool = False
    ) -> Markup:
        """A chart with its caption and its numbers."""
        assert name not in self.specs, name
        self.specs[name], self.titles[name] = spec, title
        return part("figure", name, title, note, table, wide)


def table(
    rows: Rows, columns: dict[str, str], forms: Mapping[str, Callable[[Any], str]] | None = None
) -> Markup:
    """Rows as an HTML table, those of rounds spread evenly where there are too many. columns: key -> heading;
    forms: key -> how a number is written."""
    forms = forms or {}
    shown, more = rows, ""
    if len(rows) > MOST_LINES:
        if all("round" in row for row in rows):
            each = max(len(rows) // len({row["round"] for row in rows}), 1)
            shown = charts.thinned(rows, max(MOST_LINES // each, 2))
        shown = shown[:MOST_LINES]
        more = f"{len(shown):,} of {len(rows):,} rows, spread evenly; all of them are in metrics.jsonl."
    head = [(name, _is_number(rows, key)) for key, name in columns.items()]
    lines = [
        [(_cell(row.get(key), forms.get(key)), _is_number([row], key)) for key in columns] for row in shown
    ]
    return part("table", head, lines, more)


def _is_number(rows: Rows, key: str) -> bool:
    return bool(rows) and isinstance(rows[0].get(key), (int, float)) and key not in ("round", "k")


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


def section(name: str, title: str, lead: str, body: Markup) -> Markup:
    """One panel; nothing where it has no body."""
    return part("section", name, title, lead, body) if body else body


def by_run(found: Sequence[RunData], body: Callable[[int, RunData], Markup]) -> Markup:
    """A panel's part for each run, side by side where there are several; nothing where none has anything."""
    parts = [(one.name, body(number, one)) for number, one in enumerate(found)]
    if not any(made for _, made in parts):
        return joined([])
    return part("by_run", [(name, made or nothing("Nothing of this yet.")) for name, made in parts])


def joined(parts: Sequence[Markup]) -> Markup:
    """Pieces one after the other."""
    from markupsafe import Markup

    return Markup("").join(parts)


def pair(parts: Sequence[Markup]) -> Markup:
    """Figures side by side where there is room; one alone is as wide as the page."""
    return part("pair", parts) if parts else joined([])


def nothing(text: str) -> Markup:
    """In place of a chart that has no data."""
    return part("note", text)


def header(
    found: Sequence[RunData], learned: Sequence[Rows], num_trees: Sequence[int], present: AbstractSet[str]
) -> Markup:
    """Headline, verdict, tiles; then the questions, each with its answer. present: the panels that are
    there to be linked."""
    several = len(found) > 1
    runs = []
    for number, one in enumerate(found):
        said = words.verdict(one)
        runs.append(
            {
                "state": said.state,
                "word": f"{one.name}: {said.word}" if several else said.word,
                "sentence": _whole(said.sentence),
                "use": _whole(words.which_round(one)),
                "command": words.export_command(one),
                "tiles": _tiles(one),
                "asked": (one.name, _asked(one, learned[number], num_trees[number], present)),
            }
        )
    return part("header", " and ".join(one.name for one in found), runs)


def _whole(text: str) -> str:
    """A sentence in which no number parts from its percent sign."""
    return text.replace(" %", "\u00a0%")


def _tiles(found: RunData) -> dict[str, str]:
    charged = sum(row["tokens"] for row in data_panels.tokens(found))
    decisions = [row for row in words.gate_lines(found) if not row["trial"]]
    promoted = sum(row["promoted"] for row in decisions)
    return {
        "state": words.state_of(found),
        "rounds done": f"{max(found.last_round, 0)} of {found.run.recipe.rounds}",
        "gate": f"{promoted} of {len(decisions)} promoted" if decisions else "no decision yet",
        "work": wording.duration(sum(found.seconds.values())),
        "tokens charged": wording.count(charged),
    }


def _asked(found: RunData, learned: Rows, num_trees: int, present: AbstractSet[str]) -> Markup:
    rows = []
    for row in words.questions(found, learned, num_trees):
        panel = row["panel"] if row["panel"] in present else ""
        rows.append(row | {"answer": _whole(row["answer"]), "panel": panel, "link": LINKS.get(panel, "")})
    return part("asked", rows)


# --- panels


def learning(page: Page, found: Sequence[RunData]) -> Markup:
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
    return section("learning", "Is it getting better?", lead, joined(parts))


def _learning(page: Page, number: int, found: RunData) -> Markup:
    curves, samples, ends = data.curves(found), data.pass_at(found), data_panels.final_table(found)
    if not curves:
        return nothing("No evaluation is finished yet.")
    columns = {"stage": "stage", "round": "round", "what": "metric", **RANGE}
    spec = charts.lines(curves, y="accuracy", description="Accuracy by round with 95 % intervals.")
    shown = table(curves, columns, SHARES)
    parts = [page.figure(f"learning-{number}", spec, "Accuracy by round", "", shown, wide=not ends)]
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
    return pair(parts)


def _ends(found: RunData, ends: Rows) -> Markup:
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
    return part("box", f"The end, after round {last}", told, table(rows, columns))


def _parts(row: dict[str, Any], name: str) -> dict[str, float]:
    """A value and its interval under the names that `wording` knows; empty where there is no value."""
    parts = {name: row[name], f"{name}/low": row[f"{name}_low"], f"{name}/high": row[f"{name}_high"]}
    return {key: value for key, value in parts.items() if value is not None}


def stall(page: Page, found: Sequence[RunData], traces: Sequence[Traces] = ()) -> Markup:
    """What each round changed, by difficulty, and the signs of trouble."""
    lead = (
        "What each round changed against the model that stood before it, measured on the same problems. "
        "A bar that crosses zero proves nothing. Below: where it improves, and what usually goes wrong."
    )
    return section(
        "stall",
        "Why did it stall?",
        lead,
        by_run(found, lambda n, one: _stall(page, n, one, traces[n] if traces else None)),
    )


def _stall(page: Page, number: int, found: RunData, traces: Traces | None) -> Markup:
    parts = []
    if changes := data.changes(found):
        shown = table(changes, {"stage": "stage", "round": "round", **RANGE, "sure": "verdict"}, SHARES)
        spec = charts.change_bars(changes, "Change of accuracy in each round with 95 % intervals.")
        parts.append(
            page.figure(f"change-{number}", spec, "Change of each round", "paired, with 95 % interval", shown)
        )
    if cells := data.heat(found, data_traces.bin_sizes(traces) if traces else None):
        for stage in dict.fromkeys(row["stage"] for row in cells):
            rows = [row for row in cells if row["stage"] == stage]
            columns = {"bin": "difficulty", "round": "round", **RANGE}
            columns |= {"right": "right", "problems": "problems"} if "problems" in rows[0] else {}
            shown = table(rows, columns, SHARES)
            spec = charts.heat(rows, "Accuracy by difficulty and round, as a heat map.")
            title = f"Accuracy by difficulty ({stage})"
            parts.append(page.figure(f"heat-{stage}-{number}", spec, title, "", shown))
    return joined([pair(parts), _signs(page, number, found, traces)])


def _signs(page: Page, number: int, found: RunData, traces: Traces | None) -> Markup:
    rows, parts = data.signs(found), []
    if traces and (why := data_traces.unanswered(traces)):
        for stage in dict.fromkeys(row["stage"] for row in why):
            mine = [row for row in why if row["stage"] == stage]
            shown = table(mine, {"round": "round", "why": "why", "count": "traces"})
            spec = charts.stacked(
                mine, value="count", series="why", title="traces without an answer",
                description="Why traces have no answer, by round.",
            )  # fmt: skip
            parts.append(page.figure(f"none-{stage}-{number}", spec, "why no answer", stage, shown))
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
    return part("small", "Signs of trouble", parts) if parts else joined([])


def learned(page: Page, found: Sequence[RunData], rows: Sequence[Rows]) -> Markup:
    """Problems newly solved and lost; the page lists them from the packed data."""

    def body(number: int, one: RunData) -> Markup:
        if not rows[number]:
            return joined([])
        columns = {"stage": "stage", "round": "round", "problems": "problems"}
        columns |= {"num_solved": "newly solved", "num_lost": "newly lost"}
        spec = charts.flips(rows[number], "Problems newly solved (up) and newly lost (down) in each round.")
        figure = page.figure(
            f"flips-{number}", spec, "Problems won and lost", "", table(rows[number], columns)
        )
        return part("learned", figure, number)

    lead = (
        "Held-out problems whose main answer became right, or wrong again, against the model before. "
        "Choose one to read its answers and traces."
    )
    return section("learned", "Which problems did it learn?", lead, by_run(found, body))
