"""select/episodes: advantages by token, what cannot be trained on, mixed groups, whitening."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select import episodes
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))


def trace(number, **more):
    plain = Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text="t", token_ids=[5, 6, 7], step_ends=[1, 3],
        steps=["a", "b"], logprobs=[-1.0, -2.0, -3.0],
    )  # fmt: skip
    return replace(plain, **more)


def group_of(traces, advantages):
    labels = {
        one.id: Label(problem_id="p", trace_id=one.id, advantage=a)
        for one, a in zip(traces, advantages, strict=True)
    }
    return Group("p", traces=traces, labels=labels)


def selected(group, **settings):
    given = episodes.Settings(**settings)
    whole = episodes.reduce([episodes.survey(group, given)], given)
    rows = episodes.select(group, given, TASK, lambda text: [1, 2], whole=whole)
    assert {row.problem_id for row in rows} <= {"p"}
    return rows


def test_an_advantage_a_step_is_spread_over_its_tokens() -> None:
    one, two = selected(group_of([trace(0), trace(1)], [[0.5, -1.0], [2.0]]), kl_weight=0.5)
    assert (one.advantage, two.advantage) == ([0.5, -1.0, -1.0], [2.0])
    assert one.old_logprobs == [-1.0, -2.0, -3.0]
    assert one.completion_ids == [5, 6, 7]
    assert one.prompt_ids == [1, 2]
    assert one.kl_weight == 0.5
    assert one.trace_id == "p/0"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"hinted": True}, "hinted"),
        ({"few_shot": True}, "few_shot"),
        ({"cut": True}, "cut"),
        ({"temperature": 0.7}, "tempered"),
        ({"token_ids": [], "logprobs": [], "step_ends": []}, "empty"),
        ({"logprobs": [-1.0]}, "no_logprobs"),
        ({"logprobs": [-1.0, float("nan"), -1.0]}, "no_logprobs"),
        ({"step_ends": [3], "steps": ["a"]}, "no_advantage"),
        ({"turn": 3}, "other_turn"),
        ({"finish": "length"}, "truncated"),
    ],
)
def test_what_was_not_drawn_from_the_policy_is_dropped_with_its_reason(more, reason) -> None:
    kept, out = selected(
        group_of([trace(0), trace(1, **more)], [[1.0], [0.5, 0.5]]), turns=(0, 1), truncated="drop"
    )
    assert isinstance(kept, Example)
    assert isinstance(out, Dropped)
    assert (out.what, out.reason) == ("p/1", reason)


def test_mixed_leaves_out_groups_that_are_all_equal() -> None:
    equal = group_of([trace(0), trace(1)], [[0.0], [0.0]])
    assert [row.reason for row in selected(equal, where="mixed")] == ["equal_group"] * 2
    assert all(isinstance(row, Example) for row in selected(equal))
    assert all(
        isinstance(row, Example)
        for row in selected(group_of([trace(0), trace(1)], [[1.0], [0.0]]), where="mixed")
    )


def test_whitening_is_over_the_tokens_of_the_round() -> None:
    rows = selected(group_of([trace(0), trace(1)], [[1.0], [0.0, 1.0]]), whiten=True)
    # six tokens 1 1 1 0 1 1: mean 5/6, deviation (n - 1) .40825
    assert rows[0].advantage == [pytest.approx(0.40825, abs=1e-4)]
    assert rows[1].advantage == [pytest.approx(a, abs=1e-4) for a in (-2.04124, 0.40825, 0.40825)]
    clipped = selected(group_of([trace(0), trace(1)], [[1.0], [0.0, 1.0]]), whiten=True, clip=1.0)
    assert clipped[1].advantage[0] == -1.0


def test_weights_by_turn_and_the_turns_that_count() -> None:
    turns = [trace(number, turn=number) for number in range(4)]
    group = group_of(turns, [[1.0]] * 4)
    rows = selected(group, kl_weight=(0.5, 2.0), turns=(1, 2))
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["other_turn"] * 2
    assert [(row.what, row.problem_id) for row in rows if isinstance(row, Dropped)] == [
        ("p/0", "p"),
        ("p/3", "p"),
    ]
    assert [row.kl_weight for row in selected(group, kl_weight=(0.5, 2.0))] == [0.5, 2.0, 2.0, 2.0]
    assert [row.kl_weight for row in selected(group)] == [None] * 4
    with pytest.raises(ValueError, match="weighs no turn"):
        episodes.Settings(kl_weight=())
    for turns in ((2, 1), (-1, None)):
        with pytest.raises(ValueError, match="holds no turn"):
            episodes.Settings(turns=turns)


@pytest.mark.parametrize("advantage", [None, [], [None], [float("nan")], [1.0, None], [1.0] * 4])
def test_an_advantage_that_does_not_fit_is_none(advantage) -> None:
    (row,) = selected(group_of([trace(0)], [advantage]))
    assert (row.what, row.reason) == ("p/0", "no_advantage")
    (row,) = selected(Group("p", traces=[trace(0)]))
    assert row.reason == "no_advantage"


def test_what_is_kept_and_how_it_is_clipped_without_whitening() -> None:
    long = trace(1, finish="length")
    rows = selected(
        group_of([trace(0), long, trace(2)], [[3.0, -3.0], [0.5], [0.0]]), clip=2.0, where="mixed"
    )
    assert [row.advantage for row in rows] == [[2.0, -2.0, -2.0], [0.5], [0.0]]
    given = episodes.Settings(whiten=True)
    assert episodes.survey(group_of([long], [[2.0]]), given) == (3, 6.0, 12.0)
    assert episodes.survey(group_of([long], [[2.0, -1.0]]), given) == (3, 0.0, 6.0)
    assert episodes.survey(group_of([long], [[2.0]]), episodes.Settings()) == (0, 0.0, 0.0)
    assert episodes.reduce([(1, 5.0, 25.0)], given) == (0.0, 1.0)
    assert episodes.reduce([(1, 5.0, 25.0), (1, 3.0, 9.0)], given) == (4.0, pytest.approx(2**0.5))
    assert episodes.reduce([(2, 4.0, 8.0)], given) == (2.0, pytest.approx(0.0, abs=1e-7))
