"""The later panels of the HTML report: the filter, the reward model, costs, the gate, the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.evaluate import TRUST
from pipeline.report import wording
from pipeline.report.html import charts, data_panels, declared, words
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Traces
from pipeline.report.html.pieces import (
    Page,
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


MOST_DECISIONS = 30  #: of the gate that are listed; the others are behind a click


def filtering(page: Page, found: Sequence[RunData], traces: Sequence[Traces] = ()) -> Markup:
    """The flow of traces: generated, labelled, kept, by reason."""
    lead = (
        "Traces that were written, labelled, found right, and kept as training rows; then, for each "
        "filter, what became of everything that it read. Every row is kept or dropped for one reason."
    )
    return section(
        "filter",
        "What did it train on?",
        lead,
        by_run(found, lambda n, one: _flow(page, n, one, traces[n] if traces else None)),
    )


def _flow(page: Page, number: int, found: RunData, traces: Traces | None) -> Markup:
    rows, why = data_panels.flow(found), data_panels.reasons(found)
    if not rows:
        return joined([])
    shown = table(rows, {"round": "round", "stage": "stage", "step": "step", "count": "rows"})
    spec = charts.funnel(rows, "Rows generated, labelled, right and kept in each round.")
    parts = [page.figure(f"flow-{number}", spec, "From traces to training rows", "", shown)]
    for stage in dict.fromkeys(row["stage"] for row in why):
        mine = [row for row in why if row["stage"] == stage]
        counts = table(mine, {"round": "round", "reason": "what became of it", "count": "rows"})
        spec = charts.stacked(
            mine, value="count", series="reason", title="rows", first="kept",
            description=f"What became of the rows that {stage} read, by round.",
        )  # fmt: skip
        note = "of the rounds so far" if _pools(found, stage) else ""
        name, title = f"why-{stage}-{number}", f"{mine[0]['room']} {stage}"
        parts.append(page.figure(name, spec, title, note, counts, picture=f"filter/{stage}"))
    told = nothing(said) if traces and (said := words.why_unanswered(found, traces)) else joined([])
    return joined([pair(parts), told])


def _pools(found: RunData, stage: str) -> bool:
    return getattr(found.run.recipe.stage(stage).settings, "mix", "") == "all_rounds"


def reward(page: Page, found: Sequence[RunData]) -> Markup:
    """What evaluations of a process reward model declare, where there is one."""
    lead = (
        "A process reward model scores steps. AUC: how often a sound step scores above an unsound one "
        "(0.5 is chance). Calibration: a score of 0.7 should be true 70 % of the time, on the dashed line."
    )
    return section("prm", TRUST, lead, by_run(found, lambda number, one: _reward(page, number, one)))


def _reward(page: Page, number: int, found: RunData) -> Markup:
    figures = [one for one in declared.figures(found, TRUST) if not one.panel.small]
    drawn = [declared.draw(page, number, found, one, wide=one is figures[0]) for one in figures]
    parts = [one for one in drawn if one is not None]
    if not parts:
        return joined([])
    return joined([pair(parts), *declared.drawn(page, number, found, TRUST, small=True)])


def more(page: Page, found: Sequence[RunData]) -> Markup:
    """What evaluations declare under questions of their own; empty where they declare nothing more."""
    lead = "What this run's evaluations measured beside the above."

    def body(number: int, one: RunData) -> Markup:
        drawn = [made for small in (False, True) for made in declared.drawn(page, number, one, small=small)]
        said = [nothing(text) for text in declared.own_remarks(one)]
        return joined([*said, pair(drawn)]) if drawn else joined(said)

    return section("more", "What else was measured?", lead, by_run(found, body))


def costs(page: Page, found: Sequence[RunData]) -> Markup:
    """Time and tokens by stage."""
    lead = (
        "Wall time of each stage over all launches, and the tokens that each stage had models write or read "
        "(what the method costs, whatever was cached)."
    )
    return section(
        "cost", "Time and tokens", lead, by_run(found, lambda number, one: _costs(page, number, one))
    )


def _costs(page: Page, number: int, found: RunData) -> Markup:
    times, tokens = data_panels.times(found), data_panels.tokens(found)
    parts = []
    if times:
        shown = table(times, {"round": "round", "stage": "stage", "seconds": "seconds"})
        spec = charts.stacked(
            times,
            value="seconds",
            series="stage",
            title="seconds",
            order=[stage.name for stage in found.run.recipe.stages],
            description="Seconds by round and stage.",
        )
        parts.append(
            page.figure(
                f"time-{number}",
                spec,
                "Time by stage",
                _total(sum(r["seconds"] for r in times)),
                shown,
                picture="time",
            )  # fmt: skip
        )
    if tokens:
        shown = table(tokens, {"round": "round", "stage": "stage", "model": "model", "tokens": "tokens"})
        named = [row | {"by": f"{row['stage']}, {row['model']}"} for row in tokens]
        spec = charts.stacked(
            named,
            value="tokens",
            series="by",
            title="tokens",
            description="Tokens by round, stage and model.",
        )
        all_tokens = f"{wording.count(sum(row['tokens'] for row in tokens))} in all"
        title = "Tokens by stage and model"
        parts.append(page.figure(f"tokens-{number}", spec, title, all_tokens, shown, picture="tokens"))
    return pair(parts)


def _total(seconds: float) -> str:
    return f"{wording.duration(seconds)} in all"


def gate(found: Sequence[RunData]) -> Markup:
    """Every decision of the gate, in words."""

    def body(number: int, one: RunData) -> Markup:
        rows = words.gate_lines(one)
        if not rows:
            return joined([])
        items = []
        for row in rows:
            word, look, colour = (
                ("promoted", "", "good") if row["promoted"] else ("refused", "refused", "bad")
            )
            if row["trial"]:
                word, look, colour = "on trial", "trial", ""
            items.append(row | {"word": word, "look": look, "colour": colour})
        if len(items) <= MOST_DECISIONS:
            return part("decisions", items)
        refused = [item for item in items if item["look"]]
        shown = [*refused[-MOST_DECISIONS:], *items[-2:]]
        rest = part("more", f"All {len(items):,} decisions", part("decisions", items))
        told = nothing(f"{len(items) - len(refused):,} promoted, {len(refused):,} refused or on trial:")
        return joined([told, part("decisions", shown), rest])

    lead = (
        "After each round the gate decides whether the new weights take over. It refuses only what is surely "
        "worse: when the whole 95 % interval of the paired change lies beyond the margin. A refused model is "
        "kept on disk."
    )
    return section("gate", "The gate's decisions", lead, by_run(found, body))


def recipe(found: Sequence[RunData]) -> Markup:
    """The recipe as resolved and the exact commands."""
    parts = []
    if len(found) > 1:
        rows = [
            {"key": row["key"], **{str(n): value for n, value in enumerate(row["values"])}}
            for row in data_panels.recipe_differences(list(found))
        ]
        heads = {"key": "setting", **{str(n): one.name for n, one in enumerate(found)}}
        same = nothing("The recipes agree in every setting.")
        parts.append(part("box", "Where the recipes differ", "", table(rows, heads)) if rows else same)
    parts.append(by_run(found, lambda number, one: _recipe(one)))
    lead = "The recipe with every default filled in, and commands to go on, look deeper, or make it again."
    return section("recipe", "Recipe and commands", lead, joined(parts))


def _recipe(found: RunData) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in data_panels.versions(found).items())
    versions = versions or "versions that no stage has recorded yet"
    return part("recipe", commands(found), found.recipe_text(), versions)


def commands(found: RunData) -> str:
    """What a reader may type, with this run's own names."""
    name, rounds = found.name, found.run.recipe.rounds
    looked = next((s.name for s in found.run.recipe.section("stages") if s.room == "label"), None)
    last = max(found.last_round, 0)
    more = ("two more rounds", f"ratchet run {name} rounds={rounds + 2}")
    again = [more] if found.run.recipe.section("stages") else []  # else there is no round to go
    lines = [
        ("go on with it, where something is left to do", f"ratchet run {name}"),
        (
            "make it again from its recipe",
            f"ratchet run {found.run.folder.as_posix()}/recipe.yaml --name {name}-again",
        ),
        ("how far it is", f"ratchet status {name}"),
        *again,
        ("this report", f"ratchet report {name}"),
    ]
    if looked and last:
        lines.insert(3, ("rows of a stage", f"ratchet show {name} {last} {looked}"))
    if command := words.export_command(found):
        lines.append(("the model as an ordinary folder", command))
    return "\n".join(f"# {what}\n{command}" for what, command in lines)
