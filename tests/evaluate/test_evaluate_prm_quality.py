"""The reward model's metrics against golden values, and a health check that catches what collapsed."""

import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from pipeline.asks import Continue, Prefix, Score
from pipeline.errors import DamagedData
from pipeline.evaluate import prm_quality
from pipeline.evaluate.gate import decide
from pipeline.evaluate.intervals import resample
from pipeline.evaluate.outcomes import Ballots
from pipeline.evaluate.prm_quality import PrmOutcome, Scored, Settings
from pipeline.evaluate.ranking import Points, Ranking, f1_at, length_correlation
from pipeline.evaluate.step_files import processbench, read_prm800k, read_processbench
from pipeline.rows import Label, Problem, Question, Trace
from pipeline.tasks import BaseTask, TaskSettings
from pipeline.vote import rule
from pipeline.vote.aggregate import RULES, aggregate, kind_of, weight

SETTINGS = Settings(resamples=100)


def world(score, seed, oracle=True, num_problems=100):
    """Traces of 2 to 5 steps of 3 to 12 tokens; a step fails with chance 0.2 and everything after it is
    false.

    score(true, step, tokens so far, generator) -> what the PRM says.
    """
    generator = np.random.default_rng(seed)
    found = []
    for problem in range(num_problems):
        traces = []
        for _ in range(4):
            num = int(generator.integers(2, 6))
            ends = np.cumsum(generator.integers(3, 13, num))
            verdicts = np.cumprod(generator.random(num) > 0.2).astype(bool)
            scores = [
                float(score(v, k, e, generator)) for k, (v, e) in enumerate(zip(verdicts, ends, strict=True))
            ]
            traces.append(
                Scored(
                    scores=tuple(scores),
                    score=scores[-1],
                    verdicts=tuple(map(bool, verdicts)) if oracle else None,
                    right=bool(verdicts[-1]),
                    ends=tuple(map(int, ends)),
                    tokens=int(ends[-1]),
                    ended=True,
                )
            )
        found.append(PrmOutcome(f"p{problem:03}", tuple(traces)))
    return found


def healthy(true, step, tokens, generator):
    """A value model: grows along right paths, noisy."""
    return (0.3 + 0.1 * step if true else 0.15) + generator.normal(0, 0.15)


KINDS = {
    "constant": lambda true, step, tokens, g: 0.4 + g.normal(0, 0.005),
    "shuffled": lambda true, step, tokens, g: g.random(),
    "length": lambda true, step, tokens, g: tokens / 60 + g.normal(0, 0.02),
    "length, shorter is better": lambda true, step, tokens, g: 1 - tokens / 60 + g.normal(0, 0.02),
    "position": lambda true, step, tokens, g: 1 - step / 5 + g.normal(0, 0.03),
}


def promoted(outcomes, settings=SETTINGS, first=True):
    metrics = prm_quality.measure({"prm": outcomes}, settings)
    return decide([], {}, first=first, health=prm_quality.health(metrics, settings))


