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

from pipeline.evaluate import Metric
from pipeline.recipe.check import metric_of
from pipeline.report import wording
from pipeline.report.html import data, data_panels
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Traces, why_none


@dataclass(frozen=True)
class Verdict:
    """state: better, worse, unclear or early."""

    state: str
    word: str
    sentence: str


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" (95 % interval {wording.points(low)} to {wording.points(high)})"


def verdict(found: RunData) -> Verdict:
    """Did the run make its policy better? One sentence."""
    ends = data_panels.final_table(found)
    heads = ("greedy", "search", "sampled")
    end = next((row for head in heads for row in ends if row["what"] == head), None)
    if end is not None and end["before"] is not None and end["gain"] is not None:
        return _final(found, end)
    return _so_far(found)


def _final(found: RunData, end: Mapping[str, Any]) -> Verdict:
    row = next(row for row in found.finals() if row["stage"] == end["stage"])
    problems = int(row["metrics"].get(f"{end['stage']}/problems", 0))
    low, high = end["gain_low"], end["gain_high"]
    where = f"{problems:,} {_split(found, end['stage'])} problems"
    told = (
        f"{end['what']} accuracy went from {wording.percent(end['before'])} to "
        f"{wording.percent(end['after'])} on {where}: {wording.points(end['gain'])} points{_span(low, high)}"
    )
    rounds = _rounds(row["round"])
    if low is not None and low > 0:
        return Verdict("better", "It learned", f"Over {rounds}, {told}.")
    if high is not None and high < 0:
        return Verdict("worse", "It got worse", f"Over {rounds}, {told}.")
    return Verdict("unclear", "No clear change", f"Over {rounds}, {told}; the interval holds zero.")


def _so_far(found: RunData) -> Verdict:
    """From the loop's own measurements, where `finally` has not been reached or has no seed to compare."""
    for stage, head in data.heads(found):
        name = f"{stage}/{head}"
        points = [(number, values) for number, values in found.metrics.items() if name in values]
        if len(points) >= 2:
            (_, first), (number, last) = points[0], points[-1]
            where = f"{int(last.get(f'{stage}/problems', 0)):,} {_split(found, stage)} problems"
            told = (
                f"{head.removeprefix('accuracy/')} accuracy went from {wording.within(first, name)} to "
                f"{wording.within(last, name)} on {where}"
            )
            ended = "" if found.complete else f"; the run is at round {number} of {found.run.recipe.rounds}"
            state, word, why = _trend(found, stage, first, last, name)
            return Verdict(state, word, f"By round {number}, {told}{why}{ended}.")
        if points:
            return Verdict("early", "Too early to say", f"It begins at {wording.within(points[0][1], name)}.")
    return Verdict("early", "Too early to say", "Nothing has been measured yet.")


def _trend(
    found: RunData, stage: str, first: Mapping[str, float], last: Mapping[str, float], name: str
) -> tuple[str, str, str]:
    """State, headline and evidence: by intervals that lie apart, or by the paired changes of rounds."""
    changes = [row for row in data.changes(found) if row["stage"] == stage]
    helped = [str(row["round"]) for row in changes if row["sure"] == "surely better"]
    hurt = [row for row in changes if row["sure"] == "surely worse"]
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
        return "Its first weights: there is nothing to compare with. It passed its health check."
    told = [
        text
        for rule in found.run.recipe.models[model].gate
        if (text := _rule(rule, found.metrics.get(number, {}), metric_of(found.run.recipe, rule.metric)))
    ]
    told += [reason for reason in decision["reasons"] if reason.startswith("health check")]
    return " ".join(told) or " ".join(str(reason) for reason in decision["reasons"])


def _rule(rule: Any, metrics: Mapping[str, float], declared: Metric | None) -> str:
    """One rule of the gate as a sentence; empty where its numbers are not there."""
    name = rule.metric
    value = metrics.get(name)
    if value is None:
        return ""
    short = _metric(name)
    share = wording.is_share(name.partition("/")[2])
    form = wording.percent if share else (lambda number: f"{number:.3g}")
    if rule.at_most is not None:
        verb = "is within" if value <= rule.at_most else "is above"
        return f"{short} is {form(value)}, which {verb} the limit of {form(rule.at_most)}."
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


def _metric(name: str) -> str:
    """`measure/accuracy/greedy` -> `Greedy accuracy (measure)`."""
    stage, _, metric = name.partition("/")
    if metric.startswith("accuracy/"):
        metric = f"{metric.removeprefix('accuracy/')} accuracy"
    metric = {"auc": "AUC", "ece": "calibration error", "length/mean": "length"}.get(metric, metric)
    return f"{metric[:1].upper()}{metric[1:].replace('_', ' ')} ({stage})"


# --- a reader's questions


