"""Step scores -> one score, and what a score is. The papers differ, so it is a setting and every consumer
goes through here.

PRM800K and OmegaPRM multiply; Math-Shepherd takes the least; Snell et al. and search-and-learn the last;
MiPS (arXiv:2402.02658) adds log-odds, because low scores are the noisy ones under a weak reasoner. A sum of
log-odds grows with the number of steps: look at `mean_logit` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

Aggregate = Literal["last", "min", "prod", "mean", "max", "sum_logit", "mean_logit", "mean_odds"]
#: what a score *is*. value: of a head trained on numbers, which may stand a little outside 0..1. advantage: a
#: signed gain. The others mean what they say
Kind = Literal["value", "probability", "log_odds", "odds", "advantage"]
RULES: tuple[str, ...] = get_args(Aggregate)
EDGE = 1e-6  #: odds are taken of scores clipped to [EDGE, 1 - EDGE]


def odds(score: float) -> float:
    """score / (1 - score), clipped away from 0 and infinity."""
    inside = min(max(score, EDGE), 1 - EDGE)
    return inside / (1 - inside)


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
    """One score of a trace from its step scores, first step first.

    Raises: ValueError: no scores, or an unknown rule. NaN goes through: the caller decides what an unusable
    score means.
    """
    if not scores:
        raise ValueError("no step scores to aggregate")
    if any(math.isnan(score) for score in scores) and how != "last":
        return math.nan  # min and max would pass over it, depending on its place
    match how:
        case "last":
            return scores[-1]
        case "min":
            return min(scores)
        case "prod":
            return math.prod(min(max(score, 0.0), 1.0) for score in scores)  # -.2 * -.3 is no .06
        case "mean":
            return math.fsum(scores) / len(scores)
        case "max":
            return max(scores)
        case "sum_logit":
            return math.fsum(math.log(odds(score)) for score in scores)
        case "mean_logit":
            return math.fsum(math.log(odds(score)) for score in scores) / len(scores)
        case "mean_odds":
            return math.fsum(odds(score) for score in scores) / len(scores)
    raise ValueError(f"no aggregation {how!r}: one of {', '.join(RULES)}")


def kind_of(how: Aggregate, of: Kind = "probability") -> Kind:
    """What an aggregated score is, by its rule; `of`: what the step scores are."""
    return {"sum_logit": "log_odds", "mean_logit": "log_odds", "mean_odds": "odds"}.get(how, of)  # type: ignore[return-value]


def weight(score: float, kind: Kind) -> float:
    """A score as a number from 0 to 1 that can be added up, by what it is (never by how it looks).

    A value is clamped, a probability taken as it is, log-odds go through the logistic, odds to o / (1 + o).
    An advantage has no such reading and comes back as it is; NaN too.
    """
    if not math.isfinite(score):
        return score
    match kind:
        case "value":
            return min(max(score, 0.0), 1.0)
        case "log_odds":
            return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
        case "odds":
            return score / (1 + score)
        case "probability" | "advantage":
            return score
