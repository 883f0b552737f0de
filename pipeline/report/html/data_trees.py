"""The search trees that go into the report: a few of each stage and round, the largest ones pruned.

A node keeps its ancestors: pruning goes by visits, and the path to the chosen answer always stays. Not here:
how a tree grew (`generate/`), how it is drawn (`page_tree.js`).
"""

from __future__ import annotations

from typing import Any

from pipeline.report.html.data import RunData
from pipeline.report.html.data_traces import KEPT, Place, Traces, read_rows
from pipeline.report.show import safe
from pipeline.rows import Label, Node

MOST_TREES = 60  #: over all runs of a report
MOST_NODES = 300  #: of one tree
LONGEST_STEP = 600  #: characters of one step


def read_trees(found: RunData, traces: Traces, most: int = MOST_TREES) -> list[dict[str, Any]]:
    """Trees of sampled problems, the same problems in every round."""
    places = [p for p in traces.places if any("Node" in s.counts.rows for s in p.folder.sidecars())]
    each = max(1, most // max(len(places), 1))
    places = [places[n * len(places) // most] for n in range(most)] if len(places) > most else places
    trees = []
    for place in places:
        for problem_id, nodes in _nodes(place, traces, each).items():
            trees.append(_tree(found, place, traces, problem_id, nodes))
    return trees


def _nodes(place: Place, traces: Traces, each: int) -> dict[str, list[Node]]:
    """The nodes of the first `each` sampled problems that this place searched."""
    plan = place.folder.plan()
    assert plan is not None
    done = {sidecar.chunk for sidecar in place.folder.sidecars() if "Node" in sidecar.counts.rows}
    where = {i: number for number, chunk in enumerate(plan.chunks) for i in chunk.ids if number in done}
    wanted = [problem_id for problem_id in traces.order if problem_id in where][:each]
    grown: dict[str, list[Node]] = {problem_id: [] for problem_id in wanted}
    for row in read_rows(place.folder, ("Node",), {where[i] for i in wanted}):
        if row.problem_id in grown:
            grown[row.problem_id].append(row)
    return {problem_id: nodes for problem_id, nodes in grown.items() if nodes}


def _tree(found: RunData, place: Place, traces: Traces, problem_id: str, nodes: list[Node]) -> dict[str, Any]:
    values = _values(found, place, problem_id)
    kept = prune(nodes, {t.id for t in place.traces.values() if t.chosen})
    at = {node.id: number for number, node in enumerate(kept)}
    problem = traces.problems.get(problem_id)
    return {
        "run": found.name,
        "stage": place.stage.name,
        "round": place.round,
        "final": place.final,
        "id": safe(problem_id),
        "question": safe(problem.question) if problem else "",
        "answer": safe(problem.answer or "") if problem else "",
        "all": len(nodes),
        "nodes": [_node(place, node, at, values) for node in kept],
    }


def _values(found: RunData, place: Place, problem_id: str) -> dict[str, float]:
    """What a label stage made of each node."""
    if place.stage.room != "generate" or place.final:
        return {}
    run, values = found.run, {}
    for stage in run.stages_in(place.round):
        if stage.room == "label" and place.stage.name in stage.sources:
            folder = run.stage_folder(stage, place.round)
            plan = folder.plan()
            chunks = {n for n, c in enumerate(plan.chunks) if problem_id in c.ids} if plan else set()
            for row in read_rows(folder, ("Label",), chunks):
                if isinstance(row, Label) and row.problem_id == problem_id and row.value is not None:
                    values[row.trace_id] = row.value
    return values


def prune(nodes: list[Node], chosen: set[str], most: int = MOST_NODES) -> list[Node]:
    """At most `most` nodes, with all their ancestors, the most visited first; the way to the chosen answer
    always."""
    if len(nodes) <= most:
        return nodes
    by_id = {node.id: node for node in nodes}
    kept: dict[str, None] = {}
    ranked = sorted(nodes, key=lambda node: (node.trace_id not in chosen, -node.visits, node.depth))
    for node in ranked:
        path, here = [], node
        while here.id not in kept:
            path.append(here.id)
            if here.parent is None or here.parent not in by_id:
                break
            here = by_id[here.parent]
        if len(kept) + len(path) <= most:
            kept.update(dict.fromkeys(path))
    return [node for node in nodes if node.id in kept]


def _node(place: Place, node: Node, at: dict[str, int], values: dict[str, float]) -> dict[str, Any]:
    trace = place.traces.get(node.trace_id or "")
    labels = place.labels.get(node.trace_id or "", [])
    right = next((int(label.correct) for label in labels if label.correct is not None), -1)
    step = node.step if len(node.step) <= LONGEST_STEP else f"{node.step[:LONGEST_STEP]} [...]"
    row: dict[str, Any] = {"u": at.get(node.parent or "", -1), "s": safe(step), "n": node.visits}
    row |= {} if node.value is None else {"v": round(node.value, 4)}
    row |= {} if node.prior is None else {"q": round(node.prior, 4)}
    row |= {} if node.id not in values else {"l": round(values[node.id], 4)}
    row |= {"t": 1} if node.terminal else {}
    if trace is not None:
        row |= {"ok": right, "c": int(trace.chosen), "a": safe(trace.answer or "")}
        if trace.act or (len(trace.steps) > 1 and trace.text.strip() == node.step.strip()):
            row["w"] = safe(trace.act) or "answer"  # not a step: a whole answer, by what it was asked for
        row |= {"kept": 1} if place.fate.get(trace.id) == KEPT else {}
    return row