@pytest.mark.parametrize("oracle", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_collapsed_reward_models_are_caught(kind, oracle):
    """20 of 20 seeds. Without an oracle a position is a length."""
    decisions = [promoted(world(KINDS[kind], seed, oracle)) for seed in range(20)]
    assert sum(not decision.promote for decision in decisions) == 20
    assert all("health check" in decision.reasons[-1] for decision in decisions)


@pytest.mark.parametrize("oracle", [True, False])
def test_healthy_reward_models_pass(oracle):
    assert sum(promoted(world(healthy, seed, oracle)).promote for seed in range(20)) >= 19


def test_a_healthy_value_model_is_not_taken_for_a_length_counter():
    """Values grow with each right step, so they follow length; among like steps they do not."""
    metrics = prm_quality.measure({"prm": world(lambda t, k, n, g: (k + 1) / 5 if t else 0.0, 1)}, SETTINGS)
    assert abs(metrics["length_correlation"]) < 0.2
    assert metrics["auc"] > 0.95


def test_nan_scores_and_one_class_are_findings():
    some = world(lambda t, k, n, g: float("nan") if k == 1 else healthy(t, k, n, g), 1)
    assert "NaN" in promoted(some).reasons[-1]
    alike = [PrmOutcome("p", (Scored((0.2, 0.9), 0.9, (True, True), True, (3, 6), 6, True),))]
    metrics = prm_quality.measure({"prm": alike}, SETTINGS)
    assert any("undefined" in text for text in prm_quality.health(metrics, SETTINGS).failures)
    off = Settings(min_auc=0, min_sd=0, max_length_correlation=1)
    assert prm_quality.health(metrics, off).failures == []


def test_the_roc_curve_holds_the_auc_under_it():
    metrics = prm_quality.measure({"prm": world(healthy, 7)}, SETTINGS)
    shares = [metrics[f"roc/{at:02}"] for at in prm_quality.ROC_AT]
    assert shares == sorted(shares)
    area = np.trapezoid([0.0, *shares, 1.0], [0.0, *(at / 100 for at in prm_quality.ROC_AT), 1.0])
    assert area == pytest.approx(metrics["auc"], abs=0.02)
    alike = [PrmOutcome("p", (Scored((0.2, 0.9), 0.9, (True, True), True, (3, 6), 6, True),))]
    assert not any(name.startswith("roc/") for name in prm_quality.measure({"prm": alike}, SETTINGS))


def test_auc_and_brier_are_scikit_learns():
    outcomes = world(healthy, 7)
    metrics = prm_quality.measure({"prm": outcomes}, SETTINGS)
    pairs = [p for o in outcomes for t in o.traces for p in zip(t.verdicts, t.scores, strict=True)]
    truth, score = map(np.array, zip(*pairs, strict=True))
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, score), abs=1e-7)
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, np.clip(score, 0, 1)), abs=1e-7)
    assert metrics["auc/low"] < metrics["auc"] < metrics["auc/high"]
    shares = [value for name, value in metrics.items() if name.endswith("/share")]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert {each.name for each in prm_quality.metrics(SETTINGS)} <= set(metrics)


@pytest.mark.parametrize("decimals", [1, 6])
def test_resampled_auc_is_the_auc_of_the_resample(decimals):
    """Ties included, one stratum and several."""
    generator = np.random.default_rng(3)
    n = 60
    points = Points(
        score=np.round(generator.random(n), decimals),
        truth=generator.random(n) < 0.4,
        step=generator.integers(0, 3, n),
        length=np.ones(n),
        problem=np.repeat(np.arange(12), 5),
    )
    weights = resample(12, 20)
    spread = Ranking(points, np.zeros(n, dtype=np.int64)).spread(weights)
    for row, value in zip(weights, spread, strict=True):
        weight = row[points.problem]
        assert value == pytest.approx(roc_auc_score(points.truth, points.score, sample_weight=weight))
    ones = np.ones((1, 12))
    ranking = Ranking(points, points.step)
    assert ranking.spread(ones)[0] == pytest.approx(ranking.value)


def test_a_change_is_paired():
    better = lambda t, k, n, g: healthy(t, k, n, g) + 0.2 * t  # noqa: E731
    found = {"prm": world(better, 5), "prm@incumbent": world(healthy, 5)}
    metrics = prm_quality.measure(found, SETTINGS)
    assert metrics["auc/change/low"] > 0
    assert metrics["auc"] - metrics["auc@incumbent"] == pytest.approx(metrics["auc/change"], abs=1e-6)
    assert {"brier/change/high", "first_error_f1/change/low"} <= set(metrics)


def test_length_correlation_needs_lengths_that_differ():
    points = Points(np.arange(9.0), np.ones(9, bool), np.zeros(9, int), np.full(9, 5.0), np.arange(9))
    assert length_correlation(points) == 0.0


