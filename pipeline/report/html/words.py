"""What a run comes to, in sentences: the verdict, the gate's decisions, an answer to each of a reader's
questions.

Plain text; the page escapes it. Every number comes from metrics rows and gates. Not here: the numbers
themselves (`data.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluate import LEARNING, TROUBLE, TRUST, Metric
from pipeline.evaluate.gate import SAME
from pipeline.recipe.measures import Measure, measures, metric_of
from pipeline.recipe.shape import measured
from pipeline.report import wording
from pipeline.report.html import data, data_panels
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Traces, why_none
from pipeline.report.html.declared import remarks, when

ONCE = "What was measured?"  #: asked of a run without rounds
MOST_SAID = 4  #: figures of a run without rounds that its verdict names


@dataclass(frozen=True)
class Verdict:
    """state: better, worse, unclear or early."""

    state: str
    word: str
    sentence: str


def _span(low: float | None, high: float | None, share: bool) -> str:
    if low is None or high is None:
        return ""
    return f" (95 % interval {wording.points(low, share)} to {wording.points(high, share)})"


def verdict(found: RunData) -> Verdict:
    """Did the run make its policy better? One sentence."""
    ends = data_panels.final_table(found)
    end = next((row for row in ends if row["metric"].main), None)
    if end is not None and end["before"] is not None and end["gain"] is not None:
        return _final(found, end)
    return _so_far(found)


def _final(found: RunData, end: Mapping[str, Any]) -> Verdict:
    row = next(row for row in found.finals() if row["stage"] == end["stage"])
    problems = int(row["metrics"].get(f"{end['stage']}/problems", 0))
    low, high, metric = end["gain_low"], end["gain_high"], end["metric"]
    where = f"{problems:,} {_split(found, end['stage'])} problems"
    told = (
        f"{metric.says} went from {wording.amount(end['before'], metric.share)} to "
        f"{wording.amount(end['after'], metric.share)} on {where}: "
        f"{wording.points(end['gain'], metric.share)}{_unit(metric)}{_span(low, high, metric.share)}"
    )
    better, worse = (low or 0) > 0, (high or 0) < 0
    better, worse = (worse, better) if metric.less else (better, worse)
    rounds = _rounds(row["round"])
    if better:
        return Verdict("better", "It learned", f"Over {rounds}, {told}.")
    if worse:
        return Verdict("worse", "It got worse", f"Over {rounds}, {told}.")
    return Verdict("unclear", "No clear change", f"Over {rounds}, {told}; the interval holds zero.")


def _so_far(found: RunData) -> Verdict:
    """From the loop's own measurements, where `finally` has not been reached or has no seed to compare."""
    for head in data.heads(found):
        stage, name, metric = head.stage, head.name, head.metric
        points = [(number, values) for number, values in found.metrics.items() if name in values]
        if len(points) >= 2:
            (_, first), (number, last) = points[0], points[-1]
            where = f"{int(last.get(f'{stage}/problems', 0)):,} {_split(found, stage)} problems"
            told = (
                f"{metric.says} went from {wording.within(first, name, metric.share)} to "
                f"{wording.within(last, name, metric.share)} on {where}"
            )
            ended = "" if found.complete else f"; the run is at round {number} of {found.run.recipe.rounds}"
            state, word, why = _trend(found, head, first, last)
            return Verdict(state, word, f"By round {number}, {told}{why}{ended}.")
        if points:
            begun = wording.within(points[0][1], name, metric.share)
            return Verdict("early", "Too early to say", f"It begins at {begun}.")
    return _apart_from_rounds(found)


def measured_once(found: RunData) -> tuple[list[Measure], dict[str, float]]:
    """What `before` and `finally` measured, where no round measures by one; and all values."""
    rows = [*found.metrics.values(), *(row["metrics"] for row in found.finals())]
    metrics = {name: value for values in rows for name, value in values.items()}
    known = [one for one in measures(found.run.recipe) if one.name in metrics]
    shown = [one for one in known if one.metric.main] or [one for one in known if one.metric.headline]
    return shown, metrics


