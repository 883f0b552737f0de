"""Training rows for a policy: the right traces (STaR; at most 10 a problem in ReST-EM, arXiv:2312.06585).

In order: traces that are unlabelled, wrong, cut by a limit or mention their hint are dropped; then problems
outside the vote band (too easy or too hard); then lengths, duplicates and the number a problem may have.
Every trace that is not in a row is in one Dropped row. It never shows a hint: a trace is stored under the
prompt that training shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import example, normalised
from pipeline.tasks import BaseTask

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(SelectSettings):
    """Which right traces are kept."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    max_per_problem: int | None = Field(10, ge=1, description="right traces a problem; none: all")
    prefer: Literal["first", "newest", "score", "shortest"] = Field(
        "first", description="which to keep where a problem has more than that"
    )
    dedupe: bool = Field(True, description="keep one of the traces whose steps say the same")
    min_tokens: int = Field(1, ge=0, description="shortest completion, in tokens")
    max_tokens: int | None = Field(None, ge=1, description="longest completion, in tokens; none: any")
    keep_between: tuple[Share, Share] | None = Field(
        None, description="[low, high]: keep problems whose share of right traces lies between, both included"
    )
    hint_markers: tuple[str, ...] = Field(("(CORRECT)",), description="texts that no hinted trace may hold")

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.keep_between and self.keep_between[0] > self.keep_between[1]:
            raise ValueError(f"keep_between: {list(self.keep_between)}: low comes first")
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens: {self.max_tokens} is below min_tokens {self.min_tokens}")
        return self


def refused(trace: Trace, group: Group, settings: Settings) -> str:
    """Why a trace may not be trained on whatever else there is, or "" ."""
    label = group.label(trace)
    if label is None or label.correct is None:
        return "unlabelled"
    if not label.correct:
        return label.reason or "wrong_answer"
    if trace.finish in ("length", "budget"):
        return "truncated"
    if trace.hinted and any(marker in trace.text for marker in settings.hint_markers):
        return "hint_leak"
    return ""


def outside_band(group: Group, settings: Settings) -> bool:
    """Is the share of right answers outside the vote band? Hinted traces do not vote."""
    if settings.keep_between is None:
        return False
    votes = [
        bool(label.correct)
        for trace in group.traces
        if not trace.hinted and (label := group.label(trace)) is not None and label.correct is not None
    ]
    low, high = settings.keep_between
    return not votes or not low <= sum(votes) / len(votes) <= high


def ranked(traces: list[Trace], prefer: str) -> list[Trace]:
    """The best first; the order of writing breaks ties."""
    keys: dict[str, Callable[[Trace], float]] = {
        "first": lambda trace: 0,
        "newest": lambda trace: -trace.round,
        "score": lambda trace: -trace.score if trace.score is not None else float("inf"),
        "shortest": lambda trace: len(trace.token_ids),
    }
    return sorted(traces, key=keys[prefer])


def sifted(group: Group, settings: Settings) -> Iterator[tuple[Trace, str]]:
    """Each trace with the reason why it is dropped, "" where it is kept."""
    out_of_band = outside_band(group, settings)
    seen: set[tuple[str, ...]] = set()
    num_kept = 0
    for trace in ranked(group.traces, settings.prefer):
        reason = refused(trace, group, settings)
        if not reason and out_of_band:
            reason = "outside_band"
        if not reason and len(trace.token_ids) < settings.min_tokens:
            reason = "too_short"
        if not reason and settings.max_tokens is not None and len(trace.token_ids) > settings.max_tokens:
            reason = "too_long"
        if not reason and settings.dedupe and normalised(trace) in seen:
            reason = "duplicate"
        if not reason and settings.max_per_problem is not None and num_kept >= settings.max_per_problem:
            reason = "over_limit"
        if not reason:
            seen.add(normalised(trace))
            num_kept += 1
        yield trace, reason


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """One Example or one Dropped a trace. `encode` gives a prompt's token ids under the learning model's
    tokenizer.
    """
    return [
        Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason)
        if reason
        else example(trace, encode)
        for trace, reason in sifted(group, settings)
    ]
