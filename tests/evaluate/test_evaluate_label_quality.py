"""Labels against the oracle, by hand: traces, trees, prefixes inside steps, tasks that do not know."""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "label"))

from label_world import PROBLEM, Lines, trace

from pipeline.evaluate import label_quality as lq
from pipeline.rows import Dropped, Group, Label, Node, Question

QUESTION = Question(id="p", question="?", prompt="Q:", prompt_used="Q:")
SETTINGS = lq.Settings(**{"from": ["tree"]}, resamples=100)


def outcome(group, task=None, settings=SETTINGS):
    """The rows of one problem, graded, and their outcome."""
    search = lq.answer(QUESTION, settings, "policy", None, group)
    with pytest.raises(StopIteration) as stopped:
        next(search)
    rows = stopped.value.value
    task = task or Lines()
    labels = [row for row in rows if isinstance(row, Label)] + lq.grade(PROBLEM, rows, task)
    traces = [row for row in rows if not isinstance(row, (Label, Dropped))]
    return lq.outcomes(PROBLEM, traces, labels, SETTINGS, "policy", task), rows


def labelled(*scores, charged=None):
    """Traces `a, bad, c, ...` with these step scores."""
    traces = [trace(k, "a", "bad", *"cdefg"[: len(each) - 2]) for k, each in enumerate(scores)]
    labels = {
        one.id: Label(problem_id="p", trace_id=one.id, step_scores=list(each))
        for one, each in zip(traces, scores, strict=True)
    }
    return Group("p", traces=traces, labels=labels, charged=charged or {})


def test_rates_by_hand() -> None:
    found, _ = outcome(labelled([0.5, 0.25, 0.0], charged={"policy": 30.0, "weak": 6.0}))
    assert found.points == ((1, 0.5, True), (2, 0.25, False), (3, 0.0, False))
    metrics = lq.measure({"policy": [found]}, SETTINGS)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["false_accept"] == 0.5
    assert metrics["false_reject"] == 0
    assert metrics["auc"] == 1
    assert metrics["sound"] == pytest.approx(1 / 3)
    assert metrics["tokens_a_label"] == 12
    assert (metrics["accuracy/step/1"], metrics["accuracy/step/2"], metrics["accuracy/step/3"]) == (1, 0, 1)
    assert metrics["false_accept/step/2"] == 1
    assert "false_accept/step/1" not in metrics  # no lost prefix there
    assert (metrics["prefixes"], metrics["unknown"]) == (3, 0)
    strict = lq.Settings(**{"from": ["tree"], "above": 0.3})
    assert lq.measure({"policy": [found]}, strict)["accuracy"] == 1


def test_equal_prefixes_count_once_and_unlabelled_steps_do_not() -> None:
    found, _ = outcome(labelled([0.5, None, 0.0], [0.5, 0.0, None]))
    assert found.points == ((1, 0.5, True), (3, 0.0, False), (2, 0.0, False))


def test_an_outcome_is_a_label_of_each_step_where_that_is_asked_for() -> None:
    """Of three traces a, bad, ...: one right, one wrong, one whose steps have labels of their own."""
    group = labelled([None, None], [None, None, None], [0.5, 0.0, None, None])
    for name, right in (("p/0", True), ("p/1", False), ("p/2", False)):
        own = group.labels[name].step_scores if name == "p/2" else None
        group.labels[name] = Label(problem_id="p", trace_id=name, correct=right, step_scores=own)
    found, _ = outcome(group)
    assert found.points == ((1, 0.5, True), (2, 0.0, False))
    found, _ = outcome(group, settings=lq.Settings(**{"from": ["tree"], "outcomes": True}))
    # the first trace says 1 of its two prefixes, which the others share; the second has one more
    assert found.points == ((1, 1.0, True), (2, 1.0, False), (3, 0.0, False))


def test_problems_without_a_label_are_left_out_with_a_reason() -> None:
    _, rows = outcome(labelled([None, None]))
    assert rows == [Dropped(problem_id="p", what="p", reason="unlabelled")]
    found, rows = outcome(labelled([None, None], charged={"policy": 8.0}))
    assert found.charged == 8  # what it cost counts all the same
    assert lq.measure({"policy": [found]}, SETTINGS)["prefixes"] == 0


