"""Training rows for a policy by value: each problem's best-scored traces.

ReST-MCTS*'s filter (value at least 0.2, at least 50 characters) and rStar-Math's (the two
right traces of highest mean Q). A trace cut by a limit is never kept, whatever its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import example, normalised
from pipeline.settings import added
from pipeline.tasks import BaseTask
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of, weight


class Settings(SelectSettings):
    """How many, and above what."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    top: int = Field(2, ge=1, description="traces a problem (rStar-Math: 2)")
    threshold: float | None = Field(0.2, description="least value; none: any (ReST-MCTS*: 0.2)")
    min_characters: int = Field(50, ge=0, description="shortest completion (ReST-MCTS*: 50)")
    score: Literal["search", "label", "steps"] = Field(
        "search",
        description="search: the generator's own score; label: a labeller's value, or its step scores in "
        "one; steps: those even where it has a value (rStar-Math: their mean)",
    )
    aggregate: Aggregate = added("mean", description="with a label's step scores: these -> one score")
    right: bool = Field(False, description="right traces only (rStar-Math); else no gold is used")
    hint_markers: tuple[Annotated[str, Field(min_length=1)], ...] = ("(CORRECT)",)


def value_of(trace: Trace, group: Group, settings: Settings) -> float | None:
    """What a trace is ranked by, step scores as a number from 0 to 1; None where nobody scored it."""
    label = group.label(trace)
    if settings.score == "search":
        return trace.score
    if label is None:
        return None
    scores = [score for score in label.step_scores or [] if score is not None]
    if label.value is not None and settings.score == "label":
        return label.value
    how = settings.aggregate
    return weight(aggregate(scores, how), kind_of(how)) if scores else None


def refused(trace: Trace, group: Group, settings: Settings) -> str:
    """Why a trace may not be trained on, or ""."""
    label, value = group.label(trace), value_of(trace, group, settings)
    if trace.finish in ("length", "budget"):
        return "truncated"
    if trace.answer is None:
        return "no_answer"
    if settings.right and not (label and label.correct):
        return (label.reason if label else "") or ("wrong_answer" if label else "unlabelled")
    if trace.hinted and any(marker in trace.text for marker in settings.hint_markers):
        return "hint_leak"
    if value is None or not math.isfinite(value):
        return "unscored"
    if settings.threshold is not None and value < settings.threshold:
        return "low_value"
    return "too_short" if len(trace.text) < settings.min_characters else ""


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """One Example or one Dropped a trace, best first."""

    def key(trace: Trace) -> float:
        value = value_of(trace, group, settings)
        return math.inf if value is None or math.isnan(value) else -value

    rows: list[Example | StepExample | Pair | Dropped] = []
    seen: set[tuple[str, ...]] = set()
    for trace in sorted(group.traces, key=key):
        reason = refused(trace, group, settings)
        if not reason and normalised(trace) in seen:
            reason = "duplicate"
        if not reason and len(seen) >= settings.top:
            reason = "over_limit"
        if reason:
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason))
        else:
            seen.add(normalised(trace))
            rows.append(example(trace, encode))
    return rows
