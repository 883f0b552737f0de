"""Which right traces become training rows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select import correct
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def encode(text):
    return [ord(character) for character in text]


def trace(number, text="a\nb", finish="eos", tokens=3, **more):
    steps = text.splitlines(keepends=True)
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text=text, token_ids=list(range(tokens)),
        step_ends=[tokens], steps=steps, finish=finish, **more,
    )  # fmt: skip


def group(*judged):
    traces = [one for one, _ in judged]
    return Group(
        "p",
        traces=traces,
        labels={
            one.id: Label(problem_id="p", trace_id=one.id, correct=right, reason="" if right else "no_answer")
            for one, right in judged
            if right is not None
        },
    )


def reasons(rows):
    return {
        row.what if isinstance(row, Dropped) else row.trace_id: getattr(row, "reason", "kept") for row in rows
    }


def choose(a_group, **settings):
    rows = correct.select(a_group, correct.Settings(**settings), TASK, encode)
    assert {row.problem_id for row in rows} <= {"p"}
    return rows


def test_the_row_is_ready_to_train_on():
    [row] = choose(group((trace(0), True)))
    assert row == Example(
        problem_id="p",
        prompt="q",
        completion="a\nb",
        trace_id="p/0",
        prompt_ids=[113],
        completion_ids=[0, 1, 2],
    )


def test_reasons():
    rows = choose(
        group(
            (trace(0), True),
            (trace(1), False),
            (trace(2), None),
            (trace(3, "c", finish="length"), True),
            (trace(4, "x (CORRECT)", hinted=True), True),
            (trace(5, "A \n b"), True),
            (trace(6, "short", tokens=1), True),
            (trace(7, "long", tokens=9), True),
            (trace(8, "x (CORRECT)"), True),
            (trace(9, "one more"), True),
        ),
        min_tokens=2,
        max_tokens=8,
        max_per_problem=2,
    )
    assert reasons(rows) == {
        "p/0": "kept", "p/1": "no_answer", "p/2": "unlabelled", "p/3": "truncated", "p/4": "hint_leak",
        "p/5": "duplicate", "p/6": "too_short", "p/7": "too_long", "p/8": "kept", "p/9": "over_limit",
    }  # fmt: skip


@pytest.mark.parametrize(("num_right", "kept"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0)])
def test_the_vote_band_drops_what_all_or_none_solve(num_right, kept):
    rows = choose(group(*((trace(i, f"t{i}"), i < num_right) for i in range(4))), keep_between=[0.1, 0.9])
    assert sum(isinstance(row, Example) for row in rows) == kept
    if num_right == 4:
        assert Counter(reasons(rows).values()) == {"outside_band": 4}


def test_hinted_traces_do_not_vote():
    rows = choose(group((trace(0), False), (trace(1, hinted=True), True)), keep_between=[0.1, 0.9])
    assert reasons(rows)["p/1"] == "outside_band"


def test_prefer():
    judged = [
        (trace(0, "a", tokens=5, score=0.1, round=1), True),
        (trace(1, "b", tokens=2, score=0.9, round=1), True),
        (trace(2, "c", tokens=4, score=None, round=3), True),
    ]
    for prefer, winner in (("first", "p/0"), ("score", "p/1"), ("shortest", "p/1"), ("newest", "p/2")):
        rows = reasons(choose(group(*judged), max_per_problem=1, prefer=prefer))
        assert [name for name, reason in rows.items() if reason == "kept"] == [winner], prefer


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A", "b", "c\nd"]),
            st.sampled_from([True, False, None]),
            st.sampled_from(["eos", "length", "stop"]),
            st.integers(0, 4),
        ),
        max_size=12,
    ),
    st.sampled_from([None, (0.0, 0.5), (0.2, 0.9)]),
    st.sampled_from([None, 1, 3]),
)
def test_every_trace_is_kept_or_dropped_exactly_once(drawn, band, limit):
    judged = [
        (trace(i, text, finish, tokens), right) for i, (text, right, finish, tokens) in enumerate(drawn)
    ]
    rows = choose(group(*judged), keep_between=band, max_per_problem=limit)
    assert Counter(row.what if isinstance(row, Dropped) else row.trace_id for row in rows) == Counter(
        one.id for one, _ in judged
    )
    kept = [row for row in rows if isinstance(row, Example)]
    assert limit is None or len(kept) <= limit
    truncated = {one.id for one, _ in judged if one.finish == "length"}
    assert not truncated & {row.trace_id for row in kept}


@pytest.mark.parametrize(
    "bad",
    [
        {"keep_between": [0.9, 0.1]},
        {"keep_between": [0, 2]},
        {"min_tokens": 5, "max_tokens": 4},
        {"max_per_problem": 0},
    ],
)
def test_settings_that_keep_nothing_are_refused(bad):
    with pytest.raises(ValidationError):
        correct.Settings(**bad)


def test_the_band_and_the_lengths_hold_their_own_bounds():
    """keep_between, min_tokens and max_tokens include what they name."""
    half = group((trace(0), True), (trace(1), False))
    for low, high, kept in ((0.5, 0.5, 1), (0.0, 0.5, 1), (0.5, 1.0, 1), (0.51, 1.0, 0), (0.0, 0.49, 0)):
        rows = choose(half, keep_between=(low, high), dedupe=False)
        assert sum(isinstance(row, Example) for row in rows) == kept, (low, high)
    for least, most, kept in ((3, 3, True), (2, 4, True), (4, 9, False), (0, 2, False)):
        [row] = choose(group((trace(0, tokens=3), True)), min_tokens=least, max_tokens=most)
        assert isinstance(row, Example) == kept, (least, most)
    with pytest.raises(ValidationError, match="is below min_tokens"):
        correct.Settings(min_tokens=5, max_tokens=4)
    assert correct.Settings(min_tokens=5, max_tokens=5).max_tokens == 5
    with pytest.raises(ValidationError, match="low comes first"):
        correct.Settings(keep_between=(0.6, 0.5))
    assert correct.Settings(keep_between=(0.5, 0.5)).keep_between == (0.5, 0.5)


def test_what_a_limit_a_hint_and_a_vote_mean():
    many = group(*((trace(i, f"t{i}", score=float(i), tokens=20 - i, round=i % 3), True) for i in range(12)))
    kept = {how: [row.trace_id[2:] for row in choose(many, prefer=how, max_per_problem=3) if isinstance(row, Example)]
            for how in ("first", "newest", "score", "shortest")}  # fmt: skip
    assert kept == {
        "first": ["0", "1", "2"], "newest": ["2", "5", "8"], "score": ["11", "10", "9"], "shortest": ["11", "10", "9"],
    }  # fmt: skip
    assert sum(isinstance(row, Example) for row in choose(many)) == 10
    assert sum(isinstance(row, Example) for row in choose(many, max_per_problem=None)) == 12
    hinted = group(
        (trace(0, "a", hinted=True), True),
        (trace(1, "b x", hinted=True), True),
        (trace(2, "c", finish="budget"), True),
    )
    assert reasons(choose(hinted, hint_markers=("x", "y"))) == {
        "p/0": "kept",
        "p/1": "hint_leak",
        "p/2": "truncated",
    }
    assert reasons(choose(hinted, keep_between=(0.0, 1.0)))["p/0"] == "kept"  # the cut one votes
    alone = group((trace(0, "a", hinted=True), True))
    assert reasons(choose(alone, keep_between=(0.0, 1.0))) == {"p/0": "outside_band"}  # nobody voted
    same = group((trace(0, "A  b"), True), (trace(1, "a B"), True))
    assert reasons(choose(same, dedupe=False)) == {"p/0": "kept", "p/1": "kept"}
    unsaid = group((trace(0), True))
    unsaid.labels["p/0"] = Label(problem_id="p", trace_id="p/0", correct=False)
    assert reasons(choose(unsaid)) == {"p/0": "wrong_answer"}