def _apart_from_rounds(found: RunData) -> Verdict:
    shown, metrics = measured_once(found)
    if not shown:
        return Verdict("early", "Too early to say", "Nothing has been measured yet.")
    said = [
        f"{one.metric.says} {wording.within(metrics, one.name, one.metric.share)} by {one.stage}"
        for one in shown[:MOST_SAID]
    ]
    rest = f", and {len(shown) - len(said)} more below" if len(shown) > len(said) else ""
    more = "" if found.complete else "; the run is not finished"
    return Verdict("early", "Measured once", f"No rounds to compare: {', '.join(said)}{rest}{more}.")


def _unit(metric: Metric) -> str:
    return " points" if metric.share else ""


def _trend(
    found: RunData, head: Measure, first: Mapping[str, float], last: Mapping[str, float]
) -> tuple[str, str, str]:
    """State, headline and evidence: by intervals that lie apart, or by the paired changes of rounds."""
    changes, name = data.changes_of(found, head), head.name
    helped = [str(row["round"]) for row in changes if row["sure"] == "surely better"]
    hurt = [row for row in changes if row["sure"] == "surely worse"]
    if head.metric.less:
        first, last = last, first  # less is better: what fell has risen
    risen = last[name] > first[name]
    why = f"; by the paired comparison round {' and '.join(helped)} surely helped" if helped else ""
    if risen and (helped or last.get(f"{name}/low", 0) > first.get(f"{name}/high", 1)):
        return "better", "It is learning", why
    if not risen and (hurt or last.get(f"{name}/high", 1) < first.get(f"{name}/low", 0)):
        return "worse", "It is getting worse", ""
    return "unclear", "No clear change so far", "; no round helped beyond doubt" if changes else ""


def _rounds(number: int) -> str:
    return "1 round" if number == 1 else f"{number} rounds"


def _split(found: RunData, stage: str) -> str:
    return str(getattr(found.run.recipe.stage(stage).settings, "split", ""))


def state_of(found: RunData) -> str:
    """Complete, running, or how the last launch ended."""
    if found.complete:
        return "complete"
    if found.status["running"]:
        return "running now"
    outcome = found.status["outcome"]
    if outcome and not outcome["ok"]:
        return f"stopped with exit code {outcome['exit_code']}: {outcome['message']}"
    return "not finished"


# --- the gate


def gate_lines(found: RunData) -> list[dict[str, Any]]:
    """Each decision of the gate: round, model, promoted, and why in words."""
    rows = []
    for number, gate in found.gates.items():
        for model, decision in gate["decisions"].items():
            rows.append(
                {
                    "round": number,
                    "model": model,
                    "promoted": bool(decision["promote"]),
                    "trial": bool(decision.get("trial")),
                    "why": _why(found, number, model, decision),
                }
            )
    return rows


def _why(found: RunData, number: int, model: str, decision: Mapping[str, Any]) -> str:
    if decision.get("trial"):
        return "Not measured this round; it stands on trial until the next measurement."
    if decision["first"]:
        checked = any(s.room == "evaluate" and model in measured(s) for s in found.run.stages_in(number))
        rest = "It passed its health check." if checked else "Nothing of that round checked its health."
        return f"Its first weights: there is nothing to compare with. {rest}"
    told = [
        text
        for rule in found.run.recipe.models[model].gate
        if (text := _rule(rule, found.metrics.get(number, {}), metric_of(found.run.recipe, rule.metric)))
    ]
    told += [reason for reason in decision["reasons"] if reason.startswith(("health check", SAME))]
    return " ".join(told) or " ".join(str(reason) for reason in decision["reasons"])


