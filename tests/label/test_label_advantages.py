"""Advantages, rewards by step and rewards without gold: goldens worked out by hand, and what is left out."""

from __future__ import annotations

import math

import pytest
from label_world import stamped
from pydantic import ValidationError

from pipeline.asks import All, Logprob, Score
from pipeline.engine.driver import drive_with_replies
from pipeline.label import gae, group_advantage, plurality, self_certainty, shaped_reward, step_reward
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings

PROBLEM = Problem(id="p", question="q", answer=None)


class Loose(BaseTask):
    def same(self, one, other):
        return one.strip("0 ") == other.strip("0 ")


TASK = Loose(TaskSettings(use="loose"))


def trace(number, answer=None, num_tokens=4, ends=(2, 4), turn=0, finish="eos"):
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text="", token_ids=[1] * num_tokens, step_ends=list(ends),
        steps=["s"] * len(ends), answer=answer, finish=finish, turn=turn, logprobs=[-1.0] * num_tokens,
    )  # fmt: skip


def group_of(rewards, steps=None, traces=None):
    traces = traces or [trace(i) for i in range(len(rewards))]
    labels = {
        one.id: Label(
            problem_id="p", trace_id=one.id, value=reward, step_scores=None if steps is None else steps[i]
        )
        for i, (one, reward) in enumerate(zip(traces, rewards, strict=True))
    }
    return Group("p", traces=traces, labels=labels)


def rows(method, group, settings, replies=(), seen=None):
    found = drive_with_replies(method.label(PROBLEM, group, settings, TASK), replies, seen)
    return stamped(found, method.__name__.rpartition(".")[2])


@pytest.mark.parametrize(
    ("kind", "rewards", "wanted"),
    [
        ("grpo", (1, 0, 0, 0), (1.49970, -0.49990, -0.49990, -0.49990)),  # deviation with n - 1, as in trl
        ("dr_grpo", (1, 0, 0, 0), (0.75, -0.25, -0.25, -0.25)),
        ("reinforce_pp", (1, 0, 0, 0), (0.75, -0.25, -0.25, -0.25)),
        ("rloo", (1, 0, 0, 0), (1, -1 / 3, -1 / 3, -1 / 3)),
        ("max_rl", (1, 0, 0, 0), (3, -1, -1, -1)),
        ("best_of_k", (1, 0, 0, 0), (1, 0, 0, 0)),
        ("best_of_k", (1, 1, 0, 0), (0, 0, 0, 0)),
        ("pass_at_k", (1, 1, 0, 0, 0, 0, 0, 0), (0.52223,) * 2 + (-0.17408,) * 6),
        ("pass_at_k", (1, 1, 1, 1, 1, 0, 0, 0), (0,) * 8),  # any four hold a right one
        *((kind, (0, 0, 0, 0), (0,) * 4) for kind in ("grpo", "rloo", "max_rl", "pass_at_k")),
        ("grpo", (1, 1, 1, 1), (0,) * 4),
        ("rloo", (0.5,), (0,)),
    ],
)
def test_group_advantages(kind, rewards, wanted) -> None:
    found = rows(group_advantage, group_of(rewards), group_advantage.Settings(kind=kind))
    assert [row.advantage for row in found] == [[pytest.approx(a, abs=1e-5)] for a in wanted]
    assert {row.trace_id for row in found} == {f"p/{i}" for i in range(len(rewards))}


def test_turns_are_groups_of_their_own_and_what_has_no_reward_is_dropped() -> None:
    traces = [trace(0), trace(1), trace(2, turn=1), trace(3, turn=1), trace(4)]
    found = rows(
        group_advantage, group_of([1, 0, 5, 3, None], traces=traces), group_advantage.Settings(kind="rloo")
    )
    said = {row.trace_id: row.advantage[0] for row in found if isinstance(row, Label)}
    assert said == {"p/0": 1, "p/1": -1, "p/2": 2, "p/3": -2}
    assert [(row.what, row.reason) for row in found if isinstance(row, Dropped)] == [("p/4", "no_reward")]


def test_pass_at_k_wants_right_or_wrong_and_k_samples() -> None:
    settings = group_advantage.Settings(kind="pass_at_k", k=4)
    reasons = [
        {row.reason for row in rows(group_advantage, group_of(r), settings)} for r in ((1, 0), (0.5, 0, 0, 1))
    ]
    assert reasons == [{"fewer_than_k"}, {"not_right_or_wrong"}]


