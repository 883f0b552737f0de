"""OmegaPRM: the paper's formulas by hand, its binary search against brute force, its tree and its pool."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_world import PROBLEM, Lines, World, shares, stamped, trace, written

from pipeline.asks import Prefix, prefix_of
from pipeline.label import omega
from pipeline.label._prefixes import ValuedPrefix, ValuedPrefixes
from pipeline.rows import Dropped, Group, Label, Node, Problem
from pipeline.select import step_values

START = Prefix(prompt="Q:")


def given_settings(**more):
    return omega.Settings(**({"n": 4, "filter": 0} | more))


def labelled(world, traces, problem=PROBLEM, **more):
    rows = world.drive(omega.label(problem, Group("p", traces=traces), given_settings(**more), Lines()))
    return stamped(rows, "omega")


def test_the_formulas_by_hand() -> None:
    paper = omega.Settings()
    assert (paper.n, paper.filter, paper.searches, paper.pieces) == (8, 32, 100, 16)
    assert omega.quality(0.5, 250, paper) == pytest.approx(0.5**0.5 * 0.9**0.5)
    assert omega.quality(0.5, 250, paper) == pytest.approx(0.6708, abs=1e-4)
    assert omega.exploration(4, 1, paper) == pytest.approx(0.125)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 2000), st.integers(1, 2000))
def test_q_rises_with_mc_and_falls_with_length(one, other, short, long) -> None:
    low, high = sorted((one, other))
    few, many = sorted((short, long))
    assert omega.quality(low, few, given_settings()) <= omega.quality(high, few, given_settings()) <= 1
    assert omega.quality(high, many, given_settings()) <= omega.quality(high, few, given_settings())


@settings(deadline=None)
@given(st.integers(1, 16), st.data())
def test_the_search_finds_the_first_error_where_mc_is_monotone(num, data) -> None:
    """Any completion of `num` steps whose value falls to 0 at step `error`: found with at most log2 asks."""
    error = data.draw(st.integers(1, num))
    fall = [data.draw(st.floats(0.26, 1)) for _ in range(error)]
    values = sorted(fall, reverse=True)

    def value(text: str) -> float:
        done = text.count("\n")
        return values[done] if done < error else 0.0

    world, places = World(shares(value)), ValuedPrefixes()
    place = ValuedPrefix(START, value(""))
    whole = written(START, *(f"step {k}" for k in range(num)))
    fresh = world.drive(omega.search(omega.RolloutCandidate(place, whole), places, given_settings()))
    known = {len(p.prefix.steps): p.value for p in places}
    assert known[error] == 0  # the first wrong step was tested, or is the end itself
    assert all(known[k] > 0 for k in known if k < error)
    assert error == 1 or known[error - 1] > 0
    assert len(world.asked) == len(fresh) <= math.ceil(math.log2(num)) if num > 1 else not world.asked


def test_brute_force_asks_of_every_step_and_the_search_of_four_in_sixteen() -> None:
    world = World(shares(lambda text: 0.5 if text.count("\n") < 11 else 0.0))
    whole = written(START, *(f"step {k:02}" for k in range(16)))
    world.drive(
        omega.search(
            omega.RolloutCandidate(ValuedPrefix(START, 0.5), whole), ValuedPrefixes(), given_settings()
        )
    )
    assert [text.count("\n") for text in world.asked] == [8, 12, 10, 11]


def test_where_pieces_end() -> None:
    whole = written(START, *("x" * 4 for _ in range(20)))  # 5 tokens a step
    assert omega.borders(whole, 0, given_settings()) == tuple(
        5 * k for k in (2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19)
    )
    assert omega.borders(whole, 85, given_settings()) == (90, 95)
    assert omega.borders(whole, 0, given_settings(split="tokens", pieces=4)) == (25, 50, 75)
    assert omega.borders(whole, 97, given_settings(split="tokens")) == (98, 99)
    assert omega.borders(written(START, "only"), 0, given_settings()) == ()


def small_world() -> World:
    """The question: 2 of 4 right. After `a`: 1 of 4. After `a b` and all else: never."""
    return World(shares(lambda text: {"": 0.5, "a\n": 0.25}.get(text, 0.0)))


def test_the_tree_by_hand() -> None:
    rows = labelled(small_world(), [trace(0, "a", "b", "c", "no"), trace(1, "right")], searches=1)
    nodes = {row.id: row for row in rows if isinstance(row, Node)}
    text = {name: ("" if n.parent is None else text_of(nodes, n)) for name, n in nodes.items()}
    values = {text[name]: node.value for name, node in nodes.items()}
    # the trace is the shortest of the wrong completions (9 tokens, 12): first `a b`, in the middle, then `a`
    ends = {"right\n": 1.0, "a\nright\n": 1.0, "a\nb\nc\nno\n": 0.0}  # of right roll-outs too
    assert values == {"": 0.5, "a\n": 0.25, "a\nb\n": 0.0, **ends}
    parents = {text[n]: None if node.parent is None else text[node.parent] for n, node in nodes.items()}
    assert parents == {
        "": None,
        "a\n": "",
        "right\n": "",
        "a\nb\n": "a\n",
        "a\nright\n": "a\n",
        "a\nb\nc\nno\n": "a\nb\n",
    }
    assert nodes["p/n0"].visits == 1
    labels = {row.trace_id: row for row in rows if isinstance(row, Label)}
    assert {name: label.value for name, label in labels.items() if name in nodes} == {
        name: node.value for name, node in nodes.items()
    }
    assert labels["p/0"].step_scores == [0.25, 0.0, None, 0.0]
    assert (labels["p/0"].correct, labels["p/0"].reason) == (False, "wrong_answer")
    assert (labels["p/1"].step_scores, labels["p/1"].correct) == ([1.0], True)


def text_of(nodes, node) -> str:
    return (text_of(nodes, nodes[node.parent]) if node.parent else "") + node.step


def test_new_places_feed_the_pool_until_it_is_empty() -> None:
    world = small_world()
    rows = labelled(world, [trace(0, "a", "b", "c", "no")])
    nodes = [row for row in rows if isinstance(row, Node)]
    # the trace (a: .25), the two wrong ends of the question, and the three of `a`, each searched once
    assert sum(node.visits for node in nodes) == 1 + 2 + 3
    assert len(world.asked) == len(set(world.asked))  # no place is asked about twice
    by_text = {text_of({n.id: n for n in nodes}, n): n.value for n in nodes}
    assert by_text["a\n"] == 0.25
    assert by_text["a\nb\n"] == 0.0
    assert labelled(small_world(), [trace(0, "a", "b", "c", "no")]) == rows  # the same rows again


def test_a_limit_of_searches() -> None:
    rows = labelled(small_world(), [trace(0, "a", "b", "c", "no")], searches=2)
    assert sum(row.visits for row in rows if isinstance(row, Node)) == 2


@pytest.mark.parametrize(("share", "reason"), [(0.0, "all_wrong"), (1.0, "all_right")])
def test_the_filter(share, reason) -> None:
    world = World(shares(lambda text: share))
    traces = [trace(0, "a", "no"), trace(1, "right")]
    assert labelled(world, traces, filter=32) == [
        Dropped(problem_id="p", what=one.id, reason=reason) for one in traces
    ]
    assert world.asked == [""]
    labels = [row for row in labelled(world, traces) if isinstance(row, Label)]
    assert {label.trace_id for label in labels} >= {"p/0", "p/1"}  # filter 0: labelled, the pool stays empty


def test_traces_that_cannot_be_searched_have_a_reason() -> None:
    traces = [
        trace(0, "a", "no"),
        trace(1, "a", "no", hinted=True),
        trace(2, "a", "no", finish="length"),
        trace(3, step_ends=[], answer=None),
    ]
    rows = labelled(small_world(), traces)
    assert [(row.what, row.reason) for row in rows if isinstance(row, Dropped)] == [
        ("p/1", "hinted"),
        ("p/2", "truncated"),
        ("p/3", "no_steps"),
    ]
    nobody = Problem(id="p", question="?", answer=None)
    rows = labelled(small_world(), traces, nobody)
    assert [row.reason for row in rows] == ["no_gold"] * 4
    assert labelled(small_world(), []) == []


def test_its_nodes_train_a_reward_model() -> None:
    group = Group("p", traces=[trace(0, "a", "b", "c", "no")])
    for row in labelled(small_world(), group.traces):
        if isinstance(row, Node):
            group.nodes.append(row)
        elif isinstance(row, Label):
            group.labels[row.trace_id] = row
    rows = step_values.select(group, step_values.Settings(), Lines(), lambda text: [0])
    kept = [row for row in rows if not isinstance(row, Dropped)]
    known = sum(label is not None for row in kept for label in row.labels)
    assert known == len(group.nodes) - 1  # each place but the root trains once
    first = next(row for row in kept if row.trace_id == "p/0")
    assert first.labels == [0.25, 0.0, 0.0]
    assert first.step_ends == [1 + 2, 1 + 4, 1 + len(group.traces[0].text)]


def test_a_place_inside_a_step() -> None:
    world = World(shares(lambda text: 0.5 if len(text) < 5 else 0.0))
    rows = labelled(world, [trace(0, "abcdefgh", "no")], split="tokens", searches=1, pieces=4)
    nodes = {row.id: row for row in rows if isinstance(row, Node)}
    assert any(node.step and not node.step.endswith("\n") for node in nodes.values())
    assert all(
        "".join(map(chr, node.token_ids)) == node.step for node in nodes.values() if node.parent is not None
    )


def test_prefix_of_a_trace_and_of_a_rollout_are_one_place() -> None:
    places = ValuedPrefixes()
    one = places.ended(prefix_of(trace(0, "a", "no")), False, "p/0")
    assert places.ended(written(START, "a", "no"), False) is one
    assert one.trace_id == "p/0"


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"pieces": 1}, {"alpha": 0}, {"searches": 0}, {"split": "words"}]
)
def test_numbers_that_mean_nothing(wrong) -> None:
    with pytest.raises(ValueError):
        omega.Settings(**wrong)
