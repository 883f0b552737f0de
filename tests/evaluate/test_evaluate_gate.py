"""The gate refuses what is surely worse and nothing else, and its errors name the nearest metric."""

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.errors import RecipeError
from pipeline.evaluate._rules import GateRule
from pipeline.evaluate.gate import Health, decide
from pipeline.evaluate.intervals import Ratio, resample
from pipeline.evaluate.paired import Measured, tabulate

RULE = GateRule(metric="measure/accuracy/greedy", margin=0.01)


def metrics(after, before, weights):
    ones = np.ones(len(after))
    models = {
        "policy": Measured(compared={"accuracy/greedy": Ratio(after, ones, True)}),
        "policy@incumbent": Measured(compared={"accuracy/greedy": Ratio(before, ones, True)}),
    }
    return {f"measure/{name}": value for name, value in tabulate(models, weights).items()}


def test_noise_is_rarely_refused_and_never_without_significance():
    generator = np.random.default_rng(0)
    weights, refused = resample(400, 500), 0
    for _ in range(100):
        hard = generator.random(400)
        before, after = ((hard + 0.3 * generator.random(400) < 0.7).astype(float) for _ in range(2))
        found = metrics(after, before, weights)
        decision = decide(RULE, found, first=False)
        assert decision.promote == (found["measure/accuracy/greedy/change/high"] >= -0.01)
        refused += not decision.promote
    assert refused <= 3  # one side of 95 % is 2.5 %, less for the margin


def test_planted_regressions_are_refused():
    generator = np.random.default_rng(1)
    weights = resample(400, 500)
    for _ in range(30):
        hard = generator.random(400)
        before = (hard < 0.5).astype(float)
        after = np.where(generator.random(400) < 0.12, 0.0, before)
        decision = decide([RULE], metrics(after, before, weights), first=False)
        if before.mean() - after.mean() > 0.03:
            assert not decision.promote
            assert "refused" in decision.reasons[0]


def test_first_weights_skip_the_comparison_but_not_limits_or_health():
    long = GateRule(metric="measure/length/mean", at_most=100)
    found = {"measure/length/mean": 120.0}
    assert decide(RULE, {}, first=True).promote
    assert not decide([RULE, long], found, first=True).promote
    sick = decide([], {}, first=True, health=Health(failures=["scores are constant"]))
    assert not sick.promote
    assert "constant" in sick.reasons[-1]


def test_limits():
    rule = GateRule(metric="m/length/mean", at_most=100)
    assert decide(rule, {"m/length/mean": 100.0}, first=False).promote
    assert not decide(rule, {"m/length/mean": 100.1}, first=False).promote
    assert not decide(rule, {"m/length/mean": float("nan")}, first=False).promote
    least = GateRule(metric="learn/entropy", at_least=0.1)
    assert decide(least, {"learn/entropy": 0.1}, first=False).promote
    low = decide(least, {"learn/entropy": 0.09}, first=True)
    assert not low.promote
    assert "learn/entropy: 0.09, at least 0.1: refused" in low.reasons
    assert not decide(least, {"learn/entropy": float("nan")}, first=False).promote


@pytest.mark.parametrize(
    ("low", "high", "promoted"), [(0.02, 0.04, False), (0.005, 0.04, True), (-0.04, -0.02, True)]
)
def test_less_is_better_turns_the_margin_round(low, high, promoted):
    name = "measure/trace_error"
    found = {name: 0.2, f"{name}/change": 0.03, f"{name}/change/low": low, f"{name}/change/high": high}
    assert decide(GateRule(metric=name, margin=0.01), found, first=False, less={name}).promote is promoted


def test_missing_metric_names_the_nearest():
    found = {"measure/accuracy/greedy": 0.3, "quality/auc": 0.7}
    with pytest.raises(
        RecipeError, match="no metric measure/acuracy/greedy; the nearest is measure/accuracy/greedy"
    ):
        decide(GateRule(metric="measure/acuracy/greedy", at_most=1), found, first=False)
    with pytest.raises(RecipeError, match="no evaluate stage has written any"):
        decide(RULE, {}, first=False)


