"""The first panels of the HTML report: headings, is it getting better, why did it stall, what was learned.

The figures of an evaluation are those that it declares (`declared.py`); the pieces are in `pieces.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from pipeline.evaluate import LEARNING, TROUBLE
from pipeline.report import wording
from pipeline.report.html import charts, data, data_panels, data_traces, declared, words
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Traces
from pipeline.report.html.pieces import (
    RANGE,
    SHARES,
    Page,
    Rows,
    by_run,
    joined,
    nothing,
    pair,
    part,
    section,
    table,
)

if TYPE_CHECKING:
    from markupsafe import Markup

LINKS = {
    "learning": "See the curves",
    "stall": "See each round's change",
    "learned": "See which",
    "traces": "Read good traces",
    "trees": "See the trees",
    "prm": "See its calibration",
}


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
    gates = f"{promoted} of {len(decisions)} promoted" if decisions else "no decision yet"
    rounds = found.run.recipe.rounds
    return {
        "state": words.state_of(found),
        **({"rounds done": f"{max(found.last_round, 0)} of {rounds}", "gate": gates} if rounds else {}),
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
        heads = [(one, data.heads(one)[0]) for one in found if data.heads(one)]
        rows = [
            row | {"what": one.name}
            for one, head in heads
            for row in data.points_of(one, head.stage, {head.metric.name: ""})
        ]
        if rows:
            column, share = heads[0][1].metric.column, all(head.metric.share for _, head in heads)
            forms = SHARES if share else None
            shown = table(rows, {"what": "run", "round": "round", **RANGE}, forms)
            told = f"{column[:1].upper()}{column[1:]} by round, a line a run."
            spec = charts.lines(rows, y=column, share=share, description=told)
            parts.append(
                page.figure("runs", spec, "Side by side", f"each run's first {column} on dev", shown)
            )
    parts.append(by_run(found, lambda number, one: _learning(page, number, one)))
    once = all(one.run.recipe.rounds == 0 for one in found)
    if once:
        return section("learning", words.ONCE, "On problems held out from training.", joined(parts))
    lead = "Accuracy on problems held out from training, after each round; the bands are 95 % intervals."
    return section("learning", LEARNING, lead, joined(parts))


def _learning(page: Page, number: int, found: RunData) -> Markup:
    ends = data_panels.final_table(found)
    figures = [one for one in declared.figures(found, LEARNING) if declared.rows_of(found, one)]
    if not figures:
        return _once(page, number, found)
    drawn = [declared.draw(page, number, found, one, wide=one is figures[0] and not ends) for one in figures]
    parts = [one for one in drawn if one is not None]
    return pair([*parts[:1], *([_ends(found, ends)] if ends else []), *parts[1:]])


def _once(page: Page, number: int, found: RunData) -> Markup:
    """What stages apart from rounds measured, side by side: shares, or else numbers."""
    known, values = words.measured_once(found)
    shown = [one for one in known if one.metric.share] or known
    rows = [
        data.ranged(values, one.name, values[one.name]) | {"what": f"{one.stage}: {one.metric.says}"}
        for one in shown
    ]
    if not rows:
        return nothing("No evaluation is finished yet.")
    share = shown[0].metric.share
    numbers = table(rows, {"what": "measured", **RANGE}, SHARES if share else None)
    spec = charts.bars(rows, share=share, description="What was measured, side by side.")
    note = "apart from rounds; the lines are 95 % intervals, each measure's own"
    return page.figure(f"once-{number}", spec, "Measured once", note, numbers, wide=True)


def _ends(found: RunData, ends: Rows) -> Markup:
    """The table of `finally`: seed, end, gain."""
    read = found.status["final"]["test_read"]
    again = f" Test was read {read} times, as the run was extended; this is the newest." if read > 1 else ""
    columns = {"what": "metric", "before": "seed", "after": "at the end", "gain": "gain in points"}
    rows = [
        {
            "what": row["what"],
            "before": "" if row["before"] is None else wording.amount(row["before"], row["metric"].share),
            "after": wording.within(_parts(row, "after"), "after", row["metric"].share),
            "gain": wording.moved(_parts(row, "gain"), "gain", row["metric"].share),
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
        TROUBLE,
        lead,
        by_run(found, lambda n, one: _stall(page, n, one, traces[n] if traces else None)),
    )


def _stall(page: Page, number: int, found: RunData, traces: Traces | None) -> Markup:
    parts = declared.drawn(page, number, found, TROUBLE, small=False, traces=traces)
    return joined([pair(parts), _signs(page, number, found, traces)])


def _signs(page: Page, number: int, found: RunData, traces: Traces | None) -> Markup:
    parts = []
    if traces and (why := data_traces.unanswered(traces)):
        for stage in dict.fromkeys(row["stage"] for row in why):
            mine = [row for row in why if row["stage"] == stage]
            shown = table(mine, {"round": "round", "why": "why", "count": "traces"})
            spec = charts.stacked(
                mine, value="count", series="why", title="traces without an answer",
                description="Why traces have no answer, by round.",
            )  # fmt: skip
            parts.append(page.figure(f"none-{stage}-{number}", spec, "why no answer", stage, shown))
    parts += declared.drawn(page, number, found, TROUBLE, small=True)
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