def questions(found: RunData, learned: Sequence[Mapping[str, Any]], num_trees: int) -> list[dict[str, str]]:
    """The questions of someone who was not there, each with its answer and the panel that shows more."""
    rows = [
        ("Is it getting better?", _so_far(found).sentence, "learning"),
        ("Why did it stall?", _stall(found), "stall"),
        ("Which problems did it learn?", _learned(learned), "learned"),
        ("What does a good trace look like?", _good(found), "traces"),
        ("What did the search do?", _search(found, num_trees), "trees" if num_trees else ""),
        ("Can I trust the PRM?", _trust(found), "prm" if data_panels.prm_table(found) else ""),
    ]
    heads = any(model.head for model in found.run.recipe.models.values())
    searches = any("Node" in getattr(stage.settings, "makes", ()) for stage in found.run.recipe.stages)
    asked = {
        "Can I trust the PRM?": heads,
        "What did the search do?": searches,
    }  # where there is none, nobody asks
    return [{"question": q, "answer": a, "panel": p} for q, a, p in rows if asked.get(q, True)]


def which_round(found: RunData) -> str:
    """Which round's model to use, where that is not simply the last one's; else empty."""
    best = data.best_round(found)
    if best is None or best["best"] == best["last"]:
        return ""
    number, last = best["best"], best["last"]
    values = found.metrics[last]
    said = (
        f"Use round {number}: with {wording.percent(best['value'])} it measured best on dev; "
        f"round {last} has {wording.percent(best['last_value'])}."
    )
    low, high = (values.get(f"{best['name']}/{end}") for end in ("low", "high"))
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
    changes = data.changes(found)
    if not changes:
        return "There is no second measurement yet, so nothing can have stalled."
    first = changes[0]["stage"]
    changes = [row for row in changes if row["stage"] == first]
    sure = [row["round"] for row in changes if row["sure"] == "surely better"]
    last = changes[-1]
    said = (
        f"Round {last['round']} changed {wording.points(last['value'])} points"
        f"{_span(last['low'], last['high'])}."
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
    """The filter's main reason in the last round."""
    rows = [row for row in data_panels.reasons(found) if row["room"] == "select"]
    if not rows:
        return ""
    newest = max(row["round"] for row in rows)
    stage = next(row["stage"] for row in rows if row["round"] == newest)
    counts = Counter({r["reason"]: r["count"] for r in rows if r["round"] == newest and r["stage"] == stage})
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
    names = [s.name for s in found.run.recipe.stages if "Node" in getattr(s.settings, "makes", ())]
    if not names:
        return "Nothing: this recipe samples whole traces and searches no tree."
    for number in sorted(found.metrics, reverse=True):
        values = found.metrics[number]
        for name in names:
            nodes, given = values.get(f"{name}/nodes"), values.get(f"{name}/given")
            if nodes and given:
                ends = int(values.get(f"{name}/traces", 0))
                return (
                    f"In round {number} it grew {nodes / given:.1f} nodes a problem for {int(given):,} "
                    f"problems and reached {ends:,} ends. {num_trees} trees are shown, with visits, values "
                    "and the way to the chosen answer."
                )
    return f"The recipe searches ({', '.join(names)}), but no such stage is finished yet."


def _trust(found: RunData) -> str:
    table = data_panels.prm_table(found)
    if not table:
        heads = [name for name, model in found.run.recipe.models.items() if model.head]
        return (
            f"{heads[0]} has not been measured yet." if heads else "This recipe has no process reward model."
        )
    last = table[-1]
    auc = last.get("auc")
    if auc is None:
        return f"Its AUC is undefined in round {last['round']}: all scored steps are alike."
    word = "To rank steps, yes" if auc >= 0.8 else "With care" if auc >= 0.65 else "Hardly"
    values = found.metrics[last["round"]]
    low, high = (values.get(f"{last['stage']}/auc/{part}") for part in ("low", "high"))
    span = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    said = f"{word}: in round {last['round']} sound steps scored above unsound ones with AUC {auc:.3f}{span}."
    if calibrated := _calibrated(found, last["round"], last["stage"]):
        said += f" {calibrated}"
    if abs(last.get("length_correlation", 0.0)) > 0.4:
        said += f" Beware: it follows length (correlation {last['length_correlation']:+.2f})."
    return said


def _calibrated(found: RunData, number: int, stage: str) -> str:
    """Are its scores probabilities where they are used? A search, a vote and best-of-n act on the high ones,
    so the tenths above the share of sound steps count; the mass of low scores can look right alone."""
    rows = [row for row in data_panels.calibration(found) if row["round"] == number and row["stage"] == stage]
    sound = sum(row["share"] * row["true"] for row in rows)
    used = [row for row in rows if int(10 * row["score"]) > int(10 * sound)]
    share = sum(row["share"] for row in used)
    if not rows:
        return ""
    if not share:
        return (
            f"No score is above the share of sound steps ({wording.percent(sound)}): take their order only."
        )
    promised, true = (sum(row["share"] * row[key] for row in used) / share for key in ("score", "true"))
    far = sum(row["share"] * abs(row["score"] - row["true"]) for row in used) / share
    least = (int(10 * sound) + 1) / 10
    told = (
        f"of its scores above {least:.1f} ({wording.percent(share)} of all, the ones that choose) "
        f"{wording.percent(true)} were sound, where {wording.percent(promised)} are promised"
    )
    if far > 0.15:
        return f"Its scores are no probabilities where they are used: {told}."
    empty = [row for row in used if row["true"] == 0]
    if empty and sum(row["share"] for row in empty) > 0.02 * share:
        least = min(row["score"] for row in empty)
        return f"Beware of its high scores: {told}; those around {least:.2f} were never sound."
    return f"Its scores are near probabilities where they are used: {told}."
