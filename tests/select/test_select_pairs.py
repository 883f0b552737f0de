"""Which completions and steps become preference pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.rows import Dropped, Group, Label, Node, Pair, Trace, sources_of
from pipeline.select import pairs
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def encode(text):
    return [ord(character) for character in text]


def trace(number, text, right=None, value=None, finish="eos", scores=None, **more):
    steps = text.splitlines(keepends=True)
    ends = [sum(len(step) for step in steps[: k + 1]) for k in range(len(steps))]
    row = Trace(
        problem_id="p", id=f"p/{number}", prompt="q:", text=text, token_ids=encode(text),
        step_ends=ends, steps=steps, finish=finish, **more,
    )  # fmt: skip
    known = right is not None or value is not None or scores is not None
    label = Label(problem_id="p", trace_id=row.id, correct=right, value=value, step_scores=scores)
    return row, label if known else None


def group(*both, nodes=(), values=()):
    labels = {label.trace_id: label for _, label in both if label is not None}
    labels |= {name: Label(problem_id="p", trace_id=name, value=value) for name, value in values}
    return Group("p", traces=[row for row, _ in both], labels=labels, nodes=list(nodes))


def choose(found, **chosen):
    rows = pairs.select(found, pairs.Settings(**chosen), TASK, encode)
    assert {row.problem_id for row in rows} <= {"p"}
    made = [(row.trace_id[2:], row.rejected_id[2:]) for row in rows if isinstance(row, Pair)]
    return made, {row.what[2:]: row.reason for row in rows if isinstance(row, Dropped)}, rows


def test_right_against_wrong_in_turns():
    found = group(
        trace(0, "a", True),
        trace(1, "b", False),
        trace(2, "c", True),
        trace(3, "d", False),
        trace(4, "e", True),
    )
    made, dropped, rows = choose(found)
    # each right one once with the wrong ones in turns, then again one further
    assert made == [("0", "3"), ("2", "1"), ("4", "3"), ("0", "1"), ("2", "3"), ("4", "1")]
    assert not dropped
    assert choose(found, max_per_problem=3)[0] == made[:3]
    assert rows[0] == Pair(
        problem_id="p", prompt="q:", chosen="a", rejected="d", margin=1.0, trace_id="p/0", rejected_id="p/3",
        prompt_ids=encode("q:"), chosen_ids=encode("a"), rejected_ids=encode("d"),
    )  # fmt: skip


def test_answers_to_different_prompts_make_no_pair():
    """A second turn stands under its first answer; the limit is a problem's, whatever its turns."""
    shown = ["q:", "q:", "q:a no:", "q:a no:", "q:b no:"]
    said = [trace(i, text, i in (0, 2, 4), scores=[0.1 * i]) for i, text in enumerate("abbcd")]
    found = group(
        *((replace(row, prompt=prompt), label) for (row, label), prompt in zip(said, shown, strict=True))
    )
    made, dropped, rows = choose(found)
    assert made == [("0", "1"), ("2", "3")]
    assert dropped == {"4": "no_rejected"}
    assert [row.prompt for row in rows[:2]] == ["q:", "q:a no:"]
    assert choose(found, max_per_problem=1)[:2] == (
        [("0", "1")],
        {"2": "over_limit", "3": "over_limit", "4": "no_rejected"},
    )
    steps = choose(found, between="siblings", score="value")[0]
    assert steps == [("1", "0"), ("3", "2")]


def test_best_against_worst_and_no_tie():
    found = group(*(trace(i, text, value=v) for i, (text, v) in enumerate([("a", 3), ("b", 5), ("c", 1)])))
    made, dropped, rows = choose(found, score="value", top=1, bottom=1)
    assert (made, dropped, rows[0].margin) == ([("1", "2")], {"0": "in_between"}, 4)
    tied = group(trace(0, "a", value=2), trace(1, "b", value=2))
    assert choose(tied, score="value", top=1, bottom=1)[:2] == ([], {"0": "tie", "1": "tie"})
    assert choose(found, score="value", top=1, bottom=1, margin=4.5)[1]["1"] == "below_margin"


