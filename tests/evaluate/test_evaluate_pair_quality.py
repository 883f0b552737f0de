"""Preference labels against the task's own word, by hand: whole completions, steps, and what nobody knows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "label"))

from label_world import PROBLEM, Lines

from pipeline.evaluate import pair_quality as pq
from pipeline.rows import Dropped, Group, Label, Pair, Question, Trace

QUESTION = Question(id="p", question="?", prompt="Q:", prompt_used="Q:")
SETTINGS = pq.Settings(**{"from": ["pairs"]}, resamples=100)
RIGHT, WRONG, OTHER = "a\nright\n", "a\nwrong\n", "b\nother\n"


def pair(chosen, rejected, margin=1.0, confidence=1.0, before="", whole=True):
    ids = [[ord(c) for c in text] for text in (chosen, rejected)]
    return Pair(
        problem_id="p", prompt=f"Q:{before}", chosen=chosen, rejected=rejected, margin=margin,
        confidence=confidence, whole=whole, chosen_ids=ids[0], rejected_ids=ids[1],
    )  # fmt: skip


def outcome(*pairs, task=None, problem=PROBLEM):
    """What is found of the pairs of one problem."""
    task = task or Lines()
    search = pq.answer(QUESTION, SETTINGS, "policy", None, Group("p", examples=list(pairs)))
    with pytest.raises(StopIteration) as stopped:
        next(search)
    rows = stopped.value.value
    labels = [row for row in rows if isinstance(row, Label)] + pq.grade(problem, rows, task)
    traces = [row for row in rows if isinstance(row, Trace)]
    return pq.outcomes(problem, traces, labels, SETTINGS, "policy", task)


def test_rates_by_hand() -> None:
    """Two labels are true, one is not, one pair is of two wrong answers."""
    found = outcome(
        pair(RIGHT, WRONG, 0.9),
        pair(RIGHT, OTHER, 0.2, 0.7),
        pair(WRONG, RIGHT, 0.4, 0.7),
        pair(WRONG, OTHER),
    )
    metrics = pq.measure({"policy": [found]}, SETTINGS)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy/sure"] == pytest.approx((1 + 0.7 + 0.3) / 3)
    assert metrics["decided"] == 0.75
    assert metrics["chosen"] == 0.5
    assert metrics["auc"] == 0.5  # .9 above .4, .2 below it
    assert (metrics["pairs"], metrics["pairs_a_problem"]) == (4, 4)
    assert pq.health(metrics, SETTINGS).warnings == []


def test_flipping_a_false_label_makes_it_true() -> None:
    before = [pair(RIGHT, WRONG), pair(WRONG, RIGHT, 0.1)]
    wrong = before[1]
    flipped = replace(wrong, chosen=wrong.rejected, rejected=wrong.chosen, chosen_ids=wrong.rejected_ids,
                      rejected_ids=wrong.chosen_ids)  # fmt: skip
    told = [pq.measure({"policy": [outcome(*pairs)]}, SETTINGS)["accuracy"]
            for pairs in (before, [before[0], flipped])]  # fmt: skip
    assert told == [0.5, 1.0]


def test_of_a_step_the_oracle_speaks_after_what_came_before() -> None:
    sound = outcome(pair("c\n", "bad\n", before="a\n", whole=False))
    lost = outcome(pair("c\n", "d\n", before="bad\n", whole=False))
    assert [(one.chosen, one.rejected) for one in sound.pairs] == [(True, False)]
    assert [(one.chosen, one.rejected) for one in lost.pairs] == [(False, False)]


def test_where_nobody_knows_nothing_is_said() -> None:
    unknown = outcome(pair(RIGHT, WRONG), problem=replace(PROBLEM, answer=None))
    metrics = pq.measure({"policy": [unknown]}, SETTINGS)
    assert "accuracy" not in metrics
    assert "chosen" not in metrics
    assert metrics["decided"] == 0
    [said] = pq.health(metrics, SETTINGS).warnings
    assert "no label can be held" in said
    steps = outcome(pair("c\n", "d\n", before="a\n", whole=False), task=Lines(oracle=False))
    assert not steps.pairs[0].decided


def test_a_problem_without_a_pair_is_left_out() -> None:
    search = pq.answer(QUESTION, SETTINGS, "policy", None, Group("p"))
    with pytest.raises(StopIteration) as stopped:
        next(search)
    assert stopped.value.value == [Dropped(problem_id="p", what="p", reason="no_pair")]
