"""rStar's generator: a golden tree by hand, and what a user may get wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.asks import Continue
from pipeline.generate import rstar
from pipeline.rows import Dropped, Node, Trace
from pipeline.tasks.countdown import Settings as Countdown


def found(rows):
    return {row.id: row for row in rows if isinstance(row, Node)}, [r for r in rows if isinstance(r, Trace)]


def world(table):
    """At each node first two single steps, then four whole answers."""
    return table(
        steps={
            "": ["a\n", "b\n", "1.", "1.", "2.", "3."],
            "a\n": ["x\n", "4.", "4.", "4.", "5.", "6~"],
            "b\n": ["7.", "8\n", "7.", "7.", "7.", "7."],
        }
    )


def test_uct_by_hand():
    assert rstar.uct(1.5, 4, 3, 2.0) == pytest.approx(1.5 / 3 + 2 * 0.679778, abs=1e-5)


def test_golden_roll_outs(table, question):
    """1: root, a, x, too deep: 0. 2: b, 8, too deep: 0. 3: the answer 1, two of four votes: .5. 4: again (.5 + c
    sqrt(ln 3) against c sqrt(ln 3)). 5: c sqrt(ln 4) = 2.355 for a against .5 + c sqrt(ln 4 / 2) = 2.165: a's 4,
    which its own step and two of four said, one vote being cut: 3 of 5.
    """
    one = world(table)
    settings = rstar.Settings(rollouts=5, max_depth=2, steps=2, votes=4)
    nodes, traces = found(one.drive(rstar.generate(question, settings, None)))
    assert [(row.step, row.depth, row.visits) for row in nodes.values()] == [
        ("", 0, 5), ("a\n", 1, 2), ("b\n", 1, 1), ("1.", 1, 2), ("x\n", 2, 1), ("4.", 2, 1), ("7.", 2, 0), ("8\n", 2, 1),
    ]  # fmt: skip
    values = [row.value for row in nodes.values()]
    assert values == [pytest.approx(each) for each in (1.6 / 5, 0.3, 0.0, 0.5, 0.0, 0.6)] + [None, 0.0]
    # 7 has the votes of b's step and all four: never rolled out, and still the most agreed on
    assert [(row.text, row.score, row.chosen) for row in traces] == [
        ("1.", 0.5, False), ("a\n4.", 0.6, False), ("b\n7.", 1.0, True),
    ]  # fmt: skip
    asks = [ask for ask in one.asked if isinstance(ask, Continue)]
    assert [(ask.until, ask.n, ask.temperature, ask.top_p, ask.top_k) for ask in asks] == [
        ("step", 2, 0.8, 0.95, 40), ("answer", 4, 0.8, 0.95, 40),
    ] * 3  # fmt: skip


def test_the_answer_of_the_highest_sum_is_chosen(table, question):
    """Two ends that say 1, .4 each, against one that says 2 with .6."""
    one = table(
        steps={"": ["a\n", "1.", "1.", "2.", "3.", "4."], "a\n": ["1.", "2.", "2.", "2.", "1.", "1."]}
    )
    settings = rstar.Settings(rollouts=2, max_depth=2, steps=1, votes=5)
    _, traces = found(one.drive(rstar.generate(question, settings, None)))
    assert [(row.text, row.score, row.chosen) for row in traces] == [
        ("1.", 0.4, False), ("a\n1.", 0.5, True), ("a\n2.", 0.5, False),
    ]  # fmt: skip


def talking(table):
    return table(
        steps={
            "": ["1.", "2."], "subquestion:": ["q1.", "q2."], "subanswer:": ["5.", "6.", "5.", "x~", "x~", "x~"],
            "solve:": ["9.", "9."], "rephrase:": ["c."],
        },
    )  # fmt: skip


def test_golden_sub_questions(table, question):
    """1: the answer 1, one of two votes. 2: q1 with its answer 5 (q2 has none), then once more, then too deep: 0. What
    was solved on the way, 9 twice with both votes, is worth 2 in all."""
    one = talking(table)
    settings = rstar.Settings(
        actions=("rest", "ask"), rollouts=2, max_depth=3, votes=2, subquestions=2, answers=3
    )
    assert settings.asked_acts == ("subquestion", "subanswer", "solve")
    rows = one.drive(rstar.generate(question, settings, None))
    nodes, traces = found(rows)
    assert [(row.step, row.depth, row.visits) for row in nodes.values()] == [
        ("", 0, 2), ("1.", 1, 1), ("q1.\n5.", 1, 1), ("9.", 2, 0), ("q1.\n5.", 2, 1), ("9.", 3, 0), ("q1.\n5.", 3, 1),
    ]  # fmt: skip
    assert [(row.id, row.text, row.score, row.chosen) for row in traces] == [
        ("p/0", "1.", 0.5, False), ("p/solve.1", "9.", 1.0, True), ("p/solve.2", "9.", 1.0, False),
    ]  # fmt: skip
    assert traces[1].prompt == "Q:subquestion[q1.]subanswer[5.]solve:"
    assert all(row.is_attempt for row in traces)
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["no_answer"] * 3


def test_the_last_sub_question_is_answered_again_and_the_question_said_otherwise(table, question):
    one = talking(table)
    one.steps["subanswer:"] = ["5.", "7."]
    more = {"rollouts": 3, "max_depth": 3, "votes": 1, "subquestions": 1, "answers": 1}
    settings = rstar.Settings(actions=("rest", "ask", "again", "rephrase"), **more)
    nodes, traces = found(one.drive(rstar.generate(question, settings, None)))
    # root: 1; q1, whose answer is 5; c. Roll-outs 2 and 3 open q1 (another sub-question, 7 in place of 5) and c
    assert [(row.step, row.depth) for row in nodes.values()][:4] == [
        ("", 0),
        ("1.", 1),
        ("q1.\n5.", 1),
        ("c.", 1),
    ]
    below = {(row.parent, row.step) for row in nodes.values()}
    assert {("p/n2", "9."), ("p/n2", "q2.\n7.")} <= below
    assert ("p/n2", "5.") not in below  # said again: no new node
    assert any(row.prompt == "Q:rephrase[c.]solve:" for row in traces)


def test_steps_that_never_end_and_answers_that_are_cut(table, question):
    endless = table(steps={"": ["a\n"], "a\n": ["b\n"], "a\nb\n": ["c~"]})
    settings = rstar.Settings(rollouts=3, max_depth=2, steps=2, votes=2)
    rows = endless.drive(rstar.generate(question, settings, None))
    _, traces = found(rows)
    assert [(row.text, row.finish, row.answer, row.score, row.chosen) for row in traces] == [
        ("a\nb\nc~", "length", None, 0.0, True)
    ]
    assert {row.reason for row in rows if isinstance(row, Dropped)} == {"no_answer"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rollouts": 0}, "rollouts"),
        ({"votes": 0}, "votes"),
        ({"actions": ()}, "actions"),
        ({"actions": ("rest", "rest")}, "name each action once"),
        ({"actions": ("dance",)}, "actions"),
        ({"actions": ("ask", "again")}, "nothing writes an answer: add step or rest"),
        ({"actions": ("rest", "again")}, "add ask"),
    ],
)
def test_what_means_nothing_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        rstar.Settings(**given)


def test_cost_by_hand():
    """Two steps of 19.5 tokens. Root: 3 steps and 32 whole answers; then 3 nodes: 3 steps and 32 halves each."""
    task = Countdown(use="countdown")
    length = task.typical_tokens
    cost = rstar.Settings().cost(task)
    assert cost.written["policy"] == pytest.approx(length * (3 / 2 + 32 + 3 * (3 / 2 + 16)))
    assert cost.traces == 1 + 3 + 9
