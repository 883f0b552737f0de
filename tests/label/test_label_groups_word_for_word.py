"""Groups, votes and labels by gold: each row to its last field, bounds included."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from label_world import PROBLEM, Lines, trace
from test_label_rewards_word_for_word import CRITIQUE, reward
from test_label_word_for_word import asked, dropped, label

from pipeline.label import first_error, group_advantage, match, mutual_oracle, outcome, plurality
from pipeline.rows import Group


def test_groups_at_their_bounds() -> None:
    pair = [trace(k, "a", "b") for k in range(4)]
    given = group_advantage.Settings(kind="rloo", between=(0.25, 0.75))
    assert [group_advantage.outside(r, given) for r in ([0.25], [0.75], [0.24], [0.76], [])] == ["", "", "too_hard", "too_easy", ""]  # fmt: skip
    assert group_advantage.outside([0.0], group_advantage.Settings(kind="rloo")) == ""
    passing = group_advantage.Settings(kind="pass_at_k", k=2)
    assert [group_advantage.unfit(r, passing) for r in ([1.0, 0.0], [1.0], [0.5, 1.0], [])] == ["", "fewer_than_k", "not_right_or_wrong", "fewer_than_k"]  # fmt: skip
    assert group_advantage.unfit([0.5], given) == ""
    one = trace(0, "x" * 9)  # 10 tokens
    shaped_ones = [
        group_advantage.shaped(one, 1.0, bounds) for bounds in ((10, 12), (8, 12), (0, 10), (0, 5), None)
    ]
    assert shaped_ones == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert group_advantage.shaped(one, None, (0, 5)) is None
    assert group_advantage.advantages([2.0, 1.0], "best_of_k") == [1.0, 0.0]
    assert group_advantage.advantages([-1.0, 1.0], "max_rl") == [0.0, 0.0]
    assert group_advantage.advantages([1.0, 3.0], "grpo") == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)])  # fmt: skip
    assert group_advantage.advantages([1.0, 3.0], "rloo") == [-2.0, 2.0]
    assert group_advantage.advantages([], "rloo") == []
    assert group_advantage.pass_at_k([1.0, 0.0, 0.0], 2) == pytest.approx([1 / math.sqrt(2), (1 / 3 - 1 / 2) / (math.sqrt(2) / 3)] + [(1 / 3 - 1 / 2) / (math.sqrt(2) / 3)])  # fmt: skip
    by_kind = {kind: group_advantage.step_advantages([[1.0, 0.0], [2.0]], kind, 0.5) for kind in ("rloo", "dr_grpo", "grpo")}  # fmt: skip
    assert by_kind["rloo"] == [[-1.0 - 1.0, -2.0], [1.5]]
    assert by_kind["dr_grpo"] == [[0.0 - 0.5, -1.0], [1.0]]
    assert by_kind["grpo"] == [
        [pytest.approx(value / 1.0001) for value in each] for each in ((-0.5, -1.0), (1.0,))
    ]
    assert group_advantage.step_advantages([[1.0]], "rloo", 1.0) == [[0.0]]
    assert group_advantage.step_advantages([[], [2.0]], "rloo", 1.0) == [[], [2.0]]
    assert group_advantage.step_advantages([[2.0]], "grpo", 1.0) == group_advantage.step_advantages([[0.0]], "dr_grpo", 1.0)  # fmt: skip
    labels = [
        reward(0, 1.0, [1.0, 0.0]),
        reward(1, 0.0, [0.0, 0.0]),
        reward(2, None, [1.0, 1.0]),
        reward(3, 1.0),
    ]
    rows, _ = asked(group_advantage, pair, [], labels, kind="dr_grpo", outcome=2.0, process=4.0, gamma=0.5)
    assert rows == [
        dropped(2, "no_reward"),
        dropped(3, "no_step_rewards"),
        label(0, "group_advantage/dr_grpo", advantage=[1.0 + 4 * (0.75 - 0.125), 1.0 - 1.0]),
        label(1, "group_advantage/dr_grpo", advantage=[-1.0 + 4 * (-0.25 - 0.125), -1.0 - 1.0]),
    ]
    odd = {"overlong": (5, 5)}, {"overlong": (-1, 5)}, {"process": 1, "kind": "max_rl"}, {"outcome": 0}
    for wrong in odd:
        with pytest.raises(ValueError, match="overlong|process"):
            group_advantage.Settings(**wrong)
    assert group_advantage.Settings(overlong=(0, 1), between=(0.5, 0.5)).between == (0.5, 0.5)


def test_votes_at_their_bounds() -> None:
    four = [trace(k, "x", answer) for k, answer in enumerate("AABC")]
    rows, _ = asked(plurality, four, [], least_share=0.5, rewarded=2)
    assert rows == [
        label(0, "plurality", value=1.0), label(1, "plurality", value=1.0),
        dropped(2, "votes_only"), dropped(3, "votes_only"),
    ]  # fmt: skip
    assert {row.reason for row in asked(plurality, four, [], least_share=0.51)[0]} == {"no_majority"}
    cut = [dataclasses.replace(one, finish=how) for one, how in zip(four, ("length", "budget", "stop", "eos"), strict=True)]  # fmt: skip
    assert [row.value for row in asked(plurality, cut, [])[0]] == [0.0, 0.0, 1.0, 0.0]
    nobody = [dataclasses.replace(one, answer=None) for one in four]
    assert {row.reason for row in asked(plurality, nobody, [])[0]} == {"no_majority"}


# --- by gold


def test_outcomes_word_for_word() -> None:
    traces = [trace(0, "right"), trace(1, "no"), trace(2), trace(3, "right", finish="budget"), CRITIQUE]
    rows, _ = asked(outcome, traces, [])
    said = [(True, ""), (False, "wrong_answer"), (False, "no_answer"), (False, "truncated")]
    assert rows == [
        *(
            label(k, "outcome", correct=right, value=float(right), reason=why)
            for k, (right, why) in enumerate(said)
        ),
        dropped("critique.8", "no_attempt"),
    ]


def test_the_first_error_word_for_word() -> None:
    rows, _ = asked(first_error, [trace(0, "a", "bad", "c", "no"), trace(1, "a"), trace(2)], [])
    assert rows == [
        label(
            0,
            "first_error",
            correct=False,
            step_scores=[1.0, 0.0, 0.0, 0.0],
            value=0.0,
            reason="wrong_answer",
        ),
        label(1, "first_error", correct=False, step_scores=[1.0], value=1.0, reason="wrong_answer"),
        dropped(2, "no_steps"),
    ]
    rows, _ = asked(first_error, [trace(0, "a", "b", "bad")], [])
    assert (rows[0].step_scores, rows[0].value) == ([1.0, 1.0, 0.0], 0.0)  # the last step's, not another's

    class Few(Lines):
        def step_oracle(self, problem: Any, steps: list[str]) -> list[bool]:
            return [True] * (len(steps) - 1)

    [row] = list(_driven(first_error.label(PROBLEM, Group("p", traces=[trace(0, "a", "b")]), first_error.Settings(), Few())))  # fmt: skip
    assert row == dropped(0, "no_oracle")


def _driven(asks: Any) -> list[Any]:
    with pytest.raises(StopIteration) as stopped:
        next(asks)
    return stopped.value.value


class Numbered(Lines):
    """A step's result is what stands behind its `=`."""

    def step_result(self, step: str) -> str | None:
        return step.partition("= ")[2].strip() or None


