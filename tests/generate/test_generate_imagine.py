"""Imagined problems: what is proposed, what it is worth, and which may stand beside the splits."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from talking import TASK, Talker

from pipeline.asks import All, Continue, Said, Turn
from pipeline.generate import imagine
from pipeline.rows import Dropped, Label, Problem, Question, Trace
from pipeline.stages.imagined import admitted
from pipeline.tasks import countdown, normalise, split_of

QUESTION = Question(
    id="p", question="numbers 3, 7, 12; target 22", prompt="Q\n", prompt_used="Q\n", task="countdown"
)
NEW, SAME, BAD = "numbers 9, 2, 5; target 40", "numbers 2, 5, 9; target 40\n", "numbers 2, 5; target 40"
FAR = "numbers 1, 8, 20; target 77"
X, Y = "5 + 2 = 7, left 9, 7\n9 + 7 = 16", "9 + 5 = 14, left 2, 14\n14 + 2 = 16"


def kind(rows, cls):
    return [row for row in rows if isinstance(row, cls)]


def run(says, **settings):
    one = Talker(says)
    return one, one.drive(imagine.generate(QUESTION, imagine.Settings(**settings), None))


def test_a_question_is_read_by_the_task_or_counted():
    one, rows = run({"propose": [NEW, SAME, BAD, f"{FAR}~"]})
    assert [(row.question, row.answer, row.source) for row in kind(rows, Problem)] == [
        ("numbers 2, 5, 9; target 40", None, "countdown")
    ]
    assert [row.reason for row in kind(rows, Dropped)] == ["repeated", "no_question", "no_question"]
    traces = kind(rows, Trace)
    assert [trace.id for trace in traces] == [f"p/propose.{k}" for k in range(4)]
    assert not any(trace.is_attempt for trace in traces)
    [turn] = [ask for ask in one.asked if isinstance(ask, Turn)]
    assert list(turn.history) == [Said(QUESTION.question)]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (" numbers 9, 2, 5; target 40 \n", "numbers 2, 5, 9; target 40"),
        ("numbers 2, 5; target 40", None),
        ("numbers 2, 5, 99; target 40", None),
        ("numbers 2, 5, 9; target 9", None),
        ("numbers 2, 5, 9; target 40; hint 9 + 5", None),
        ("numbers 2, 5, 9; target 40\nnumbers 1, 2, 3; target 50", None),
        ("numbers " + "2, " * 4000 + "5; target 40", None),
        ("numbers 2, 5, 9; target " + "9" * 5000, None),
        ("", None),
    ],
)
def test_countdown_takes_well_formed_questions_of_its_own_rules(text, question):
    found = TASK.proposed(text)
    assert (found and found.question) == question
    assert TASK.extract_turn("propose", text) == question
    assert found is None or found.answer is None


def test_whether_a_proposed_target_can_be_reached_is_not_looked_at():
    numbers, target = (2, 2, 2), 99
    assert target not in countdown.ways(numbers, 200)
    assert TASK.proposed("numbers 2, 2, 2; target 99") is not None


def test_rewards_of_r_zero_by_hand():
    # three questions of four: NEW twice (answers X X Y: p 2/3), FAR once; the solver answers each question anew
    says = {"propose": [NEW, SAME, FAR, BAD], "": [X, X, Y, Y, Y, Y]}
    one, rows = run(says, reward="r_zero", votes=3)
    # clusters: NEW and SAME are one text (2), FAR has BLEU far below (1); shares of the four proposals 2/4 and 1/4
    # NEW: min(2/3, 1/3) - 1/2; FAR: p 1, min(1, 0) - 1/4
    labels = [label.value for label in kind(rows, Label)]
    assert labels == pytest.approx([1 / 3 - 0.5, 1 / 3 - 0.5, -0.25, -1])
    assert [label.reason for label in kind(rows, Label)] == ["", "", "", "no_question"]
    asked = [ask for ask in one.asked if isinstance(ask, Continue)][-1]
    assert (len(asked.listed), asked.n) == (2, 3)
    assert "Label" in imagine.Settings(reward="r_zero").kinds_made
    assert "Label" not in imagine.Settings().kinds_made


def test_rewards_of_absolute_zero_by_hand():
    says = {"propose": [NEW, FAR, BAD], "": [X, X, X, Y, "?", "?", "?", "?"]}
    _, rows = run(says, n=3, reward="absolute_zero", votes=4)
    # NEW: p .75 -> .25; FAR: nobody answers: 0; BAD: -1
    assert [label.value for label in kind(rows, Label)] == pytest.approx([0.25, 0, -1])


def test_the_solver_is_asked_the_question_itself_and_may_be_another_model():
    one, _ = run({"propose": [NEW], "": [X]}, n=1, band=(0, 1), votes=2, solver="other")
    [[turn]] = [ask.asks for ask in one.asked if isinstance(ask, All)]
    assert (turn.act, turn.by, turn.question.question) == ("", "other", "numbers 2, 5, 9; target 40")


def test_a_band_keeps_what_is_neither_easy_nor_hopeless():
    says = {"propose": [NEW, FAR], "": [X, X, X, X, X, Y, "?", "?"]}
    _, rows = run(says, n=2, band=(0.2, 0.8), votes=4)
    assert [row.question for row in kind(rows, Problem)] == [FAR]  # p 1 and .25
    assert [row.reason for row in kind(rows, Dropped)] == ["outside_band"]


def test_bleu_and_clusters_by_hand():
    assert imagine.bleu("a b c d", "a b c e") == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)
    assert imagine.bleu("a b", "a b") == 1
    assert imagine.bleu("a", "a b c") == pytest.approx(2.718281828 ** (1 - 3))
    assert imagine.bleu("", "a") == 0
    shares = imagine.cluster_shares(["a b c d", "a b c d", "x y z w"], 0.5)
    assert shares == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_a_band_is_two_shares():
    with pytest.raises(ValidationError, match="the lower one first"):
        imagine.Settings(band=(0.8, 0.3))


# --- beside the splits


def proposal(question):
    return Problem(id="p/propose.0.q", question=question, answer=None, source="countdown", difficulty="new")


def free(split):
    """A question that the hash of its text puts into a split."""
    for target in range(10, 100):
        if split_of(question := f"numbers 2, 5, 9; target {target}") == split:
            return question
    raise AssertionError


def test_a_new_problem_is_named_by_its_text_and_has_no_answer():
    found = admitted("p", proposal(free("train")), TASK, {})
    assert isinstance(found, Problem)
    assert (found.question, found.answer) == (free("train"), None)
    assert (found.difficulty, found.split, found.source) == ("new", "train", "countdown")
    assert found.id == TASK.proposed(free("train")).id


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_problem_of_a_split_is_dropped_with_its_reason(split):
    question = free("train")
    row = admitted("p", proposal(question.upper()), TASK, {normalise(question): split})
    assert isinstance(row, Dropped)  # countdown reads no capitals
    assert row.reason == "no_question"
    row = admitted("p", proposal(question), TASK, {normalise(question): split})
    assert isinstance(row, Dropped)
    assert (row.problem_id, row.reason) == ("p", f"stands_in_{split}")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_question_that_another_run_would_test_on_is_dropped(split):
    row = admitted("p", proposal(free(split)), TASK, {})
    assert row.reason == f"hash_says_{split}"