def test_a_metric_that_an_unhealthy_model_lacks_is_no_error():
    """A reward model whose scored steps are all true has no AUC: refused by its health check, and the run goes on."""
    health = Health(failures=["AUC is undefined"])
    rules = [GateRule(metric="quality/auc", margin=0.02), GateRule(metric="quality/ece", at_most=0.5)]
    decision = decide(rules, {"quality/ece": 0.1}, first=False, health=health)
    assert not decision.promote
    assert any("AUC is undefined" in reason for reason in decision.reasons)
    with pytest.raises(RecipeError, match="no metric quality/auc"):
        decide(rules, {"quality/ece": 0.1}, first=False)


@pytest.mark.parametrize(
    "keys", [{}, {"margin": 0.1, "at_most": 3}, {"at_most": 1, "at_least": 0}, {"margin": -1}, {"margn": 0.1}]
)
def test_a_rule_is_one_condition(keys):
    with pytest.raises(ValidationError):
        GateRule(metric="a/b", **keys)


def test_decision_is_json():
    found = decide(RULE, {}, first=True).as_dict()
    assert found["promote"] is True
    assert found["first"] is True


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [
        ("measure/accuracy/greedy", np.nan, -0.5),
        ("measure/accuracy/greedy", -0.9, np.nan),
        ("measure/accuracy/greedy", np.nan, np.nan),
        ("measure/brier", 0.5, np.nan),
        ("measure/brier", np.nan, 0.9),
    ],
)
def test_without_an_interval_nothing_is_proved(metric, low, high):
    """A change whose interval is not known, on either side, refuses nobody."""
    found = {
        metric: 0.5,
        f"{metric}/change": -0.5,
        f"{metric}/change/low": low,
        f"{metric}/change/high": high,
    }
    rule = GateRule(metric=metric, margin=0.01)
    less = {metric} if "brier" in metric else set()
    decision = decide(rule, found, first=False, less=less)
    assert decision.promote
    assert "kept" in decision.reasons[0]
    surely = {"low": 0.4, "high": 0.6} if "brier" in metric else {"low": -0.6, "high": -0.4}
    known = found | {f"{metric}/change/{part}": value for part, value in surely.items()}
    assert not decide(rule, known, first=False, less=less).promote


def test_the_sentences_of_a_gate_are_those_that_gate_json_has():
    found = {
        "m/loss": 0.25,
        "m/acc": 0.5,
        "m/acc/change": 0.125,
        "m/acc/change/low": -0.1,
        "m/acc/change/high": 0.3,
    }
    most, margin = GateRule(metric="m/loss", at_most=0.25), GateRule(metric="m/acc", margin=0.02)
    decision = decide([most, margin], found, first=False)
    assert decision.promote
    assert decision.reasons == [
        "m/loss: 0.25, at most 0.25: kept",
        "m/acc: 0.375 -> 0.5, change +0.125 [-0.1, +0.3], margin 0.02: kept",
    ]
    worse = found | {"m/loss": 0.26, "m/acc/change": -0.1, "m/acc/change/high": -0.03}
    decision = decide([most, margin], worse, first=False)
    assert not decision.promote
    assert decision.reasons == [
        "m/loss: 0.26, at most 0.25: refused",
        "m/acc: 0.6 -> 0.5, change -0.1 [-0.1, -0.03], margin 0.02: refused, surely worse",
    ]
    assert decide(margin, {}, first=True).reasons == [
        "first weights of this model: nothing to compare with",
        "m/acc: not compared",
    ]
    edge = {"m/brier": 0.5, "m/brier/change": 0.1, "m/brier/change/low": 0.02, "m/brier/change/high": 0.3}
    assert decide(
        GateRule(metric="m/brier", margin=0.02), edge, first=False
    ).promote  # at the margin, not beyond
