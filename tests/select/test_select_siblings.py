"""Pairs of the ways that go on from one node of a labelled tree."""

from __future__ import annotations

from pipeline.rows import Dropped, Group, Label, Node, Pair, Trace
from pipeline.select import sibling_pairs
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def node(name: str, above: str | None, step: str) -> Node:
    return Node(problem_id="p", id=name, parent=above, step=step, depth=0, token_ids=encode(step))


def trace(number: int, text: str) -> Trace:
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q:", text=text, token_ids=encode(text), step_ends=[len(text)],
        steps=[text],
    )  # fmt: skip


def tree() -> Group:
    """r -> a (.9), b (.5), c (.7), d (no value); a -> e (.2), ff (.8)."""
    nodes = [node("r", None, ""), node("a", "r", "1"), node("b", "r", "2"), node("c", "r", "3"), node("d", "r", "4"),
             node("e", "a", "5"), node("ff", "a", "66")]  # fmt: skip
    values = {"r": 0.5, "a": 0.9, "b": 0.5, "c": 0.7, "e": 0.2, "ff": 0.8}
    labels = {name: Label(problem_id="p", trace_id=name, value=value) for name, value in values.items()}
    return Group(
        "p",
        traces=[trace(0, "15"), trace(1, "166"), trace(2, "2"), trace(3, "9")],
        labels=labels,
        nodes=nodes,
    )


def chosen(group: Group, **settings: object) -> tuple[list[Pair], dict[str, str]]:
    rows = sibling_pairs.select(group, sibling_pairs.Settings(**settings), TASK, encode)
    assert {row.problem_id for row in rows} <= {"p"}
    left = {row.what: row.reason for row in rows if isinstance(row, Dropped)}
    return [row for row in rows if isinstance(row, Pair)], left


def test_the_best_child_is_held_against_each_that_is_worth_less_by_the_gap() -> None:
    pairs, left = chosen(tree(), gap=0.25)
    assert [(row.chosen, row.rejected) for row in pairs] == [("66", "5"), ("1", "2")]  # the widest first
    assert [row.margin for row in pairs] == [0.8 - 0.2, 0.9 - 0.5]
    deep = pairs[0]
    assert (deep.prompt, deep.prompt_ids) == ("q:1", encode("q:1"))
    assert (deep.chosen_ids, deep.rejected_ids, deep.whole) == ([54, 54], [53], False)
    # named after the trace that goes the accepted way, and the node of the other
    assert [(row.trace_id, row.rejected_id) for row in pairs] == [("p/1", "e"), ("p/0", "b")]
    assert left == {"p/2": "no_pair", "p/3": "no_pair"}
    assert len(chosen(tree(), gap=0.15)[0]) == 3
    assert len(chosen(tree(), gap=0.9 - 0.5)[0]) == 2  # the gap itself is enough
    assert [row.chosen for row in chosen(tree(), gap=0.25, max_per_problem=1)[0]] == ["66"]


def test_children_of_at_most_so_many_tokens() -> None:
    assert [(row.chosen, row.rejected) for row in chosen(tree(), gap=0.25, tokens=1)[0]] == [("1", "2")]
    assert len(chosen(tree(), gap=0.25, tokens=2)[0]) == 2


def test_a_tree_whose_ways_no_trace_took_is_named_after_any_trace() -> None:
    group = tree()
    group.traces[:] = [trace(3, "9")]
    pairs, left = chosen(group, gap=0.25)
    assert [row.trace_id for row in pairs] == ["p/3", "p/3"]
    assert left == {}
    group.traces[:] = [trace(3, "9"), trace(0, "1")]  # this one went the way to both at least
    assert [row.trace_id for row in chosen(group, gap=0.25)[0]] == ["p/0", "p/0"]
    group.traces.clear()
    assert chosen(group) == ([], {})
