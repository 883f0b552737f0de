"""Revision chains: what an attempt sees, and who is chosen, by hand."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from pipeline.asks import Continue, Score
from pipeline.generate import revise
from pipeline.rows import Question
from pipeline.tasks.countdown import Settings as Countdown

#: attempts in the order in which they are written: two chains, one attempt of each at a time
WORDS = ["1.", "2.", "3.", "2.", "1.", "4."]  # chain 1: 1, 3, 1; chain 2: 2, 2, 4
VALUES = {"1.": 0.5, "2.": 0.4, "3.": 0.9, "4.": 0.7}


def chains(table, question, values=VALUES, **more):
    one = table(steps={"": WORDS}, values=values)
    settings = revise.Settings(**({"chains": 2, "length": 3} | more))
    return one, one.drive(revise.generate(question, settings, None))


def chosen(rows):
    return [(row.id, row.text) for row in rows if row.chosen]


def test_golden_chains(table, question):
    one, rows = chains(table, question)
    assert [(row.id, row.parent, row.turn, row.text, row.is_attempt) for row in rows] == [
        ("p/0", None, 0, "1.", True), ("p/revise.1", "p/0", 1, "3.", True), ("p/revise.2", "p/revise.1", 2, "1.", True),
        ("p/3", None, 0, "2.", True), ("p/revise.4", "p/3", 1, "2.", True), ("p/revise.5", "p/revise.4", 2, "4.", True),
    ]  # fmt: skip
    assert rows[2].prompt == "Q:[1.]revise[3.]revise:"
    assert [row.tokens_charged for row in rows] == [2] * 6
    asks = [ask for ask in one.asked if isinstance(ask, Continue)]
    assert [(len(ask.listed), ask.n, ask.until) for ask in asks] == [
        (1, 2, "answer"),
        (2, 1, "answer"),
        (2, 1, "answer"),
    ]
    # 1 and 2 have two attempts each: the one that came first
    assert chosen(rows) == [("p/0", "1.")]


def test_a_verifier_chooses_within_and_across_chains(table, question):
    """Chain 1: 1 has .5 + .5, 3 has .9: 1. Chain 2: 2 has .4 + .4, 4 has .7: 2. Then .5 against .4: 1. With .8 for 4
    it is 1 (1.0) and 4 (.8 against .8: the first, 2), so 1; with .85 chain 2 gives 4, which beats 1's .5."""
    one, rows = chains(table, question, value="prm")
    assert chosen(rows) == [("p/0", "1.")]
    assert [row.score for row in rows] == [0.5, 0.9, 0.5, 0.4, 0.4, 0.7]
    assert [len(ask.listed) for ask in one.asked if isinstance(ask, Score)] == [6]
    assert chosen(chains(table, question, VALUES | {"4.": 0.8}, value="prm")[1]) == [("p/0", "1.")]
    assert chosen(chains(table, question, VALUES | {"4.": 0.85}, value="prm")[1]) == [("p/revise.5", "4.")]


@pytest.mark.parametrize(("sees", "shown"), [("history", "Q:[1.]revise:"), ("question", "Q:")])
def test_what_the_verifier_reads(table, question, sees, shown):
    one, rows = chains(table, question, value="prm", sees=sees)
    [ask] = [ask for ask in one.asked if isinstance(ask, Score)]
    assert ask.listed[0].prompt == "Q:"
    assert ask.listed[1].prompt == shown
    assert rows[1].prompt == "Q:[1.]revise:"  # what is stored is what the attempt saw


def test_the_window_slides(table, question):
    _, rows = chains(table, question, chains=1, length=6, window=2)
    assert [row.prompt for row in rows[3:]] == [
        "Q:[2.]revise[3.]revise:", "Q:[3.]revise[2.]revise:", "Q:[2.]revise[1.]revise:",
    ]  # fmt: skip
    assert [row.turn for row in rows] == [0, 1, 2, 2, 2, 2]


def test_one_attempt_is_a_plain_sample(table, question):
    one, rows = chains(table, question, chains=3, length=1)
    assert [row.id for row in rows] == ["p/0", "p/1", "p/2"]
    assert all(row.prompt == "Q:" and row.parent is None for row in rows)


def test_what_was_cut_or_said_nothing_does_not_win(table):
    empty = Question(id="p", question="", prompt="", prompt_used="")
    one = table(steps={"": [".", "1~", "2."]}, values={".": 0.0, "1~": 1.0, "2.": 0.0})
    rows = one.drive(revise.generate(empty, revise.Settings(chains=1, length=3, value="prm"), None))
    assert [(row.text, row.finish, row.chosen) for row in rows] == [
        (".", "eos", True), ("1~", "length", False), ("2.", "eos", False),
    ]  # fmt: skip
    nothing = table(steps={"": ["1~"]}, values={"1~": math.nan})
    rows = nothing.drive(revise.generate(empty, revise.Settings(chains=2, length=2, value="prm"), None))
    assert not any(row.chosen for row in rows)
    assert [row.score for row in rows] == [None] * 4


def test_a_verifier_that_finds_everything_equal_takes_the_first_of_the_most_said(table, question):
    _, rows = chains(table, question, dict.fromkeys(VALUES, 0.0), value="prm")
    assert chosen(rows) == [("p/0", "1.")]


@pytest.mark.parametrize("key", ["chains", "length", "window"])
def test_none_of_them_is_refused(key):
    with pytest.raises(ValidationError, match=key):
        revise.Settings(**{key: 0})


def test_cost_by_hand():
    task = Countdown(use="countdown")
    cost = revise.Settings(chains=2, length=3, value="prm").cost(task)
    assert cost.written == {"policy": 6 * task.typical_tokens}
    assert cost.read == {"prm": 6 * task.typical_tokens}
    assert revise.Settings().cost(task).read == {}
    assert revise.Settings.acts == ("revise",)
