"""Golden values of the estimators, and what an interval promises on synthetic data."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.intervals import (
    Ratio,
    best_at,
    change,
    majority_at,
    pass_at,
    percentile95,
    resample,
    score_at,
    wilson,
)


@pytest.mark.parametrize(
    ("num", "right", "k", "wanted"),
    [
        (10, 3, 5, 1 - 21 / 252),
        (10, 3, 1, 0.3),
        (4, 0, 2, 0.0),
        (4, 3, 2, 1.0),
        (8, 1, 8, 1.0),
        (200, 7, 100, None),
    ],
)
def test_pass_at_golden(num, right, k, wanted):
    if wanted is None:
        wanted = 1 - math.prod((num - right - i) / (num - i) for i in range(k))
    assert pass_at(num, right, k) == pytest.approx(wanted, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_is_the_mean_over_all_subsets(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = [any(chosen) for chosen in combinations(right, k)]
    assert pass_at(len(right), sum(right), k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="pass@9 of 8"):
        pass_at(8, 2, 9)


def test_majority_golden():
    answers, right = ["a", "a", "b", "c"], [True, True, False, False]
    assert majority_at(answers, right, 1) == 0.5
    assert majority_at(answers, right, 4) == 1.0
    assert majority_at(["a", "b"], [True, False], 2) == 0.5  # a tie is broken evenly
    assert majority_at([None, None, "b"], [False, False, True], 3) == 1.0  # no answer, no vote
    assert majority_at([None, None], [False, False], 2) == 0.0


def test_majority_of_some_matches_enumeration():
    answers = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + [None]
    right = [answer == "b" for answer in answers]
    shares = []
    for chosen in combinations(answers, 5):
        counts = {name: chosen.count(name) for name in set(chosen) - {None}}
        top = [name for name, count in counts.items() if count == max(counts.values())]
        shares.append(("b" in top) / len(top))
    assert majority_at(answers, right, 5, seed=3, draws=20_000) == pytest.approx(np.mean(shares), abs=0.015)
    assert majority_at(answers, right, 5, seed=3) == majority_at(answers, right, 5, seed=3)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.5, 0.9, -math.inf]), st.booleans()), min_size=1, max_size=7
    ),
    st.data(),
)
def test_best_at_is_the_mean_over_all_subsets(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    shares = []
    for drawn in combinations(samples, k):
        top = [ok for score, ok in drawn if score == max(score for score, _ in drawn)]
        unusable = all(score == -math.inf for score, _ in drawn)
        shares.append(0.0 if unusable else sum(top) / len(top))
    scores, right = zip(*samples, strict=True)
    assert best_at(scores, right, k) == pytest.approx(sum(shares) / len(shares))


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, -math.inf]), min_size=1, max_size=7), st.data())
def test_score_at_is_the_mean_highest_over_all_subsets(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    highest = [max(drawn) for drawn in combinations(scores, k) if max(drawn) != -math.inf]
    wanted = sum(highest) / len(highest) if highest else math.nan
    assert score_at(scores, k) == pytest.approx(wanted, nan_ok=True)


def test_score_at_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="best of 2 of 1"):
        score_at([0.5], 2)


def test_best_at_golden():
    scores, right = [0.9, 0.5, 0.1], [True, False, False]
    assert [best_at(scores, right, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [best_at(scores, [False, True, False], k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 0])
    with pytest.raises(ValueError, match="best of 4 of 3"):
        best_at(scores, right, 4)


def test_wilson_golden():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert math.isnan(wilson(0, 0)[0])


def test_resamples_are_seeded_and_complete():
    weights = resample(50, 200, seed=4)
    assert weights.shape == (200, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == resample(50, 200, seed=4)).all()
    assert (weights != resample(50, 200, seed=5)).any()


def test_coverage_of_a_mean_and_of_a_ratio():
    """95 % intervals hold the truth in about 95 % of 200 synthetic data sets."""
    generator = np.random.default_rng(0)
    weights = resample(200, 500)
    hits_mean = hits_ratio = 0
    for _ in range(200):
        rates = generator.beta(1, 2, size=200)  # true mean 1/3
        right = generator.binomial(8, rates) / 8
        low, high = Ratio(right, np.ones(200)).interval(weights)
        hits_mean += low <= 1 / 3 <= high
        den = generator.integers(0, 5, size=200).astype(float)
        num = generator.binomial(den.astype(int), 0.25).astype(float)
        low, high = Ratio(num, den).interval(weights)
        hits_ratio += low <= 0.25 <= high
    assert 180 <= hits_mean <= 199
    assert 180 <= hits_ratio <= 199


def test_pairing_narrows_a_change():
    generator = np.random.default_rng(1)
    hard = generator.random(300)
    before = (generator.random(300) * 0.2 + hard < 0.6).astype(float)
    after = (generator.random(300) * 0.2 + hard < 0.7).astype(float)
    ones, weights = np.ones(300), resample(300)
    moved, low, high = change(Ratio(after, ones), Ratio(before, ones), weights)
    assert low <= moved <= high
    apart = Ratio(after, ones).spread(weights) - Ratio(before, ones).spread(resample(300, seed=9))
    assert high - low < 0.7 * (percentile95(apart)[1] - percentile95(apart)[0])
    assert change(Ratio(after, ones), Ratio(after, ones), weights) == (0.0, 0.0, 0.0)


def test_nothing_that_counts_is_nan():
    empty = Ratio(np.zeros(3), np.zeros(3))
    assert math.isnan(empty.value)
    assert math.isnan(empty.interval(resample(3, 100))[0])
