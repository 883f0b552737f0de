"""pass@k far out, where two curves cross, what is lost and gained; and what drifts, by hand and by property."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as within
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.asks import All, Continue, Logprob, Prefix, Score
from pipeline.engine.driver import drive_with_replies
from pipeline.errors import RecipeError
from pipeline.evaluate import ceiling, drift
from pipeline.evaluate._rules import GateRule
from pipeline.evaluate.gate import decide
from pipeline.evaluate.intervals import pass_at, resample
from pipeline.recipe.methods import method
from pipeline.rows import Label, Problem, Question, Trace
from pipeline.tasks import BaseTask, TaskSettings

QUESTION = Question(id="p", question="?", prompt="?", prompt_used="?", task="t")
FOUR = ceiling.Settings(samples=4, resamples=400)


def counts(rights, num=4, **more):
    return [ceiling.Counts(f"p{i}", num, right, **more) for i, right in enumerate(rights)]


# --- ceiling


def test_golden_sharper_and_not_broader():
    """The policy always solves one problem and never the other; the base one sample in four of both.

    pass@k of the policy: .5 at every k. Of the base: 1/4, 1/2, 1. They meet at k = 2.
    """
    found = ceiling.measure({"policy": counts([4, 0]), "policy@0": counts([1, 1])}, FOUR)
    assert [found[f"pass@{k}"] for k in (1, 2, 4)] == [0.5, 0.5, 0.5]
    assert [found[f"pass@{k}@0"] for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert (found["gain/pass@1"], found["gain/pass@4"]) == (0.25, -0.5)
    assert found["crossing"] == 2
    assert (found["solved"], found["lost"], found["gained"]) == (0.5, 0.5, 0.0)
    said = ceiling.remarks(found, FOUR)[ceiling.BROADER]
    assert "pass@1 is +25.0 points, pass@4 -50.0 points" in said
    assert "From 2 samples on" in said
    assert "sharper there, not broader" in said
    assert "50.0 % of the problems were solved by the base alone" in said


def test_a_base_that_is_ahead_for_a_while_is_no_proof_of_sharpening():
    """The base: one problem always; the policy: both, one and two samples of four. Behind at 1, ahead at 4."""
    found = ceiling.measure({"policy": counts([1, 2]), "policy@0": counts([4, 0])}, FOUR)
    assert found["gain/pass@1"] < 0 < found["gain/pass@4"]
    said = ceiling.remarks(found, FOUR)[ceiling.BROADER]
    assert "The base is ahead for a while, from k = 1 on, and no more at 4." in said
    assert "not broader" not in said


def test_golden_unbiased_estimate_and_perplexity():
    """10 samples, 3 right: pass@5 = 1 - C(7,5)/C(10,5) = 11/12. 6 nats over 3 tokens: e^2."""
    assert pass_at(10, 3, 5) == pytest.approx(11 / 12)
    settings = ceiling.Settings(samples=10, k=(5,), resamples=100)
    rows = counts([3], 10, nats=6.0, own_nats=3.0, tokens=3)
    found = ceiling.measure({"policy": rows, "policy@0": rows}, settings)
    assert found["pass@5"] == pytest.approx(0.91666667)
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["perplexity/own"] == pytest.approx(math.e)
    assert "crossing" not in found  # one and the same curve


@within(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=6))
def test_pass_at_k_rises_with_k_and_begins_at_the_mean(drawn):
    rights = [(num, min(right, num)) for num, right in drawn]
    for num, right in rights:
        curve = [pass_at(num, right, k) for k in range(1, num + 1)]
        assert curve[0] == pytest.approx(right / num)
        assert all(a <= b + 1e-12 for a, b in zip(curve, curve[1:], strict=False))
        assert curve[-1] == (1.0 if right else 0.0)
    most = min(num for num, _ in rights)
    settings = ceiling.Settings(samples=most, k=(1,), resamples=100)
    rows = [ceiling.Counts(f"p{i}", num, right) for i, (num, right) in enumerate(rights)]
    found = ceiling.measure({"policy": rows, "policy@0": rows}, settings)
    assert found["pass@1"] == pytest.approx(sum(r / n for n, r in rights) / len(rights), abs=1e-7)


def test_pass_at_k_beyond_256_is_exact():
    """1 of 1,024 right: k of them hold it with chance k / 1,024."""
    assert pass_at(1024, 1, 512) == 0.5
    assert pass_at(4096, 1, 1024) == 0.25


@pytest.mark.parametrize(
    ("gap", "crossing"),
    [
        ([0.2, 0.0, -0.1], 2.0),
        ([0.2, -0.2, -0.3], math.sqrt(2)),  # halfway in the logarithm
        ([-0.1, 0.1, 0.2], 1.0),
        ([0.3, 0.2, 0.1], math.inf),
        ([0.3, 0.2, 0.0], math.inf),  # both end at the same height
    ],
)
def test_where_two_curves_cross(gap, crossing):
    assert ceiling.first_crossing((1, 2, 4), np.array([gap]))[0] == pytest.approx(crossing)


def test_the_interval_of_a_crossing_holds_it_and_may_be_open():
    draw = np.random.default_rng(0)
    base = draw.binomial(64, draw.beta(0.6, 2.0, 200))
    model = np.where(draw.random(200) < 0.3, 64, np.where(base > 8, base, 0))
    settings = ceiling.Settings(samples=64, resamples=400)
    found = ceiling.measure(
        {"policy": counts(map(int, model), 64), "policy@0": counts(map(int, base), 64)}, settings
    )
    assert 1 < found["crossing/low"] <= found["crossing"] <= found["crossing/high"] <= 64
    assert found["crossing/share"] == 1
    ahead = ceiling.measure({"policy": counts([4, 4]), "policy@0": counts([1, 1])}, FOUR)
    assert "crossing" not in ahead
    assert ahead["crossing/share"] == 0
    assert "Up to 4 samples the base does not catch up" in ceiling.remarks(ahead, FOUR)[ceiling.BROADER]


def test_a_later_round_is_held_against_the_same_base_and_its_incumbent():
    found = ceiling.measure(
        {
            "policy": counts([4, 4, 0]),
            "policy@0": counts([1, 1, 1]),
            "policy@1": counts([2, 2, 0]),
            "policy@incumbent": counts([4, 0, 0]),
        },
        ceiling.Settings(of=["policy", "policy@1"], samples=4, resamples=100),
    )
    assert found["lost"] == pytest.approx(1 / 3)
    assert found["lost@1"] == pytest.approx(1 / 3)
    assert found["lost/change"] == pytest.approx(-1 / 3)  # the incumbent lost two of three
    assert {"crossing", "crossing@1"} <= set(found)
    settings = ceiling.Settings(of=["policy", "policy@1"])
    assert settings.measured == ["policy", "policy@0", "policy@1"]
    assert ceiling.Settings(of="solver").base == "solver@0"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"samples": 8, "k": [16]}, "k=16 is more than samples=8"),
        ({"k": [0]}, "each k is 1 or more"),
        ({"search": {"generate": "beam"}}, "draws samples of its own"),
    ],
)
def test_what_cannot_be_measured_is_said(given, said):
    with pytest.raises(ValidationError, match=said):
        ceiling.Settings(**given)


class Echo(BaseTask):
    """An answer is the text; a step is wrong where it says so."""

    def __init__(self):
        self.step_separator = "\n"

    def problems(self):
        return iter(())

    def extract(self, text):
        return text or None

    def correct(self, answer, problem):
        return answer is not None and answer.rstrip("!") == problem.answer

    def step_oracle(self, problem, steps):
        return [not step.endswith("!") for step in steps]


def written(text, logprob=-1.0, finish="eos"):
    return Prefix("?", (1, 2), (2,), (text,), text, (logprob, logprob), finish, text)


def test_ceiling_draws_reads_and_counts():
    settings = ceiling.Settings(samples=3, read=2, resamples=100)
    texts = [written("7"), written("7!"), written("8")]
    seen = []
    rows = drive_with_replies(
        ceiling.answer(QUESTION, settings, "policy"), [texts, [[-3.0, 0.0], [-1.0, -2.0]]], seen
    )
    assert isinstance(seen[0], Continue)
    assert (seen[0].n, seen[0].temperature, seen[0].top_p) == (3, 0.6, 0.95)
    assert isinstance(seen[1], Logprob)
    assert (seen[1].by, len(seen[1].listed)) == ("policy@0", 2)
    traces = [row for row in rows if isinstance(row, Trace)]
    assert [trace.id for trace in traces] == ["p/policy/0", "p/policy/1", "p/policy/2"]
    assert all(trace.cut for trace in traces)
    problem = Problem(id="p", question="?", answer="7")
    labels = [*(row for row in rows if isinstance(row, Label)), *ceiling.grade(problem, rows, Echo())]
    found = ceiling.outcomes(problem, traces, labels, settings, "policy", Echo())
    assert (found.num, found.right, found.valid) == (3, 2, 1)
    assert (found.nats, found.own_nats, found.tokens) == (6.0, 4.0, 4)


# --- drift


def test_golden_drift():
    """Two problems, two samples each, by hand."""
    settings = drift.Settings(samples=2, value="prm", resamples=100)

    def drawn(right, answer, text, score, **more):
        return drift.Drawn(
            right=right, tokens=2, nats=1.0, ratio=0.5, truncated=False, text=text, answer=answer, score=score,
            wrong_step=False if right else None,
        ) if not more else replace(drawn(right, answer, text, score), **more)  # fmt: skip

    one = drift.Astray("a", True, (drawn(True, "7", "x", 0.9), drawn(True, "7", "x", 0.6)))
    two = drift.Astray(
        "b", True, (drawn(False, "8", "y", 0.95), drawn(False, None, "z", 0.1, truncated=True))
    )
    found = drift.measure({"policy": [one, two]}, settings)
    assert found["kl"] == 0.25  # 4 * .5 nats over 8 tokens
    assert found["entropy"] == 0.5
    assert found["truncated"] == 0.25
    assert found["distinct"] == 0.75  # x | y z of four
    assert found["distinct/right"] == 0.5
    assert found["entropy/answers"] == pytest.approx(math.log(2) / 2)
    assert found["agreement"] == 0.75
    assert found["accuracy"] == 0.5
    assert found["score"] == pytest.approx(0.6375)  # .9, .6, .95, .1
    assert found["gap"] == 0.25  # says right of three, right are two
    assert found["gap/top"] == 1.0  # the best of four samples is wrong
    assert found["false_positive"] == 0.0
    assert found["unsolved"] == found["never_solved"] == 0.5


def test_versions_beside_each_other():
    """What no version solves, and whose right traces the verifier prefers."""
    settings = drift.Settings(of=["policy", "policy@0"], samples=2, value="prm", resamples=100)

    def row(name, *scores):
        made = [drift.Drawn(s > 0, 1, 1.0, None, False, str(s), str(s), abs(s), None) for s in scores]
        return drift.Astray(name, True, tuple(made))

    found = drift.measure(
        {
            "policy": [row("a", 0.9, 0.5), row("b", -0.9, -0.8), row("c", -0.1, -0.1)],
            "policy@0": [row("a", 0.5, -0.2), row("b", 0.3, -0.1), row("c", -0.1, -0.1)],
        },
        settings,
    )
    assert found["preference"] == 0.75  # .9 > .5, .5 = .5
    assert found["unsolved"] == pytest.approx(2 / 3)
    assert found["never_solved"] == pytest.approx(1 / 3)
    assert {each.name for each in drift.metrics(settings)} >= {"preference", "gap", "never_solved"}
    assert "preference" not in {each.name for each in drift.metrics(drift.Settings(value="prm"))}
    assert not {"score", "gap"} & {each.name for each in drift.metrics(drift.Settings())}


def test_drift_asks_base_and_verifier_at_once():
    settings = drift.Settings(samples=2, value="prm")
    seen = []
    texts = [written("7", -0.5), written("7!", -1.0, "length")]
    rows = drive_with_replies(
        drift.answer(QUESTION, settings, "policy"), [texts, [[[-1.0, -1.0], [-2.0, -2.0]], [[0.9], []]]], seen
    )
    assert [type(ask) for ask in seen] == [Continue, All]
    assert [type(ask) for ask in seen[1].asks] == [Logprob, Score]
    problem = Problem(id="p", question="?", answer="7")
    traces = [row for row in rows if isinstance(row, Trace)]
    labels = [*(row for row in rows if isinstance(row, Label)), *drift.grade(problem, rows, Echo())]
    found = drift.outcomes(problem, traces, labels, settings, "policy", Echo())
    first, second = found.drawn
    assert (first.ratio, first.score, first.wrong_step) == (1.0, 0.9, False)
    assert (second.ratio, second.score, second.wrong_step, second.truncated) == (2.0, None, True, True)
    alone = drift.Settings(samples=2)
    seen.clear()
    drive_with_replies(drift.answer(QUESTION, alone, "policy@0"), [texts], seen)
    assert len(seen) == 1  # the base is at no distance from itself


def test_limits_are_the_gates_and_are_said():
    settings = drift.Settings(warn={"kl": 0.2})
    found = {"kl": 0.3, "kl/change": 0.1, "kl/change/low": 0.05, "kl/change/high": 0.2}
    assert drift.health(found, settings).warnings == ["nats a token from the base: 0.3, above 0.2"]
    said = drift.remarks(found, settings)[drift.ASTRAY]
    assert "Beware: nats a token from the base: 0.3, above 0.2." in said
    assert "nats a token from the base rose by 0.1" in said
    known = {f"drift/{name}": value for name, value in found.items()} | {"drift/distinct": 0.15}
    rules = [GateRule(metric="drift/kl", at_most=0.2), GateRule(metric="drift/distinct", at_least=0.2)]
    decision = decide(rules, known, first=False)
    assert not decision.promote
    assert decision.reasons == [
        "drift/kl: 0.3, at most 0.2: refused",
        "drift/distinct: 0.15, at least 0.2: refused",
    ]
    assert decide(rules, known | {"drift/kl": 0.1, "drift/distinct": 0.5}, first=False).promote
    assert not decide(rules, known | {"drift/kl": 0.1, "drift/distinct": math.nan}, first=False).promote
    # what a round had nothing to measure by: curves that never cross are no error, and an unknown value refuses
    absent = {f"{stage}/{each.name}": each.absent for stage, room in (("ceiling", ceiling), ("drift", drift))
              for each in room.metrics(room.Settings())}  # fmt: skip
    never = [
        GateRule(metric="ceiling/crossing", at_least=16),
        GateRule(metric="drift/false_positive", at_most=0.1),
    ]
    assert decide(never, {}, first=False, absent=absent).as_dict()["reasons"] == [
        "ceiling/crossing: none, taken as inf, at least 16: kept",
        "drift/false_positive: none, taken as 0, at most 0.1: kept",
    ]
    [said] = decide(GateRule(metric="drift/kl", at_most=1), {}, first=False, absent=absent).reasons
    assert said == "drift/kl: there was nothing to measure it by, at most 1: refused"
    with pytest.raises(RecipeError, match="no metric drift/gap"):
        decide(GateRule(metric="drift/gap", at_most=0.1), known, first=False)
    with pytest.raises(ValidationError, match="at_least"):
        GateRule(metric="drift/kl", at_most=1, at_least=0)
    with pytest.raises(ValidationError, match="no metric kll"):
        drift.Settings(warn={"kll": 1})


def test_agreement_that_rises_while_accuracy_falls_is_named():
    moved = {"agreement/change": 0.2, "accuracy/change": -0.2, "accuracy/change/high": -0.1}
    assert "it learns its own mistakes" in drift.remarks(moved, drift.Settings())[drift.ASTRAY]
    assert drift.remarks({}, drift.Settings()) == {drift.ASTRAY: "Nothing moved surely."}


@within(deadline=None)
@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=2, max_size=12))
def test_entropy_of_answers_is_bounded(answers):
    drawn = [drift.Drawn(False, 1, 1.0, None, False, "", answer, None, None) for answer in answers]
    entropy = drift.answer_entropy(drawn)
    assert -1e-12 <= entropy <= math.log(len(set(answers))) + 1e-9
    assert (entropy == 0) == (len(set(answers)) == 1)


@pytest.mark.parametrize("name", ["ceiling", "drift"])
def test_panels_name_declared_metrics(name):
    module = method("evaluate", name)
    settings = module.Settings(value="prm") if name == "drift" else module.Settings(samples=8)
    known = {each.name for each in module.metrics(settings)}
    shown = [metric for panel in module.panels(settings) for metric in panel.metrics]
    assert shown
    assert set(shown) <= known


def test_weights_of_the_crossing_are_those_of_the_table():
    assert (resample(5, 100) == resample(5, 100)).all()


def test_the_base_reads_nothing_of_its_own():
    seen = []
    settings = ceiling.Settings(samples=2, read=2)
    rows = drive_with_replies(
        ceiling.answer(QUESTION, settings, "policy@0"), [[written("7"), written("8", -0.5)]], seen
    )
    assert len(seen) == 1
    assert [row.value for row in rows if isinstance(row, Label)] == [-2.0, -1.0]
    assert settings.answering("policy@0", TaskSettings(use="t")).read == {}
    assert settings.answering("policy", TaskSettings(use="t", max_tokens=20)).read == {"policy@0": 20}