def test_matches_word_for_word() -> None:
    traces = [trace(0, "a = 1", "b = 2", "right"), trace(1, "b = 2", "no"), trace(2, "so", "no"), trace(3)]
    rows = _driven(match.label(PROBLEM, Group("p", traces=traces), match.Settings(), Numbered()))
    said = [(True, "", [1.0, 1.0, 1.0]), (False, "wrong_answer", [1.0, None]), (False, "wrong_answer", [0.0, 0.0]), (False, "no_answer", [])]  # fmt: skip
    assert rows == [
        label(k, "match", correct=right, step_scores=scores, value=float(right), reason=why)
        for k, (right, why, scores) in enumerate(said)
    ]
    rows = _driven(
        match.label(PROBLEM, Group("p", traces=[trace(0, "a", "right")]), match.Settings(), Numbered())
    )
    assert rows == [dropped(0, "no_results")]


def test_the_control_drops_word_for_word() -> None:
    traces = [trace(0, "a"), trace(1), trace(2, "b"), trace(3, "b")]
    labels = [
        dataclasses.replace(reward(k, 0.5), labeller="mutual", reason=why) for k, why in ((2, ""), (3, ""))
    ]
    rows, _ = asked(mutual_oracle, traces, [], labels, confidence="count")
    assert rows == [
        dropped(0, "unlabelled"),
        dropped(1, "no_answer"),
        label(2, "mutual_oracle", value=0.5, reason="gold_fallback"),
        label(3, "mutual_oracle", value=0.5, reason="gold_fallback"),
    ]
    one = [dataclasses.replace(labels[0], reason=""), dataclasses.replace(labels[1], reason="inconsistent")]
    assert [row.reason for row in asked(mutual_oracle, traces[2:], [], one)[0]] == ["", "inconsistent"]