def tree(*nodes) -> Group:
    """(name, parent, text, value, terminal) of each node below the root."""
    rows = [Node(problem_id="p", id="n", parent=None, step="", depth=0)]
    labels = {}
    for name, parent, text, value, terminal in nodes:
        ids = [ord(c) for c in text]
        rows.append(
            Node(problem_id="p", id=name, parent=parent, step=text, depth=1, token_ids=ids, terminal=terminal)
        )
        labels[name] = Label(problem_id="p", trace_id=name, value=value)
    return Group("p", traces=[trace(0, "a", "no")], nodes=rows, labels=labels)


def test_a_tree_s_nodes_each_once() -> None:
    found, _ = outcome(
        tree(
            ("n1", "n", "a\n", 0.5, False),
            ("n2", "n1", "b\nbad\n", 0.0, False),  # a piece of two steps
            ("n3", "n1", "c", 0.25, False),  # inside a step
            ("n4", "n3", "d\n", 0.75, False),
            ("n5", "n4", "right", 1.0, True),  # an end without a line end is a step
        )
    )
    assert sorted(found.points) == [(1, 0.5, True), (2, 0.75, True), (3, 0.0, False), (3, 1.0, True)]
    assert found.unknown == 1


def test_a_step_that_a_limit_cut_is_unknown() -> None:
    cut = trace(0, "a", "b", finish="length")
    text = cut.text[:-1]
    cut = trace(0, "a", "b", finish="length")
    object.__setattr__(cut, "text", text)
    object.__setattr__(cut, "steps", ["a\n", "b"])
    object.__setattr__(cut, "token_ids", cut.token_ids[:-1])
    object.__setattr__(cut, "step_ends", [2, 3])
    group = Group(
        "p", traces=[cut], labels={"p/0": Label(problem_id="p", trace_id="p/0", step_scores=[1, 0])}
    )
    found, _ = outcome(group)
    assert found.points == ((1, 1, True),)
    assert found.unknown == 1


def test_an_oracle_that_does_not_know_is_said() -> None:
    found, _ = outcome(labelled([0.5, 0.25, 0.0]), Lines(oracle=False))
    metrics = lq.measure({"policy": [found]}, SETTINGS)
    assert metrics["unknown"] == 1
    assert "accuracy" not in metrics
    [said] = lq.health(metrics, SETTINGS).warnings
    assert "no step oracle" in said
    assert "no step" in lq.health({"prefixes": 0.0}, SETTINGS).warnings[0]
    assert lq.health({"prefixes": 3.0, "unknown": 0.0}, SETTINGS).warnings == []


def test_advantages_are_labels_too() -> None:
    group = labelled([0.0, 0.0, 0.0])
    group.labels["p/0"] = Label(problem_id="p", trace_id="p/0", advantage=[0.5, -0.5, -0.1])
    assert outcome(group)[0].points == ((1, 0.5, True), (2, -0.5, False), (3, -0.1, False))


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1, max_size=5))
def test_the_rates_agree_with_one_another(scores) -> None:
    metrics = lq.measure({"policy": [outcome(labelled(*scores))[0]]}, SETTINGS)
    sound = metrics["sound"]
    wrong = (1 - sound) * metrics.get("false_accept", 0) + sound * metrics.get("false_reject", 0)
    assert metrics["accuracy"] == pytest.approx(1 - wrong)


def test_what_it_declares_is_what_it_measures() -> None:
    pair = labelled([0.5, 0.25, 0.0], charged={"policy": 30.0})
    pair.traces.append(trace(1, "b", "sound", "right"))
    pair.labels["p/1"] = Label(problem_id="p", trace_id="p/1", step_scores=[0.5, 0.0, 1.0])
    metrics = lq.measure({"policy": [outcome(pair)[0]]}, SETTINGS)
    declared = {one.name for one in lq.metrics(SETTINGS)}
    assert declared <= set(metrics)
    for panel in lq.panels(SETTINGS):
        for name in panel.metrics:
            assert any(key == name or (name.endswith("/") and key.startswith(name)) for key in metrics), name


def test_whole_steps_of_a_cut_text() -> None:
    one = trace(0, "ab", "cd")
    assert lq.whole_steps(one, Lines()) == [1, 2]
    assert list(accumulate(map(len, one.steps))) == [3, 6]
