"""What teaches revision: contexts by hand, and what holds for every set of traces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.asks import Turn
from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select.revisions import Settings, context, levenshtein, select
from pipeline.tasks.countdown import Settings as Countdown
from pipeline.tasks.countdown import Task
from pipeline.tasks.prepare import render_turn

TASK = Task(Countdown(use="countdown"))
QUESTION = "numbers 1, 2, 3; target 9"


def trace(number, text, finish="eos"):
    return Trace(
        problem_id="p", id=f"p/s.1/{number}", prompt=f"{QUESTION}\n", text=text, token_ids=list(range(len(text) + 1)),
        step_ends=[len(text) + 1], steps=[text], answer=text, finish=finish,
    )  # fmt: skip


def group(*rows):
    """(text, is it right?) by trace; None: not labelled."""
    traces = [trace(number, text) for number, (text, _) in enumerate(rows)]
    labels = {
        one.id: Label(problem_id="p", trace_id=one.id, correct=right)
        for one, (_, right) in zip(traces, rows, strict=True)
        if right is not None
    }
    return Group("p", traces=traces, labels=labels, question=QUESTION)


def chosen(found, **settings):
    asks, reply = select(found, Settings(**settings), TASK, lambda text: list(map(ord, text))), None
    while True:
        try:
            ask = asks.send(reply)
        except StopIteration as stop:
            rows = stop.value
            break
        assert isinstance(ask, Turn)
        reply = render_turn(TASK, ask, None)
    assert {row.problem_id for row in rows} <= {"p"}
    return rows


def levenshtein_plainly(one, other):
    if not one or not other:
        return len(one) + len(other)
    return min(
        levenshtein_plainly(one[1:], other) + 1,
        levenshtein_plainly(one, other[1:]) + 1,
        levenshtein_plainly(one[1:], other[1:]) + (one[0] != other[0]),
    )


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_distance_is_levenshteins(one, other):
    assert levenshtein(one, other) == levenshtein_plainly(one, other)


def test_distances_by_hand():
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == levenshtein("abc", "") == 3


def test_the_nearest_wrong_answer_stands_last():
    right, wrong = trace(9, "3 * 2 = 6"), [trace(0, "1 + 1 = 2"), trace(1, "3 * 2 = 5"), trace(2, "9")]
    found = context(right, wrong, Settings(most_wrong=3))
    while not found:  # its own draw may be none: another trace has another
        right = trace(int(right.id[6:]) + 1, right.text)
        found = context(right, wrong, Settings(most_wrong=3))
    assert found[-1] is wrong[1]
    assert found == context(right, wrong, Settings(most_wrong=3))


def test_counts_are_drawn_evenly_from_none_to_the_most():
    wrong = [trace(number, f"w{number}") for number in range(6)]
    counts = [len(context(trace(number, "right"), wrong, Settings())) for number in range(100, 600)]
    assert {counts.count(each) > 70 for each in range(5)} == {
        True
    }  # 100 each are expected, 9 one standard deviation
    assert max(counts) == 4
    assert {len(context(trace(n, "right"), wrong[:2], Settings())) for n in range(100, 140)} == {0, 1, 2}


def test_a_row_shows_the_wrong_and_learns_the_right():
    [row] = [
        row for row in chosen(group(("a", False), ("b", True)), most_wrong=0) if isinstance(row, Example)
    ]
    assert (row.prompt, row.completion, row.trace_id) == (f"{QUESTION}\n", "b", "p/s.1/1")
    many = group(("aa", False), ("ab", True), ("ac", True), ("ad", True), ("ae", True), ("zz", False))
    rows = [row for row in chosen(many) if isinstance(row, Example)]
    shown = {row.prompt.removeprefix(f"{QUESTION}\n") for row in rows}
    assert shown <= {"", "aa\nrevise: ", "zz\nrevise: aa\nrevise: "}  # both are one letter off, aa came first
    assert len(shown) > 1
    assert all(
        row.prompt_ids == list(map(ord, row.prompt)) and row.completion_ids == [0, 1, 2] for row in rows
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "ab", "abc", " "]), st.sampled_from([True, False, None])),
        max_size=9,
    )
)
def test_every_trace_is_in_a_row_or_dropped_once(rows):
    found = group(*rows)
    made = chosen(found)
    named = [row.trace_id for row in made if isinstance(row, Example)]
    dropped = [row.what for row in made if isinstance(row, Dropped)]
    assert sorted([*named, *dropped]) == sorted(one.id for one in found.traces)


def test_reasons():
    found = group(("a", False), ("b", True), ("b", True), ("c", None), (" ", True), ("d", True))
    found.traces.append(trace(6, "e", finish="length"))
    found.labels["p/s.1/6"] = Label(problem_id="p", trace_id="p/s.1/6", correct=True)
    made = chosen(found, most_wrong=0, max_per_problem=1)
    assert {row.what[6:]: row.reason for row in made if isinstance(row, Dropped)} == {
        "0": "wrong_answer", "2": "duplicate", "3": "unlabelled", "4": "empty", "5": "over_limit", "6": "truncated",
    }  # fmt: skip


@pytest.mark.parametrize("given", [{"most_wrong": -1}, {"max_per_problem": 0}])
def test_what_means_nothing_is_refused(given):
    with pytest.raises(ValidationError, match=next(iter(given))):
        Settings(**given)
