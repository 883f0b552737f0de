"""Preferences from a labelled tree: two ways to go on from one prefix, of which one is worth more.

After each node its children are held against one another: the best against each that is worth `gap` less.
With `tokens: 1` only children of a single token count: phi-4's pairs of an accepted and a rejected token
after one prefix (arXiv:2412.08905, section 4.3.2), from `label/pivotal`; without, they are steps, as
step-wise preference methods on search trees take them (arXiv:2405.00451).

A Pair's prompt goes on into the completion, up to the prefix; its ids are those that were drawn, so a trainer
need not split text that a tokenizer joins, and ends neither side with an end token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import ClassVar

from pydantic import Field

from pipeline.rows import ROUNDING, Dropped, Example, Group, Node, Pair, StepExample
from pipeline.select import SelectSettings
from pipeline.tasks import BaseTask


class Settings(SelectSettings):
    """Which siblings make a pair."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Label")
    makes: ClassVar[tuple[str, ...]] = ("Pair", "Dropped")

    gap: float = Field(0.2, gt=0, description="how much more the accepted one is worth, at least")
    tokens: int | None = Field(None, ge=1, description="children of at most so many tokens; none: any")
    max_per_problem: int | None = Field(None, ge=1, description="the widest pairs alone; none: all")


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """Pairs, the widest first, and a Dropped for each trace that none of them names."""
    nodes = {node.id: node for node in group.nodes}
    children: dict[str, list[Node]] = defaultdict(list)
    for node in group.nodes:
        if node.parent is not None and worth(node, group) is not None:
            children[node.parent].append(node)
    if not group.traces:
        return []
    found = [
        (best, other) for siblings in children.values() for best, other in pairs(siblings, group, settings)
    ]
    found.sort(key=lambda pair: -margin(pair[0], pair[1], group))
    rows: list[Example | StepExample | Pair | Dropped] = [
        _pair(best, other, nodes, group, encode) for best, other in found[: settings.max_per_problem]
    ]
    named = {row.trace_id for row in rows if isinstance(row, Pair)}
    rows += [
        Dropped(problem_id=group.problem_id, what=trace.id, reason="no_pair")
        for trace in group.traces
        if trace.id not in named
    ]
    return rows


def worth(node: Node, group: Group) -> float | None:
    """What the labeller says of a node."""
    label = group.labels.get(node.id)
    return None if label is None else label.value


def margin(best: Node, other: Node, group: Group) -> float:
    """How much more one node is worth than another."""
    return (worth(best, group) or 0.0) - (worth(other, group) or 0.0)


def pairs(siblings: list[Node], group: Group, settings: Settings) -> list[tuple[Node, Node]]:
    """The best of some children with each that is worth less by the gap."""
    short = [node for node in siblings if settings.tokens is None or len(node.token_ids) <= settings.tokens]
    if len(short) < 2:
        return []
    best = max(short, key=lambda node: worth(node, group) or 0.0)
    return [(best, other) for other in short if margin(best, other, group) >= settings.gap - ROUNDING]


def _pair(
    best: Node, other: Node, nodes: dict[str, Node], group: Group, encode: Callable[[str], list[int]]
) -> Pair:
    above: list[Node] = []
    here = best.parent
    while here is not None:
        above.insert(0, nodes[here])
        here = nodes[here].parent
    ids = [token for node in above for token in node.token_ids]
    ends = [ids + node.token_ids for node in (best, other)]
    ways = (
        [trace for end in ends for trace in group.traces if trace.token_ids[: len(end)] == end],
        [trace for trace in group.traces if trace.token_ids[: len(ids)] == ids],
        group.traces,
    )
    trace = next(way[0] for way in ways if way)
    prompt = trace.prompt + "".join(node.step for node in above)
    return Pair(
        problem_id=group.problem_id,
        prompt=prompt,
        chosen=best.step,
        rejected=other.step,
        margin=margin(best, other, group),
        trace_id=trace.id,
        rejected_id=other.id,
        prompt_ids=encode(trace.prompt) + ids,
        chosen_ids=list(best.token_ids),
        rejected_ids=list(other.token_ids),
        whole=False,
    )
