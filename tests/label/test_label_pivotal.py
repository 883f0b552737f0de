"""Pivotal tokens by hand, and the pairs that come of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_world import PROBLEM, Lines, World, stamped, trace, written

from pipeline.asks import Prefix
from pipeline.label import pivotal
from pipeline.rows import Dropped, Group, Label, Node, Problem
from pipeline.select import sibling_pairs


def chances(value: Callable[[str], float]) -> Callable[[Prefix, int], list[Prefix]]:
    """Roll-outs, of which value(text) end right; those from `ab` go on with `x` if right and with `y` if wrong."""

    def rollouts(prefix: Prefix, n: int) -> list[Prefix]:
        right = round(value(prefix.text) * n)
        ahead = "x" if prefix.text == "ab" else ""
        astray = "y" if prefix.text == "ab" else ""
        return [written(prefix, ahead, "right")] * right + [written(prefix, astray, "no")] * (n - right)

    return rollouts


def half_then(text: str) -> float:
    """.5 until `ab`, 1 after `abx`, 0 after `aby`."""
    return 1.0 if text.startswith("abx") else 0.0 if text.startswith("aby") else 0.5


def labelled(world, traces, problem=PROBLEM, **more):
    settings = pivotal.Settings(**({"n": 8} | more))
    rows = world.drive(pivotal.label(problem, Group("p", traces=traces), settings, Lines()))
    return stamped(rows, "pivotal")


def grouped(traces, rows) -> Group:
    labels = {row.trace_id: row for row in rows if isinstance(row, Label)}
    return Group("p", traces=traces, nodes=[r for r in rows if isinstance(r, Node)], labels=labels)


def pairs_of(group, **more):
    settings = sibling_pairs.Settings(**({"tokens": 1} | more))
    return sibling_pairs.select(group, settings, Lines(), lambda text: [7] * len(text))


@pytest.mark.parametrize(
    ("surprise", "left"),
    [
        ([1, 1, 1, 1], 2),
        ([0.1, 0.1, 3.0, 0.1], 2),
        ([0.1, 0.1, 3.0, 3.2], 3),
        ([5, 0], 1),
        ([0, 5], 1),
        ([0, 0, 0], 1),
    ],
)
def test_half_of_the_log_probability(surprise, left) -> None:
    assert pivotal.half(surprise) == left


@settings(deadline=None)
@given(st.lists(st.floats(0, 20), min_size=2, max_size=40))
def test_both_halves_have_a_token(surprise) -> None:
    assert 1 <= pivotal.half(surprise) < len(surprise)


def test_the_pivotal_token_and_its_pair_by_hand() -> None:
    world = World(chances(half_then))
    traces = [trace(0, "abx", "right")]
    rows = labelled(world, traces)
    group = grouped(traces, rows)
    values = {path(group, node): node.value for node in group.nodes}
    assert values["ab"] == 0.5
    assert values["abx"] == 1.0
    assert values["aby"] == 0.0  # what the wrong roll-outs from `ab` began with
    assert group.labels["p/0"].reason == "pivotal"
    assert group.labels["p/0"].step_scores is None
    [pair] = pairs_of(group)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == ("Q:ab", "x", "y", 1.0)
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ([7, 7, 97, 98], [120], [121])
    assert (pair.trace_id, pair.whole) == ("p/0", False)
    assert len(world.asked) == len(set(world.asked))


def path(group, node) -> str:
    above = {one.id: one for one in group.nodes}
    return (path(group, above[node.parent]) if node.parent else "") + node.step


@pytest.mark.parametrize(("before", "after"), [(6, 4), (4, 6), (3, 1), (8, 6)])
def test_a_move_by_exactly_the_gap_counts(before, after) -> None:
    """Of 10 roll-outs 6 and then 4 are .2 less, which floating point makes a little less than .2."""
    part = pivotal.Part(0, 0, 1, before / 10, after / 10)
    assert part.moves(0.2)
    assert not part.moves(0.21)
    tree = [Node(problem_id="p", id=name, parent="r", step=name, depth=1, token_ids=[1]) for name in "ab"]
    values = {"a": before / 10, "b": after / 10}
    labels = {name: Label(problem_id="p", trace_id=name, value=value) for name, value in values.items()}
    root = Node(problem_id="p", id="r", parent=None, step="", depth=0, token_ids=[])
    group = Group("p", traces=[trace(0, "abx", "right")], nodes=[root, *tree], labels=labels)
    assert len([row for row in pairs_of(group, gap=0.2) if not isinstance(row, Dropped)]) == 1


def test_a_wrong_trace_has_the_pivot_too() -> None:
    traces = [trace(0, "aby", "no")]
    group = grouped(traces, labelled(World(chances(half_then)), traces))
    [pair] = pairs_of(group)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Q:ab", "x", "y")
    assert group.labels["p/0"].correct is False


@settings(deadline=None)
@given(st.text("abc", min_size=2, max_size=30), st.data())
def test_it_finds_the_pivot_of_any_completion_that_has_one(text, data) -> None:
    """p is .5 before token `at` and 1 from it on, whatever the log-probabilities are."""
    at = data.draw(st.integers(0, len(text) - 1))
    surprise = data.draw(st.lists(st.floats(0, 9), min_size=len(text) + 7, max_size=len(text) + 7))
    world = World(
        lambda prefix, n: [written(prefix, "", "right" if k < n * p(prefix) else "no") for k in range(n)]
    )

    def p(prefix: Prefix) -> float:
        return 1.0 if prefix.num_tokens > at else 0.5

    one = trace(0, text, "right", logprobs=[-x for x in surprise])
    rows = labelled(world, [one], others=0)
    nodes = {row.id: row for row in rows if isinstance(row, Node)}
    jumps = [
        node
        for node in nodes.values()
        if node.parent is not None and abs(node.value - nodes[node.parent].value) >= 0.2
    ]
    assert [len(node.token_ids) for node in jumps] == [1]
    before = sum(len(nodes[name].token_ids) for name in way(nodes, jumps[0].parent))
    assert before == at


def way(nodes, name):
    return [] if name is None else [*way(nodes, nodes[name].parent), name]


@pytest.mark.parametrize(("share", "reason"), [(0.125, "too_hard"), (0.875, "too_easy")])
def test_only_problems_that_are_sometimes_solved(share, reason) -> None:
    world = World(chances(lambda text: share))
    rows = labelled(world, [trace(0, "a", "no")])
    assert rows == [Dropped(problem_id="p", what="p/0", reason=reason)]
    assert world.asked == [""]


def test_what_is_left_out_has_a_reason() -> None:
    traces = [
        trace(0, "ab", "no", finish="length"),
        trace(1, "ab", "no", hinted=True),
        trace(2, "aby", "no"),
        trace(3, "abx", "right"),
        trace(4, "aby", "no"),
    ]
    rows = labelled(World(chances(half_then)), traces)
    assert [(row.what, row.reason) for row in rows if isinstance(row, Dropped)] == [
        ("p/0", "truncated"),
        ("p/1", "hinted"),
        ("p/4", "over_limit"),
    ]
    nobody = Problem(id="p", question="?", answer=None)
    assert [row.reason for row in labelled(World(chances(half_then)), traces, nobody)] == ["no_gold"] * 5


def test_a_trace_without_log_probabilities_asks_for_them() -> None:
    traces = [trace(0, "abx", "right")]
    bare = [trace(0, "abx", "right", logprobs=[])]
    world, other = World(chances(half_then)), World(chances(half_then))
    assert labelled(world, traces) == labelled(other, bare)


@pytest.mark.parametrize("wrong", [{"gap": 0}, {"within": [0.8, 0.2]}, {"within": [-1, 0.5]}, {"n": 0}])
def test_numbers_that_mean_nothing(wrong) -> None:
    with pytest.raises(ValueError):
        pivotal.Settings(**wrong)


# --- pairs of any labelled tree


def node(number, parent, step, value):
    ids = [ord(c) for c in step]
    made = Node(problem_id="p", id=f"n{number}", parent=parent, step=step, depth=0, token_ids=ids)
    return made, Label(problem_id="p", trace_id=f"n{number}", value=value)


def tree(*children) -> Group:
    rows = [node(0, None, "", 0.5), *(node(k, "n0", *child) for k, child in enumerate(children, 1))]
    return Group(
        "p",
        traces=[trace(0, "aa", "right"), trace(1, "bb", "no")],
        nodes=[one for one, _ in rows],
        labels={label.trace_id: label for _, label in rows},
    )


def test_the_best_child_against_each_that_is_worth_less() -> None:
    found = pairs_of(tree(("aa\n", 0.9), ("bb\n", 0.1), ("cc\n", 0.8), ("dd\n", 0.5)), tokens=None)
    assert [(r.chosen, r.rejected, round(r.margin, 3)) for r in found if not isinstance(r, Dropped)] == [
        ("aa\n", "bb\n", 0.8),
        ("aa\n", "dd\n", 0.4),
    ]
    assert [(r.what, r.reason) for r in found if isinstance(r, Dropped)] == [("p/1", "no_pair")]
    assert (
        len(pairs_of(tree(("aa\n", 0.9), ("bb\n", 0.1), ("dd\n", 0.5)), tokens=None, max_per_problem=1)) == 2
    )


def test_nothing_to_prefer_drops_every_trace() -> None:
    for children in ([], [("aa\n", 0.9)], [("aa\n", 0.9), ("bb\n", 0.8)], [("aa\n", 0.9), ("b", None)]):
        found = pairs_of(tree(*children), tokens=None)
        assert [row.reason for row in found] == ["no_pair"] * 2
    assert pairs_of(Group("p")) == []