def test_first_error_f1_by_hand():
    scores = [[0.9, 0.2, 0.1], [0.9, 0.9], [0.3, 0.9], [0.8, 0.9, 0.4]]
    labels = [1, -1, -1, 1]  # found; right; false alarm; late
    f1, wrong, right = f1_at(scores, labels, [0.5] * 4)
    assert (wrong, right, f1) == (0.5, 0.5, 0.5)


class Even(BaseTask):
    def extract(self, text):
        return text[-1:]

    def correct(self, answer, problem):
        return answer == problem.answer

    def step_oracle(self, problem, steps):
        return ["x" not in step for step in steps]


def test_from_asks_to_outcomes():
    problem = Problem(id="a/1", question="?", answer="4")
    question = Question(id="a/1", question="?", prompt="Q", prompt_used="Q")
    whole = Prefix(prompt="Q", token_ids=(1, 2, 3), step_ends=(1, 3), steps=("2\n", "4"), text="2\n4",
                   finish="eos", answer="4", model="policy")  # fmt: skip
    cut = Prefix(prompt="Q", token_ids=(1, 2), step_ends=(1,), steps=("x\n",), text="x\n1", finish="length")
    asks = prm_quality.answer(question, Settings(samples=2), "prm@0")
    first = next(asks)
    assert isinstance(first, Continue)
    assert (first.by, first.n) == ("policy", 2)
    second = asks.send([whole, cut])
    assert isinstance(second, Score)
    assert second.by == "prm@0"
    with pytest.raises(StopIteration) as end:
        asks.send([[0.5, 0.7], [0.1]])
    rows = end.value.value
    traces = [row for row in rows if isinstance(row, Trace)]
    labels = [row for row in rows if isinstance(row, Label)]
    assert [t.id for t in traces] == ["a/1/prm@0/0", "a/1/prm@0/1"]
    assert [t.score for t in traces] == [0.7, 0.1]
    assert labels[1].step_scores == [0.1, None]
    task = Even(TaskSettings(use="even"))
    labels += prm_quality.grade(problem, rows, task)
    found = prm_quality.outcomes(problem, traces, labels, Settings(), "prm@0", task)
    assert found.traces[0] == Scored((0.5, 0.7), 0.7, (True, True), True, (1, 3), 3, True)
    assert found.traces[1] == Scored((0.1,), 0.1, (False,), False, (1,), 2, False)
    assert prm_quality.outcomes(problem, traces, labels, Settings(), "prm", task).traces == ()


def test_without_an_oracle_log_odds_are_read_as_such():
    """Whole traces by sum_logit: Brier and calibration are of the logistic, as for the same scores by `last`."""
    from dataclasses import replace

    plain = world(lambda true, step, tokens, g: 0.7 if true else 0.4, 5, oracle=False, num_problems=20)

    def shown(how):
        summed = [
            replace(o, traces=tuple(replace(t, score=aggregate(t.scores[-1:], how)) for t in o.traces))
            for o in plain
        ]
        return prm_quality.measure({"prm": summed}, Settings(resamples=100, aggregate=how))

    for how in ("sum_logit", "mean_logit", "mean_odds"):
        for name in ("brier", "ece", "auc", "auc/trace"):
            assert shown(how)[name] == pytest.approx(shown("last")[name]), (how, name)
    wrong, right = (
        [1 for o in plain for t in o.traces if not t.right],
        [1 for o in plain for t in o.traces if t.right],
    )
    by_hand = (len(wrong) * 0.4**2 + len(right) * 0.3**2) / (len(wrong) + len(right))
    assert shown("sum_logit")["brier"] == pytest.approx(by_hand)


