"""Labels from the mean of several reward models."""

from __future__ import annotations

import math

import pytest
from label_world import stamped
from pydantic import ValidationError

from pipeline.asks import All, Score
from pipeline.engine.driver import drive_with_replies
from pipeline.label import ensemble
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))
PROBLEM = Problem(id="p", question="q", answer=None)


def group(*num_steps):
    return Group(
        "p",
        traces=[
            Trace(
                problem_id="p", id=f"p/{i}", prompt="q", text="x" * k, token_ids=[1] * k,
                step_ends=list(range(1, k + 1)), steps=["x"] * k,
            )
            for i, k in enumerate(num_steps)
        ],
    )  # fmt: skip


def labelled(found, replies, **settings):
    seen = []
    rows = drive_with_replies(
        ensemble.label(PROBLEM, found, ensemble.Settings(by=("a", "b"), **settings), TASK), replies, seen
    )
    return stamped(rows, "ensemble"), seen


def test_a_step_and_a_trace_are_worth_the_mean():
    rows, [ask] = labelled(group(2, 1), [[[[0.2, 0.8], [0.5]], [[0.4, 0.6], [0.1]]]])
    assert isinstance(ask, All)
    assert [type(one) for one in ask.asks] == [Score, Score]
    assert [one.by for one in ask.asks] == ["a", "b"]
    first, second = rows
    assert isinstance(first, Label)
    assert first.step_scores == pytest.approx([0.3, 0.7])
    assert (first.value, second.value) == (pytest.approx(0.7), pytest.approx(0.3))
    assert first.correct is None
    # the mean of each model's least score, not the least of the means
    rows, _ = labelled(group(2), [[[[0.2, 0.8]], [[0.9, 0.6]]]], aggregate="min")
    assert rows[0].value == pytest.approx(0.4)


def test_what_they_do_not_agree_on_is_dropped():
    replies = [[[[0.9], [0.5], [math.nan]], [[0.1], [0.4], [0.5]]]]
    rows, _ = labelled(group(1, 1, 1, 0), replies, most_spread=0.3)
    said = {row.what: row.reason for row in rows if isinstance(row, Dropped)}
    assert said == {"p/0": "models_disagree", "p/2": "unscored", "p/3": "no_steps"}
    assert [row.trace_id for row in rows if isinstance(row, Label)] == ["p/1"]
    assert labelled(group(0), [])[1] == []
    just, _ = labelled(group(1), [[[[0.2]], [[0.05]]]], most_spread=0.075)
    assert isinstance(just[0], Label)


def test_one_model_at_least_and_none_twice():
    with pytest.raises(ValidationError):
        ensemble.Settings(by=())
    with pytest.raises(ValidationError, match="a stands there twice"):
        ensemble.Settings(by=("a", "b", "a"))
