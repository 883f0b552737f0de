"""Rows whose outcome alone trains: where a completion begins, and whether it ended right. Free of torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.train import TrainJob


def read_outcomes(
    job: TrainJob, max_length: int, dropped: Counter[str]
) -> Iterator[tuple[StepExample, int, float]]:
    """(row, column of the completion's first token, outcome) of every row that can be trained on; the others
    are counted by reason.

    Raises:
        NothingKept: there is none. RecipeError: an outcome that is no probability.
    """
    from pipeline.engine.tokens import encoder

    encode = encoder(job.base)
    number = 0
    for row in job.rows():
        prompt_ids = encode(row.prompt) if row.prompt else []
        if fault := fault_of(row, prompt_ids, max_length):
            dropped[fault] += 1
            continue
        outcome = row.labels[-1]
        assert outcome is not None  # no_outcome
        if not 0 <= outcome <= 1:
            raise RecipeError(
                f"row {row.trace_id or row.problem_id}: its last label, the outcome, is {outcome:g}, no "
                "probability: make the rows with use: correct, or train: prm with target value or advantage"
            )
        number += 1
        yield row, len(prompt_ids), float(outcome)
    if not number:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no row arrived"
        )
        raise NothingKept(f"no outcome to train on: {reasons}. For too_long raise max_length ({max_length})")


def fault_of(row: StepExample, prompt_ids: list[int], max_length: int) -> str:
    """Why a row cannot be trained on; empty if it can."""
    if not row.labels or len(row.labels) != len(row.step_ends):
        return "bad_steps"
    if row.labels[-1] is None:
        return "no_outcome"
    if not math.isfinite(row.labels[-1]):
        return "bad_label"
    begin = len(prompt_ids)
    if not 0 < begin < len(row.token_ids) or row.token_ids[:begin] != prompt_ids:
        return "bad_prompt"  # its ids are not those of its text: where the completion begins is unknown
    return "too_long" if len(row.token_ids) > max_length else ""
