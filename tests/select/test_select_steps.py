"""step_values and top_value: targets, one training of each node, and every input accounted for."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rows import Dropped, Example, Group, Label, Node, StepExample, Trace
from pipeline.select import step_values, top_value
from pipeline.tasks import BaseTask, TaskSettings
from pipeline.vote.aggregate import RULES

TASK = BaseTask(TaskSettings(use="none"))


def encode(text):
    return [ord(character) for character in text]


def trace(number, steps, finish="eos", **more):
    """One character a step, one token a character."""
    return Trace(
        problem_id="p",
        id=f"p/{number}",
        prompt="Q:",
        text=steps,
        token_ids=encode(steps),
        step_ends=list(range(1, len(steps) + 1)),
        steps=list(steps),
        finish=finish,
        answer="1",
        **more,
    )


def group(traces, labels=(), nodes=()):
    return Group(
        "p", traces=list(traces), nodes=list(nodes), labels={label.trace_id: label for label in labels}
    )


def label(name, correct=None, **more):
    return Label(problem_id="p", trace_id=name, correct=correct, **more)


def steps(a_group, **settings):
    rows = step_values.select(a_group, step_values.Settings(**settings), TASK, encode)
    assert {row.problem_id for row in rows} <= {"p"}
    return {row.trace_id: row for row in rows if isinstance(row, StepExample)}, {
        row.what: row.reason for row in rows if isinstance(row, Dropped)
    }


TRACES = [trace(0, "abc"), trace(1, "abx"), trace(2, "ay"), trace(3, "abc")]
VERDICTS = [label("p/0", True), label("p/1", False), label("p/2", False), label("p/3", True)]


def test_shares_and_positions():
    rows, dropped = steps(group(TRACES, VERDICTS))
    assert {name: row.labels for name, row in rows.items()} == {
        "p/0": [2 / 4, 2 / 3, 1.0],
        "p/1": [None, None, 0.0],  # a and ab are trained above
        "p/2": [None, 0.0],
    }
    assert dropped == {"p/3": "duplicate"}
    row = rows["p/0"]
    assert row.token_ids == encode("Q:abc")
    assert row.step_ends == [3, 4, 5]
    assert row.completions == ["a", "b", "c"]
    # the position trained ends the step, by token id
    assert [row.token_ids[end - 1] for end in row.step_ends] == encode("abc")


def test_shared_steps_may_train_in_every_path():
    rows, dropped = steps(group(TRACES, VERDICTS), shared="all")
    assert {name: row.labels for name, row in rows.items()} == {
        "p/0": [2 / 4, 2 / 3, 1.0],
        "p/1": [2 / 4, 2 / 3, 0.0],
        "p/2": [2 / 4, 0.0],
    }
    assert dropped == {"p/3": "duplicate"}


def test_distances():
    rows, _ = steps(group(TRACES, VERDICTS), values="distance")
    assert rows["p/0"].labels == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rows["p/1"].labels[-1] == pytest.approx(2 / 3 - (1 / 3) / 2)
    assert rows["p/2"].labels[-1] == pytest.approx(1 / 9)  # by hand
    rows, dropped = steps(group(TRACES, [label(t.id, False) for t in TRACES]), values="distance")
    assert not rows
    assert set(dropped.values()) == {"unlabelled"}


def test_the_labeller_s_scores_win():
    scored = [
        label("p/0", True, step_scores=[0.3, None, 0.9]),
        label("p/1", False, step_scores=[0.3, 0.2, 0.1]),
        *VERDICTS[2:],
    ]
    rows, dropped = steps(group(TRACES, scored))
    assert rows["p/0"].labels == [0.3, None, 0.9]
    assert rows["p/1"].labels == [None, 0.2, 0.1]
    assert dropped == {"p/2": "unlabelled", "p/3": "unlabelled"}


def test_the_last_step_may_say_whether_the_whole_is_right():
    """DiVeRSe's labels are of steps: `no result` has none, and the second trace stops at a step that is right."""
    traces = [
        trace(0, "abc"),
        trace(1, "ad"),
        trace(2, "aef"),
        trace(3, "ag", finish="budget"),
        trace(4, "ah"),
    ]
    labels = [
        label("p/0", True, step_scores=[1.0, 1.0, 1.0]),
        label("p/1", False, step_scores=[1.0, 1.0]),
        label("p/2", False, step_scores=[1.0, 0.0, None]),
        label("p/3", False, step_scores=[1.0, 1.0]),
        label("p/4", None, step_scores=[1.0, None]),
    ]
    rows, dropped = steps(group(traces, labels), shared="all", ends="outcome")
    assert dropped == {"p/4": "duplicate"}  # nothing is known of its end
    assert {name: row.labels for name, row in rows.items()} == {
        "p/0": [1, 1, 1],
        "p/1": [1, 0],
        "p/2": [1, 0, 0],
        "p/3": [1, 1],
    }
    plain, _ = steps(group(traces, labels), shared="all")
    assert (plain["p/1"].labels, plain["p/2"].labels) == ([1, 1], [1, 0, None])


