"""The words of later turns: what is shown, and what is read in the reply."""

import pytest
from pydantic import ValidationError

from pipeline.asks import Prefix, Said
from pipeline.engine.growth import ended
from pipeline.errors import RecipeError
from pipeline.tasks import _acts, countdown, gsm8k, words


def task_of(**settings):
    return countdown.Task(countdown.Settings(use="countdown", **settings))


A, B = "4 + 1 = 5, left 11, 5\n11 + 5 = 16", "11 - 4 = 7, left 1, 7\n7 * 1 = 7"
QUESTION = "numbers 1, 4, 11; target 93"


def test_a_plain_conversation_is_one_text_that_ends_where_the_turn_begins():
    task = task_of()
    assert task.turn_prompt(QUESTION, "critique", [Said(A)]) == f"{QUESTION}\n{A}\ncheck: "
    history = [Said(A), Said("no", "critique")]
    assert task.turn_prompt(QUESTION, "revise", history) == f"{QUESTION}\n{A}\ncheck: no\nrevise: "
    assert (
        task.turn_prompt(QUESTION, "compare", [Said(A), Said(B)]) == f"{QUESTION}\n{A}\njudge: {B}\njudge: "
    )
    assert task.turn_prompt("", "propose", [Said(QUESTION)]) == f"{QUESTION}\npropose: "


def test_a_chat_shows_each_turn_under_its_own_instruction():
    task = task_of(chat=True, system="Be brief.")
    turns = task.turn_messages(QUESTION, "revise", [Said(A), Said("No.", "critique")])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert QUESTION in turns[1]["content"]
    assert turns[2]["content"] == A
    assert "Verdict: wrong" in turns[3]["content"]
    assert turns[4]["content"] == "No."
    assert "write the whole answer again" in turns[5]["content"]


def test_two_answers_are_compared_in_one_message():
    [turn] = task_of(chat=True).turn_messages(QUESTION, "compare", [Said(A), Said(B)])
    text = turn["content"]
    assert text.index("First answer:") < text.index(A) < text.index("Second answer:") < text.index(B)


def test_a_critique_may_take_a_fault_for_granted():
    neutral = task_of(chat=True).turn_messages(QUESTION, "critique", [Said(A)])[-1]["content"]
    fault = task_of(chat=True, critique="fault").turn_messages(QUESTION, "critique", [Said(A)])[-1]["content"]
    assert "There is a fault" in fault
    assert "There is a fault" not in neutral
    with pytest.raises(ValidationError, match="this task does not chat: set chat: true"):
        task_of(critique="fault")
    with pytest.raises(ValidationError, match="acts.critique words it too"):
        task_of(chat=True, critique="fault", acts={"critique": "Is it so?"})


def test_a_recipe_has_words_of_its_own():
    task = task_of(acts={"critique": "is it so? ", "shout": "LOUDER: "})
    assert task.turn_prompt(QUESTION, "critique", [Said(A)]).endswith("\nis it so? ")
    assert task.turn_prompt(QUESTION, "shout", [Said(A)]).endswith("\nLOUDER: ")


@pytest.mark.parametrize("chat", [False, True])
def test_an_act_that_nobody_has_words_for_is_a_sentence(chat):
    task = task_of(chat=chat)
    asked = task.turn_messages if chat else task.turn_prompt
    with pytest.raises(RecipeError, match=r"task countdown: it has no words for the act 'shout'.*task\.acts"):
        asked(QUESTION, "shout", [Said(A)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4 + 1 = 5 ok, 11 + 5 = 16 ok, 93 - 16 = 77 wrong", "wrong"),
        ("4 + 1 = 5 ok, 24 - 24 = 0 right", "right"),
        ("Step 2 is wrong. No: it is fine.\nVerdict: right", "right"),
        ("All is right so far.\nVerdict: **incorrect**", "wrong"),
        ("This is not correct", "wrong"),
        ("It isn't wrong", "right"),
        ("There is nothing wrong here.", "right"),
        ("Verdict: it is wrong", "wrong"),
        ("Verdict: wrong, the right sum is 5", "wrong"),
        ("Verdict: not right, true as it sounds", "wrong"),
        ("Verdict: all steps are right but the answer is wrong", None),  # nobody can tell what it comes to
        ("Verdict:\nright. The wrong step was mended", "right"),
        ("The right triangle has ...", "right"),
        ("I cannot tell", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_word_on_it(text, said):
    assert _acts.verdict(text) == said


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("It is relevant. Score: 4", "4"),
        ("Score: 2, no: score: 3.5", "3.5"),
        ("Score: 9", None),
        ("Score: -1", None),
        ("five", None),
        ("Score: **5**/5", "5"),
        ("3", "3"),
        ("12 apples", None),
        ("Score: 3 points out of 5", "3"),
        ("Score: 3 of 5 points, with 0 for the end", "3"),
        ("It gets 3 points out of 5.", "3"),
        ("It gets 3 out of 5 points.", "3"),
        ("Points: 4", "4"),
        ("That is worth some of 5 points.", None),
        ("1 point for the subject, 1 point for the steps.", None),  # no sum
    ],
)
def test_points_outside_their_range_are_none(text, points):
    assert _acts.points(text) == points


def test_which_is_better_is_the_last_one_named():
    assert _acts.better("50 - 35 = 15, 50 - 50 = 0 second") == "second"
    assert _acts.better("The first is longer. Better: same") == "same"
    assert _acts.better("both") is None
    assert _acts.better("Better: second. The first answer has a false step.") == "second"
    assert _acts.better("Better: first\nThe second one is longer.") == "first"
    assert _acts.better("Better: first? No. **Better:** second, not first") == "second"


def test_an_attempt_is_read_as_an_answer_and_a_critique_as_a_verdict():
    task = gsm8k.Task(gsm8k.Settings(use="gsm8k"))
    assert task.extract_turn("revise", "so 3\n#### 3") == "3"
    assert task.extract_turn("critique", "#### 3 is wrong") == "wrong"
    assert task.extract_turn("propose", " How many? ") == "How many?"


def test_a_proposed_question_has_no_answer_and_a_name_by_its_text():
    task = task_of()
    one, other = task.proposed(QUESTION), task.proposed(QUESTION + " ")
    assert one.answer is None
    assert one.id == other.id
    assert one.source == "countdown"
    assert task.proposed(" ,") is None


def test_a_critic_that_loops_until_it_is_cut_has_come_to_no_verdict() -> None:
    task = words.Task(words.Settings(use="words", train=1, dev=1, test=1))
    loop = "Step 1: 4 + 5 = 9 is right. " * 9

    def said(act: str, text: str, finish: str) -> str | None:
        return ended(Prefix(prompt="?", text=text, act=act), finish, task).answer

    assert said("critique", loop, "length") is None
    assert said("critique", f"{loop} So it is all right.", "eos") == "right"
    assert said("critique", f"Verdict: wrong. {loop}", "length") == "wrong"
    assert said("judge", "Score: 4 " * 9, "length") == "4"
    assert said("", "4 + 5 = 9\n", "length") == "9"
