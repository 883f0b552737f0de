"""Step values inferred from a finished tree and the final answer alone (ReST-MCTS*, arXiv:2406.03816,
equations 1 and 2).

m_k is the least number of further steps from step k to a right answer that the tree has seen, r_k is 0 on a
route to one and 1 off it:

    w_k = (1 - v_{k-1}) / (m_k + 1) * (1 - 2 r_k),    v_k = max(0, v_{k-1} + w_k),    v_0 = 0

so a shortest right path of K steps gets k / K, and a wrong branch falls from its last right ancestor, whose
m it takes. Branches that never ended are unknown. Where no leaf is right, m is unknown, but a first step off
the route is worth max(0, 0 - 1 / (m + 1)) = 0 whatever m is, and so are all below it: `no_correct: branches`
says so of every step to a leaf checked wrong, which suits tasks whose problems are soon searched through; of
long proofs the first steps are mostly right, and `zeros` labels the leaves alone.

`simple` is the authors' other rule: depth / length on a right route, (parent's depth - 1) / length just off
it.

Traces without a tree (plain samples) are read as one: equal token prefixes are one node. Several trees of a
problem share their root. A node's Label names the node in `trace_id`; a trace's Label carries the values of
its steps in `step_scores`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Which rule, and what a tree without a right leaf teaches."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    values: Literal["full", "simple"] = Field(
        "full", description="full: the equations; simple: depth / length"
    )
    no_correct: Literal["skip", "zeros", "branches"] = Field(
        "zeros",
        description="no right leaf: skip (the paper's code), 0 for the leaves checked wrong, or for all the "
        "steps to them",
    )


@dataclass(slots=True, eq=False)
class Spot:
    """A place in the tree as the rule sees it."""

    id: str  #: of the Node row; "" in a tree made of traces
    parent: Spot | None
    depth: int
    end: int  #: tokens of the completion up to here
    right: bool | None = None  #: an end leaf that was checked
    on_route: bool = False
    left: int | None = None  #: m + 1: steps to a right answer, this one included; None: unknown
    value: float | None = None
    children: list[Spot] = field(default_factory=list)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace and each node with a known value; a Dropped for each other node."""
    yield from ()  # asks nothing
    if problem.answer is None:
        ids = [trace.id for trace in group.traces] + [node.id for node in group.nodes]
        return [Dropped(problem_id=problem.id, what=what, reason="no_gold") for what in ids]
    verdicts = {trace.id: verdict(trace, problem, task) for trace in group.traces}
    spots, ends = grown(group)
    for trace in group.traces:
        if trace.finish != "budget":  # an abandoned path was never wrong
            ends[trace.id].right = verdicts[trace.id][0]
    solved = any(spot.right for spot in spots)
    if solved:
        measure(spots)
        (full if settings.values == "full" else simple)(spots)
    elif settings.no_correct != "skip":
        for spot in spots:
            if spot.right is False:
                spot.value = 0.0
                for above in path(spot) if settings.no_correct == "branches" else ():
                    above.value = 0.0
    reason = "unknown_distance" if solved else "no_correct_leaf"
    return [
        *(trace_label(trace, ends[trace.id], *verdicts[trace.id]) for trace in group.traces),
        *node_rows(problem.id, spots, reason),
    ]


def grown(group: Group) -> tuple[list[Spot], dict[str, Spot]]:
    """Every place, parents first, and where each trace ends."""
    root = Spot(id="", parent=None, depth=0, end=0)
    spots, ends = [root], {}
    by_id: dict[str, Spot] = {}
    for node in group.nodes:
        above = by_id.get(node.parent) if node.parent is not None else None
        if above is None:  # a root: all of them are the empty completion
            spot = Spot(id=node.id, parent=None, depth=0, end=0)
            by_id[node.id] = root
            spots.append(spot)  # labelled 0 like the root itself
            continue
        spot = Spot(id=node.id, parent=above, depth=above.depth + 1, end=above.end + len(node.token_ids))
        above.children.append(spot)
        by_id[node.id] = spot
        spots.append(spot)
        if node.trace_id is not None:
            ends[node.trace_id] = spot
    by_tokens: dict[tuple[int, ...], Spot] = {(): root}
    for trace in group.traces:
        if trace.id not in ends:
            ends[trace.id] = _enter(trace, by_tokens, spots)
    return spots, ends


def _enter(trace: Trace, by_tokens: dict[tuple[int, ...], Spot], spots: list[Spot]) -> Spot:
    here = by_tokens[()]
    for end in trace.step_ends:
        tokens = tuple(trace.token_ids[:end])
        if tokens not in by_tokens:
            by_tokens[tokens] = Spot(id="", parent=here, depth=here.depth + 1, end=end)
            here.children.append(by_tokens[tokens])
            spots.append(by_tokens[tokens])
        here = by_tokens[tokens]
    return here


def measure(spots: list[Spot]) -> None:
    """m + 1 for every place on a route to a right leaf, and for each branch to a wrong leaf that of the
    ancestor it left.
    """
    for spot in reversed(spots):  # children first
        if spot.right:
            spot.on_route, spot.left = True, 1
        if spot.on_route and spot.parent is not None:
            above = spot.parent
            above.on_route = True
            above.left = min(above.left or spot.left + 1, spot.left + 1)  # type: ignore[operator]
    for spot in spots:
        if spot.right is False and not spot.on_route:
            branch, here = [spot], spot.parent
            while here is not None and not here.on_route:
                branch.append(here)
                here = here.parent
            for fallen in branch:
                fallen.left = here.left if here is not None else None


def full(spots: list[Spot]) -> None:
    """v_k of the equations; unknown where m is."""
    for spot in spots:
        if spot.parent is None:
            spot.value = 0.0
        elif spot.left is not None and spot.parent.value is not None:
            sign = 1 if spot.on_route else -1
            before = spot.parent.value
            spot.value = max(0.0, before + sign * (1 - before) / spot.left)


def simple(spots: list[Spot]) -> None:
    """depth / length on a right route, by the shortest one through the place; (parent's depth - 1) / length
    for a step off it.
    """
    for spot in spots:
        if spot.parent is None:
            spot.value = 0.0
        elif spot.on_route and spot.left is not None:
            spot.value = spot.depth / (spot.depth + spot.left - 1)
        elif spot.parent.on_route and spot.parent.left is not None:
            length = spot.parent.depth + spot.parent.left - 1
            spot.value = max(0.0, (spot.parent.depth - 1) / length)


def trace_label(trace: Trace, end: Spot, correct: bool, reason: str) -> Label:
    """The trace's verdict, with the values of its steps; null where unknown."""
    at = {spot.end: spot.value for spot in path(end)}
    return Label(
        problem_id=trace.problem_id,
        trace_id=trace.id,
        correct=correct,
        step_scores=[at.get(step_end) for step_end in trace.step_ends],
        value=end.value,
        reason=reason,
        labeller="tree_value",
    )


def node_rows(problem_id: str, spots: list[Spot], reason: str) -> Iterator[Label | Dropped]:
    """What is known of each Node row."""
    for spot in spots:
        if spot.id and spot.value is not None:
            yield Label(problem_id=problem_id, trace_id=spot.id, value=spot.value, labeller="tree_value")
        elif spot.id:
            yield Dropped(problem_id=problem_id, what=spot.id, reason=reason)


def path(spot: Spot) -> Iterator[Spot]:
    """From just below the root to a place; of two places with one end the deeper comes last."""
    above: list[Spot] = []
    here: Spot | None = spot
    while here is not None and here.parent is not None:
        above.append(here)
        here = here.parent
    yield from reversed(above)
