"""Tables of one round for a monitor: sample traces, problems won and lost, search trees. Plain
columns and rows.

    tables(found, 2)  ->  [("traces/sample", Table), ("changed/measure", Table), ("trees/search", Table)]

Text of a model is spelled so that no control character acts. Few rows, read from few chunks: the browser over
all of them is the HTML report. Not here: how a monitor takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pipeline.report.html import data_traces, data_trees
from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import Place, Traces, find_places, known_problems, read_place
from pipeline.report.monitor import Table
from pipeline.report.show import safe
from pipeline.rows import Problem, Trace

MOST_TRACES = 120  #: of one stage in one round
MOST_CHANGED = 100  #: problems newly solved, and as many newly lost
MOST_TREES = 6
LONGEST = 4000  #: characters of a cell


Build = Callable[[], Table | None]
TRACES = (
    *("round", "stage", "problem", "question", "trace", "answer", "gold", "right", "step scores"),
    *("kept, or why not", "tokens", "ended by", "model", "trace id"),
)
CHANGED = ("round", "what", "problem", "question", "gold", "trace before", "trace now", "answer now")
TREES = ("round", "problem", "question", "gold", "nodes", "right", "tree: value, visits, step")


def tables(found: RunData, number: int, final: bool = False) -> Iterator[tuple[str, Build]]:
    """(name, how to make it) of every table that a round has."""
    places = find_places(found)
    for place in places:
        if place.round != number or place.final != final:
            continue
        front = place.stage.name
        yield f"traces/{front}", partial(_traces, found, place)
        if place.stage.room == "evaluate" and not final:
            yield f"changed/{front}", partial(_changed, found, places, place)
        if "Node" in getattr(place.stage.settings, "makes", ()):
            yield f"trees/{front}", partial(_trees, found, place)


def _cell(text: str | None) -> str:
    text = safe(text or "")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [... {len(text) - LONGEST:,} more characters]"


def _first_problems(place: Place, most: int) -> list[str]:
    """Problems of the first chunks that are done, as many as should hold `most` traces."""
    plan, left = place.folder.plan(), float(most)
    assert plan is not None
    chosen: list[str] = []
    for sidecar in place.folder.sidecars():
        ids = plan.chunks[sidecar.chunk].ids
        for problem_id in ids:
            left -= sidecar.counts.rows.get("Trace", 0) / len(ids)
            if left < 0 and chosen:
                return chosen
            chosen.append(problem_id)
    return chosen


def _traces(found: RunData, place: Place) -> Table | None:
    """Every trace of the first problems, with its verdict, step scores and fate."""
    wanted = set(_first_problems(place, MOST_TRACES))
    read_place(found, place, wanted, data_traces.chunks_with(place.folder, wanted))
    problems = known_problems(found, [place], wanted)
    rows = [_trace(place, trace, problems.get(trace.problem_id)) for trace in place.traces.values()]
    return Table(TRACES, rows[:MOST_TRACES]) if rows else None


def _trace(place: Place, trace: Trace, problem: Problem | None) -> list[Any]:
    labels = place.labels.get(trace.id, [])
    right = next((label.correct for label in labels if label.correct is not None), None)
    scores = next((s for label in labels if (s := label.step_scores or label.advantage)), None)
    said = "" if scores is None else " ".join("?" if s is None else f"{s:.2f}" for s in scores)
    return [
        place.round,
        place.stage.name,
        safe(trace.problem_id),
        _cell(problem.question if problem else ""),
        _cell(trace.text),
        _cell(trace.answer),
        _cell(problem.answer if problem else ""),
        right,
        said,
        place.fate.get(trace.id, ""),
        len(trace.token_ids),
        trace.finish,
        safe(trace.model),
        safe(trace.id),
    ]


def _changed(found: RunData, places: list[Place], place: Place) -> Table | None:
    """Problems whose main answer became right, or wrong again, against the model that stood before."""
    old = data_traces.before(found, places, place)
    if old is None:
        return None
    for each in (old, place):
        read_place(found, each, set())
    solved, lost = (ids[:MOST_CHANGED] for ids in data_traces.flips(found, places, place))
    wanted = {*solved, *lost}
    for each in (old, place):
        read_place(found, each, wanted, data_traces.chunks_with(each.folder, wanted))
    problems = known_problems(found, [], wanted)
    rows = []
    for what, ids in (("newly solved", solved), ("newly lost", lost)):
        for problem_id in ids:
            problem, then, now = problems.get(problem_id), _main(old, problem_id), _main(place, problem_id)
            asked = [_cell(problem.question), _cell(problem.answer)] if problem else ["", ""]
            shown = [_cell(then.text), _cell(now.text), _cell(now.answer)]
            rows.append([place.round, what, safe(problem_id), *asked, *shown])
    return Table(CHANGED, rows) if rows else None


def _main(place: Place, problem_id: str) -> Trace:
    return place.traces[place.main[problem_id]]


def _trees(found: RunData, place: Place) -> Table | None:
    """A few trees as indented text; `*` marks the chosen end."""
    ids = _first_problems(place, MOST_TREES * 100)[:MOST_TREES]
    read_place(found, place, set(ids))
    traces = Traces([place], known_problems(found, [place], set(ids)), place.total, ids)
    rows = []
    for tree in data_trees.read_trees(found, traces, MOST_TREES):
        ends = [node["ok"] for node in tree["nodes"] if node.get("c")]
        right = bool(ends[0]) if ends and ends[0] >= 0 else None
        asked = [_cell(tree["question"]), _cell(tree["answer"])]
        rows.append([place.round, tree["id"], *asked, tree["all"], right, _drawn(tree["nodes"])])
    return Table(TREES, rows) if rows else None


def _drawn(nodes: list[dict[str, Any]]) -> str:
    """A tree as text, a node a line, deeper by two columns."""
    below: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        below.setdefault(node["u"], []).append(place)
    open_nodes, lines = [(place, 0) for place in reversed(below.get(-1, []))], []
    while open_nodes:
        place, depth = open_nodes.pop()
        node = nodes[place]
        value = "    " if node.get("v") is None else f"{node['v']:4.2f}"
        end = {1: "  right", 0: "  wrong"}.get(node.get("ok", -1), "") + (" *" if node.get("c") else "")
        lines.append(
            f"{value} {node['n']:>4}x {'  ' * depth}{' '.join(node['s'].split()) or '(question)'}{end}"
        )
        open_nodes += [(child, depth + 1) for child in reversed(below.get(place, []))]
    return _cell("\n".join(lines))
