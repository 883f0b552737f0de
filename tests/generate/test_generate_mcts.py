"""MCTS*, node by node against the paper's formulas, by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.asks import Continue, Prefix, Score
from pipeline.generate import mcts_star
from pipeline.rows import Dropped, Node, Trace


def nodes(rows):
    return {row.id: row for row in rows if isinstance(row, Node)}


def traces(rows):
    return [row for row in rows if isinstance(row, Trace)]


def dropped(rows):
    return [row.reason for row in rows if isinstance(row, Dropped)]


def test_ucb_golden_value():
    settings = mcts_star.Settings(exploration=0.5)
    assert mcts_star.ucb(0.5, 4, 1, settings) == pytest.approx(1.3326, abs=1e-4)
    assert mcts_star.ucb(0.5, 4, 1, mcts_star.Settings(inner=1.0)) == pytest.approx(
        0.5 + 0.5 * 1.3863**0.5, abs=1e-4
    )
    assert mcts_star.ucb(0.5, 4, 0, settings) == 0.5 + 0.9


def world(table):
    """a and b, then (a: 1, an end), (b: 2, an end)."""
    return table(
        steps={
            "": ["a\n", "b\n"], "a\n": ["1\n", "4."], "b\n": ["2\n", "7."],
            "b\n2\n": ["9."], "a\n1\n": ["8."],
        },
        values={
            "a\n": 0.3, "b\n": 0.4, "b\n2\n": 0.7, "b\n7.": 0.85, "a\n1\n": 0.2, "a\n4.": 0.5,
            "b\n2\n9.": 0.1, "a\n1\n8.": 0.1,
        },
    )  # fmt: skip


def test_golden_tree(table, question):
    settings = mcts_star.Settings(iterations=3, branch=2, end_gate=0.99)
    rows = world(table).drive(mcts_star.generate(question, settings, None))
    # 1. The root gives a (.3) and b (.4); b is first by V + INF. Its roll-out meets b2 (.7):
    #    .5 * .4 + .5 * .7 = .55. Root: .55, n 1.
    # 2. a: .3 + .9; b: .55 + .5 sqrt(2 ln 1 / 1) = .55. So a: a1 (.2) and a4 (.5, ended: no roll-out).
    #    a4 is first. a: .5, n 1. Root: (.55 + .5) / 2, n 2.
    # 3. a: .5 + .5887; b: .55 + .5887. b says 7 (.85, ended) and 2 (.7); 7 is first by V + INF.
    #    b: .85, n 2. Root: (.85 * 2 + .5 * 1) / 3.
    found = nodes(rows)
    tree = {row.id: (row.parent, row.step, row.depth, row.visits, row.terminal) for row in found.values()}
    assert tree == {
        "p/n0": (None, "", 0, 3, False),
        "p/n1": ("p/n0", "a\n", 1, 1, False),
        "p/n2": ("p/n0", "b\n", 1, 2, False),
        "p/n3": ("p/n1", "1\n", 2, 0, False),
        "p/n4": ("p/n1", "4.", 2, 1, True),
        "p/n5": ("p/n2", "7.", 2, 1, True),
        "p/n6": ("p/n2", "2\n", 2, 0, False),
    }
    values = {"p/n0": 2.2 / 3, "p/n1": 0.5, "p/n2": 0.85, "p/n3": 0.2, "p/n4": 0.5, "p/n5": 0.85, "p/n6": 0.7}
    assert {row.id: row.value for row in found.values()} == pytest.approx(values)
    assert [(t.id, t.text, t.answer, t.score, t.chosen) for t in traces(rows)] == [
        ("p/0", "a\n4.", "4", 0.5, False),
        ("p/1", "b\n7.", "7", 0.85, True),
    ]
    assert [(row.id, row.trace_id) for row in found.values() if row.trace_id] == [
        ("p/n4", "p/0"),
        ("p/n5", "p/1"),
    ]
    assert [t.tokens_charged for t in traces(rows)] == [-1, -1]
    assert bytes(found["p/n5"].token_ids).decode() == "7."


def test_the_roll_out_blend_golden_value(table, question):
    one = table(steps={"": ["a\n"], "a\n": ["b\n", "c."]}, values={"a\n": 0.4, "a\nb\n": 0.8, "a\nc.": 0.1})
    rows = one.drive(
        mcts_star.generate(question, mcts_star.Settings(iterations=1, branch=1, end_gate=2), None)
    )
    assert nodes(rows)["p/n1"].value == pytest.approx(0.6)


def test_answer_mode_stops_at_the_first_selected_end_above_the_gate(table, question):
    settings = mcts_star.Settings(iterations=50, branch=2, end_gate=0.8, mode="answer")
    one = world(table)
    rows = one.drive(mcts_star.generate(question, settings, None))
    [chosen] = [t for t in traces(rows) if t.chosen]
    assert chosen.answer == "7"
    full = world(table)
    whole = full.drive(
        mcts_star.generate(question, mcts_star.Settings(iterations=50, branch=2, end_gate=0.8), None)
    )
    assert len(one.asked) <= len(full.asked)
    assert len(nodes(whole)) >= len(nodes(rows))


def test_a_node_above_the_gate_is_written_to_its_end_greedily(table, question):
    one = table(
        steps={"": ["a\n", "b\n"], "a\n": ["x\n"], "b\n": ["x\n"], "a\nx\n": ["1."], "b\nx\n": ["2."]},
        values={"a\n": 0.2, "b\n": 0.9, "b\nx\n": 0.95, "b\nx\n2.": 0.97, "a\nx\n": 0.1, "a\nx\n1.": 0.1},
    )
    settings = mcts_star.Settings(
        iterations=2, branch=2, end_gate=0.8, unvisited=0.0, exploration=0.0, mode="answer"
    )
    rows = one.drive(mcts_star.generate(question, settings, None))
    asks = [ask for ask in one.asked if isinstance(ask, Continue) and ask.until == "answer"]
    assert [ask.temperature for ask in asks] == [0.0]
    assert [(t.text, t.finish, t.score, t.chosen) for t in traces(rows)] == [("b\nx\n2.", "eos", 0.97, True)]
    chain = [(row.depth, row.step, row.value) for row in nodes(rows).values() if row.depth > 1]
    assert chain == [(2, "x\n", 0.95), (3, "2.", 0.97)]


def test_without_an_end_the_best_path_is_finished(table, question):
    one = table(
        steps={"": ["a\n"], "a\n": ["b\n"], "a\nb\n": ["c."]},
        values={"a\n": 0.4, "a\nb\n": 0.5, "a\nb\nc.": 0.6},
    )
    rows = one.drive(
        mcts_star.generate(question, mcts_star.Settings(iterations=1, branch=3, roll_forward=0), None)
    )
    assert [(t.text, t.chosen) for t in traces(rows)] == [("a\nb\nc.", True)]
    assert len(nodes(rows)) == 4  # three equal samples are one node


def test_it_stops_when_every_leaf_has_ended(table, question):
    one = table(steps={"": ["1.", "2."]}, values={"1.": 0.1, "2.": 0.2})
    rows = one.drive(mcts_star.generate(question, mcts_star.Settings(iterations=1000, branch=2), None))
    assert nodes(rows)["p/n0"].visits == 1
    assert [t.chosen for t in traces(rows)] == [False, True]


def test_roll_outs_join_the_tree_only_when_kept(table, question):
    for keep, number in ((False, 4), (True, 5)):
        settings = mcts_star.Settings(iterations=1, branch=2, end_gate=0.99, keep_rollouts=keep)
        rows = world(table).drive(mcts_star.generate(question, settings, None))
        # root, a, b; (b2 where it is kept); the ending of the best path
        assert len(nodes(rows)) == number, keep


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_node_budget(table, question, limit):
    settings = mcts_star.Settings(iterations=30, branch=2, end_gate=0.99, max_nodes=limit)
    rows = world(table).drive(mcts_star.generate(question, settings, None))
    searched = list(nodes(rows).values())
    finished = max((len(t.steps) for t in traces(rows)), default=0)
    assert len(searched) <= limit + finished


def test_token_budget(table, question):
    settings = mcts_star.Settings(iterations=30, branch=2, end_gate=0.99, budget_tokens=4)
    one = world(table)
    rows = one.drive(mcts_star.generate(question, settings, None))
    assert sum(isinstance(ask, Continue) for ask in one.asked) == 1  # a and b: 4 tokens
    assert [(t.text, t.finish, t.chosen) for t in traces(rows)] == [("b\n", "budget", True)]


def test_depth_budget(table, question):
    settings = mcts_star.Settings(iterations=30, branch=2, end_gate=0.99, max_depth=1)
    rows = world(table).drive(mcts_star.generate(question, settings, None))
    assert {row.depth for row in nodes(rows).values() if row.visits} == {0, 1}
    assert [t.chosen for t in traces(rows)] == [True]  # the best path, written out


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"branch": 0},
        {"max_nodes": 1},
        {"budget_tokens": 0},
        {"max_depth": 0},
        {"aggregate": "median"},
    ],
)
def test_budgets_of_zero_and_unknown_rules_are_refused(bad):
    with pytest.raises(ValidationError):
        mcts_star.Settings(**bad)


def drive_with(search, reply):
    answer = None
    for _ in range(10_000):
        try:
            ask = search.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = reply(ask)
    raise AssertionError("the search never ends")


def endless(ask):
    """A policy that writes on and on and ends no step."""
    if isinstance(ask, Score):
        return [[0.5] * len(p.step_ends) for p in ask.listed]
    return [
        Prefix(prompt=p.prompt, token_ids=(*p.token_ids, 1), text=p.text + "x", logprobs=(*p.logprobs, -1.0))
        for p in ask.listed
        for _ in range(ask.n)
    ]


def test_a_policy_that_ends_no_step_is_counted(question):
    rows = drive_with(mcts_star.generate(question, mcts_star.Settings(branch=2), None), endless)
    assert dropped(rows) == ["no_step_end", "no_step_end", "no_trace"]
    assert len({row.what for row in rows if isinstance(row, Dropped)}) == 3


def test_a_policy_that_writes_nothing_is_counted(question):
    def silent(ask):
        return [p for p in ask.listed for _ in range(ask.n)]

    rows = drive_with(mcts_star.generate(question, mcts_star.Settings(branch=2), None), silent)
    assert dropped(rows) == ["no_growth", "no_growth", "no_trace"]


def test_scores_that_are_not_numbers_are_counted(table, question):
    one = world(table)
    one.values["b\n"] = float("nan")
    rows = one.drive(
        mcts_star.generate(question, mcts_star.Settings(iterations=9, branch=2, end_gate=0.99), None)
    )
    assert "bad_score" in dropped(rows)
    assert not any(row.step == "b\n" for row in nodes(rows).values())
    assert [t.answer for t in traces(rows) if t.chosen] == ["4"]


def test_a_scorer_out_of_step_is_an_error_not_a_zero(question):
    def short(ask):
        if isinstance(ask, Score):
            return [[] if i else [0.1, 0.2] for i, _ in enumerate(ask.listed)]
        return [
            Prefix(
                prompt=p.prompt,
                token_ids=(1, n),
                step_ends=(2,),
                steps=(f"{n}\n",),
                text=f"{n}\n",
                logprobs=(0.0, 0.0),
            )
            for p in ask.listed
            for n in range(ask.n)
        ]

    with pytest.raises(ValueError, match="2 scores for 1 steps"):
        drive_with(mcts_star.generate(question, mcts_star.Settings(branch=2), None), short)
