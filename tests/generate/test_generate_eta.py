"""AlphaLLM's eta-MCTS: widths, UCB, merging and the three critics, by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.asks import Continue, Score
from pipeline.generate import eta_mcts
from pipeline.generate.tree import Tree, TreeNode
from pipeline.rows import Node, Trace


def settings(**more):
    return eta_mcts.Settings(**{"distance": 0, **more})


def node(step, parent=None, score=None, value=0.0):
    made = TreeNode(parent.prefix if parent else None, parent, score=score, value=value)
    if parent:
        parent.children.append(made)
    return made


def test_golden_widths():
    paper = settings(factor=10, width=(1, 6))
    assert [eta_mcts.width(i, paper) for i in (0, 0.05, 0.35, 0.9)] == [1, 1, 4, 6]
    released = settings(variant="released", factor=10)
    assert [eta_mcts.width(i, released) for i in (0, 0.35, 0.59, 0.9, 2)] == [3, 3, 5, 9, 10]
    fixed = settings(width=(4, 4))
    assert {eta_mcts.width(i, fixed) for i in (0, 0.5, 1)} == {4}


def test_golden_ucb():
    assert eta_mcts.ucb(0.5, 4, 1, settings()) == pytest.approx(2.16511, abs=1e-5)
    assert eta_mcts.ucb(0.5, 4, 1, settings(variant="released")) == pytest.approx(1.67741, abs=1e-5)
    assert eta_mcts.ucb(0.5, 4, 0, settings()) == float("inf")


def test_importance_of_the_paper_is_the_largest_change_of_score(question):
    top = Tree(question, settings()).root
    top.score = 0.5
    assert eta_mcts.importance(top, settings()) == 0
    for score in (0.2, 0.6):
        node("x", top, score=score)
    assert eta_mcts.importance(top, settings()) == pytest.approx(0.3)


def test_importance_of_the_code_is_the_distance_from_the_siblings_and_never_falls(question):
    top = Tree(question, settings()).root
    for value in (0.2, 0.6):  # mean .4: .2 away
        node("x", top, value=value)
    released = settings(variant="released")
    assert eta_mcts.importance(top, released) == pytest.approx(0.2)
    assert eta_mcts.importance(top, released, before=0.5) == 0.5


def test_edit_distance(question):
    tree = Tree(question, settings())
    a, b = TreeNode(tree.root.prefix, tree.root), TreeNode(tree.root.prefix, tree.root)
    a.prefix, b.prefix = (type(tree.root.prefix)("Q", text=text) for text in ("kitten\n", "sitting\n"))
    assert eta_mcts.apart(a, b) == 3
    assert eta_mcts.apart(a, a) == 0


def world(table, **more):
    return table(
        steps={
            "": ["aa\n", "ab\n", "zz\n"],
            "aa\n": ["1."],
            "ab\n": ["3."],
            "zz\n": ["2."],
        },
        values={
            "aa\n": 0.4, "ab\n": 0.5, "zz\n": 0.8, "aa\n1.": 0.3, "zz\n2.": 0.9, "ab\n3.": 0.1,
        },
        **more,
    )  # fmt: skip


def tree_of(rows):
    return {row.step: (row.visits, row.value) for row in rows if isinstance(row, Node)}


def test_golden_tree_of_the_paper(table, question):
    # width [2, 2]. 1: aa (.4). 2: zz would be the third draw; ab is 1 edit from aa: a node of its own at distance 0 (.5).
    # 3: the root has both; UCB aa .4 + sqrt(2 ln 2) , ab .5 + the same: ab, whose child 3. scores .1.
    # Means: ab (.5 + .1) / 2 = .3; root (.4 + .5 + .1) / 3.
    one = world(table)
    rows = one.drive(eta_mcts.generate(question, settings(simulations=3, width=(2, 2)), None))
    found = tree_of(rows)
    assert found["aa\n"] == (1, pytest.approx(0.4))
    assert found["ab\n"] == (2, pytest.approx(0.3))
    assert found["3."] == (1, pytest.approx(0.1))
    assert found[""] == (3, pytest.approx(1.0 / 3))
    assert [t.text for t in rows if isinstance(t, Trace) and t.chosen] == ["ab\n3."]


def test_alike_steps_are_one_in_the_paper_and_the_draw_counts(table, question):
    # up to 1 edit alike: ab joins aa, which gets the visit; the third draw is zz
    one = world(table)
    rows = one.drive(eta_mcts.generate(question, settings(simulations=3, width=(3, 3), distance=1), None))
    found = tree_of(rows)
    found.pop("2.")  # no answer had ended: the best path was written to its end
    assert found == {
        "": (3, pytest.approx(1.6 / 3)),
        "aa\n": (2, pytest.approx(0.4)),
        "zz\n": (1, pytest.approx(0.8)),
    }


def test_the_released_code_draws_anew_until_a_step_is_far(table, question):
    # greedy aa; then ab is 1 edit away: drawn anew, zz is 2 away
    one = world(table, greedy={"": "aa\n"})
    released = settings(variant="released", simulations=2, ends=0, root=2, distance=2, tries=3)
    rows = one.drive(eta_mcts.generate(question, released, None))
    draws = [ask for ask in one.asked if isinstance(ask, Continue) and ask.until == "step"]
    assert [ask.temperature for ask in draws] == [0.0, 1.0, 1.0, 1.0]
    assert {"aa\n", "zz\n"} <= set(tree_of(rows))


def test_a_policy_that_always_says_one_thing_ends(table, question):
    one = table(steps={"": ["a\n"], "a\n": ["b."]}, values={"a\n": 0.5, "a\nb.": 0.5})
    rows = one.drive(eta_mcts.generate(question, settings(simulations=30, width=(2, 4)), None))
    assert {row.step for row in rows if isinstance(row, Node)} == {"", "a\n", "b."}
    assert [t.answer for t in rows if isinstance(t, Trace) and t.chosen] == ["b"]


def test_three_critics_are_one_mean_and_an_end_is_judged_without_roll_outs(table, question):
    one = world(table)
    scores = {"value": 0.2, "prm": 0.5, "orm": 0.8}

    def reply(ask, inner=one.reply):
        if isinstance(ask, Score):
            one.asked.append(ask)
            return [[scores[ask.by]] * len(p.steps) for p in ask.listed]
        return inner(ask)

    one.reply = reply
    three = settings(
        simulations=2, width=(1, 1), value="value", prm="prm", orm="orm", rollouts=2, weights=(1, 2, 1)
    )
    rows = one.drive(eta_mcts.generate(question, three, None))
    assert tree_of(rows)["aa\n"][1] == pytest.approx((0.2 + 2 * 0.5 + 0.8) / 4)
    judged = [(ask.by, len(ask.listed)) for ask in one.asked if isinstance(ask, Score)]
    assert judged == [("value", 1), ("prm", 1), ("orm", 2), ("value", 1), ("prm", 1), ("orm", 1)]
    assert len([ask for ask in one.asked if isinstance(ask, Continue) and ask.until == "answer"]) == 1


def test_a_score_that_is_no_number_takes_its_node_out(table, question):
    one = world(table)
    one.values["aa\n"] = float("nan")
    rows = one.drive(eta_mcts.generate(question, settings(simulations=3, width=(2, 2)), None))
    assert "aa\n" not in tree_of(rows)
    assert "bad_score" in [row.reason for row in rows if not isinstance(row, (Node, Trace))]


def test_settings():
    assert settings().betas == (1, 1, 1)
    assert settings(variant="released").betas == (1, 0, 1)
    with pytest.raises(ValidationError, match="the lower one first"):
        settings(width=(3, 2))
    with pytest.raises(ValidationError, match="a critic which is named above 0"):
        settings(weights=(0, 1, 1))
    task = type("Length", (), {"typical_tokens": 20.0, "typical_steps": 2.0})()
    cost = settings(prm="prm", orm="orm", rollout_by="fast").cost(task)
    assert set(cost.written) == {"policy", "fast"}
    assert set(cost.read) == {"prm", "orm"}
