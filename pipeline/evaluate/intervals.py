"""Intervals and estimators: paired bootstrap over problems, Wilson's interval, unbiased pass@k, best of k,
majority at k.

Every metric here is a ratio of sums over problems, sum(num) / sum(den): a mean has den 1, a share among
right traces has the number of right traces. One set of resamples serves all metrics and both models of a
pair, which is what makes a change paired.

Sources: percentile bootstrap (Efron 1979), Wilson (1927), pass@k (Chen et al., arXiv:2107.03374, eq. 1).
Not here: which metrics there are (`accuracy.py`, `prm_quality.py`).

Sums run in numpy's own loops and never in a BLAS, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


class Statistic(Protocol):
    """A metric of one model over problems, which can be computed again for any weights of the problems."""

    @property
    def value(self) -> float:
        """NaN where nothing counts."""

    def spread(self, weights: Floats) -> Floats:
        """(resamples,): the value in each resample; NaN where a resample holds nothing that counts."""

    def interval(self, weights: Floats) -> tuple[float, float]:
        """The 95 % interval."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric as two columns over problems, num.sum() / den.sum(). `share`: num and den count yes or no."""

    num: Floats
    den: Floats
    share: bool = False

    @property
    def value(self) -> float:
        total = float(self.den.sum())
        return float(self.num.sum()) / total if total else math.nan

    def spread(self, weights: Floats) -> Floats:
        num = np.einsum("rp,p->r", weights, self.num)
        den = np.einsum("rp,p->r", weights, self.den)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(den > 0, num / den, np.nan)

    def interval(self, weights: Floats) -> tuple[float, float]:
        """Wilson's for one yes or no a problem, else the bootstrap's."""
        if self.share and float(self.den.max(initial=0.0)) <= 1.0:
            return wilson(round(float(self.num.sum())), round(float(self.den.sum())))
        return percentile95(self.spread(weights))


@dataclass(frozen=True, slots=True)
class Made:
    """A metric made of others: `how` takes their values, or each resample's."""

    parts: tuple[Statistic, ...]
    how: Callable[..., Any]

    @property
    def value(self) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.how(*(np.float64(part.value) for part in self.parts)))

    def spread(self, weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.how(*(part.spread(weights) for part in self.parts)), dtype=np.float64)

    def interval(self, weights: Floats) -> tuple[float, float]:
        return percentile95(self.spread(weights))


def resample(num_problems: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each problem stands in each resample: (resamples, problems), each row sums to the number of
    problems.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.integers(0, num_problems, size=(resamples, num_problems))
    rows = np.arange(resamples)[:, None] * num_problems
    counts = np.bincount((drawn + rows).ravel(), minlength=resamples * num_problems)
    return counts.reshape(resamples, num_problems).astype(np.float64)


def percentile95(values: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled values, NaN ones left out."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def change(after: Statistic, before: Statistic, weights: Floats) -> tuple[float, float, float]:
    """(change, low, high): the metric less what it was before, on the same problems in the same order."""
    low, high = percentile95(after.spread(weights) - before.spread(weights))
    return after.value - before.value, low, high


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a single proportion; NaN where num is 0."""
    from scipy.stats import binomtest

    if num == 0:
        return math.nan, math.nan
    found = binomtest(num_right, num).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def pass_at(num: int, num_right: int, k: int) -> float:
    """The chance that k of `num` samples hold a right one: 1 - C(num - right, k) / C(num, k)."""
    if not 1 <= k <= num:
        raise ValueError(f"pass@{k} of {num} samples")
    return 1.0 - math.comb(num - num_right, k) / math.comb(num, k)


def best_at(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """The chance that the highest scored of k samples, drawn without replacement, is right; ties are broken
    evenly.

    Exact and unbiased: of m samples, the one with b below it comes first in C(b, k - 1) of the C(m, k) draws;
    samples of one score share theirs. A sample that can never be chosen has the score -infinity and counts as
    wrong.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"best of {k} of {len(scores)} samples")
    total, below, chance = math.comb(len(scores), k), 0, 0.0
    verdicts: dict[float, list[bool]] = {}
    for score, ok in zip(scores, right, strict=True):
        verdicts.setdefault(score, []).append(ok and score != -math.inf)
    for score in sorted(verdicts):
        tied = verdicts[score]
        first = math.comb(below + len(tied), k) - math.comb(below, k)
        chance += first / total * (sum(tied) / len(tied))
        below += len(tied)
    return chance


def score_at(scores: Sequence[float], k: int) -> float:
    """The expected highest score of k samples, drawn without replacement: what a judge says of its own best
    of k. A sample that can never be chosen has the score -infinity; draws of such alone are left out, and NaN
    where all are.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"best of {k} of {len(scores)} samples")
    ranked = [(math.comb(below, k - 1), score) for below, score in enumerate(sorted(scores))]
    chosen = [(ways, score) for ways, score in ranked if ways and score != -math.inf]
    total = sum(ways for ways, _ in chosen)
    return math.fsum(ways / total * score for ways, score in chosen) if total else math.nan


def majority_at(
    answers: Sequence[str | None], right: Sequence[bool], k: int, seed: int = 0, draws: int = 256
) -> float:
    """The expected share of right majorities among k of the samples, drawn without replacement; ties are
    broken evenly.

    Exact at k = 1 and k = number of samples, else the mean of `draws` seeded draws. Samples without an
    answer take a place in the draw and no part in the vote. Answers that differ as text count as different.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@{k} of {len(answers)} samples")
    if k == 1:
        return sum(right) / len(right)
    counts = Counter(answers)
    names = sorted(counts, key=lambda name: (name is None, name or ""))
    verdict = dict(zip(answers, right, strict=True))
    rights = np.array([float(name is not None and verdict[name]) for name in names])
    sizes = np.array([counts[name] for name in names])
    if k == len(answers):
        drawn = sizes[None, :].astype(np.float64)
    else:
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn = generator.multivariate_hypergeometric(sizes, k, size=draws).astype(np.float64)
    if names[-1] is None:
        drawn[:, -1] = 0.0
    top = drawn.max(axis=1, keepdims=True)
    winners = ((drawn == top) & (top > 0)).astype(np.float64)
    ties = winners.sum(axis=1)
    per_draw = (winners * rights).sum(axis=1) / np.where(ties > 0, ties, 1.0)
    return float(per_draw.mean())


def tidy(value: float) -> float:
    """Eight significant digits: what a metric says, without the noise of the last bits."""
    return float(f"{value:.8g}")
