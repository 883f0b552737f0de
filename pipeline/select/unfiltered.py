"""A model's own traces, right or wrong: what a loop that filters is held against.

Self-training without a filter is the plainest control of STaR (arXiv:2203.14465) and ReST-EM
(arXiv:2312.06585): whatever a filter adds must show against it. Only traces that a limit cut are left out, as
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import Field

from pipeline.rows import Dropped, Example, Group, Pair, StepExample
from pipeline.select import SelectSettings
from pipeline.select._rows import example, normalised
from pipeline.tasks import BaseTask


class Settings(SelectSettings):
    """How many a problem."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    max_per_problem: int | None = Field(1, ge=1, description="traces a problem, the first ones; none: all")


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """One Example or one Dropped a trace; of those that say the same the first."""
    rows: list[Example | StepExample | Pair | Dropped] = []
    seen: set[tuple[str, ...]] = set()
    for trace in group.traces:
        reason = "truncated" if trace.finish in ("length", "budget") else ""
        if not reason and normalised(trace) in seen:
            reason = "duplicate"
        if not reason and settings.max_per_problem is not None and len(seen) >= settings.max_per_problem:
            reason = "over_limit"
        if reason:
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason))
        else:
            seen.add(normalised(trace))
            rows.append(example(trace, encode))
    return rows