def _rule(rule: Any, metrics: Mapping[str, float], declared: Metric | None) -> str:
    """One rule of the gate as a sentence; empty where its numbers are not there."""
    name = rule.metric
    value = metrics.get(name)
    if value is None:
        return ""
    short = _metric(name, declared)
    share = declared is not None and declared.share

    def form(number: float) -> str:
        return wording.amount(number, share)

    if rule.limit is not None:
        verb = "is within" if rule.within(value) else "is below" if rule.at_most is None else "is above"
        return f"{short} is {form(value)}, which {verb} the limit of {form(rule.limit)}."
    change, low, high = (metrics.get(f"{name}/change{part}") for part in ("", "/low", "/high"))
    if change is None or low is None or high is None:
        return ""
    unit, scale = (" points", 100.0) if share else ("", 1.0)
    digits = 1 if share else 3
    allowed = f"{scale * rule.margin:.{digits}g}{unit}"
    said = (
        f"{short} went from {form(value - change)} to {form(value)}: {scale * change:+.{digits}f}{unit}, "
        f"95 % interval {scale * low:+.{digits}f} to {scale * high:+.{digits}f}."
    )
    down = declared is not None and declared.less
    surely = low > rule.margin if down else high < -rule.margin
    ways = "rise" if down else "loss"
    if surely:
        return f"{said} The whole interval lies beyond the {ways} of {allowed} that the gate allows: refused."
    return f"{said} That is no sure {ways} of more than {allowed}."


def _metric(name: str, declared: Metric | None) -> str:
    """`measure/accuracy/greedy` -> `Greedy accuracy (measure)`."""
    stage, _, metric = name.partition("/")
    said = metric.replace("_", " ")
    if declared is not None:
        said = declared.says if declared.main or declared.headline and declared.share else declared.brief
    return f"{said[:1].upper()}{said[1:]} ({stage})"


# --- a reader's questions


def questions(found: RunData, learned: Sequence[Mapping[str, Any]], num_trees: int) -> list[dict[str, str]]:
    """The questions of someone who was not there, each with its answer and the panel that shows more."""
    once = found.run.recipe.rounds == 0
    rows = [
        (LEARNING, _so_far(found).sentence, "learning"),
        (TROUBLE, _stall(found), "stall"),
        ("Which problems did it learn?", _learned(learned), "learned"),
        ("What does a good trace look like?", _good(found), "traces"),
        ("What did the search do?", _search(found, num_trees), "trees" if num_trees else ""),
        (TRUST, _trust(found), "prm"),
    ]
    heads = any(model.head for model in found.run.recipe.models.values())
    searches = any("Node" in getattr(stage.settings, "makes", ()) for stage in found.run.recipe.stages)
    asked = {  # where there is none, nobody asks
        LEARNING: not once,  # the page's first sentence says it
        TRUST: heads,
        "What did the search do?": searches,
        TROUBLE: not once,
        "Which problems did it learn?": not once,
    }
    return [{"question": q, "answer": a, "panel": p} for q, a, p in rows if asked.get(q, True)]


def which_round(found: RunData) -> str:
    """Which round's model to use, where that is not simply the last one's; else empty."""
    best = data.best_round(found)
    if best is None or best["best"] == best["last"]:
        return ""
    number, last, head = best["best"], best["last"], best["head"]
    values, share = found.metrics[last], head.metric.share
    said = (
        f"Use round {number}: with {wording.amount(best['value'], share)} it measured best on dev; "
        f"round {last} has {wording.amount(best['last_value'], share)}."
    )
    low, high = (values.get(f"{head.name}/{end}") for end in ("low", "high"))
    if low is not None and high is not None and low <= best["value"] <= high:
        said += f" That is within the interval of round {last}, so either will do."
    return said


def export_command(found: RunData) -> str:
    """How to get the best round's model, or the last one's; empty before there is one."""
    best = data.best_round(found)
    number = best["best"] if best else found.last_round
    policy = found.run.recipe.policy or "policy"
    return f"ratchet export {found.name} {number} --model {policy}" if number > 0 else ""


def _stall(found: RunData) -> str:
    head = next((one for one in data.heads(found) if data.changes_of(found, one)), None)
    if head is None:
        return "There is no second measurement yet, so nothing can have stalled."
    changes, share = data.changes_of(found, head), head.metric.share
    sure = [row["round"] for row in changes if row["sure"] == "surely better"]
    last = changes[-1]
    said = (
        f"Round {last['round']} changed {wording.points(last['value'], share)}{_unit(head.metric)}"
        f"{_span(last['low'], last['high'], share)}."
    )
    if last["sure"] == "surely better":
        said = f"It did not: {said[0].lower()}{said[1:]}"
    elif sure:
        said += f" The last round that surely helped was round {sure[-1]}."
    else:
        said += " No round so far helped beyond doubt."
    why = _drops(found)
    return f"{said} {why}".strip()


