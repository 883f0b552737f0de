"""What the selectors of policies make alike: a trace as a training row, and when two traces say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.rows import Example, Trace


def example(
    trace: Trace, encode: Callable[[str], list[int]], prompt: str | None = None, **more: Any
) -> Example:
    """A trace as a policy's training row. prompt: what it is learned under, where that is not its own; more:
    what else the row says."""
    shown = trace.prompt if prompt is None else prompt
    return Example(
        problem_id=trace.problem_id,
        prompt=shown,
        completion=trace.text,
        trace_id=trace.id,
        prompt_ids=encode(shown),
        completion_ids=list(trace.token_ids),
        **more,
    )


def normalised(trace: Trace) -> tuple[str, ...]:
    """A trace's steps as duplicates are told: case and spacing do not count, empty steps neither."""
    steps = (" ".join(step.split()).casefold() for step in trace.steps)
    return tuple(step for step in steps if step)
