"""Pairs by the strength of their preference: the weakest are flipped or dropped, the weak are smoothed, the
rest keep their label and take the strength as a margin.

Secrets of RLHF II (arXiv:2401.06080, section 2): the strength of a pair is how much better several reward
models find the chosen one, on average (`label/ensemble`: the difference of its values, for steps of its step
scores). The lowest quantiles of a data set hold mostly wrong labels, the next ones unsure ones; what the
models are sure of is used as it is. The quantiles belong to all problems together, so the inputs are read
once for them.

Against the paper: a pair of the lowest band is flipped only where the models prefer the other one (a strength
below 0); else it is smoothed, as the unsure ones are; with `unsure: 0` nothing is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.rows import Dropped, Example, Group, Pair, StepExample, sources_of
from pipeline.select import SelectSettings
from pipeline.tasks import BaseTask

Share = Annotated[float, Field(ge=0, le=1)]
Encode = Callable[[str], list[int]]


class Settings(SelectSettings):
    """Which shares of the pairs are thought wrong, and unsure."""

    needs: ClassVar[tuple[str, ...]] = ("Pair", "Trace", "Label")
    makes: ClassVar[tuple[str, ...]] = ("Pair", "Dropped")

    lowest: Share = Field(0.1, description="share of the weakest pairs, which are mostly wrong")
    then: Literal["flip", "drop", "keep"] = Field("flip", description="what is done with those")
    unsure: Share = Field(0.2, description="share of the next ones, which are smoothed")
    confidence: float = Field(0.7, ge=0.5, le=1, description="how sure a smoothed pair is")
    highest: Share = Field(0.0, description="share of the strongest pairs, which are dropped")
    margin: Literal["strength", "own"] = Field(
        "strength", description="the margin of a kept pair: its strength (adaptive margin), or as it came"
    )

    @property
    def smooths(self) -> bool:
        return self.unsure > 0 and self.confidence < 1

    @model_validator(mode="after")
    def _shares(self) -> Settings:
        if self.lowest + self.unsure + self.highest > 1:
            total = self.lowest + self.unsure + self.highest
            raise ValueError(f"lowest + unsure + highest: {total:g} of the pairs, more than all")
        return self


def strength(pair: Pair, group: Group) -> float | None:
    """How much better the chosen one is by its label; None where one of both has no score."""
    sides = [(pair.trace_id, pair.chosen_ids), (pair.rejected_id, pair.rejected_ids)]
    if pair.whole:
        values = [group.labels[name].value if name in group.labels else None for name, _ in sides]
    else:
        values = [step_score(pair, ids, group) for _, ids in sides]
    better, worse = values
    if better is None or worse is None or not math.isfinite(better - worse):
        return None
    return better - worse


def step_score(pair: Pair, ids: list[int], group: Group) -> float | None:
    """The score of a step: that of any labelled trace which goes through it."""
    for trace in group.traces:
        label = group.label(trace)
        if label is None or label.step_scores is None or not pair.prompt.startswith(trace.prompt):
            continue
        text = pair.prompt[len(trace.prompt) :]
        for place, end in enumerate(trace.step_ends):
            start = trace.step_ends[place - 1] if place else 0
            if trace.token_ids[start:end] == ids and "".join(trace.steps[:place]) == text:
                return label.step_scores[place]
    return None


def survey(group: Group, settings: Settings) -> list[float]:
    """The strengths of a problem's pairs."""
    found = (strength(row, group) for row in group.examples if isinstance(row, Pair))
    return [one for one in found if one is not None]


def reduce(surveys: Iterable[list[float]], settings: Settings) -> tuple[float, float, float]:
    """The strengths at which the lowest band ends, the unsure one, and the highest begins."""
    strengths = np.fromiter((one for found in surveys for one in found), dtype=np.float64)
    if not len(strengths):
        return -math.inf, -math.inf, math.inf
    ordered = np.sort(strengths)

    def below(share: float) -> float:
        count = round(share * len(ordered))
        return float(ordered[count - 1]) if count else -math.inf

    top = round(settings.highest * len(ordered))
    return (
        below(settings.lowest),
        below(settings.lowest + settings.unsure),
        float(ordered[-top]) if top else math.inf,
    )


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Encode, *, whole: tuple[float, float, float]
) -> list[Example | StepExample | Pair | Dropped]:
    """The pairs as they are to be trained on; a Dropped for each trace that is in none of them."""
    rows: list[Example | StepExample | Pair | Dropped] = []
    reasons: dict[str, str] = {}
    for row in group.examples:
        if not isinstance(row, Pair):
            continue
        found = strength(row, group)
        made = banded(row, found, settings, whole)
        if isinstance(made, Pair):
            rows.append(made)
        else:
            reasons |= dict.fromkeys(sources_of(row), made)
    named = {name for row in rows for name in sources_of(row)}
    for trace in group.traces:
        if trace.id not in named:
            reason = reasons.get(trace.id, "no_pair")
            rows.append(Dropped(problem_id=group.problem_id, what=trace.id, reason=reason))
    return rows


def banded(
    row: Pair, found: float | None, settings: Settings, cuts: tuple[float, float, float]
) -> Pair | str:
    """A pair by its band, or why it is dropped."""
    low, middle, high = cuts
    if found is None:
        return "no_strength"
    if found >= high and settings.highest:
        return "too_strong"
    if found <= low and settings.then == "drop":
        return "weakest"
    margin = found if settings.margin == "strength" else row.margin
    if found <= low and settings.then == "flip" and found < 0:
        return dataclasses.replace(
            row, chosen=row.rejected, rejected=row.chosen, margin=-found, trace_id=row.rejected_id,
            rejected_id=row.trace_id, chosen_ids=row.rejected_ids, rejected_ids=row.chosen_ids,
        )  # fmt: skip
    if settings.smooths and found <= middle and not (found <= low and settings.then == "keep"):
        return dataclasses.replace(row, margin=max(margin, 0.0), confidence=settings.confidence)
    return dataclasses.replace(row, margin=max(margin, 0.0))
