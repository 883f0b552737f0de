"""Labels from several reward models: the mean of their scores, and no label where they disagree.

Secrets of RLHF II (arXiv:2401.06080, section 2.1) measures how strong a preference is by the mean margin of
reward models that were trained alike from other seeds; `select/strength` makes bands of it. A step's score is
the mean over the models, a trace's value the mean of each model's aggregated steps.
"""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import ClassVar

from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Score, prefix_of
from pipeline.label import LabelSettings
from pipeline.rows import ROUNDING, Dropped, Group, Label, Problem
from pipeline.settings import Cost, Length, RewardModelName
from pipeline.tasks import BaseTask
from pipeline.vote.aggregate import Aggregate, aggregate


class Settings(LabelSettings):
    """Which models, and how far they may differ (Secrets II: ten models, all kept)."""

    sees_gold: ClassVar[bool] = False

    by: tuple[RewardModelName, ...] = Field(("prm",), min_length=1, description="reward models of the recipe")
    aggregate: Aggregate = Field("last", description="step scores -> a trace's value, for each model")
    most_spread: float | None = Field(
        None, ge=0, description="traces whose values differ by more, as a standard deviation, are dropped"
    )

    @field_validator("by")
    @classmethod
    def _differ(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in by if by.count(name) > 1]:
            raise ValueError(
                f"{twice[0]} stands there twice: a model that agrees with itself is no second one"
            )
        return by

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each trace read by each model."""
        return Cost({}, dict.fromkeys(self.by, given * task.typical_tokens), given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label for each trace that the models can score and agree on, a Dropped for each other."""
    traces = [trace for trace in group.traces if trace.step_ends]
    rows: list[Label | Dropped] = [
        Dropped(problem_id=problem.id, what=trace.id, reason="no_steps")
        for trace in group.traces
        if not trace.step_ends
    ]
    if not traces:
        return rows
    prefixes = [prefix_of(trace) for trace in traces]
    scored = yield All(*(Score(prefixes, by=name) for name in settings.by))
    for trace, *by_model in zip(traces, *scored, strict=True):
        values = [aggregate(scores, settings.aggregate) if scores else math.nan for scores in by_model]
        reason = ""
        if not all(math.isfinite(one) for scores in (*by_model, values) for one in scores):
            reason = "unscored"
        elif settings.most_spread is not None and pstdev(values) > settings.most_spread + ROUNDING:
            reason = "models_disagree"
        if reason:
            rows.append(Dropped(problem_id=problem.id, what=trace.id, reason=reason))
            continue
        rows.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                step_scores=[fmean(scores) for scores in zip(*by_model, strict=True)],
                value=fmean(values),
                labeller="ensemble",
            )
        )
    return rows
