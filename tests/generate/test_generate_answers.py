"""Searches over whole answers, by hand: MCTSr with and without gold, LLaMA-Berry's SR-MCTS."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from talking import TASK, Talker

from pipeline.asks import Choose, Said, Turn
from pipeline.generate import mctsr, mctsr_oracle, sr_mcts
from pipeline.generate._answers import Answer, Answers
from pipeline.rows import Dropped, Node, Problem, Question, Trace
from pipeline.select._rows import example

QUESTION = Question(
    id="p", question="numbers 3, 7, 12; target 22", prompt="Q\n", prompt_used="Q\n", task="countdown"
)
A = "7 + 3 = 10, left 12, 10\n12 - 10 = 2"
B = "12 - 7 = 5, left 3, 5\n5 * 3 = 15"
C = "12 + 7 = 19, left 3, 19\n19 + 3 = 22"  # the right one
PLAIN = {"dummy": "", "scale": "hundred"}


def kind(rows, cls):
    return [row for row in rows if isinstance(row, cls)]


def found(rows):
    return {row.id: row for row in kind(rows, Trace)}


# --- MCTSr


def test_golden_values_of_mctsr():
    assert mctsr.quality([80, 60, 40]) == 50
    assert mctsr.quality([]) is None
    settings = mctsr.Settings()
    assert mctsr.uct(50, 3, 2, settings) == pytest.approx(51.16557, abs=1e-5)
    assert mctsr.uct(50, 0, 2, settings) == 50  # the first answer has nothing above: ln 1
    assert [mctsr.kept(score, "hundred") for score in (94, 95, 100)] == [94, 50, 50]
    assert mctsr.kept(5, "five") == 5


def answer(number, rewards, parent=None):
    node = Answer(str(number), number, trace_id=f"p/{number}", parent=parent, rewards=rewards)
    if parent is not None:
        parent.children.append(node)
    return node


def test_q_is_mixed_with_the_best_child_raw_as_in_the_code_or_compounded_as_in_the_paper():
    root = answer(0, [50])
    answer(1, [20], root)
    child = answer(2, [70], root)
    answer(3, [90], child)
    assert mctsr.mixed(root, compound=False) == 60  # (50 + 70) / 2
    assert mctsr.mixed(root, compound=True) == 65  # (50 + (70 + 90) / 2) / 2
    answer(4, [], root)
    assert mctsr.mixed(root, compound=False) == 60  # an unjudged child says nothing


def test_an_answer_is_open_until_it_has_its_children_and_one_as_good():
    settings = mctsr.Settings(branch=2)
    root = answer(0, [50])
    answer(1, [10], root)
    assert mctsr.is_open(root, settings)  # one child
    worse = answer(2, [40], root)
    assert mctsr.is_open(root, settings)  # two, none as good
    worse.rewards = [50]
    assert not mctsr.is_open(root, settings)


def talker(**more):
    return Talker({"": [A], "critique": ["wrong", "wrong"], "rewrite": [B, C], "grade": ["10"], **more})


def test_golden_tree_of_mctsr():
    # The first answer A is graded 10, again 20 before its rewrite B: Q = (10 + 15) / 2 = 12.5. B gets 60.
    # Then UCT of A: (12.5 + 60) / 2 = 36.25 (nothing above); of B: 60 + 1.4 sqrt(ln 3 / 1): B is taken, graded
    # 40: Q = (40 + 50) / 2 = 45; its rewrite C gets 97, which counts 50.
    one = talker(grade=["Score: 10", "Score: 20", "Score: 60", "Score: 40", "Score: 97"])
    rows = one.drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=2, **PLAIN), None))
    tree = [(n.id, n.parent, n.depth, n.visits, n.trace_id, n.step) for n in kind(rows, Node)]
    assert tree == [
        ("p/n", None, 0, 0, None, ""),
        ("p/n0", "p/n", 1, 2, "p/0", A),
        ("p/n1", "p/n0", 2, 2, "p/rewrite.0", B),
        ("p/n2", "p/n1", 3, 1, "p/rewrite.1", C),
    ]
    values = [n.value for n in kind(rows, Node)[1:]]
    assert values == pytest.approx([(12.5 + 100) / 200, (45 + 100) / 200, (50 + 100) / 200])
    traces = found(rows)
    assert [t.id for t in traces.values() if t.chosen] == ["p/rewrite.1"]
    assert traces["p/rewrite.1"].score == pytest.approx(0.75)
    parents = {t.id: t.parent for t in traces.values() if not t.id.startswith("p/grade")}
    assert parents == {
        "p/0": None,
        "p/critique.0": "p/0",
        "p/rewrite.0": "p/critique.0",
        "p/critique.1": "p/rewrite.0",
        "p/rewrite.1": "p/critique.1",
    }
    assert [t.parent for t in traces.values() if t.act == "grade"] == ["p/0", "p/0", *["p/rewrite.0"] * 2, "p/rewrite.1"]  # fmt: skip
    assert sum(t.tokens_charged for t in traces.values()) == sum(len(t.token_ids) for t in traces.values())


def test_a_rewrite_sees_the_answer_that_it_mends_and_its_critique_alone():
    one = talker(grade=["10", "20", "60", "40", "70"])
    one.drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=2, **PLAIN), None))
    turns = [ask for ask in one.asked if isinstance(ask, Turn) and ask.act == "rewrite"]
    assert [list(ask.history) for ask in turns] == [
        [Said(A), Said("wrong", "critique")],
        [Said(B), Said("wrong", "critique")],
    ]


def test_a_judge_without_a_number_is_asked_again_then_counted_and_never_scored_0():
    one = talker(grade=["hm", "?", "Score: 8", "no", "no", "no", "Score: 9"])
    settings = mctsr.Settings(rollouts=1, retries=2, **PLAIN)
    rows = one.drive(mctsr.generate(QUESTION, settings, None))
    # A: two tries lost, then 8; the second sampling loses three; the rewrite gets 9
    assert [row.reason for row in kind(rows, Dropped)] == ["no_grade"] * 5
    assert len({row.what for row in kind(rows, Dropped)}) == 5
    assert [n.visits for n in kind(rows, Node)[1:]] == [1, 1]
    assert kind(rows, Node)[1].value == pytest.approx(108 / 200)


def test_a_judge_that_never_gives_a_number_leaves_a_chain_as_self_refine_does():
    one = talker(grade=["hm"])
    rows = one.drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=2, **PLAIN), None))
    assert [(n.parent, n.value) for n in kind(rows, Node)[1:]] == [
        ("p/n", None),
        ("p/n0", None),
        ("p/n1", None),
    ]
    assert [t.id for t in kind(rows, Trace) if t.chosen] == ["p/0"]
    assert all(t.score is None for t in kind(rows, Trace))


def test_points_are_read_on_the_scale_that_is_set():
    one = talker(judge=["Score: 4", "Score: 60", "Score: 5"])
    settings = mctsr.Settings(rollouts=1, retries=0, dummy="", scale="five")
    rows = one.drive(mctsr.generate(QUESTION, settings, None))
    assert [row.reason for row in kind(rows, Dropped)] == ["no_judge"]  # 60 of 5 is no number of this scale
    assert [n.value for n in kind(rows, Node)[1:]] == [0.8, 1.0]


def test_the_dummy_is_an_answer_to_begin_from_and_never_the_end():
    one = talker(grade=["Score: -100", "Score: 90", "Score: 90", "Score: -90"])
    rows = one.drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=1, scale="hundred"), None))
    dummy = kind(rows, Node)[2]
    assert (dummy.step, dummy.trace_id, dummy.parent) == ("I don't know", None, "p/n")
    assert kind(rows, Node)[3].parent == dummy.id
    [chosen] = [t for t in kind(rows, Trace) if t.chosen]
    assert chosen.id == "p/rewrite.0"


def test_a_repeated_answer_is_no_new_node_and_stops_a_patient_search():
    one = talker(rewrite=[A])
    settings = mctsr.Settings(rollouts=9, patience=2, **PLAIN)
    rows = one.drive(mctsr.generate(QUESTION, settings, None))
    assert len(kind(rows, Node)) == 2
    assert [t.id for t in kind(rows, Trace) if t.act == "rewrite"] == ["p/rewrite.0", "p/rewrite.1"]


def gold(answer: str | None = "known") -> Problem:
    return Problem(id="p", question=QUESTION.question, answer=answer)


def test_the_oracle_stops_at_the_first_right_answer_and_says_that_it_sees_gold():
    one = talker(rewrite=[C, B], grade=["10", "10", "99"])
    settings = mctsr_oracle.Settings(rollouts=5, **PLAIN)
    rows = one.drive(mctsr_oracle.generate(QUESTION, settings, None, problem=gold(), task=TASK))
    assert len(kind(rows, Node)) == 3
    [chosen] = [t for t in kind(rows, Trace) if t.chosen]
    assert (chosen.id, chosen.text) == ("p/rewrite.0", C)
    assert settings.sees_gold
    assert not settings.shows_hint
    assert settings.drawn_otherwise == "temperature 0.95"
    assert not mctsr.Settings().sees_gold


def test_the_oracle_without_gold_is_a_counted_reason():
    rows = talker().drive(
        mctsr_oracle.generate(QUESTION, mctsr_oracle.Settings(), None, problem=gold(None), task=TASK)
    )
    assert [row.reason for row in rows] == ["no_gold"]


@pytest.mark.parametrize("room", [mctsr, sr_mcts])
def test_nothing_but_the_oracle_is_given_gold(room):
    with pytest.raises(TypeError):
        room.generate(QUESTION, room.Settings(), None, problem=gold(), task=TASK)


def test_an_answer_cut_by_the_limit_is_chosen_only_where_there_is_no_other():
    one = talker(rewrite=[B + "~"], grade=["Score: 1", "Score: 1", "Score: 90"])
    rows = one.drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=1, **PLAIN), None))
    assert [t.id for t in kind(rows, Trace) if t.chosen] == ["p/0"]


def test_a_rewrite_trains_under_the_prompt_of_its_turn():
    rows = talker().drive(mctsr.generate(QUESTION, mctsr.Settings(rollouts=1, **PLAIN), None))
    row = example(found(rows)["p/rewrite.0"], lambda text: list(map(ord, text)))
    assert row.completion == B
    assert row.prompt == f"{QUESTION.question} rewrite <:{A} | critique:wrong>"


# --- LLaMA-Berry


def test_golden_values_of_sr_mcts():
    assert sr_mcts.uct(0.5, 3, 1, 1.4) == pytest.approx(2.14837, abs=1e-5)
    # three answers in a chain 0 - 1 - 2 where 1 beats 0, 2 beats 1, 0 beats nobody
    tree = Answers(QUESTION, sr_mcts.Settings())
    for number in range(3):
        tree.nodes.append(answer(number, [], tree.nodes[-1] if number else None))
    better = [[0.5, 0.2, 0.4], [0.8, 0.5, 0.1], [0.6, 0.9, 0.5]]
    # Q_g: 2 first (1), 1 second (.5), 0 last (0). Q_l: 0 beats not 1 (0); 1 beats 0, not 2 (.5); 2 beats 1 (1).
    assert sr_mcts.own_values(tree, better, 0.9) == pytest.approx([0, 0.5, 1])
    # backed up: 1 <- .9 * .5 + .1 * 1 = .55; 0 <- .9 * 0 + .1 * .55 = .055
    sr_mcts.value_all(tree, better, sr_mcts.Settings())
    assert [node.value for node in tree.nodes] == pytest.approx([0.055, 0.55, 1])


def test_the_neighbours_count_where_they_differ_from_the_order():
    tree = Answers(QUESTION, sr_mcts.Settings())
    root = answer(0, [])
    tree.nodes += [root, answer(1, [], root), answer(2, [], root)]
    # 0 beats 1, 1 beats 2, 2 beats 0: the closure is a circle, each beats all; places by what they do to one another:
    # sums 0: .9 + .4 = 1.3, 1: .1 + .8 = .9, 2: .6 + .2 = .8 -> Q_g 1, .5, 0
    better = [[0.5, 0.9, 0.4], [0.1, 0.5, 0.8], [0.6, 0.2, 0.5]]
    # Q_l: 0 beats 1 and not 2: .5; 1 beats not 0: 0; 2 beats 0: 1
    assert sr_mcts.own_values(tree, better, 0.9) == pytest.approx([0.95, 0.45, 0.1])


def test_a_fully_explored_answer_has_its_children_and_a_better_one():
    settings = sr_mcts.Settings(branch=2)
    root, one, two = answer(0, []), None, None
    root.value = 0.5
    one = answer(1, [], root)
    one.value, one.visits, root.visits = 0.9, 1, 2
    assert sr_mcts.descend(root, settings) is root
    two = answer(2, [], root)
    two.value, two.visits = 0.1, 1
    assert sr_mcts.descend(root, settings) is one
    one.value = 0.5
    assert sr_mcts.descend(root, settings) is root


def test_a_pair_model_is_asked_in_both_orders_and_the_best_is_chosen():
    def prefers_b(prompt):
        first, second = prompt.index("First"), prompt.index("Second")
        b = prompt.find("5 * 3 = 15")
        return (0.9, 0.1) if first < b < second else (0.3, 0.7)

    one = Talker({"": [A], "critique": ["wrong"], "rewrite": [B, C]}, chooses=prefers_b)
    rows = one.drive(sr_mcts.generate(QUESTION, sr_mcts.Settings(rollouts=2, judge="ranker"), None))
    choices = [ask for ask in one.asked if isinstance(ask, Choose)]
    assert [len(ask.listed) for ask in choices] == [2, 4]
    assert {ask.by for ask in choices} == {"ranker"}
    assert [t.text for t in kind(rows, Trace) if t.chosen] == [B]
    assert not [t for t in kind(rows, Trace) if t.act == "compare"]
    assert kind(rows, Node)[1].visits == 3


def test_without_a_pair_model_the_policy_compares_in_words_and_no_verdict_counts_half():
    says = {"": [A], "critique": ["wrong"], "rewrite": [B], "compare": ["Better: first", "no idea"]}
    one = Talker(says)
    rows = one.drive(sr_mcts.generate(QUESTION, sr_mcts.Settings(rollouts=1), None))
    # B against A: first (1), and the other order without a verdict (.5): (1 + .5) / 2 = .75
    assert [row.reason for row in kind(rows, Dropped)] == ["no_compare"]
    assert [t.text for t in kind(rows, Trace) if t.chosen] == [B]
    orders = [list(ask.history) for ask in one.asked if isinstance(ask, Turn) and ask.act == "compare"]
    assert orders == [[Said(B), Said(A)], [Said(A), Said(B)]]


def test_settings_of_answer_searches():
    with pytest.raises(ValidationError, match="has no {second}"):
        sr_mcts.Settings(prompt="{question} {first}")
    with pytest.raises(ValidationError):
        sr_mcts.Settings(rollouts=64)
    with pytest.raises(ValidationError):
        mctsr.Settings(scale="ten")
    deep = mctsr.Settings(rollouts=6, max_depth=1, branch=9, **PLAIN)
    texts = [f"{A}\n{'1 + 1 = 2' * k}" for k in range(1, 9)]
    rows = talker(rewrite=texts, grade=["50"]).drive(mctsr.generate(QUESTION, deep, None))
    assert {n.depth for n in kind(rows, Node)} == {0, 1, 2}