def _drops(found: RunData) -> str:
    """The main reason in the last round of its first filter, the one whose share the round table shows."""
    rows = [row for row in data_panels.reasons(found) if row["room"] == "select"]
    if not rows:
        return ""
    newest = max(row["round"] for row in rows)
    rows = [row for row in rows if row["round"] == newest]
    ran = {row["stage"] for row in rows}
    first = next(stage.name for stage in found.run.stages_in(newest) if stage.name in ran)
    counts = Counter({row["reason"]: row["count"] for row in rows if row["stage"] == first})
    kept, total = counts.pop("kept", 0), sum(counts.values())
    if not total:
        return f"The filter kept all {kept:,} rows of round {newest}."
    [(reason, most)] = counts.most_common(1)
    return (
        f"Its filter kept {kept:,} of {kept + total:,} rows in round {newest}; "
        f"most of the rest was dropped as {reason} ({most:,})."
    )


def why_unanswered(found: RunData, traces: Traces) -> str:
    """What a filter's `no answer` is made of, from the sampled traces of what it read; empty where none."""
    why = Counter(
        why_none(found, trace)
        for place in traces.places
        if place.stage.room == "generate"
        for trace in place.traces.values()
        if trace.answer is None
    )
    if not why:
        return ""
    parts = ", ".join(f"{wording.percent(n / why.total(), 0)} {name}" for name, n in why.most_common())
    return f"Of the {why.total():,} traces without an answer in the sample below: {parts}."


def _learned(learned: Sequence[Mapping[str, Any]]) -> str:
    if not learned:
        return "No two rounds were measured on the same problems yet."
    solved, lost = (sum(row[key] for row in learned) for key in ("num_solved", "num_lost"))
    last = learned[-1]
    return (
        f"Over all rounds {solved:,} of {last['problems']:,} problems became newly solved and {lost:,} were "
        f"lost again; in round {last['round']} it was {last['num_solved']:,} and {last['num_lost']:,}. "
        "Each is listed, with its answers before and after."
    )


def _good(found: RunData) -> str:
    rows = [row for row in data_panels.flow(found) if row["step"] == "right"]
    if not rows:
        return "Filter the trace browser by right and kept; this run has labelled no training traces yet."
    last = rows[-1]
    return (
        f"In round {last['round']}, {last['count']:,} training traces were right. "
        "Where somebody scored the steps, colours show what each was worth."
    )


def _search(found: RunData, num_trees: int) -> str:
    growing = [s for s in found.run.recipe.stages if "Node" in getattr(s.settings, "makes", ())]
    names = [s.name for s in growing if s.room != "label"]  # a labeller's tree is no way to an answer
    if not growing:
        return "Nothing: this recipe samples whole traces and searches no tree."
    for number in sorted(found.metrics, reverse=True):
        values = found.metrics[number]
        for name in names or [s.name for s in growing]:
            nodes, given = values.get(f"{name}/nodes"), values.get(f"{name}/given")
            if nodes and not names:
                return (
                    f"No tree is searched for answers. In round {number} the labels of {name} made trees of "
                    f"prefixes, {int(nodes):,} nodes: `ratchet show {found.name} {number} {name}`."
                )
            if nodes and given:
                ends = int(values.get(f"{name}/traces", 0))
                return (
                    f"In round {number} it grew {nodes / given:.1f} nodes a problem for {int(given):,} "
                    f"problems and reached {ends:,} ends. {num_trees} trees are shown, with visits, values "
                    "and the way to the chosen answer."
                )
    told = ", ".join(names or [s.name for s in growing])
    return f"The recipe searches ({told}), but no such stage is finished yet."


def _trust(found: RunData) -> str:
    """What the evaluations say of it themselves, of the last one that speaks."""
    told = remarks(found, TRUST)
    if not told:
        heads = [name for name, model in found.run.recipe.models.items() if model.head]
        return (
            f"{heads[0]} has not been measured yet." if heads else "This recipe has no process reward model."
        )
    number, stage, said = max(told, key=lambda one: one[0])
    return f"{when(stage, number).capitalize()}: {said}"
