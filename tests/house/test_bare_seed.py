"""scripts/bare_seed.py: what counts as target-blind, and that every arm is a recipe of as many steps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bare_seed import ARMS, Arm, blind, shares  # noqa: E402

from pipeline.recipe.read import load  # noqa: E402
from pipeline.rows import Trace  # noqa: E402


def trace(*steps: str) -> Trace:
    text = "\n".join(steps)
    return Trace(
        problem_id="p", id="p/0", prompt="q", text=text, token_ids=[1], step_ends=[1], steps=list(steps)
    )


SUM = trace("7 + 4 = 11, left 3, 11", "11 + 3 = 14")


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (SUM, True),
        (trace("7 - 4 = 3, left 3, 3", "3 + 3 = 6"), False),
        (trace("7 + 4 = 11, left 3, 11", "what now"), False),
        (trace(), False),
    ],
)
def test_target_blind_is_the_sum_of_all(one: Trace, wanted: bool) -> None:
    assert blind(one) is wanted


def test_shares_by_hand() -> None:
    other = trace("7 - 4 = 3, left 3, 3", "3 + 3 = 6")
    assert shares([(SUM, True), (SUM, False), (other, True), (other, False), (other, True)]) == pytest.approx(
        (60.0, 40.0, 100 / 3)
    )


@pytest.mark.parametrize("arm", ARMS.values(), ids=list(ARMS))
def test_every_arm_takes_as_many_steps(arm: Arm) -> None:
    recipe = load(ROOT / "recipes/grpo_countdown.yaml", arm.overrides(20), "bare")
    learn = [stage for stage in recipe.stages if stage.name == "learn"]
    if not arm.problems:
        assert learn == []
        return
    settings = learn[0].settings
    a_round = settings.steps_in(1) or settings.minibatches
    assert a_round * max(recipe.rounds, 1) == 20
    assert settings.schedule_rounds == (recipe.rounds or None)