def test_scores_that_are_all_unknown_do_not_fall_back_to_shares():
    rows, dropped = steps(group([TRACES[0]], [label("p/0", False, step_scores=[None, None, None])]))
    assert not rows
    assert dropped == {"p/0": "unlabelled"}


def test_advantages_may_be_negative_and_stand_for_the_whole_trace():
    marked = [label("p/0", advantage=[-0.5]), label("p/2", advantage=[0.25, -0.25])]
    rows, _ = steps(group([TRACES[0], TRACES[2]], marked), use="advantage")
    assert rows["p/0"].labels == [None, None, -0.5]
    assert rows["p/2"].labels == [0.25, -0.25]


def test_outcomes_train_every_step_of_every_trace():
    rows, dropped = steps(group(TRACES, VERDICTS), use="correct")
    assert {name: row.labels for name, row in rows.items()} == {
        "p/0": [1.0] * 3,
        "p/1": [0.0] * 3,
        "p/2": [0.0] * 2,
        "p/3": [1.0] * 3,
    }
    assert not dropped


def test_hinted_traces_teach_no_prefix_values_and_abandoned_ones_are_not_wrong():
    traces = [trace(0, "ab", hinted=True), trace(1, "ab"), trace(2, "ac", finish="budget")]
    rows, dropped = steps(group(traces, [label("p/0", True), label("p/1", False), label("p/2", False)]))
    assert rows["p/1"].labels == [0.0, 0.0]
    assert dropped == {"p/0": "hinted", "p/2": "unlabelled"}


def test_labels_of_the_wrong_number_are_an_error():
    with pytest.raises(ValueError, match="2 labels for 3 steps"):
        steps(group(TRACES[:1], [label("p/0", True, step_scores=[0.1, 0.2])]))


def node(number, parent, step, trace_id=None):
    return Node(
        problem_id="p",
        id=f"p/n{number}",
        parent=None if parent is None else f"p/n{parent}",
        step=step,
        depth=0,
        trace_id=trace_id,
        token_ids=encode(step),
    )


def a_tree():
    nodes = [
        node(0, None, ""),
        node(1, 0, "a"),
        node(2, 1, "b"),
        node(3, 2, "c", "p/0"),
        node(4, 2, "x", "p/1"),
        node(5, 1, "y"),
        node(6, 0, "z"),
    ]
    values = {"p/n0": 0.0, "p/n1": 1 / 3, "p/n2": 2 / 3, "p/n3": 1.0, "p/n4": 0.5, "p/n5": 0.1}
    labels = [label(name, value=value) for name, value in values.items()] + VERDICTS[:2]
    return group(TRACES[:2], labels, nodes)


def test_a_tree_trains_each_node_once():
    rows, dropped = steps(a_tree())
    assert {name: (row.completions, row.labels) for name, row in rows.items()} == {
        "p/0": (["a", "b", "c"], [1 / 3, 2 / 3, 1.0]),
        "p/1": (["a", "b", "x"], [None, None, 0.5]),
        "p/n5": (["a", "y"], [None, 0.1]),
    }
    assert dropped == {"p/n0": "root", "p/n6": "unlabelled"}
    trained = Counter(
        tuple(row.token_ids[:end])
        for row in rows.values()
        for end, value in zip(row.step_ends, row.labels, strict=True)
        if value is not None
    )
    assert set(trained.values()) == {1}
    assert len(trained) == 5


def test_a_tree_that_is_labelled_throughout_is_a_tree():
    nodes = [node(0, None, ""), node(1, 0, "a", "p/0"), node(2, 0, "b")]
    found = group([trace(0, "a")], [label(f"p/n{i}", value=i / 4) for i in range(3)], nodes)
    rows, dropped = steps(found)
    assert {name: row.labels for name, row in rows.items()} == {"p/0": [0.25], "p/n2": [0.5]}
    assert dropped == {"p/n0": "root"}
    assert steps(found, use="correct")[1]["p/0"] == "unlabelled"  # a tree's values are no outcomes


def test_a_limit_drops_rows_and_trains_shared_nodes_all_the_same():
    rows, dropped = steps(a_tree(), max_per_problem=1)
    assert {name: row.labels for name, row in rows.items()} == {"p/0": [1 / 3, 2 / 3, 1.0]}
    assert dropped == {"p/n0": "root", "p/n6": "unlabelled", "p/1": "over_limit", "p/n5": "over_limit"}


