"""Tagged thinking: the format, what is read of it, and conversations made into it."""

from __future__ import annotations

import pytest
from talking import TASK, Talker

from pipeline.asks import Turn
from pipeline.generate import reflect
from pipeline.rows import Dropped, Group, Question, Trace
from pipeline.tasks import _tags

QUESTION = Question(
    id="p", question="numbers 3, 7, 12; target 22", prompt="Q\n", prompt_used="Q\n", task="countdown"
)
A = "7 + 3 = 10, left 12, 10\n12 - 10 = 2"
C = "12 + 7 = 19, left 3, 19\n19 + 3 = 22"
GOOD = f"<thinking>\n{A}\n<reflection>\n22 - 2 = 20 wrong\n</reflection>\n{C}\n</thinking>\n<output>\n{C}\n</output>"
READ = "12 + 7 = 19, 19 + 3 = 22"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, ""),
        ("<thinking></thinking><output>x</output>", ""),
        ("x", "no_tags"),
        ("<thinking>x<output>y</output>", "tag_order"),
        ("<output>y</output><thinking></thinking>", "tag_order"),
        ("<output>y</output>", "tag_order"),
        ("<reflection>x</reflection><thinking></thinking><output>y</output>", "tag_order"),
        ("<thinking>x</thinking><output>y", "open_tag"),
        ("<thinking><reflection>x</thinking></reflection><output>y</output>", "open_tag"),
        ("x</thinking><output>y</output>", "open_tag"),
        ("<thinking>x</thinking>", "no_output"),
        ("<thinking>x</thinking><output>y</output><output>z</output>", "no_output"),
    ],
)
def test_the_format(text, fault):
    assert _tags.fault(text) == fault
    assert (_tags.output(text) is None) == bool(fault)


def test_the_answer_is_read_in_the_output_alone():
    assert TASK.extract_turn("reflect", GOOD) == READ
    wrong_output = GOOD.replace(f"<output>\n{C}", f"<output>\n{A}")
    assert TASK.extract_turn("reflect", wrong_output) == TASK.extract(A)
    assert TASK.extract_turn("reflect", GOOD.removesuffix("</output>")) is None
    assert TASK.extract_turn("reflect", C) is None  # an answer outside of the tags is none


def test_the_words_tell_the_format_in_one_message_after_the_question():
    assert TASK.turn_prompt(QUESTION.question, "reflect", []) == f"{QUESTION.question}\nreflect: "
    [turn] = TASK.turn_messages(QUESTION.question, "reflect", [])
    assert QUESTION.question in turn["content"]
    assert "<output>" in turn["content"]


def test_completions_out_of_the_format_are_counted_by_what_is_wrong():
    says = [GOOD, "<thinking>x", C, "<thinking>x~"]
    rows = Talker({"reflect": says}).drive(reflect.generate(QUESTION, reflect.Settings(n=4), None))
    assert [(row.id, row.answer, row.turn, row.is_attempt) for row in rows if isinstance(row, Trace)] == [
        ("p/reflect.0", READ, 0, True)
    ]
    lost = {row.what: row.reason for row in rows if isinstance(row, Dropped)}
    assert lost == {"p/reflect.1": "open_tag", "p/reflect.2": "no_tags", "p/reflect.3": "cut"}
    kept = Talker({"reflect": says}).drive(
        reflect.generate(QUESTION, reflect.Settings(n=4, keep_untidy=True), None)
    )
    assert [row.answer for row in kept] == [READ, None, None, None]


def test_where_none_is_in_the_format_the_problem_is_named():
    rows = Talker({"reflect": ["x"]}).drive(reflect.generate(QUESTION, reflect.Settings(), None))
    assert {row.what: row.reason for row in rows} == {"p/reflect.0": "no_tags", "p": "no_trace"}


def said(name, text, parent=None, answer=None):
    return Trace(
        problem_id="p", id=f"p/s.1/{name}", prompt="", text=text, token_ids=[], step_ends=[], steps=[],
        parent=parent and f"p/s.1/{parent}", answer=answer, model="policy",
    )  # fmt: skip


TALK = [
    said("0", A, answer="a"),
    said("judge.0", "3", "0", "3"),
    said("critique.0", "22 - 2 = 20 wrong", "0", "wrong"),
    said("rewrite.0", C, "critique.0", READ),
    said("1", C, answer=READ),
]


def test_a_conversation_becomes_one_completion_in_the_format():
    asks = reflect.generate(QUESTION, reflect.Settings(spliced=True, n=3), Group("p", TALK))
    one = Talker({})
    [row] = one.drive(asks)
    assert row.text == GOOD
    assert (row.answer, row.parent, row.id) == (READ, "p/s.1/rewrite.0", "p/reflect.0")
    assert row.prompt == f"{QUESTION.question} reflect <>"
    assert [type(ask) for ask in one.asked] == [Turn]  # nobody writes
    assert TASK.extract_turn("reflect", row.text) == row.answer


def test_a_conversation_may_end_with_a_critique_that_finds_nothing_wrong():
    talk = [said("0", C, answer=READ), said("critique.0", "22 - 22 = 0 right", "0", "right")]
    asks = reflect.generate(QUESTION, reflect.Settings(spliced=True), Group("p", talk))
    [row] = Talker({}).drive(asks)
    assert row.text == _tags.tagged([(C, False), ("22 - 22 = 0 right", True)], C)
    assert row.parent == "p/s.1/0"


@pytest.mark.parametrize(
    "talk", [[], [TALK[0]], TALK[:3], [TALK[0], said("critique.0", "<output>", "0", "wrong"), TALK[3]]]
)
def test_no_conversation_is_a_counted_reason(talk):
    rows = Talker({}).drive(reflect.generate(QUESTION, reflect.Settings(spliced=True), Group("p", talk)))
    assert [(row.what, row.reason) for row in rows] == [("p", "no_conversation")]


def test_what_it_needs_and_costs():
    assert reflect.Settings().kinds_needed == ()
    assert reflect.Settings(spliced=True).kinds_needed == ("Trace",)
    assert not reflect.Settings(spliced=True).cost(TASK.settings).written
