"""Conversations and rewrites as training rows: quadruples, near misses, reflected answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
from pydantic import ValidationError

from pipeline.asks import All, Logprob, Turn
from pipeline.engine.driver import drive_with_replies
from pipeline.rows import Dropped, Example, Group, Label, Trace, conversations, critiques_of, subject_of
from pipeline.select import near_miss, quadruples, reflected
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def encode(text):
    return [ord(character) for character in text]


def turn(name, parent=None, answer=None, text=None, **more):
    """A trace `p/NAME`: its prompt and text say who it is."""
    text = text or f"said by {name}"
    return Trace(
        problem_id="p", id=f"p/{name}", prompt=f"<{name}>" if parent else "<q>", text=text,
        token_ids=encode(text), step_ends=[len(text)], steps=[text], answer=answer,
        parent=f"p/{parent}" if parent else None, **more,
    )  # fmt: skip


def group(*traces, **right):
    """right: what a labeller says, `t0=True` of `p/0`, `revise_1=False` of `p/revise.1`."""
    names = {name: f"p/{name.removeprefix('t').replace('_', '.')}" for name in right}
    labels = {names[n]: Label(problem_id="p", trace_id=names[n], correct=ok) for n, ok in right.items()}
    return Group("p", traces=list(traces), labels=labels, question="?")


def told(rows):
    """(prompt, trace) of the rows, and the reasons of the others."""
    assert {row.problem_id for row in rows} <= {"p"}
    kept = [(row.prompt, row.trace_id[2:]) for row in rows if isinstance(row, Example)]
    return kept, {row.what[2:]: row.reason for row in rows if isinstance(row, Dropped)}


#: an answer called wrong, rewritten, called right
MENDED = (
    turn("0", answer="1"),
    turn("critique.0", "0", "wrong"),
    turn("rewrite.0", "critique.0", "2"),
    turn("critique.1", "rewrite.0", "right"),
)


# --- who follows whom


def test_conversations_are_chains_of_attempts():
    a, b, c, d = MENDED
    assert conversations(MENDED) == [[a, c]]
    assert critiques_of(MENDED) == {"p/0": [b], "p/rewrite.0": [d]}
    beside = turn("revise.1", "0", "3")
    assert conversations([*MENDED, beside]) == [[a, c], [a, beside]]
    alone = turn("1", answer="4")
    assert conversations([alone, b]) == [[alone]]  # a critique of nobody
    assert subject_of(b, {}) is None
    one, other = turn("revise.0", "revise.1"), turn("revise.1", "revise.0")
    assert subject_of(one, {t.id: t for t in (one, other)}) == other  # a circle ends
    assert conversations([one, other]) == []


# --- quadruples


def select(given, **settings):
    return told(quadruples.select(given, quadruples.Settings(**settings), TASK, encode))


def test_a_mended_answer_makes_the_three_rows():
    rows, left = select(group(*MENDED))
    assert rows == [
        ("<rewrite.0>", "rewrite.0"),  # (q, r, f) -> r^
        ("<q>", "rewrite.0"),  # q -> r^
        ("<critique.0>", "critique.0"),  # (q, r) -> f
        ("<critique.1>", "critique.1"),
    ]
    assert left == {"0": "called_wrong"}
    rows, left = select(group(*MENDED), rows=["direct"])
    assert rows == [("<q>", "rewrite.0")]
    assert left == {"0": "called_wrong", "critique.0": "not_wanted", "critique.1": "not_wanted"}


def test_only_what_its_own_feedback_calls_right_is_kept():
    a, b, c, d = MENDED
    refused = dataclasses.replace(d, answer="wrong")
    rows, left = select(group(a, b, c, refused))
    assert rows == []
    assert left == {
        "0": "called_wrong", "rewrite.0": "called_wrong",
        "critique.0": "feedback_of_dropped", "critique.1": "feedback_of_dropped",
    }  # fmt: skip
    silent = dataclasses.replace(d, answer=None)
    assert select(group(a, b, c, silent))[1]["rewrite.0"] == "no_verdict"
    tie = dataclasses.replace(d, id="p/critique.2", answer="wrong")
    assert select(group(a, b, c, d, tie))[1]["rewrite.0"] == "no_verdict"
    assert select(group(a, b, c))[1]["rewrite.0"] == "no_verdict"
    cut = dataclasses.replace(c, finish="length")
    assert select(group(a, b, cut, d))[1]["rewrite.0"] == "truncated"
    mute = dataclasses.replace(c, answer=None)
    assert select(group(a, b, mute, d))[1]["rewrite.0"] == "no_answer"


def test_a_first_answer_called_right_is_a_direct_row():
    rows, left = select(group(turn("0", answer="1"), turn("critique.0", "0", "right")))
    assert rows == [("<q>", "0"), ("<critique.0>", "critique.0")]
    assert left == {}


def test_a_labeller_may_decide_and_then_feedback_must_be_true():
    rows, left = select(group(*MENDED, t0=False, rewrite_0=True), keep="label")
    assert [name for _, name in rows] == ["rewrite.0", "rewrite.0", "critique.0", "critique.1"]
    a, b, c, d = MENDED
    lying = dataclasses.replace(d, answer="wrong")
    rows, left = select(group(a, b, c, lying, t0=False, rewrite_0=True), keep="label")
    assert [name for _, name in rows] == ["rewrite.0", "rewrite.0", "critique.0"]
    assert left["critique.1"] == "feedback_of_dropped"
    assert select(group(*MENDED, t0=False, rewrite_0=False), keep="label")[1]["rewrite.0"] == "wrong_answer"
    assert select(group(*MENDED), keep="label")[1]["rewrite.0"] == "unlabelled"
    assert quadruples.Settings(keep="label").kinds_needed == ("Trace", "Label")
    with pytest.raises(ValidationError, match="none of feedback"):
        quadruples.Settings(rows=[])


def test_traces_of_one_turn_make_no_row_without_a_verdict():
    rows, left = select(group(turn("0", answer="1"), turn("1", answer="2")))
    assert (rows, left) == ([], {"0": "no_verdict", "1": "no_verdict"})


# --- near misses


def near(given, **settings):
    def words(ask):
        assert isinstance(ask, All)
        assert all(isinstance(one, Turn) and one.question.question == "?" for one in ask.asks)
        prompts = [f"{one.act} {one.history[-1].text}" for one in ask.asks]
        return [dataclasses.replace(one.question, prompt=p) for one, p in zip(ask.asks, prompts, strict=True)]

    asks, reply = near_miss.select(given, near_miss.Settings(**settings), TASK, encode), None
    while True:  # it asks nothing where nothing recovered
        try:
            reply = words(asks.send(reply))
        except StopIteration as stop:
            return told(stop.value)


TWICE = (
    turn("0", answer="1"),
    turn("critique.0", "0", "wrong"),
    turn("revise.0", "critique.0", "2"),
    turn("critique.1", "revise.0", "right"),  # which is false
    turn("revise.1", "critique.1", "3"),
    turn("critique.2", "revise.1", "right"),
)


def test_near_misses_of_a_recovered_conversation():
    rows, left = near(group(*TWICE, t0=False, revise_0=False, revise_1=True))
    assert rows == [
        ("revise said by 0", "revise.1"),
        ("revise said by revise.0", "revise.1"),
        ("critique said by 0", "critique.0"),
        ("critique said by revise.1", "critique.2"),
    ]
    assert left == {"0": "near_miss", "revise.0": "near_miss", "critique.1": "no_row"}
    rows, left = near(group(*TWICE, t0=False, revise_0=False, revise_1=True), which="last", rows=["revise"])
    assert rows == [("revise said by revise.0", "revise.1")]
    assert left["0"] == "not_recovered"
    rows, left = near(group(*TWICE, t0=False, revise_0=False, revise_1=True), rows=["verify"])
    assert rows == [("critique said by 0", "critique.0"), ("critique said by revise.1", "critique.2")]
    rows, _ = near(group(*TWICE, t0=False, revise_0=False, revise_1=True), which="last", rows=["verify"])
    assert rows == [("critique said by revise.1", "critique.2")]


def test_what_did_not_recover_makes_no_row():
    for right in ({"t0": True, "revise_0": False, "revise_1": True}, {"t0": False, "revise_0": False}):
        rows, left = near(group(*TWICE, **right))
        assert rows == []
        assert left["0"] == "not_recovered"
    rows, left = near(group(turn("0", answer="1"), t0=False))  # one turn only
    assert (rows, left) == ([], {"0": "not_recovered"})
    assert near(group(*TWICE))[1]["0"] == "unlabelled"


# --- reflected


def test_a_ratio_of_perplexities_by_hand():
    assert reflected.ratio([-1.2, -1.2, -1.2], [-2.0, -2.0]) == pytest.approx(0.44933, abs=1e-5)


def reflect(given, losses, **settings):
    """losses: (prompt, text) -> mean loss of the text behind the prompt."""
    seen = []

    def read(ask):
        assert isinstance(ask, Logprob)
        seen.extend((prefix.prompt, prefix.text) for prefix in ask.listed)
        return [[-losses[prefix.prompt, prefix.text]] * prefix.num_tokens for prefix in ask.listed]

    found = reflected.select(given, reflected.Settings(**settings), TASK, encode)
    rows = drive_with_replies(found, [read] if losses else [])
    return told(rows), seen


OLD, NEW = turn("0", answer="1", text="old"), turn("rewrite.0", "0", "1", text="new")


def losses(**changed):
    given = {
        "x": 3.0,
        "y_old": 2.0,
        "y_new": 2.0,
        "old": 1.0,
        "new": 1.2,
        "x_old": 2.8,
        "x_new": 2.0,
    } | changed
    return {
        ("", "?"): given["x"], ("", "old"): given["y_old"], ("", "new"): given["y_new"],
        ("<q>", "old"): given["old"], ("<q>", "new"): given["new"],
        ("old\n", "?"): given["x_old"], ("new\n", "?"): given["x_new"],
    }  # fmt: skip


def test_a_rewrite_that_fits_better_is_kept_under_the_questions_prompt():
    both = group(OLD, NEW, rewrite_0=True)
    (rows, left), seen = reflect(both, losses())
    assert rows == [("<q>", "rewrite.0")]
    assert left == {"0": "original"}
    assert len(seen) == 7  # the question once, three readings an answer
    assert seen[0] == ("", "?")


@pytest.mark.parametrize(
    ("changed", "settings", "reason"),
    [
        ({"x_new": 2.8}, {}, "fits_no_better"),
        ({"x_new": 2.9}, {"r_ifd": "any"}, None),
        ({"x_new": 3.1, "x_old": 3.2}, {}, "answer_no_help"),
        ({"new": 2.0}, {}, "question_no_help"),
        ({"new": 2.0}, {"below": 1.5}, None),
        ({"new": 0.9}, {"ifd": "rises"}, "no_harder"),
        ({"new": 1.1}, {"ifd": "rises"}, None),
    ],
)
def test_the_tests_of_a_rewrite(changed, settings, reason):
    (rows, left), _ = reflect(group(OLD, NEW, rewrite_0=True), losses(**changed), **settings)
    assert left.get("rewrite.0") == reason
    assert bool(rows) == (reason is None)


def test_what_is_not_looked_at():
    assert reflect(group(OLD, NEW), {})[0][1]["rewrite.0"] == "unlabelled"
    assert reflect(group(OLD, NEW, rewrite_0=False), {})[0][1]["rewrite.0"] == "wrong_answer"
    cut = dataclasses.replace(NEW, finish="length")
    assert reflect(group(OLD, cut, rewrite_0=True), {})[0][1]["rewrite.0"] == "truncated"
    only = group(OLD, turn("critique.0", "0", "right"), t0=True)
    assert reflect(only, {})[0] == ([], {"0": "original", "critique.0": "no_attempt"})
    (rows, _), _ = reflect(group(OLD, NEW), losses(), right=False)
    assert len(rows) == 1
    with pytest.raises(ValidationError, match=r"has no \{answer\}"):
        reflected.Settings(inverse="what?")


def test_a_start_token_of_the_tokenizer_is_no_part_of_the_question():
    starts = lambda text: [9, *encode(text)]  # noqa: E731
    seen = []

    def read(ask):
        seen.extend(prefix.token_ids for prefix in ask.listed)
        return [[-1.0] * prefix.num_tokens for prefix in ask.listed]

    asks = reflected.select(group(OLD, NEW, rewrite_0=True), reflected.Settings(), TASK, starts)
    drive_with_replies(asks, [read])
    assert seen[0] == tuple(encode("?"))
    assert math.isclose(reflected.ratio([-1.0], [-1.0]), 1.0)