def test_an_end_by_a_stop_text_adds_no_position():
    ended = group(
        [trace(0, "a")],
        [label("p/n0", value=0.0), label("p/n1", value=0.5), label("p/n2", value=1.0), label("p/0", True)],
        [node(0, None, ""), node(1, 0, "a"), node(2, 1, "", "p/0")],
    )
    rows, _ = steps(ended)
    assert (rows["p/0"].labels, rows["p/0"].step_ends) == ([1.0], [3])


@given(
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from([True, False, None]), st.booleans()),
        max_size=8,
    ),
    st.sampled_from(["share", "distance"]),
    st.sampled_from(["step_scores", "correct"]),
    st.sampled_from([None, 1, 3]),
)
def test_every_trace_is_named_or_dropped_exactly_once(drawn, values, use, limit):
    traces = [trace(i, text, hinted=hinted) for i, (text, _, hinted) in enumerate(drawn)]
    labels = [label(f"p/{i}", right) for i, (_, right, _) in enumerate(drawn)]
    rows = step_values.select(
        group(traces, labels),
        step_values.Settings(values=values, use=use, max_per_problem=limit),
        TASK,
        encode,
    )
    assert Counter(row.what if isinstance(row, Dropped) else row.trace_id for row in rows) == Counter(
        one.id for one in traces
    )
    for row in rows:
        if isinstance(row, StepExample):
            assert any(value is not None for value in row.labels)
            assert all(value is None or 0 <= value <= 1 for value in row.labels)
            assert row.step_ends == sorted(set(row.step_ends))
            assert row.step_ends[-1] == len(row.token_ids)


# top_value


def best(a_group, **settings):
    rows = top_value.select(a_group, top_value.Settings(min_characters=0, **settings), TASK, encode)
    assert {row.problem_id for row in rows} <= {"p"}
    return {
        row.what if isinstance(row, Dropped) else row.trace_id: getattr(row, "reason", "kept") for row in rows
    }


@pytest.mark.parametrize("how", RULES)
def test_a_threshold_is_a_number_from_0_to_1_under_every_aggregation(how):
    """A certain trace stays and a doubtful one goes, although log-odds and odds have other ends."""
    traces = [trace(0, "a"), trace(1, "b")]
    labels = {0: [0.9, 0.9], 1: [0.1, 0.1]}
    a_group = group(traces)
    for number, scores in labels.items():
        a_group.labels[f"p/{number}"] = Label(problem_id="p", trace_id=f"p/{number}", step_scores=scores)
    found = best(a_group, score="label", aggregate=how, threshold=0.2)
    assert found == {"p/0": "kept", "p/1": "low_value"}


def test_the_best_scored_traces_are_kept():
    traces = [
        trace(0, "a", score=0.5),
        trace(1, "b", score=0.9),
        trace(2, "B", score=0.8),
        trace(3, "c", score=0.1),
        trace(4, "d", score=0.95, finish="length"),
        trace(5, "e"),
        trace(6, "f", score=0.4),
    ]
    assert best(group(traces)) == {
        "p/1": "kept",
        "p/0": "kept",
        "p/2": "duplicate",
        "p/3": "low_value",
        "p/4": "truncated",
        "p/5": "unscored",
        "p/6": "over_limit",
    }


def test_values_of_a_labeller_and_right_ones_only():
    labels = [
        label("p/0", True, value=0.3),
        label("p/1", False, value=0.9),
        label("p/2", True, step_scores=[0.2, None, 0.8]),
    ]
    rows = best(
        group([trace(0, "a"), trace(1, "b"), trace(2, "cde")], labels), score="label", right=True, top=1
    )
    assert rows == {"p/2": "kept", "p/1": "wrong_answer", "p/0": "over_limit"}


def test_short_completions_are_dropped():
    rows = top_value.select(group([trace(0, "a", score=1.0)]), top_value.Settings(), TASK, encode)
    assert rows == [Dropped(problem_id="p", what="p/0", reason="too_short")]
    assert isinstance(
        top_value.select(group([trace(0, "a" * 50, score=1.0)]), top_value.Settings(), TASK, encode)[0],
        Example,
    )


def test_the_rows_of_steps_and_of_a_whole_trace_word_for_word():
    one = [trace(0, "ab", score=0.75)]
    [row] = step_values.select(group(one, [label("p/0", True)]), step_values.Settings(), TASK, encode)
    assert row == StepExample(
        problem_id="p", prompt="Q:", completions=["a", "b"], labels=[1.0, 1.0], token_ids=encode("Q:ab"),
        step_ends=[3, 4], trace_id="p/0",
    )  # fmt: skip
    [whole] = top_value.select(group(one), top_value.Settings(min_characters=2), TASK, encode)
    assert (whole.prompt, whole.completion, whole.prompt_ids) == ("Q:", "ab", encode("Q:"))
    assert whole.completion_ids == encode("ab")