def test_the_reasons():
    found = group(
        trace(0, "a", True), trace(1, " A", True), trace(2, "c", False, finish="length"),
        trace(3, "d (CORRECT)", True, hinted=True), trace(4, "e"), trace(5, "f", value=0.5),
    )  # fmt: skip
    assert choose(found)[:2] == ([], {
        "0": "no_rejected", "1": "duplicate", "2": "truncated", "3": "hint_leak", "4": "unlabelled",
        "5": "unscored",
    })  # fmt: skip
    assert choose(group(trace(0, "a", False)))[1] == {"0": "no_chosen"}


def test_a_score_ranks_and_the_answer_decides_who_may_win():
    found = group(
        trace(0, "a", True, score=0.2), trace(1, "b", False, score=0.9), trace(2, "c", True, score=0.6),
        trace(3, "d", False, score=0.1),
    )  # fmt: skip
    made, dropped, _ = choose(found, score="search", verified=True, top=2, bottom=1)
    assert made == [("2", "3"), ("0", "3")]
    assert dropped == {"1": "in_between"}
    made, _, _ = choose(found, score="search", chosen_above=0.5, rejected_below=0.15)
    assert made == [("1", "3"), ("2", "3")]


def test_a_bound_that_is_met_is_met_in_floating_point_too():
    """.7 - .2 comes to less than .5, and 1 - .7 to more than .3."""
    found = group(trace(0, "a", value=0.7), trace(1, "b", value=1 - 0.7), trace(2, "c", value=0.1 + 0.2))
    assert found.labels["p/1"].value > 0.3
    assert found.labels["p/2"].value > 0.3
    made, _, _ = choose(found, score="value", chosen_above=0.7, rejected_below=0.3)
    assert sorted(made) == [("0", "1"), ("0", "2")]
    low = group(trace(0, "a", value=0.7 - 1e-16), trace(1, "b", value=0.2))
    assert low.labels["p/0"].value < 0.7
    assert choose(low, score="value", chosen_above=0.7, margin=0.5)[0] == [("0", "1")]


def tree():
    """root -> a (0.9), b (0.2), c (0.5); a -> a1 (1.0, ends p/0), a2 (0.1)."""
    parts = [
        ("a", "r", "1+1=2\n", 0.9), ("b", "r", "3-1=2\n", 0.2), ("c", "r", "1+1=3\n", 0.5),
        ("a1", "a", "2*2=4\n", 1.0), ("a2", "a", "2-2=0\n", 0.1),
    ]  # fmt: skip
    nodes = [Node(problem_id="p", id="p/r", parent=None, step="", depth=0)]
    for name, above, step, q in parts:
        ends = "p/0" if name == "a1" else None
        nodes.append(
            Node(problem_id="p", id=f"p/{name}", parent=f"p/{above}", step=step, depth=1, value=q,
                 token_ids=encode(step), trace_id=ends)
        )  # fmt: skip
    return group(
        trace(0, "1+1=2\n2*2=4\n", True), nodes=nodes, values=[(f"p/{name}", q) for name, _, _, q in parts]
    )


@pytest.mark.parametrize("score", ["search", "value"])
def test_steps_of_one_parent(score):
    made, dropped, rows = choose(tree(), between="siblings", score=score, top=2, bottom=2, margin=0.5)
    # a with b; c (second) with c is a tie; a with c and c with b are 0.4 and 0.3 apart; below a: a1 with a2
    assert made == [("a", "b"), ("0", "a2")]
    assert not dropped
    last = rows[1]
    assert (last.prompt, last.chosen, last.rejected) == ("q:1+1=2\n", "2*2=4\n", "2-2=0\n")
    assert last.prompt_ids == encode("q:1+1=2\n")
    assert not last.whole
    assert last.margin == pytest.approx(0.9)


def test_far_enough_apart():
    wanted = {"between": "siblings", "score": "search", "top": 1, "bottom": 1}
    assert choose(tree(), **wanted, min_distance=2)[0] == [("a", "b"), ("0", "a2")]
    assert choose(tree(), **wanted, min_distance=3)[0] == []  # 1+1=2, 3-1=2: two letters


