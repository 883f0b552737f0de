"""Step scores -> one score. The papers differ, so it is a setting and every consumer goes through here.

PRM800K and OmegaPRM multiply; Math-Shepherd takes the least; Snell et al. and search-and-learn the last;
MiPS (arXiv:2402.02658) adds log-odds, because low scores are the noisy ones under a weak reasoner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

Aggregate = Literal["last", "min", "prod", "mean", "max", "sum_logit", "mean_odds"]
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
            return math.prod(scores)
        case "mean":
            return math.fsum(scores) / len(scores)
        case "max":
            return max(scores)
        case "sum_logit":
            return math.fsum(math.log(odds(score)) for score in scores)
        case "mean_odds":
            return math.fsum(odds(score) for score in scores) / len(scores)
    raise ValueError(f"no aggregation {how!r}: one of {', '.join(RULES)}")