def test_a_limit_takes_rows_evenly():
    assert step_values.evenly(7, 3) == {0, 2, 4}
    assert step_values.evenly(3, 3) == step_values.evenly(3, None) == step_values.evenly(3, 9) == {0, 1, 2}


def test_distances_where_routes_of_several_lengths_are_right():
    traces = [trace(0, "abcd"), trace(1, "ax"), trace(2, "zy"), trace(3, "aqq")]
    judged = [label("p/0", True), label("p/1", True), label("p/2", False), label("p/3", False)]
    rows, _ = steps(group(traces, judged), values="distance", shared="all")
    assert rows["p/0"].labels == pytest.approx(
        [1 / 2, 2 / 4, 3 / 4, 1.0]
    )  # by the shortest through each prefix
    assert rows["p/1"].labels == pytest.approx([1 / 2, 1.0])
    assert rows["p/2"].labels == pytest.approx([0.0, 0.0])  # never below 0
    assert rows["p/3"].labels == pytest.approx([1 / 2, 1 / 4, 0.0])  # .5 - .5 / 2, .25 - .75 / 2


def test_abandoned_and_unlabelled_traces_teach_no_share():
    traces = [trace(0, "ab"), trace(1, "ab", finish="budget"), trace(2, "ac"), trace(3, "ad")]
    rows, dropped = steps(
        group(traces, [label("p/0", True), label("p/1", False), label("p/2", None), label("p/3", False)])
    )
    assert rows["p/0"].labels == [0.5, 1.0]
    assert dropped == {"p/1": "unlabelled", "p/2": "unlabelled"}
    rows, dropped = steps(group(traces, [label("p/0", None), label("p/3", True)]), use="correct")
    assert {name: row.labels for name, row in rows.items()} == {"p/3": [1.0, 1.0]}
    assert dropped == {"p/0": "unlabelled", "p/1": "unlabelled", "p/2": "unlabelled"}


def test_every_reason_of_a_trace_that_is_not_among_the_best():
    traces = [
        trace(0, "a", score=0.2), trace(1, "b", score=0.19), trace(2, "c", score=float("inf")), trace(3, "d", score=0.9, hinted=True),
        trace(4, "e(CORRECT)", score=0.9, hinted=True), trace(5, "f(CORRECT)", score=0.8), trace(6, "g", score=1.0, finish="budget"),
    ]  # fmt: skip
    mute = dataclasses.replace(trace(7, "h", score=1.0), answer=None)
    assert best(group([*traces, mute]), top=3) == {
        "p/0": "kept", "p/1": "low_value", "p/2": "unscored", "p/3": "kept", "p/4": "hint_leak", "p/5": "kept",
        "p/6": "truncated", "p/7": "no_answer",
    }  # fmt: skip
    assert best(group(traces[:2]), threshold=None) == {"p/0": "kept", "p/1": "kept"}
    judged = [label("p/0", False, reason="no_gold"), label("p/1", True)]
    assert best(group(traces[:3], judged), right=True, threshold=0.0) == {
        "p/0": "no_gold", "p/1": "kept", "p/2": "unlabelled"
    }  # fmt: skip


def test_steps_scores_even_where_there_is_a_value():
    judged = [
        label("p/0", value=0.9, step_scores=[0.2, None, 0.4]),
        label("p/1", value=0.5),
        label("p/2", value=0.3, step_scores=[0.5]),
    ]
    found = group([trace(0, "abc"), trace(1, "d"), trace(2, "e"), trace(3, "f")], judged)
    assert best(found, score="label", top=1) == {
        "p/0": "kept", "p/1": "over_limit", "p/2": "over_limit", "p/3": "unscored"
    }  # fmt: skip
    assert best(found, score="steps", top=1) == {
        "p/2": "kept", "p/0": "over_limit", "p/1": "unscored", "p/3": "unscored"
    }  # fmt: skip
    assert best(found, score="steps", threshold=0.31)["p/0"] == "low_value"  # the mean of .2 and .4


@pytest.mark.parametrize("values", ["share", "distance"])
def test_equal_tokens_after_different_turns_are_different_steps(values):
    """The same words right at first and wrong as the second answer: neither says anything of the other."""
    later = dataclasses.replace(trace(1, "ab", turn=1), prompt="Q:ab\nwrong, again:")
    both = [trace(0, "ab"), later]
    rows, _ = steps(group(both, [label("p/0", True), label("p/1", False)]), values=values)
    first = [1.0, 1.0] if values == "share" else [0.5, 1.0]
    assert rows["p/0"].labels == first
    assert values == "distance" or rows["p/1"].labels == [0.0, 0.0]
    assert values == "share" or "p/1" not in rows, "nothing right is known of its turn"