def levenshtein(one, other):
    if not one or not other:
        return len(one) + len(other)
    return min(
        levenshtein(one[1:], other) + 1,
        levenshtein(one, other[1:]) + 1,
        levenshtein(one[1:], other[1:]) + (one[0] != other[0]),
    )


@settings(deadline=None)  # the machine may be busy
@given(st.text("ab", max_size=5), st.text("ab", max_size=5), st.integers(1, 6))
def test_the_distance_is_levenshteins(one, other, least):
    assert pairs.far_apart(one, other, least) == (levenshtein(one, other) >= least)


def test_steps_of_plain_traces_share_a_prefix():
    found = group(trace(0, "x\nr\n", True), trace(1, "x\nw\n", False), trace(2, "y\nw\n", False))
    made, dropped, rows = choose(found, between="siblings")
    # after the prompt x is right half the time and y never; after x the right end beats the wrong one
    assert made == [("0", "2"), ("0", "1")]
    assert [row.margin for row in rows] == [0.5, 1.0]
    assert rows[1].prompt == "q:x\n"
    assert not dropped


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=8), st.integers(1, 5))
def test_every_trace_is_in_a_pair_or_dropped_once(judged, most):
    found = group(*(trace(i, f"{text}", right) for i, (right, text) in enumerate(judged)))
    _, _, rows = choose(found, max_per_problem=most)
    named = {one for row in rows if isinstance(row, Pair) for one in sources_of(row)}
    dropped = Counter(row.what for row in rows if isinstance(row, Dropped))
    assert named | set(dropped) == {row.id for row in found.traces}
    assert not named & set(dropped)
    assert set(dropped.values()) <= {1}
    assert sum(isinstance(row, Pair) for row in rows) <= most


def test_mistakes_are_said():
    with pytest.raises(ValidationError, match="a step is neither right nor wrong"):
        pairs.Settings(between="siblings", verified=True)
    with pytest.raises(ValidationError, match=r"chosen_above 0\.2 is below rejected_below 0\.5"):
        pairs.Settings(chosen_above=0.2, rejected_below=0.5)
    assert pairs.Settings(between="siblings", score="search").kinds_needed == ("Trace", "Node")
    assert pairs.Settings().kinds_needed == ("Trace", "Label")


def test_bounds_count_themselves_and_float_noise_makes_no_difference():
    found = group(trace(0, "a", value=0.3), trace(1, "b", value=0.2), trace(2, "c", value=0.1))
    assert choose(found, score="value", chosen_above=0.3, rejected_below=0.2)[0] == [("0", "2"), ("0", "1")]
    assert 0.3 - 0.2 < 0.1  # as floats
    assert choose(found, score="value", margin=0.1)[0] == [("0", "2"), ("0", "1"), ("1", "2")]
    assert choose(found, score="value", margin=0.1, max_per_problem=2)[:2] == ([("0", "2"), ("0", "1")], {})
    many = group(*(trace(i, f"{i}", i % 2 == 0) for i in range(8)))
    assert len(choose(many, max_per_problem=None)[0]) == 16
    assert len(choose(many)[0]) == 10
    _, dropped, _ = choose(many, max_per_problem=1)
    assert dropped == dict.fromkeys("123456", "over_limit")
    one = pairs.Settings(chosen_above=0.5, rejected_below=0.5)
    assert (one.chosen_above, one.rejected_below) == (0.5, 0.5)


def test_what_ranks_a_trace():
    steps = group(trace(0, "a\nb\n", scores=[0.5, None, 0.1]), trace(1, "c", value=0.2, scores=[9.0]))
    assert choose(steps, score="value")[2][0].margin == pytest.approx(0.3 - 0.2)
    assert choose(steps, score="value", aggregate="min")[2][0].margin == pytest.approx(0.2 - 0.1)
    odd = [trace(0, "a", value=float("inf")), trace(1, "b", True), trace(2, "c", scores=[None])]
    assert choose(group(*odd), score="value")[:2] == ([], dict.fromkeys("012", "unscored"))
    found = group(
        trace(0, "a", score=1.0), trace(1, "b", score=float("nan")), trace(2, "c"), trace(3, "d", score=0.0)
    )
    made, dropped, _ = choose(found, score="search")
    assert (made, dropped) == ([("0", "3")], {"1": "unlabelled", "2": "unlabelled"})
    judged = group(
        trace(0, "a", True, score=0.7), trace(1, "b", value=3, score=0.5), trace(2, "c", False, score=0.1)
    )
    assert choose(judged, score="search", verified=True)[:2] == ([("0", "2")], {"1": "unscored"})


