"""Values from trees against values worked out by hand, and the first PRM's prefix values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_world import stamped

from pipeline.asks import Continue, Prefix
from pipeline.label import prefix_values, tree_value
from pipeline.rows import Dropped, Group, Label, Node, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings


class Ends(BaseTask):
    """Right is the answer `right`; the oracle, where it is on, finds the step `bad` wrong."""

    oracle = False

    def correct(self, answer, problem):
        return answer == problem.answer

    def step_oracle(self, problem, steps):
        return ["bad" not in step for step in steps] if self.oracle else None


TASK = Ends(TaskSettings(use="ends"))
PROBLEM = Problem(id="p", question="?", answer="right")


def trace(number, *steps, answer="right", finish="eos", **more):
    steps = [f"{step}\n" for step in steps]
    ids = [ord(character) for step in steps for character in step]
    ends = [sum(map(len, steps[: k + 1])) for k in range(len(steps))]
    return Trace(
        problem_id="p",
        id=f"p/{number}",
        prompt="Q:",
        text="".join(steps),
        token_ids=ids,
        step_ends=ends,
        steps=steps,
        answer=answer,
        finish=finish,
        logprobs=[-1.0] * len(ids),
        **more,
    )


def node(number, parent, step, depth, trace_id=None):
    return Node(
        problem_id="p",
        id=f"p/n{number}",
        parent=None if parent is None else f"p/n{parent}",
        step=step,
        depth=depth,
        terminal=trace_id is not None,
        trace_id=trace_id,
        token_ids=[ord(c) for c in step],
    )


def labelled(group, task=TASK, problem=PROBLEM, **settings):
    search = tree_value.label(problem, group, tree_value.Settings(**settings), task)
    with pytest.raises(StopIteration) as stopped:
        next(search)
    return stamped(stopped.value.value, "tree_value")


def forest():
    """root - a - b - c (right); a - x - y (wrong); a - z (never ended); b - w (wrong); d - e - f - g
    (right, longer).
    """
    traces = [
        trace(0, "a", "b", "c"),
        trace(1, "a", "x", "y", answer="no"),
        trace(2, "a", "b", "w", answer=None),
        trace(3, "d", "e", "f", "g"),
    ]
    nodes = [
        node(0, None, "", 0),
        node(1, 0, "a\n", 1),
        node(2, 1, "b\n", 2),
        node(3, 2, "c\n", 3, "p/0"),
        node(4, 1, "x\n", 2),
        node(5, 4, "y\n", 3, "p/1"),
        node(6, 1, "z\n", 2),
        node(7, 2, "w\n", 3, "p/2"),
        node(8, 0, "d\n", 1),
        node(9, 8, "e\n", 2),
        node(10, 9, "f\n", 3),
        node(11, 10, "g\n", 4, "p/3"),
    ]
    return Group("p", traces=traces, nodes=nodes)


def values(rows):
    return {
        row.trace_id: row.value for row in rows if isinstance(row, Label) and row.trace_id.startswith("p/n")
    }


def test_the_paper_s_values_node_by_node():
    rows = labelled(forest())
    assert values(rows) == pytest.approx(
        {
            "p/n0": 0.0,
            "p/n1": 1 / 3,
            "p/n2": 2 / 3,
            "p/n3": 1.0,  # a shortest right path: k / K
            "p/n4": 1 / 9,  # off the route at a: m = 2, v = 1/3: 1/3 - (2/3) / 3
            "p/n5": max(0.0, 1 / 9 - (8 / 9) / 3),  # the same m further down
            "p/n7": 2 / 3 - (1 / 3) / 2,  # off the route at b: m = 1
            "p/n8": 1 / 4,
            "p/n9": 1 / 2,
            "p/n10": 3 / 4,
            "p/n11": 1.0,
        }
    )
    assert [row for row in rows if isinstance(row, Dropped)] == [
        Dropped(problem_id="p", what="p/n6", reason="unknown_distance")
    ]


def test_traces_carry_the_values_of_their_steps():
    found = {row.trace_id: row for row in labelled(forest()) if isinstance(row, Label)}
    assert found["p/0"].step_scores == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found["p/1"].step_scores == pytest.approx([1 / 3, 1 / 9, 0.0])
    assert [found[f"p/{n}"].correct for n in range(4)] == [True, False, False, True]
    assert [found[f"p/{n}"].reason for n in range(4)] == ["", "wrong_answer", "no_answer", ""]


def test_a_longer_route_still_ends_at_one():
    """A longer way below a shared step: the step counts the shorter one."""
    rows = labelled(Group("p", traces=[trace(0, "a", "b"), trace(1, "a", "c", "d", "e")]))
    scores = {row.trace_id: row.step_scores for row in rows}
    assert scores["p/0"] == pytest.approx([1 / 2, 1.0])
    # c: 1/2 + (1/2) / 3; d: 2/3 + (1/3) / 2; e: 1
    assert scores["p/1"] == pytest.approx([1 / 2, 2 / 3, 5 / 6, 1.0])


def test_plain_traces_are_read_as_a_tree():
    with_nodes = {row.trace_id: row.step_scores for row in labelled(forest()) if isinstance(row, Label)}
    alone = {row.trace_id: row.step_scores for row in labelled(Group("p", traces=forest().traces))}
    assert alone == {name: scores for name, scores in with_nodes.items() if scores is not None}


def test_the_simple_rule():
    rows = labelled(forest(), values="simple")
    found = values(rows)
    assert (found["p/n1"], found["p/n2"], found["p/n3"]) == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert found["p/n4"] == 0.0  # (1 - 1) / 3
    assert found["p/n6"] == 0.0
    assert found["p/n7"] == pytest.approx(1 / 3)  # (2 - 1) / 3
    assert "p/n5" not in found


def test_trees_without_a_right_leaf():
    wrong = Group(
        "p",
        traces=[trace(0, "a", "b", answer="no"), trace(1, "c", answer=None, finish="budget")],
        nodes=[
            node(0, None, "", 0),
            node(1, 0, "a\n", 1),
            node(2, 1, "b\n", 2, "p/0"),
            node(3, 0, "c\n", 1, "p/1"),
        ],
    )
    rows = labelled(wrong, no_correct="zeros")
    assert values(rows) == {"p/n2": 0.0}  # the abandoned c was never shown wrong
    assert {row.trace_id: row.step_scores for row in rows if isinstance(row, Label)}["p/0"] == [None, 0.0]
    rows = labelled(wrong, no_correct="branches")
    assert values(rows) == {"p/n1": 0.0, "p/n2": 0.0}
    assert {row.trace_id: row.step_scores for row in rows if isinstance(row, Label)}["p/0"] == [0.0, 0.0]
    assert [row.what for row in rows if isinstance(row, Dropped)] == ["p/n0", "p/n3"]
    rows = labelled(wrong, no_correct="skip")
    assert values(rows) == {}
    assert [row.what for row in rows if isinstance(row, Dropped)] == ["p/n0", "p/n1", "p/n2", "p/n3"]
    assert [row.correct for row in rows if isinstance(row, Label)] == [False, False]


@pytest.mark.parametrize("no_correct", ["zeros", "branches", "skip"])
@pytest.mark.parametrize("rule", ["full", "simple"])
def test_a_tree_that_is_only_a_root_is_counted(rule, no_correct):
    rows = labelled(Group("p", nodes=[node(0, None, "", 0)]), values=rule, no_correct=no_correct)
    assert rows == [Dropped(problem_id="p", what="p/n0", reason="no_correct_leaf")]


def test_trees_of_one_problem_of_which_one_is_only_a_root():
    """Several trees share their root (alphazero draws more than one): the bare one takes its label from the other."""
    nodes = [node(0, None, "", 0), node(1, 0, "a\n", 1, "p/0"), node(2, None, "", 0)]
    rows = labelled(Group("p", traces=[trace(0, "a")], nodes=nodes))
    assert values(rows) == {"p/n0": 0.0, "p/n1": 1.0, "p/n2": 0.0}


def test_an_answer_without_a_step_has_no_value_of_its_own():
    """The end token at once: the trace ends at the root, and is labelled wrong without a step."""
    [row, root] = labelled(Group("p", traces=[trace(0, answer=None)], nodes=[node(0, None, "", 0)]))
    assert (row.trace_id, row.correct, row.step_scores) == ("p/0", False, [])
    assert root == Dropped(problem_id="p", what="p/n0", reason="no_correct_leaf")


@pytest.mark.parametrize("no_correct", ["zeros", "branches", "skip"])
def test_a_tree_with_a_right_leaf_is_labelled_the_same_whatever_the_others_teach(no_correct):
    assert labelled(forest(), no_correct=no_correct) == labelled(forest())


def test_a_problem_without_gold_drops_all():
    rows = labelled(forest(), problem=Problem(id="p", question="?", answer=None))
    assert {row.reason for row in rows} == {"no_gold"}
    assert len(rows) == 16


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=5), st.sampled_from(["right", "no", None])
        ),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from(["full", "simple"]),
)
def test_values_stay_between_0_and_1_and_every_trace_is_labelled_once(drawn, rule):
    traces, seen = [], {}
    for steps, answer in drawn:
        answer = seen.setdefault(tuple(steps), answer)
        traces.append(trace(len(traces), *steps, answer=answer))
    rows = labelled(Group("p", traces=traces), values=rule)
    assert sorted(row.trace_id for row in rows) == sorted(one.id for one in traces)
    for row in rows:
        known = [score for score in row.step_scores if score is not None]
        assert all(0 <= score <= 1 for score in known)
    if rule == "full":
        best = min((len(one.steps) for one in traces if one.answer == "right"), default=0)
        for one, row in zip(traces, rows, strict=True):
            if one.answer == "right" and len(one.steps) == best:
                assert row.step_scores == pytest.approx([(k + 1) / best for k in range(best)])
            before = 0.0
            for score in row.step_scores if best else []:  # w_k <= 1 - v_{k-1}
                assert score - before <= 1 - before + 1e-12
                before = score


# prefix values


def grow(prefix, step, **more):
    ids = (*prefix.token_ids, *map(ord, step))
    return Prefix(
        prompt=prefix.prompt,
        token_ids=ids,
        step_ends=(*prefix.step_ends, len(ids)),
        steps=(*prefix.steps, step),
        text=prefix.text + step,
        logprobs=(*prefix.logprobs, *[-1.0] * len(step)),
        **more,
    )


def prefix_rows(group, written, task=TASK, **settings):
    search = prefix_values.label(PROBLEM, group, prefix_values.Settings(**settings), task)
    ask = next(search)
    assert isinstance(ask, Continue)
    assert ask.until == "step"
    with pytest.raises(StopIteration) as stopped:
        search.send([grow(p, step, **more) for p, (step, more) in zip(ask.listed, written, strict=True)])
    return ask, stamped(stopped.value.value, "prefix_values")


def test_right_prefixes_get_k_over_k_and_one_wrong_step_each():
    group = Group("p", traces=[trace(0, "a", "b", "c"), trace(1, "q", answer="no")])
    ask, rows = prefix_rows(group, [("x\n", {}), ("x\n", {}), ("c\n", {})])
    assert [p.text for p in ask.listed] == ["", "a\n", "a\nb\n"]
    labels = {row.trace_id: row for row in rows if isinstance(row, Label)}
    assert labels["p/0"].step_scores == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert labels["p/1"].step_scores == [None]
    made = [row for row in rows if isinstance(row, Trace)]
    assert [(row.id, row.text, row.parent, row.finish) for row in made] == [
        ("p/2", "x\n", "p/0", "budget"),
        ("p/3", "a\nx\n", "p/0", "budget"),
    ]  # the third step was the right one
    assert labels["p/2"].step_scores == [0.0]
    assert labels["p/3"].step_scores == [None, pytest.approx(1 / 9)]  # by hand
    assert made[1].tokens_charged == 2


def test_the_oracle_decides_where_there_is_one():
    group = Group("p", traces=[trace(0, "a", "b")])
    task = Ends(TaskSettings(use="ends"))
    task.oracle = True
    _, rows = prefix_rows(group, [("fine\n", {}), ("bad\n", {})], task)
    assert [row.text for row in rows if isinstance(row, Trace)] == ["a\nbad\n"]


def test_another_way_to_end_right_is_not_wrong():
    group = Group("p", traces=[trace(0, "a", "b")])
    _, rows = prefix_rows(
        group, [("x\n", {"finish": "eos", "answer": "right"}), ("y\n", {"finish": "eos", "answer": "no"})]
    )
    assert [row.text for row in rows if isinstance(row, Trace)] == ["a\ny\n"]


def test_problems_without_a_right_trace_ask_nothing():
    group = Group("p", traces=[trace(0, "a", answer="no")])
    search = prefix_values.label(PROBLEM, group, prefix_values.Settings(), TASK)
    with pytest.raises(StopIteration) as stopped:
        next(search)
    assert [row.step_scores for row in stopped.value.value] == [[None]]