@pytest.mark.parametrize("how", RULES)
def test_a_vote_with_an_aggregate_of_its_own_weighs_by_what_it_gives(how):
    """Three right steps of .9, .2, .8 and a step that a limit cut: the same one score as everywhere, and its weight."""
    ballots = Ballots(
        [rule({"use": "weighted", "aggregate": how})], "probability", {"p/0": [0.9, 0.2, 0.8, None]}
    )
    trace = Trace(
        problem_id="p",
        id="p/0",
        prompt="",
        text="",
        token_ids=[1],
        step_ends=[1],
        steps=[""],
        answer="4",
        score=0.5,
    )
    one = ballots.candidate(ballots.rules[0], trace, None)
    assert one.score == pytest.approx(aggregate([0.9, 0.2, 0.8], how))
    assert one.kind == kind_of(how)
    assert one.weight == pytest.approx(weight(one.score, kind_of(how)))
    assert 0 < one.weight < 1


def test_processbench_rows(tmp_path):
    rows = [
        {"id": "gsm8k-0", "generator": "m", "problem": "p", "steps": ["a", "b", "c"],
         "final_answer_correct": False, "label": 1},
        {"id": "gsm8k-1", "generator": "m", "problem": "p", "steps": ["a"],
         "final_answer_correct": True, "label": -1},
    ]  # fmt: skip
    listed, lines = tmp_path / "all.json", tmp_path / "all.jsonl"
    listed.write_text(json.dumps(rows))
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    solutions = list(read_processbench(listed))
    assert solutions == list(read_processbench(lines))
    assert solutions[0].verdicts == (True, False, None)
    assert solutions[1].verdicts == (True,)
    assert processbench(solutions, [[0.9, 0.1, 0.9], [0.8]], threshold=0.5)["f1"] == 1.0
    lines.write_text(json.dumps({**rows[0], "label": 3}))
    with pytest.raises(DamagedData, match=r"all.jsonl:1: .*label 3 of 3 steps"):
        list(read_processbench(lines))
    lines.write_text('{"id": ')
    with pytest.raises(DamagedData, match="not JSON"):
        list(read_processbench(lines))


def test_prm800k_rows(tmp_path):
    def step(*ratings, chosen=0, human=None):
        completions = [{"text": f"s{n}", "rating": r, "flagged": None} for n, r in enumerate(ratings)]
        return {"completions": completions, "human_completion": human, "chosen_completion": chosen}

    found = [step(1), step(-1, 0, chosen=1), step(-1, chosen=None)]
    solved = [step(1), step(-1, chosen=None, human={"text": "by hand", "rating": None}), step(1)]
    path = tmp_path / "phase2.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": {"problem": "p"}, "label": {"steps": steps, "finish_reason": reason}})
            + "\n"
            for steps, reason in ((found, "found_error"), (solved, "solution"), ([], "bad_problem"))
        )
    )
    one, two = read_prm800k(path)
    assert (one.steps, one.verdicts, one.first_error) == (("s0", "s1", "s0"), (True, True, False), 2)
    assert (two.steps[1], two.verdicts, two.first_error) == ("by hand", (True, True, True), -1)
    path.write_text('{"question": {"problem": "p"}}\n')
    with pytest.raises(DamagedData, match="no field 'label'"):
        list(read_prm800k(path))


def test_a_model_that_knows_siblings_alone_is_seen_within_a_problem():
    """Each problem has a level of its own, far apart from the others'; inside one the order is perfect."""
    levels = iter(np.random.default_rng(5).normal(0, 100, 60))

    def found():
        for number, level in enumerate(levels):
            sides = [(level + 1, True), (level, False)]
            yield PrmOutcome(
                f"p{number:02}",
                tuple(Scored((float(score),), float(score), (ok,), ok, (4,), 4, True) for score, ok in sides),
            )

    whole = list(found())
    metrics = prm_quality.measure({"prm": whole}, Settings(within=True, resamples=100))
    assert metrics["auc/same_problem"] == 1
    assert metrics["auc"] < 0.6
    assert "auc/same_problem" not in prm_quality.measure({"prm": whole}, SETTINGS)
    names = [{one.name for one in prm_quality.metrics(Settings(within=within))} for within in (True, False)]
    assert names[0] - names[1] == {"auc/same_problem"}
