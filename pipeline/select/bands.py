"""Training rows for a policy from a band of the whole set: the traces between two quantiles of a score.

A quantile belongs to all problems together: the lowest tenth of a label's strength is mostly mislabelled
(Secrets of RLHF II, arXiv:2401.06080, section 2.2), and instruction-following difficulty is filtered by its
rank among all rows (arXiv:2402.10110, section 2). So the inputs are read once for their scores (`survey`),
the two cuts are taken of them all (`reduce`), and then each problem's rows are selected.

It takes quantiles of scores that others made; a trace without one is dropped (`unscored`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import example
from pipeline.tasks import BaseTask

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(SelectSettings):
    """Which band of what; Secrets II flips or drops the lowest tenth."""

    band: tuple[Share, Share] = Field((0.1, 1.0), description="[low, high] quantiles, both ends kept")
    score: Literal["value", "search"] = Field(
        "value", description="value: a labeller's; search: the generator's own score"
    )
    right: bool = Field(True, description="right traces only, in the quantiles too")

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.band[0] >= self.band[1]:
            raise ValueError(f"band: {list(self.band)}: low comes first")
        return self


def score_of(trace: Trace, group: Group, settings: Settings) -> float | None:
    """What a trace is placed by; None where nobody scored it."""
    label = group.label(trace)
    found = trace.score if settings.score == "search" else label.value if label else None
    return found if found is not None and math.isfinite(found) else None


def refused(trace: Trace, group: Group, settings: Settings) -> str:
    """Why a trace has no place in the quantiles, or ""."""
    label = group.label(trace)
    if settings.right and not (label and label.correct):
        return (label.reason if label else "") or ("wrong_answer" if label else "unlabelled")
    if trace.finish in ("length", "budget"):
        return "truncated"
    return "unscored" if score_of(trace, group, settings) is None else ""


def survey(group: Group, settings: Settings) -> list[float]:
    """The scores of a problem's traces that may be kept."""
    scores = (score_of(t, group, settings) for t in group.traces if not refused(t, group, settings))
    return [score for score in scores if score is not None]


def reduce(surveys: Iterable[list[float]], settings: Settings) -> tuple[float, float]:
    """The scores at the two quantiles of the whole set."""
    scores = np.fromiter((score for found in surveys for score in found), dtype=np.float64)
    if not len(scores):
        return -math.inf, math.inf
    low, high = np.quantile(scores, settings.band, method="inverted_cdf")
    return float(low), float(high)


def select(
    group: Group,
    settings: Settings,
    task: BaseTask,
    encode: Callable[[str], list[int]],
    *,
    whole: tuple[float, float],
) -> list[Example | StepExample | Pair | Dropped]:
    """One Example or one Dropped a trace."""
    rows: list[Example | StepExample | Pair | Dropped] = []
    for trace in group.traces:
        reason = refused(trace, group, settings)
        score = score_of(trace, group, settings)
        if not reason and score is not None and not whole[0] <= score <= whole[1]:
            reason = "below_band" if score < whole[0] else "above_band"
        if reason:
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason))
        else:
            rows.append(example(trace, encode))
    return rows
