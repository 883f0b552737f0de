"""How well scores tell true points from false ones: ranking, spread, the pull of length, the first error.

A point is one scored step (or trace). AUC is the chance that a true point outranks a false one, ties half;
`strata` compares like points only. The point value is scikit-learn's, the resampled ones are the same sum
with problem weights. Not here: where points come from (`prm_quality.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.intervals import Floats, Ratio, percentile95

Ints = NDArray[np.int64]
BLOCK = 1_000_000  #: numbers held at once while resampling
FLAT = 0.01  #: lengths that vary less than this share of a full ranking's variance say nothing


@dataclass(frozen=True, slots=True)
class Points:
    """Columns over points. `step`: the number of the step (0 for whole traces); `problem`: its place in the
    order.
    """

    score: Floats
    truth: NDArray[np.bool_]
    step: Ints
    length: Floats
    problem: Ints

    @classmethod
    def of(cls, rows: Sequence[tuple[float, bool, int, float, int]]) -> Points:
        """From (score, truth, step, length, problem), a point each."""
        score, truth, step, length, problem = zip(*rows, strict=True) if rows else ((),) * 5
        return cls(
            np.array(score, dtype=np.float64),
            np.array(truth, dtype=bool),
            np.array(step, dtype=np.int64),
            np.array(length, dtype=np.float64),
            np.array(problem, dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, slots=True)
class Ranking:
    """AUC as a statistic over problems; only points of one stratum (one number a point) are compared."""

    points: Points
    strata: Ints

    @property
    def value(self) -> float:
        """The mean AUC of the strata, weighted by pairs; NaN where no stratum holds both kinds."""
        from sklearn.metrics import roc_auc_score

        won = pairs = 0.0
        for stratum in np.unique(self.strata):
            inside = self.strata == stratum
            truth = self.points.truth[inside]
            here = float(truth.sum()) * float((~truth).sum())
            if here:
                won += here * float(roc_auc_score(truth, self.points.score[inside]))
                pairs += here
        return won / pairs if pairs else math.nan

    def spread(self, weights: Floats) -> Floats:
        if not len(self.points):
            return np.full(len(weights), np.nan)
        order = np.lexsort((self.points.score, self.strata))
        strata, score = self.strata[order], self.points.score[order]
        fresh = np.r_[True, (np.diff(strata) != 0) | (np.diff(score) != 0)]
        groups = np.flatnonzero(fresh)  # points of one stratum and one score
        _, first = np.unique(strata[groups], return_index=True)  # where each stratum begins among the groups
        ends = np.r_[first[1:], len(groups)]
        which = np.repeat(np.arange(len(first)), ends - first)
        truth, problem = self.points.truth[order], self.points.problem[order]
        counts = weights.astype(np.float32)  # whole numbers below 2**24: exact, and half the memory to walk
        tied = len(groups) < len(order)
        found = []
        block = max(1, BLOCK // len(order))
        for begin in range(0, len(weights), block):
            drawn = counts[begin : begin + block][:, problem]
            true, false = drawn * truth, drawn * ~truth
            if tied:
                true, false = (np.add.reduceat(part, groups, axis=1) for part in (true, false))
            below = np.cumsum(false, axis=1) - false
            if len(first) > 1:
                below -= below[:, first][:, which]  # false points below, of the same stratum
            below += 0.5 * false
            won = np.einsum("rg,rg->r", true, below, dtype=np.float64)
            totals = [np.add.reduceat(part, first, axis=1, dtype=np.float64) for part in (true, false)]
            pairs = (totals[0] * totals[1]).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(pairs > 0, won / pairs, np.nan))
        return np.concatenate(found)

    def interval(self, weights: Floats) -> tuple[float, float]:
        return percentile95(self.spread(weights))


@dataclass(frozen=True, slots=True)
class Harmonic:
    """The harmonic mean of two ratios (F1 as ProcessBench defines it)."""

    one: Ratio
    other: Ratio

    @property
    def value(self) -> float:
        a, b = self.one.value, self.other.value
        return 2 * a * b / (a + b) if a + b > 0 else (math.nan if math.isnan(a + b) else 0.0)

    def spread(self, weights: Floats) -> Floats:
        a, b = self.one.spread(weights), self.other.spread(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(a + b > 0, 2 * a * b / (a + b), np.where(np.isnan(a + b), np.nan, 0.0))

    def interval(self, weights: Floats) -> tuple[float, float]:
        return percentile95(self.spread(weights))


def _centred(values: Floats, groups: Ints) -> Floats:
    """Each value less the mean of its group."""
    _, which = np.unique(groups, return_inverse=True)
    counts = np.bincount(which)
    return values - (np.bincount(which, values) / counts)[which]


def centred_sd(points: Points) -> float:
    """The spread of scores among like steps: a score that only counts steps has none."""
    return float(np.sqrt(np.mean(_centred(points.score, points.step) ** 2))) if len(points) else 0.0


def length_correlation(points: Points) -> float:
    """How far length alone tells the score: rank correlation among points of one step number and one truth.

    Longer traces may well be wrong more often; what a reward model must not do is to like length among
    equals. 0 where like points hardly differ in length.
    """
    from scipy.stats import rankdata

    if len(points) < 3:
        return 0.0
    like = points.step * 2 + points.truth
    score, length = (_centred(rankdata(column), like) for column in (points.score, points.length))
    full = len(points) ** 2 / 12
    if np.mean(length**2) < FLAT * full or not np.any(np.abs(score) > 1e-9):
        return 0.0
    return float((score * length).sum() / math.sqrt((score**2).sum() * (length**2).sum()))


def first_wrong(scores: Sequence[float], threshold: float) -> int:
    """The first step that scores below the threshold, -1 for none: what a PRM says of a solution."""
    return next((k for k, score in enumerate(scores) if score < threshold), -1)


def choose_threshold(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """The threshold with the best F1 on these solutions, among 19 quantiles of their step scores."""
    flat = [score for steps in scores for score in steps if math.isfinite(score)]
    if not flat:
        return 0.5
    tried = sorted({float(q) for q in np.quantile(flat, np.linspace(0.05, 0.95, 19))})
    return max(tried, key=lambda threshold: f1_at(scores, labels, [threshold] * len(labels))[0])


def f1_at(
    scores: Sequence[Sequence[float]], labels: Sequence[int], thresholds: Sequence[float]
) -> tuple[float, float, float]:
    """(F1, accuracy on solutions with an error, accuracy on right ones); labels: the first wrong step, -1
    none.
    """
    hits = {True: [0, 0], False: [0, 0]}
    for steps, label, threshold in zip(scores, labels, thresholds, strict=True):
        count = hits[label >= 0]
        count[0] += first_wrong(steps, threshold) == label
        count[1] += 1
    wrong, right = (got / num if num else math.nan for got, num in (hits[True], hits[False]))
    f1 = 2 * wrong * right / (wrong + right) if wrong + right > 0 else 0.0
    return f1, wrong, right


def crossed_thresholds(
    scores: Sequence[Sequence[float]], labels: Sequence[int], folds: Sequence[int]
) -> list[float]:
    """For each solution the threshold that was chosen on the other fold (0 or 1)."""
    chosen = {}
    for fold in (0, 1):
        other = [i for i, each in enumerate(folds) if each != fold]
        chosen[fold] = choose_threshold([scores[i] for i in other], [labels[i] for i in other])
    return [chosen[fold] for fold in folds]
