"""Pairs by how strongly several reward models prefer them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.rows import Dropped, Group, Label, Pair, Trace, sources_of
from pipeline.select import strength
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def group(number, values):
    """A problem with two traces and a pair of them."""
    name = f"p{number}"
    traces = [
        Trace(
            problem_id=name, id=f"{name}/{i}", prompt="q", text="x", token_ids=[i], step_ends=[1], steps=["x"]
        )
        for i in range(2)
    ]
    labels = {
        trace.id: Label(problem_id=name, trace_id=trace.id, value=value)
        for trace, value in zip(traces, values, strict=True)
    }
    pair = Pair(
        problem_id=name, prompt="q", chosen="good", rejected="bad", margin=1.0, trace_id=f"{name}/0",
        rejected_id=f"{name}/1", chosen_ids=[0], rejected_ids=[1],
    )  # fmt: skip
    return Group(name, traces=traces, labels=labels, examples=[pair])


def choose(groups, **chosen):
    asked = strength.Settings(**chosen)
    whole = strength.reduce((strength.survey(one, asked) for one in groups), asked)
    found = [strength.select(one, asked, TASK, list, whole=whole) for one in groups]
    assert all(
        row.problem_id == one.problem_id for one, rows in zip(groups, found, strict=True) for row in rows
    )
    return found


def ten():
    """Strengths -0.9, -0.5, -0.1, 0.1, ..., 1.1 (binary fractions would be prettier)."""
    return [
        group(i, (found, 0.0))
        for i, found in enumerate([-0.9, -0.5, -0.1, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.1])
    ]


def test_flip_smooth_keep():
    rows = [one for [one] in choose(ten(), lowest=0.2, unsure=0.3, confidence=0.7)]
    assert [row.chosen for row in rows] == ["bad"] * 2 + ["good"] * 8
    assert [row.confidence for row in rows] == [1, 1, 0.7, 0.7, 0.7, 1, 1, 1, 1, 1]
    np.testing.assert_allclose([row.margin for row in rows], [0.9, 0.5, 0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.1])
    first = rows[0]
    assert (first.trace_id, first.rejected_id) == ("p0/1", "p0/0")
    assert (first.chosen_ids, first.rejected_ids) == ([1], [0])


def test_other_ways_with_the_ends():
    rows = choose(ten(), lowest=0.1, then="drop", unsure=0.0, highest=0.1, margin="own")
    assert {row.reason for row in rows[0]} == {"weakest"}
    assert {row.reason for row in rows[9]} == {"too_strong"}
    assert all(row.margin == 1 and row.confidence == 1 for [row] in rows[1:9])
    kept = choose(ten(), lowest=0.1, then="keep", unsure=0.0)[0][0]
    assert (kept.chosen, kept.margin, kept.confidence) == ("good", 0, 1)


def test_a_weak_pair_that_the_models_agree_with_is_not_flipped():
    groups = [group(0, (0.2, 0.1)), group(1, (0.9, 0.1))]
    for unsure, confidence in ((0.1, 0.7), (0.0, 1.0)):
        [[weak], [strong]] = choose(groups, lowest=0.5, unsure=unsure)
        assert (weak.chosen, weak.confidence) == ("good", confidence)
        assert (strong.chosen, strong.confidence) == ("good", 1)


def test_no_score_no_strength():
    [rows] = choose([group(0, (None, 0.2))])
    assert [(row.what, row.reason) for row in rows] == [("p0/0", "no_strength"), ("p0/1", "no_strength")]
    for values in ((0.2, None), (math.inf, 0.1), (0.1, -math.inf), (math.nan, 0.1)):
        assert strength.strength(group(0, values).examples[0], group(0, values)) is None
    assert strength.reduce([], strength.Settings()) == (-math.inf, -math.inf, math.inf)


def test_a_step_has_its_own_score():
    steps = ["a\n", "b\n"]
    traces = [
        Trace(problem_id="p", id=f"p/{i}", prompt="q:", text="", token_ids=[7, 8 + i], step_ends=[1, 2],
              steps=[steps[0], f"{i}\n"])
        for i in range(2)
    ]  # fmt: skip
    labels = {
        f"p/{i}": Label(problem_id="p", trace_id=f"p/{i}", value=0.0, step_scores=[0.4, score])
        for i, score in enumerate([0.9, 0.2])
    }
    pair = Pair(
        problem_id="p", prompt="q:a\n", chosen="0\n", rejected="1\n", whole=False, trace_id="p/0",
        rejected_id="p/1", chosen_ids=[8], rejected_ids=[9],
    )  # fmt: skip
    assert strength.strength(pair, Group("p", traces=traces, labels=labels)) == pytest.approx(0.7)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.one_of(st.none(), st.floats(-1, 1)), max_size=8),
    st.sampled_from(["flip", "drop", "keep"]),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
)
def test_every_trace_is_in_a_pair_or_dropped_once(values, then, lowest, unsure):
    groups = [group(i, (value, 0.0)) for i, value in enumerate(values)]
    for rows, one in zip(choose(groups, then=then, lowest=lowest, unsure=unsure), groups, strict=True):
        named = [name for row in rows if isinstance(row, Pair) for name in sources_of(row)]
        dropped = [row.what for row in rows if isinstance(row, Dropped)]
        assert sorted(named + dropped) == sorted(trace.id for trace in one.traces)
        assert all(row.margin >= 0 for row in rows if isinstance(row, Pair))


def test_more_than_all():
    with pytest.raises(ValidationError, match="more than all"):
        strength.Settings(lowest=0.6, unsure=0.6)