def test_max_rl_divides_by_no_mean_that_rewards_below_0_have_made() -> None:
    """1 and -.9 have the mean .05: their advantages would be 19 and -19; 0 and -1 would count as equal."""
    settings = group_advantage.Settings(kind="max_rl")
    for rewards in ((1, -0.9), (0, -1)):
        found = rows(group_advantage, group_of(rewards), settings)
        assert [getattr(row, "reason", "") for row in found] == ["reward_below_0"] * 2
    assert [row.advantage for row in rows(group_advantage, group_of((0.5, 1.5)), settings)] == [[-0.5], [0.5]]


def test_a_long_answer_costs_what_dapo_says() -> None:
    settings = group_advantage.Settings(kind="dr_grpo", overlong=(80, 100))
    lengths = (80, 90, 100, 120)
    group = group_of([1] * 4, traces=[trace(i, num_tokens=n, ends=(n,)) for i, n in enumerate(lengths)])
    assert [group_advantage.shaped(one, 1.0, (80, 100)) for one in group.traces] == [1, 0.5, 0, 0]
    assert [row.advantage[0] for row in rows(group_advantage, group, settings)] == [
        0.625,
        0.125,
        -0.375,
        -0.375,
    ]


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [((0, 0, 0, 0), "too_hard"), ((1, 0, 0, 0), ""), ((1, 1, 1, 0), ""), ((1, 1, 1, 1), "too_easy")],
)
def test_a_group_that_is_too_hard_or_too_easy_is_left_out(rewards, reason) -> None:
    found = rows(
        group_advantage, group_of(rewards), group_advantage.Settings(kind="rloo", between=(0.25, 0.75))
    )
    assert [getattr(row, "reason", "") for row in found] == [reason] * 4
    for bounds, more in (((0.8, 0.2), {}), ((0.2, 0.8), {"outcome": 0, "process": 1})):
        with pytest.raises(ValueError, match="bounds of the mean reward"):
            group_advantage.Settings(kind="rloo", between=bounds, **more)


def test_rewards_by_step_are_relative_and_summed_to_the_end() -> None:
    steps = [[1.0, 0.0], [0.0, 0.0]]
    group = group_of([1, 0], steps=steps)
    found = rows(group_advantage, group, group_advantage.Settings(kind="dr_grpo", outcome=0, process=1))
    assert [row.advantage for row in found] == [[0.5, -0.25], [-0.5, -0.25]]  # less their mean .25
    # PRIME: of each step less the mean step of the others, summed; and 2 times the outcome's leave-one-out
    prime = group_advantage.Settings(kind="rloo", outcome=2, process=1)
    assert [row.advantage for row in rows(group_advantage, group, prime)] == [[3.0, 2.0], [-3.0, -2.5]]
    unknown = group_of([1, 0, 0], steps=[[None, 1.0], [math.nan, 0.0], [None, None]])
    only = group_advantage.Settings(kind="dr_grpo", outcome=0, process=1)
    first, *others = sorted(rows(group_advantage, unknown, only), key=lambda row: isinstance(row, Dropped))
    assert first.advantage == [0.5, 0.75]  # an unknown reward counts 0: less their mean .25
    assert [row.reason for row in others if isinstance(row, Dropped)] == ["no_step_rewards"]
    assert group_advantage.to_go([1, 0, 2], 0.5) == [1.5, 1, 2]


def test_gae_is_the_formula_and_takes_a_step_for_an_action() -> None:
    assert gae.estimates([0, 0, 1], [0.2, 0.5, 0.8], 1.0, 0.95) == pytest.approx([0.7655, 0.49, 0.2])
    traces = [trace(i, num_tokens=6, ends=(2, 4, 6)) for i in range(2)]
    seen: list = []
    found = rows(
        gae,
        group_of([1, 0.2], traces=traces),
        gae.Settings(critic="v"),
        [[[0.5, 0.8, 9.0], [0.0, 0.0, 9.0]]],
        seen,
    )
    # the first state is worth what the other trace got: .2; the value after the last step counts for nothing
    assert found[0].advantage == pytest.approx([0.7655, 0.49, 0.2])
    assert found[1].advantage[-1] == pytest.approx(0.2)
    assert isinstance(seen[0], Score)
    assert seen[0].by == "v"
    zero = rows(
        gae,
        group_of([1], traces=traces[:1]),
        gae.Settings(critic="v", start="zero", lam=0),
        [[[0.5, 0.8, 0]]],
    )
    assert zero[0].advantage == pytest.approx([0.5, 0.3, 0.2])


