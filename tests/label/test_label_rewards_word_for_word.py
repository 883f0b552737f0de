"""Labellers of rewards, advantages and critics' scores: each ask and each row to its last field, bounds included."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from label_world import trace
from test_label_word_for_word import asked, dropped, label, opened

from pipeline.asks import All, Continue, Cut, Logprob, Prefix, Score, prefix_of
from pipeline.label import (
    _rewards,
    critic,
    distil,
    ensemble,
    gae,
    self_certainty,
    shaped,
    shaped_reward,
    step_reward,
)
from pipeline.rows import Group, Label

Scores = list[list[float]]


def reward(number: int, value: float | None = None, steps: list[float | None] | None = None) -> Label:
    return Label(problem_id="p", trace_id=f"p/{number}", value=value, step_scores=steps)


CRITIQUE = dataclasses.replace(trace(8, "x"), id="p/critique.8")


# --- critic


def grown(prefix: Prefix, number: int) -> Prefix:
    text = f"{prefix.text}end {number}\n"
    return dataclasses.replace(prefix, text=text, steps=(*prefix.steps, f"end {number}\n"), finish="eos")


def test_critics_are_asked_word_for_word() -> None:
    one, two = trace(0, "a", "b"), trace(1, "c", finish="budget")
    begun = [opened(one, 1), opened(two, 1)]
    rolled = [grown(prefix, k) for prefix in begun for k in range(2)]
    # the last score of a roll-out counts, and of the ended trace its own; .5 where nothing is scored is 0
    ends: Scores = [[0.9, 0.5], [0.9, 0.25], [0.125], [], [0.1, 0.75], [0.3]]
    value, prm = [[0.25, 0.5], [1.0]], [[0.5, 0.75], [0.5]]
    given = {
        "value": "v",
        "prm": "r",
        "outcome": "o",
        "by": "m",
        "n": 2,
        "temperature": 0.5,
        "weights": (1, 2, 3),
    }
    rows, seen = asked(critic, [one, CRITIQUE, two, trace(3)], [[value, prm], rolled, ends], **given)
    whole = [prefix_of(one), prefix_of(two)]
    assert seen == [
        All(Score(whole, by="v"), Score(whole, by="r")),
        Continue(begun, by="m", n=2, temperature=0.5),
        Score([*rolled, *whole], by="o"),
    ]
    first = [(0.25 + 2 * 0.5 + 3 * 0.375) / 6, (0.5 + 2 * 0.75 + 3 * 0.75) / 6]
    second = [(1.0 + 2 * 0.5 + 3 * 0.0625) / 6]
    assert rows == [
        dropped("critique.8", "no_attempt"),
        dropped(3, "no_steps"),
        label(0, "critic", step_scores=pytest.approx(first), value=pytest.approx(first[-1])),
        label(1, "critic", step_scores=pytest.approx(second), value=pytest.approx(second[-1])),
    ]
    _, seen = asked(critic, [trace(0, "right")], [[[0.25]]], outcome="o", n=2)
    assert seen == [
        Score([prefix_of(trace(0, "right"))], by="o")
    ]  # nobody else is asked, not even of nothing
    _, seen = asked(critic, [one], [[value[:1]]], value="v")
    assert seen == [All(Score([prefix_of(one)], by="v"))]
    assert asked(critic, [trace(3)], [], value="v")[0] == [dropped(3, "no_steps")]
    assert critic.join([0.6, 0.9, 0.3], (1, 1, 1)) == pytest.approx(0.6)
    assert critic.join([0.6, None, 0.3], (1, 5, 1)) == pytest.approx(0.45)
    assert critic.join([None, 0.6, 0.3], (9, 2, 1)) == pytest.approx(0.5)


# --- read by a model


@pytest.mark.parametrize(
    ("method", "given", "reply", "ask", "wanted"),
    [
        (self_certainty, {"by": "m"}, [[0.5, 1.0, 0.0]], {"of": "certainty"}, {"value": 0.5}),
        (gae, {"critic": "m", "start": "zero", "lam": 0.5, "gamma": 0.5}, [[0.5, 9.0]], None,
         {"advantage": [0.25 + 0.25 * 0.5, 0.5]}),
        (step_reward, {"value": "m", "outcome": 2}, [[[0.5, 0.25]]], None, {"step_scores": [0.5, 2.25]}),
        (ensemble, {"by": ("m",)}, [[[0.5, 0.25]]], None, {"step_scores": [0.5, 0.25], "value": 0.25}),
    ],
)  # fmt: skip
def test_one_trace_word_for_word(
    method: Any, given: Any, reply: Any, ask: Any, wanted: dict[str, Any]
) -> None:
    one = trace(0, "a", "", step_ends=[2, 3])
    given_labels = [reward(0, 1.0)]
    rows, seen = asked(method, [one], [reply], given_labels, **given)
    prefixes = [prefix_of(one)]
    read = Logprob(prefixes, by="m", **ask) if ask else Score(prefixes, by="m")
    assert seen == [All(read) if method in (step_reward, ensemble) else read]
    assert rows == [label(0, method.__name__.rpartition(".")[2], **wanted)]


def test_a_teacher_reads_what_it_can_read() -> None:
    one, two = trace(0, "a", "bc"), trace(1, "d")
    replies = [[None], [None], [[-0.5] * 5, [-2.0] * 2]]
    rows, seen = asked(distil, [one, trace(2), two], replies, by="m", gamma=0.0)
    assert seen == [
        Cut(prefix_of(one), [5], by="m"),
        Cut(prefix_of(two), [2], by="m"),
        Logprob([prefix_of(one), prefix_of(two)], by="m"),
    ]
    assert rows == [
        dropped(2, "empty"),
        label(0, "distil", advantage=[0.5] * 5, step_scores=[1.0, 1.5], value=0.5),
        label(1, "distil", advantage=[-1.0] * 2, step_scores=[-2.0], value=-1.0),
    ]
    assert asked(distil, [trace(2)], [])[0] == [dropped(2, "empty")]
    assert asked(self_certainty, [trace(2)], [])[0] == [dropped(2, "empty")]
    hinted = dataclasses.replace(one, hinted=True, few_shot=True)
    assert distil.refused(hinted) == "hinted"


def test_step_rewards_word_for_word() -> None:
    one, two = trace(0, "ab", "c"), trace(1, "d")
    prefixes = [prefix_of(one), prefix_of(two)]
    ours: Scores = [[-1.0, -1.0, -1.0, -2.0, -2.0], [-1.0, -1.0]]
    theirs: Scores = [[-2.0, -2.0, -2.0, -2.0, -1.0], [-1.0, -1.0]]
    given = {"implicit": "i", "reference": "r", "beta": 0.5}
    rows, seen = asked(step_reward, [one, trace(2), two], [[ours, theirs]], **given)
    assert seen == [All(Logprob(prefixes, by="i"), Logprob(prefixes, by="r"))]
    assert rows == [
        dropped(2, "no_steps"),
        label(0, "step_reward", step_scores=[1.5, -0.5]),
        label(1, "step_reward", step_scores=[0.0]),
    ]
    scores, gains = [[0.5, 0.25]], [[1.0, -1.0]]
    rows, seen = asked(step_reward, [one], [[scores, gains]], value="v", plus="a", alpha=2, change=True)
    assert seen == [All(Score(prefixes[:1], by="v"), Score(prefixes[:1], by="a"))]
    assert rows == [label(0, "step_reward", step_scores=[0.5 + 2.0, -0.25 - 2.0])]
    labels = [reward(0, -1.0), reward(1, None)]
    rows, _ = asked(step_reward, [one, two], [[[[0.5, 0.25], [0.5]]]], labels, value="v", outcome=0.5)
    assert rows == [
        dropped(1, "no_reward"),
        label(0, "step_reward", step_scores=[0.5, -0.25]),
    ]
    assert asked(step_reward, [trace(2)], [], value="v")[0] == [dropped(2, "no_steps")]


def test_critics_values_and_targets_word_for_word() -> None:
    pair = [trace(0, "a", "b"), trace(1, "c", "d"), trace(2)]
    later = [dataclasses.replace(trace(k, "e"), turn=1) for k in (3, 4)]
    labels = [reward(0, 1.0), reward(1, 0.5, [0.25, 0.25]), reward(2, 1.0), reward(3, 2.0), reward(4)]
    given = {"critic": "m", "gamma": 0.5, "lam": 1.0, "returns": True}
    replies: list[Any] = [[[0.5, 9.0], [0.25, 9.0]], [[9.0]]]
    rows, seen = asked(gae, [*later, *pair], replies, labels, **given)
    assert seen == [Score([prefix_of(one) for one in pair[:2]], by="m"), Score([prefix_of(later[0])], by="m")]
    # returns .5 and .375: each question is worth what the other got
    assert rows == [
        dropped(2, "no_steps"),
        label(0, "gae", advantage=[0.5 - 0.375, 0.5], step_scores=[1.0, 0.0]),
        label(1, "gae", advantage=[0.375 - 0.5, 0.0], step_scores=[0.25, 0.0]),
        dropped(4, "no_reward"),
        label(3, "gae", advantage=[2.0], step_scores=[0.0]),
    ]
    assert gae.first_values([1.0, 2.0, 6.0], "group") == [4.0, 3.5, 1.5]
    assert gae.first_values([1.0, 2.0], "zero") == gae.first_values([], "group") + [0.0, 0.0]
    assert gae.first_values([3.0], "group") == [0.0]
    assert gae.estimates([1.0, 1.0], [0.0, 0.5], 0.5, 0.5) == [1.0 + 0.25 + 0.25 * 0.5, 0.5]


def test_a_models_mean_and_how_far_models_may_differ() -> None:
    pair = [trace(0, "a"), trace(1, "b"), trace(2, "c"), trace(3)]
    prefixes = [prefix_of(one) for one in pair[:3]]
    scores: list[Scores] = [[[0.25], [0.0], []], [[0.75], [1.0], [0.5]]]
    rows, seen = asked(ensemble, pair, [scores], by=("v", "w"), most_spread=0.25)
    assert seen == [All(Score(prefixes, by="v"), Score(prefixes, by="w"))]
    assert rows == [
        dropped(3, "no_steps"),
        label(0, "ensemble", step_scores=[0.5], value=0.5),  # .25 apart is not more than .25
        dropped(1, "models_disagree"),
        dropped(2, "unscored"),
    ]
    rows, _ = asked(ensemble, pair[:2], [[[[0.0], [1.0]], [[1.0], [1.0]]]], by=("v", "w"))
    assert [row.value for row in rows] == [0.5, 1.0]


# --- rewards


def test_what_a_reward_is() -> None:
    assert [_rewards.reward_of(one) for one in (None, reward(0), reward(0, math.nan), reward(0, math.inf), reward(0, 0.0), reward(0, -2.0))] == [None, None, None, None, 0.0, -2.0]  # fmt: skip
    two = trace(0, "a", "b")
    steps = [None, [1.0], [1.0, 2.0, 3.0], [None, None], [None, 1.5], [math.inf, -1.0]]
    found = [_rewards.step_rewards_of(two, reward(0, 1.0, one)) for one in steps]
    assert found == [None, None, None, None, [0.0, 1.5], [0.0, -1.0]]
    assert _rewards.step_rewards_of(two, None) is None
    assert _rewards.to_go([], 0.5) == []
    turns = [dataclasses.replace(trace(k), turn=turn) for k, turn in enumerate((2, 0, 2, 1))]
    assert [[one.id for one in each] for each in _rewards.by_turn(Group("p", traces=turns))] == [["p/1"], ["p/3"], ["p/0", "p/2"]]  # fmt: skip


def test_rewards_of_a_round_word_for_word() -> None:
    one, two, short = trace(0, "a", "b"), trace(1, "c"), trace(2, "d", logprobs=[-1.0])
    labels = [reward(0, 9.0, [2.0, None]), reward(1, -4.0), reward(2, 1.0)]
    group = Group("p", traces=[one, two, trace(3)], labels={label.trace_id: label for label in labels})
    assert shaped_reward.survey(group, shaped_reward.Settings(kl=0)) == (3, -2.0, 20.0)
    reduce, plain = shaped_reward.reduce, shaped_reward.Settings(kl=0)
    centred = shaped_reward.Settings(kl=0, center=True)
    assert reduce([(2, 4.0, 10.0), (1, 2.0, 4.0)], centred) == (2.0, 1.0 + 1e-8)
    assert reduce([(2, 4.0, 10.0)], plain) == (0.0, math.sqrt(2.0) + 1e-8)
    assert reduce([(1, 4.0, 16.0)], plain) == reduce([], centred) == (0.0, 1.0)
    assert reduce([(2, 4.0, 10.0)], shaped_reward.Settings(kl=0, scale=False)) == (0.0, 1.0)
    assert reduce([(2, 4.0, 7.9999)], plain) == (0.0, 1e-8)
    given = {"kl": 0.5, "reference": "r", "clip": 3.0}
    theirs = [[-1.0, -2.0, -1.0, -3.0], [0.0, 0.0]]
    rows, seen = asked(shaped_reward, [one, two, short, trace(3), trace(4, "e")], [theirs], labels, {"whole": (1.0, 0.5)}, **given)  # fmt: skip
    assert seen == [Logprob([prefix_of(one), prefix_of(two)], by="r")]
    assert rows == [
        dropped(2, "no_logprobs"),
        dropped(3, "no_steps"),
        dropped(4, "no_reward"),
        label(0, "shaped_reward", step_scores=[2.0 - 0.5, -2.0 - 1.0]),
        label(1, "shaped_reward", step_scores=[-3.0 + 1.0]),
    ]
    free = {"kl": 0.0, "reference": "r"}
    rows, seen = asked(shaped_reward, [short, one], [], labels, {"whole": (0.0, 1.0)}, **free)
    assert (seen, [row.step_scores for row in rows]) == ([], [[1.0], [2.0, 0.0]])
    assert shaped_reward.shaped(3.0, (1.0, 0.1), shaped_reward.Settings(kl=0)) == 10.0
    assert shaped_reward.shaped(-3.0, (1.0, 0.1), shaped_reward.Settings(kl=0, clip=None)) == pytest.approx(
        -40
    )


def test_two_attempts_word_for_word() -> None:
    first, second = (
        trace(0, "a", "b"),
        dataclasses.replace(trace(1, "c"), id="p/revise.1", parent="p/0", turn=1),
    )
    mute = dataclasses.replace(trace(3, "d"), id="p/revise.3", parent="p/0", turn=1)
    lone, critique = trace(2, "e"), dataclasses.replace(trace(8, "x"), id="p/critique.8", parent="p/0")
    after = dataclasses.replace(trace(9, "y"), id="p/revise.9", parent="p/critique.8")
    labels = [reward(0, 0.5), *(dataclasses.replace(reward(0, 1.0), trace_id=name) for name in ("p/revise.1", "p/2", "p/critique.8", "p/revise.9"))]  # fmt: skip
    given = {"stage": 1, "alpha": 2.0, "gamma": 0.5, "reference": "r", "beta": 0.25, "beta_first": 0.5}
    theirs = [[-2.0, -1.0, -1.0, -3.0], [-1.0, 0.0]]
    traces = [first, second, mute, lone, critique, after]
    rows, seen = asked(shaped, traces, [theirs], labels, **given)
    assert seen == [Logprob([prefix_of(first), prefix_of(second)], by="r")]
    left = [
        dropped("revise.3", "no_reward"),
        *(dropped(name, "no_episode") for name in (2, "critique.8", "revise.9")),
    ]
    assert rows == [
        *left,
        label(0, "shaped/1", value=0.5, advantage=[-0.5 * 3.0, -0.5 * 2.0]),
        dataclasses.replace(label(0, "shaped/1", value=1.0, advantage=[0.25]), trace_id="p/revise.1"),
    ]
    rows, seen = asked(shaped, traces, [], labels, stage=2, alpha=2.0, gamma=0.5)
    assert seen == []
    assert rows[4:] == [
        label(0, "shaped/2", value=0.5 + 0.5 * 2.0, advantage=[0.0]),
        dataclasses.replace(label(0, "shaped/2", value=2.0, advantage=[0.0]), trace_id="p/revise.1"),
    ]
    weights = {(stage, turn): shaped.Settings(**given | {"stage": stage}).weight(turn) for stage in (1, 2) for turn in (0, 1)}  # fmt: skip
    assert weights == {(1, 0): 0.5, (1, 1): 0.25, (2, 0): 0.25, (2, 1): 0.25}
    assert asked(shaped, [lone], [], labels, stage=1)[0] == [dropped(2, "no_episode")]
