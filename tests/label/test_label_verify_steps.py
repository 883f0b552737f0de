"""Written checks as step labels: shares worked out by hand, checks that cannot be read, what is left out."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

sys.path.append(str(Path(__file__).parent))

from label_world import Lines, trace
from test_label_judges import Talker, labels, reasons, talk

from pipeline.label import verify_steps
from pipeline.rows import Dropped, Group, Label, Trace
from pipeline.tasks import _acts, _dialect, countdown

TASK = countdown.Task(countdown.Settings(use="countdown"))
SOUND, ENDS_WRONG, FIRST_WRONG, MUTE, DENIES = (
    "Step 1: 4 + 1 is 5, correct. Step 2: 11 + 5 is 16, correct.\nVerdict: right",
    "Step 1: correct. Step 2: correct, and 16 is not asked for.\nVerdict: wrong",
    "Step 1: this is \\boxed{incorrect}.\nVerdict: wrong",
    "Step 1 is 5. I cannot tell.",
    "Step 1: wrong.\nVerdict: right",
)


def drive(checks, group, **settings):
    """checks: by the answer's text what is said of it, sample by sample."""
    talker = Talker(lambda act, text, k: checks[text][k % len(checks[text])])
    return talker.drive(verify_steps, group, verify_steps.Settings(**settings))


def test_a_step_gets_the_share_of_the_checks_that_hold_all_up_to_it_sound():
    group = Group("p", traces=[trace(0, "a", "b")])
    rows = drive({"a\nb\n": [SOUND, ENDS_WRONG, FIRST_WRONG, MUTE, DENIES]}, group, n=5)
    found = labels(rows)["p/0"]
    assert found.step_scores == [pytest.approx(2 / 3), pytest.approx(1 / 3)]  # of three that can be read
    assert found.value == pytest.approx(1 / 3)
    assert found.reason == "no verdict in 2 of 5"
    assert found.correct is None
    kept = [row for row in rows if isinstance(row, Trace)]
    assert [(row.id, row.answer) for row in kept] == [
        ("p/critique.0", "right"), ("p/critique.1", "wrong"), ("p/critique.2", "wrong"),
        ("p/critique.3", None), ("p/critique.4", "right"),
    ]  # fmt: skip
    assert {row.parent for row in kept} == {"p/0"}
    assert all(row.tokens_charged == len(row.token_ids) for row in kept)


def test_what_cannot_be_checked_or_was_not_read_is_dropped_and_never_scored():
    cut = trace(2, "cut", finish="length")
    group = talk(cut, replace(trace(3), text=""))
    rows = drive({"right\n": ["Verdict: right"], "bad\nwrong\n": ["hm", "well"]}, group, n=2)
    assert labels(rows)["p/0"].step_scores == [1.0]
    assert reasons(rows) == {
        "p/1": "no_verdict", "p/2": "truncated", "p/3": "no_steps", "p/critique.0": "no_attempt",
    }  # fmt: skip
    kept = [row.id for row in rows if isinstance(row, Trace)]
    assert kept == [f"p/critique.{number}" for number in (1, 2, 3, 4)]  # after the one that was there
    assert not any(
        isinstance(row, Trace)
        for row in drive({"right\n": ["no"], "bad\nwrong\n": ["no"]}, group, keep=False)
    )
    assert drive({}, Group("p")) == []


def test_a_verdict_without_a_word_on_steps_speaks_of_the_end_alone():
    rows = drive({"a\nb\n": ["Verdict: wrong", SOUND]}, Group("p", traces=[trace(0, "a", "b")]), n=2)
    assert labels(rows)["p/0"].step_scores == [1.0, 0.5]
    rows = drive({"a\nb\n": ["Verdict: wrong"]}, Group("p", traces=[trace(0, "a", "b")]), n=2)
    assert labels(rows)["p/0"].step_scores == [None, 0.0]


def test_more_checks_that_say_right_never_lower_a_share():
    """Every set of three checks, and each with one more: shares lie in 0..1, fall from step to step where
    every check speaks of every step, and rise with a check that says right."""
    one = trace(0, "a", "b", "c")
    whole = [[True] * 3, [True, True, False], [True, False, False], [False] * 3]
    for checks in itertools.combinations_with_replacement(whole, 3):
        said = verify_steps.shares(one, checks)
        assert isinstance(said, Label)
        assert all(0 <= score <= 1 for score in said.step_scores)
        assert said.step_scores == sorted(said.step_scores, reverse=True)
        assert said.value == said.step_scores[-1]
        more = verify_steps.shares(one, [*checks, whole[0], None])
        assert all(b >= a for a, b in zip(said.step_scores, more.step_scores, strict=True))
    assert isinstance(verify_steps.shares(one, [None]), Dropped)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 1 is right. Step 2: wrong", [True, False, None]),
        ("step 3: not correct. Step 1: isn't wrong", [True, None, False]),
        ("Step 2 is wrong. No: step 2 is right after all", [None, True, None]),
        ("Paragraph 2: \\boxed{correct}\nVerdict: wrong", [None, True, None]),  # the verdict is no step's
        ("Step 0: wrong. Step 4: wrong. Step 99999999999999999999: wrong", [None] * 3),
        ("all right", [None] * 3),
        ("", [None] * 3),
    ],
)
def test_the_word_on_a_step_is_the_last_one_after_its_number(text, steps):
    assert Lines().step_verdicts(text, 3) == steps


@pytest.mark.parametrize(
    ("steps", "verdict", "found"),
    [
        ([True, True], "right", [True, True]),
        ([None, None], "right", [True, True]),
        ([True, True], "wrong", [True, False]),
        ([True, False], "wrong", [True, False]),
        ([False, True], "wrong", [False, False]),
        ([None, False, None], "wrong", [None, False, False]),
        ([True, None, None], "wrong", [True, None, False]),
        ([True, False], None, [True, False]),  # cut after the fault: it was found all the same
        ([True, False], "right", None),
        ([True, True], None, None),
        ([], "right", None),
    ],
)
def test_what_a_check_holds_sound(steps, verdict, found):
    assert _acts.held(steps, verdict) == found


@pytest.mark.parametrize(
    ("answer", "target", "found"),
    [
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 16", 16, [True, True]),
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 16", 93, [True, False]),  # the end is the last step's
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 93", 93, [True, False]),
        ("4 + 1 = 5, left 11, 5\n88 + 5 = 93", 93, [True, False]),
        ("4 - 11 = 7, left 1, 7\n7 + 1 = 8", 8, [False, False]),
        ("4 + 1 = 5, left 11, 5\nso 16", 16, [True, False]),
        ("4 + 1 = 5, left 11, 5", 5, [False]),  # numbers are left over: no end
    ],
)
def test_the_seeds_dialect_is_read_by_the_task(answer, target, found):
    said = _dialect.check((1, 4, 11), target, answer, 200).text
    num = len(TASK.steps(answer))
    assert _acts.held(TASK.step_verdicts(said, num), TASK.extract_turn("critique", said)) == found
    assert TASK.step_verdicts(f"1 ok, {said}", 1) in ([None], [True])  # of more steps than there are: nothing


def test_a_task_that_chats_is_read_in_plain_words():
    task = countdown.Task(countdown.Settings(use="countdown", chat=True))
    assert task.step_verdicts("Step 1: 4 + 1 = 5 is right.", 2) == [True, None]


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"n": 0}, {"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ValidationError):
            verify_steps.Settings(**wrong)
