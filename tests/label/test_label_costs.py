"""What `plan` is told a labeller costs, by hand: 4 traces of 100 tokens in 5 steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.label import (
    advantage,
    critic,
    distil,
    duel,
    ensemble,
    evidence,
    gae,
    judge,
    mutual,
    omega,
    pivotal,
    prefix_values,
    relative,
    self_certainty,
    self_check,
    self_verify,
    shaped,
    shaped_reward,
    shepherd,
    step_reward,
    verify_steps,
)

TASK = SimpleNamespace(typical_tokens=100.0, typical_steps=5.0)
SHORT = SimpleNamespace(typical_tokens=1.0, typical_steps=0.0)
STEPS = 4 * 4 * 100 / 2  #: the ends of 4 traces: after each of 4 steps, half a completion


@pytest.mark.parametrize(
    ("method", "given", "written", "read"),
    [
        (shepherd, {"n": 8}, {"policy": 8 * STEPS}, {}),
        (shepherd, {"by": "a", "n": 2}, {"a": 2 * STEPS}, {}),
        (relative, {"n": 8}, {"policy": 8 * STEPS + 800}, {}),
        (advantage, {"n": 2}, {"policy": 2 * STEPS + 200}, {}),
        (advantage, {"n": 2, "by": "a"}, {"policy": 2 * STEPS + 200, "a": 2 * STEPS + 200}, {}),
        (critic, {"value": "v"}, {}, {"v": 400}),
        (critic, {"value": "v", "prm": "v", "n": 3}, {}, {"v": 800}),
        (critic, {"outcome": "o", "n": 3}, {"policy": 3 * STEPS}, {"o": 400 + 6 * STEPS}),
        (distil, {"by": "t"}, {}, {"t": 400}),
        (duel, {}, {}, {"policy": 12 * 300}),
        (duel, {"orders": "one"}, {}, {"policy": 6 * 300}),
        (duel, {"most": 3}, {}, {"policy": 6 * 300}),
        (ensemble, {"by": ["a", "b"]}, {}, {"a": 400, "b": 400}),
        (evidence, {"k": 3, "store": "train"}, {}, {"policy": 20 * 3 * 80}),
        (gae, {"critic": "v"}, {}, {"v": 400}),
        (judge, {}, {"policy": 3 * 400}, {}),
        (judge, {"max_tokens": 40, "samples": 2}, {"policy": 2 * 160}, {}),
        (judge, {"how": "chance"}, {}, {}),
        (judge, {"how": "chance", "after": "check"}, {"policy": 400}, {}),
        (mutual, {"keep": (0.2, 0.4), "masks": 2, "n": 3}, {"partner": 4 * 2 * 3 * 0.7 * 100}, {}),
        # log2 5, so 3 prefixes a search, a quarter of a completion each; 44 searches, for that many go wrong
        (omega, {"n": 8, "filter": 32}, {"policy": 3200 + 0.25 * 44 * 3 * 800}, {}),
        (omega, {"n": 8, "filter": 0, "searches": 10, "pieces": 4}, {"policy": 800 + 0.25 * 10 * 2 * 800}, {}),
        # 2 ceil(log2 100) = 14 prefixes and an alternative, of 2 traces
        (pivotal, {"n": 16}, {"policy": 1600 * (1 + 15)}, {}),
        (self_certainty, {}, {}, {"policy": 400}),
        (self_check, {"by": "a"}, {"a": 100}, {}),
        (self_check, {"value": "v", "reads": 3}, {}, {"v": 300}),
        (self_check, {"judge": "j", "reads": 9}, {}, {"j": 400}),
        (self_verify, {"n": 5}, {"policy": 5 * 400}, {}),
        (self_verify, {"n": 5, "max_tokens": 30}, {"policy": 5 * 120}, {}),
        (shaped, {"stage": 1, "reference": "r"}, {}, {"r": 400}),
        (shaped, {"stage": 1}, {}, {}),
        (shaped_reward, {"reference": "r"}, {}, {"r": 400}),
        (shaped_reward, {"reference": "r", "kl": 0}, {}, {}),
        (step_reward, {"value": "v", "plus": "v"}, {}, {"v": 800}),
        (step_reward, {"implicit": "a", "reference": "b"}, {}, {"a": 400, "b": 400}),
        (verify_steps, {"n": 3}, {"policy": 3 * 400}, {}),
    ],
)  # fmt: skip
def test_costs_by_hand(
    method: Any, given: dict[str, Any], written: dict[str, Any], read: dict[str, Any]
) -> None:
    settings = method.Settings(**given)
    cost = settings.cost(TASK, 4.0)
    assert {name: tokens for name, tokens in cost.written.items() if tokens} == pytest.approx(written)
    assert {name: tokens for name, tokens in cost.read.items() if tokens} == pytest.approx(read)
    assert cost.traces == 4
    assert settings.cost(TASK) == settings.cost(TASK, 0.0)  # as long as nobody says how many traces there are
    for few in (settings.cost(TASK, 0.0), settings.cost(SHORT, 1.0)):  # nothing is ever less than nothing
        assert all(tokens >= 0 for tokens in (*few.written.values(), *few.read.values()))


def test_wrong_steps_leave_traces_of_their_own() -> None:
    cost = prefix_values.Settings(wrong=2, traces=3).cost(TASK, 4.0)
    assert (cost.written, cost.read, cost.traces) == ({"policy": 600}, {}, 4 + 6 * 5)
    assert prefix_values.Settings().cost(TASK) == prefix_values.Settings().cost(TASK, 0.0)