def test_a_leaf_of_a_trace_that_leaks_its_hint_is_no_side():
    found = tree()
    found.traces[0] = trace(0, "1+1=2\n2*2=4 (CORRECT)\n", True, hinted=True)[0]
    wanted = {"between": "siblings", "score": "search", "top": 1, "bottom": 1}
    assert choose(found, **wanted)[0] == [("a", "b")]
    assert choose(found, **wanted, hint_markers=("other",))[0] == [("a", "b"), ("0", "a2")]


def test_cut_and_leaking_traces_are_in_no_pair():
    cut = trace(2, "c", False, finish="budget")
    kept = trace(3, "d", True, hinted=True)  # hinted, but it says nothing of it
    plain = trace(4, "e (CORRECT)", True)  # the marker, but nobody gave it a hint
    made, dropped, rows = choose(group(trace(1, "b", False), cut, kept, plain))
    assert (made, dropped) == ([("3", "1"), ("4", "1")], {"2": "truncated"})
    assert {row.problem_id for row in rows} == {"p"}
    other = choose(group(trace(1, "b", False), kept, plain), hint_markers=("d", "zz"))
    assert other[:2] == ([("4", "1")], {"3": "hint_leak"})


def test_steps_deep_in_a_tree_have_all_above_them_as_prefix():
    def node(name, above, step, value=None, **more):
        return Node(
            problem_id="p", id=f"p/{name}", parent=f"p/{above}" if above else None, step=step, depth=0,
            value=value, token_ids=encode(step), **more,
        )  # fmt: skip

    nodes = [
        node("r", None, ""), node("a", "r", "1"), node("b", "a", "2"), node("c", "b", "3", 0.9),
        node("d", "b", "4", 0.1), node("e", "b", "", 0.0), node("f", "b", "5", float("inf")),
        node("g", "b", "3", 0.0), node("h", "b", "6", 0.05, trace_id="p/0"), node("i", "b", "7", -1.0, trace_id="p/1"),
    ]  # fmt: skip
    found = group(trace(0, "126", finish="length"), trace(1, "127", finish="budget"), nodes=nodes)
    made, _, rows = choose(found, between="siblings", score="search", top=1)
    # e adds no token, f is not finite, g says what c says, h was cut; what a search gave up (i) may lose
    assert made == [("c", "1"), ("c", "d")]
    assert (rows[0].prompt, rows[0].prompt_ids) == ("q:12", encode("q:12"))
    assert (rows[0].chosen, rows[0].chosen_ids, rows[0].rejected, rows[0].rejected_ids) == (
        "3",
        [51],
        "7",
        [55],
    )
    assert rows[0].margin == pytest.approx(1.9)
    assert choose(group(nodes=nodes), between="siblings", score="search")[0] == []  # no trace, no prompt


def test_steps_of_plain_traces_by_their_scores():
    found = group(
        trace(0, "x\ny\nz\n", scores=[0.5, 0.9, 0.9]), trace(1, "x\nw\n", scores=[0.5, None]),
        trace(2, "x\nv\n", scores=[0.4, 0.2]), trace(3, "u\n", scores=[float("nan")]), trace(4, "t\n"),
        trace(5, "s\n", value=0.1), trace(6, "x\nq\n", scores=[0.0, 0.0], finish="length"),
    )  # fmt: skip
    made, dropped, rows = choose(found, between="siblings", score="value")
    assert made == [("0", "2")]
    assert (rows[0].prompt, rows[0].chosen, rows[0].rejected) == ("q:x\n", "y\n", "v\n")
    assert rows[0].prompt_ids == encode("q:x\n")
    assert dropped == {"1": "no_pair", "3": "no_pair", "4": "unlabelled", "5": "no_pair", "6": "truncated"}