def test_step_rewards_of_a_prm_of_pav_and_of_prime() -> None:
    group = group_of([1, 0])
    scores, gains = [[0.5, 0.75], [0.25, 0.5]], [[0.1, -0.1], [0.0, 0.2]]
    seen: list = []
    plain = rows(step_reward, group, step_reward.Settings(value="prm"), [[scores]], seen)
    assert [row.step_scores for row in plain] == scores
    assert [one.by for one in seen[0].asks] == ["prm"]
    pav = step_reward.Settings(value="q", plus="a", alpha=5)
    assert rows(step_reward, group, pav, [[scores, gains]])[0].step_scores == pytest.approx([1.0, 0.25])
    changed = step_reward.Settings(value="prm", change=True, outcome=2)
    assert rows(step_reward, group, changed, [[scores]])[0].step_scores == pytest.approx([0.5, 2.25])
    outcomes = step_reward.Settings(value="orm", last=True, outcome=1)
    found = rows(step_reward, group, outcomes, [[scores]])
    assert [row.step_scores for row in found] == [[0, 1.75], [0, 0.5]]
    ours, theirs = [[-1, -1, -1, 0.0]] * 2, [[-3, -3, -1, -2.0]] * 2
    prime = step_reward.Settings(implicit="phi", reference="start", beta=0.05)
    seen.clear()
    found = rows(step_reward, group, prime, [[ours, theirs]], seen)
    assert found[0].step_scores == pytest.approx([0.2, 0.1])
    assert isinstance(seen[0], All)
    assert [one.by for one in seen[0].asks] == ["phi", "start"]
    assert [[len(prefix.token_ids) for prefix in one.listed] for one in seen[0].asks] == [[4, 4], [4, 4]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give one of value"),
        ({"value": "v", "implicit": "a", "reference": "b"}, "give one of value"),
        ({"implicit": "a"}, "stand together"),
        ({"implicit": "a", "reference": "a"}, "a is `implicit` itself, so each reward would be 0"),
        ({"implicit": "a", "reference": "b", "plus": "c"}, "plus: advantages are added"),
        ({"value": "v", "last": True, "change": True}, "last: the last score of value"),
        ({"implicit": "a", "reference": "b", "last": True}, "last: the last score of value"),
    ],
)
def test_step_reward_wants_one_source(given, words) -> None:
    with pytest.raises(ValidationError, match=words):
        step_reward.Settings(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "pass_at_k", "overlong": (3, 9)}, "overlong: pass_at_k is of answers"),
        ({"kind": "max_rl", "overlong": (3, 9)}, "overlong: max_rl divides by the mean reward"),
        ({"overlong": (48, 48)}, "the first is below the second"),
        ({"kind": "max_rl", "process": 1}, "rewards by step have no max_rl"),
    ],
)
def test_what_a_kind_of_advantage_does_not_read_is_refused(given, words) -> None:
    with pytest.raises(ValidationError, match=words):
        group_advantage.Settings(**given)


def test_plurality_rewards_what_most_say_without_gold() -> None:
    assert not plurality.Settings.sees_gold
    traces = [trace(i, answer) for i, answer in enumerate(("7", "07", "3", None, "7 ", "3"))]
    traces.append(trace(6, "3", finish="length"))  # cut: its answer does not vote
    found = rows(plurality, Group("p", traces=traces), plurality.Settings(rewarded=4))
    assert [(row.value, row.correct) for row in found if isinstance(row, Label)] == [
        (1.0, None), (1.0, None), (0.0, None), (0.0, None),
    ]  # fmt: skip
    assert [row.reason for row in found if isinstance(row, Dropped)] == ["votes_only"] * 3
    none = rows(plurality, Group("p", traces=traces), plurality.Settings(least_share=0.5))
    assert {row.reason for row in none} == {"no_majority"}
    just = [trace(i, "7" if i < 7 else str(i + 100)) for i in range(25)]  # .28 x 25 comes to more than 7
    found = rows(plurality, Group("p", traces=just), plurality.Settings(least_share=0.28))
    assert sum(row.value for row in found) == 7


def test_self_certainty_is_the_mean_over_tokens() -> None:
    seen: list = []
    found = rows(
        self_certainty,
        Group("p", traces=[trace(0)]),
        self_certainty.Settings(),
        [[[0.1, 0.2, 0.3, 0.6]]],
        seen,
    )
    assert found[0].value == pytest.approx(0.3)
    assert isinstance(seen[0], Logprob)
    assert seen[0].of == "certainty"
    # logits 2, 0, 0, 0: logsumexp less mean 1.84075, less log 4 .45446
    assert math.log(math.exp(2) + 3) - 0.5 - math.log(4) == pytest.approx(0.45446, abs=1e-5)


