"""The sampled traces, as the columns that the page's trace browser reads (they compress well).

Model text is spelled so that no control character acts. Not here: which traces are sampled
(`data_traces.py`), how they are shown (`page_traces.js`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import LONGEST, Place, Traces, flips, learned, why_none
from pipeline.report.show import safe
from pipeline.rows import ATTEMPTS, Problem, Trace

KEYS = "g p id steps a ok fate sc end n score model flag why act up said"


def shown(text: str) -> str:
    """Text as `safe` spells it; plain text, which most is, takes the short way."""
    return text if text.isascii() and text.replace("\n", "").isprintable() else safe(text)


def columns(found: list[RunData], traces: list[Traces]) -> dict[str, Any]:
    """Everything the browser shows, as columns (they compress well). Model text is spelled so that no
    control character acts.
    """
    table: dict[str, list[Any]] = {key: [] for key in KEYS.split()}
    groups: list[dict[str, Any]] = []
    problems: dict[str, int] = {}
    asked: list[list[str]] = []
    words: dict[str, int] = {}

    def problem(problem_id: str, known: dict[str, Problem]) -> int:
        if problem_id not in problems:
            problems[problem_id] = len(asked)
            row = known.get(problem_id)
            texts = (row.question, row.answer or "", row.difficulty) if row else ("", "", "")
            asked.append([shown(problem_id), *(shown(text) for text in texts)])
        return problems[problem_id]

    for run, (one, mine) in enumerate(zip(found, traces, strict=True)):
        for place in sorted(mine.places, key=lambda place: (place.final, -place.round)):  # newest first
            solved, lost = (set(ids) for ids in flips(one, mine.places, place))
            at = {name: len(table["g"]) + number for number, name in enumerate(place.traces)}
            for trace in place.traces.values():
                row = _row(place, trace)
                row["up"] = at.get(trace.parent or "", -1)
                row["why"] = "" if trace.answer is not None else why_none(one, trace)
                changed = 1 if trace.problem_id in solved else 2 if trace.problem_id in lost else 0
                row["flag"] += changed if row["ok"] == (changed == 1) else 0  # a wrong trace solved nothing
                table["p"].append(problem(trace.problem_id, mine.problems))
                table["g"].append(len(groups))
                for key, value in row.items():
                    table[key].append(value)
            groups.append(_group(run, place))
    fates = [words.setdefault(fate, len(words)) for fate in table["fate"]]
    models: dict[str, int] = {}
    acts: dict[str, int] = {}
    table["act"] = [acts.setdefault(act, len(acts)) for act in table["act"]]
    table["fate"] = fates
    table["model"] = [models.setdefault(model, len(models)) for model in table["model"]]
    return {
        "columns": table,
        "groups": groups,
        "problems": asked,
        "fates": list(words),
        "models": list(models),
        "acts": list(acts),
        "attempts": list(ATTEMPTS),
        "runs": [one.name for one in found],
        "total": sum(each.total for each in traces),
        "learned": [_listed(one, mine, problem) for one, mine in zip(found, traces, strict=True)],
    }


def _listed(
    found: RunData, traces: Traces, problem: Callable[[str, dict[str, Problem]], int]
) -> list[dict[str, Any]]:
    """Newly solved and lost problems by their place in the list of problems; the first 200 of each and round
    where there are many rounds."""
    rows = learned(found, traces)
    most = None if len(rows) <= 20 else 200
    return [
        row
        | {key: [problem(i, traces.problems) for i in row[key][:most]] for key in ("solved", "lost")}
        | {f"num_{key}": len(row[key]) for key in ("solved", "lost")}
        for row in rows
    ]


def _group(run: int, place: Place) -> dict[str, Any]:
    return {
        "run": run,
        "stage": place.stage.name,
        "room": place.stage.room,
        "round": place.round,
        "final": place.final,
        "split": place.split,
        "total": place.total,
        "shown": len(place.traces),
    }


def _row(place: Place, trace: Trace) -> dict[str, Any]:
    """One trace. ok: 1 right, 0 wrong, -1 nobody knows. flag: 4 chosen, +8 hinted, +16 greedy; the caller
    adds 1 for newly solved, 2 for newly lost. said: what a labeller without gold calls it, as ok."""
    verdict = -1
    scores: dict[str, list[float | None]] = {}
    for label in place.labels.get(trace.id, []):
        if label.correct is not None:
            verdict = int(label.correct)
        steps = label.step_scores or label.advantage
        if steps and any(score is not None for score in steps):
            scores[label.labeller or "label"] = [None if s is None else round(s, 3) for s in steps]
    greedy = place.stage.room == "evaluate" and trace.temperature == 0
    return {
        "id": shown(trace.id),
        "steps": _steps(trace),
        "a": None if trace.answer is None else shown(trace.answer),
        "ok": verdict,
        "fate": place.fate.get(trace.id, ""),
        "sc": scores or 0,
        "end": trace.finish,
        "n": len(trace.token_ids),
        "score": None if trace.score is None else round(trace.score, 4),
        "model": shown(trace.model),
        "act": shown(trace.act),
        "said": int(place.called[trace.id]) if trace.id in place.called else -1,
        "flag": 4 * trace.chosen + 8 * trace.hinted + 16 * greedy,
    }


def _steps(trace: Trace) -> list[str]:
    """The steps as shown; a very long trace is cut, and says so."""
    steps, left = [], LONGEST
    for step in trace.steps or [trace.text]:
        if left <= 0:
            steps.append(f"[... {len(trace.text) - LONGEST:,} more characters]")
            break
        steps.append(shown(step[:left]))
        left -= len(step)
    return steps