def test_a_critics_targets_are_what_it_should_have_said_after_each_step() -> None:
    traces = [trace(i, num_tokens=6, ends=(2, 4, 6)) for i in range(2)]
    settings = gae.Settings(critic="v", returns=True, lam=1)
    found = rows(
        gae,
        group_of([1, 0.2], steps=[[0, 0, 1], [0.1, -0.5, 0.2]], traces=traces),
        settings,
        [[[0.5, 0.8, 9.0], [0.3, 0.1, 9.0]]],
    )
    # lambda 1: the rewards from the next step on, whatever the critic said; nothing comes after the last
    assert [row.step_scores for row in found] == [
        [pytest.approx(1), pytest.approx(1), 0.0],
        [pytest.approx(-0.3), pytest.approx(0.2), 0.0],
    ]
    assert gae.targets([0.7655, 0.49, 0.2], [0.2, 0.5, 0.8]) == pytest.approx([0.99, 1, 0])
    assert rows(gae, group_of([1]), gae.Settings(critic="v"), [[[0.5, 0.8]]])[0].step_scores is None


def shaped(group, settings, replies=(), others=()):
    whole = shaped_reward.reduce([shaped_reward.survey(one, settings) for one in (group, *others)], settings)
    found = drive_with_replies(shaped_reward.label(PROBLEM, group, settings, TASK, whole=whole), replies)
    return stamped(found, "shaped_reward")


def test_ppo_max_scales_clips_and_charges_for_leaving_the_reference() -> None:
    group = group_of([None, None], steps=[[1.0, 3.0], [5.0, 7.0]])
    plain = shaped_reward.Settings(kl=0, clip=None)
    deviation = math.sqrt(20 / 3)  # of 1, 3, 5, 7: squares about 4 are 20, over n - 1
    assert [row.step_scores for row in shaped(group, plain)] == [
        pytest.approx([1 / deviation, 3 / deviation]),
        pytest.approx([5 / deviation, 7 / deviation]),
    ]
    centred = shaped_reward.Settings(kl=0, center=True, clip=1)
    assert shaped(group, centred)[0].step_scores == pytest.approx([-1, -1 / deviation])
    # the whole round's: another problem of huge rewards makes these small
    assert shaped(group, plain, others=[group_of([1000.0, -1000.0])])[1].step_scores[1] < 0.02
    priced = shaped_reward.Settings(scale=False, clip=2, kl=0.1, reference="policy@0")
    theirs = [[-2.0, -1.0, -1.5, -1.0], [-1.0] * 4]
    found = shaped(group, priced, [theirs])
    assert found[0].step_scores == pytest.approx([1 - 0.1 * 1.0, 2 - 0.1 * 0.5])
    assert found[1].step_scores == pytest.approx([2, 2])


def test_ppo_max_takes_a_traces_own_reward_at_its_last_step_and_drops_what_has_none() -> None:
    traces = [trace(0), trace(1, num_tokens=0, ends=()), trace(2), trace(3)]
    traces[3].logprobs.clear()
    settings = shaped_reward.Settings(scale=False, reference="policy@0")
    found = shaped(group_of([1, 1, None, 1], traces=traces), settings, [[[-1.0] * 4]])
    assert [row.step_scores for row in found if isinstance(row, Label)] == [[0, 1]]
    assert {(row.what, row.reason) for row in found if isinstance(row, Dropped)} == {
        ("p/1", "no_steps"),
        ("p/2", "no_reward"),
        ("p/3", "no_logprobs"),
    }
    free = shaped_reward.Settings(scale=False, reference="policy@0", kl=0)
    assert shaped(group_of([0.5]), free)[0].step_scores == [0, 0.5]  # the reference is not asked
    assert shaped(group_of([None]), settings)[0].reason == "no_reward"  # nor where nothing is kept
    for given, words in (({}, "name one"), ({"kl": 0, "scale": False, "center": True}, "set scale: true")):
        with pytest.raises(ValidationError, match=words):
            shaped_reward.Settings(**given)


def test_pav_takes_each_step_by_its_own_reward() -> None:
    group = group_of([None, None], steps=[[1.0, 0.0], [0.0, 0.0]])
    pav = group_advantage.Settings(kind="dr_grpo", outcome=0, process=1, gamma=0)
    assert [row.advantage for row in rows(group_advantage, group, pav)] == [[0.75, -0.25], [-0.25, -0.25]]
