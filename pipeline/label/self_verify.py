"""Verdicts without gold: a model checks each answer several times, and the share that says right decides.

"Oracle gap" (arXiv:2606.01075): generator and verifier are one model; of `n` critiques of an answer the
share p that ends in `right` makes it a positive where p >= tau and a negative where 1 - p >= tau; what lies
between is dropped (`unsure`), and pairs are made of the rest (`select: pairs`). tau 0.7 was best there, and
verifications paid more than further answers.

A critique without a verdict is not counted in the share; an answer without any is dropped (`no_verdict`),
never called wrong. One without an answer at all is a negative that nobody need be asked of; one that the
limit cut is dropped (`truncated`). The verdicts are the model's own: how true they are says `evaluate:
critique`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from pipeline.asks import Asks, Prefix
from pipeline.label._critiques import CritiqueSettings, as_traces, critiques
from pipeline.label._rewards import dropped
from pipeline.rows import ROUNDING, Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask


class Settings(CritiqueSettings):
    """Who verifies, how often, and how sure it must be."""

    n: int = Field(8, ge=1, description="verdicts an answer")
    tau: float = Field(0.7, gt=0.5, le=1, description="share of the verdicts that decides; 0.7 in the paper")
    least: int = Field(1, ge=1, description="verdicts that must be readable, or the answer is dropped")


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each answer that the verdicts agree on, the critiques as Traces, a Dropped for each
    other."""
    rows: list[Label | Trace | Dropped] = []
    asked: list[Trace] = []
    for trace in group.traces:
        if not trace.is_attempt:
            rows.append(dropped(trace, "no_attempt"))
        elif trace.finish in ("length", "budget"):
            rows.append(dropped(trace, "truncated"))
        elif trace.answer is None:
            rows.append(_label(trace, 0.0, False, "no_answer"))
        else:
            asked.append(trace)
    if not asked:
        return rows
    found = yield from critiques(problem, asked, settings)
    for (trace, _, said), kept in zip(found, as_traces(found, settings), strict=True):
        rows.append(verdict_of(trace, said, settings))
        rows += kept if settings.keep else []
    return rows


def verdict_of(trace: Trace, said: Sequence[Prefix], settings: Settings) -> Label | Dropped:
    """What the critiques of an answer come to: 7 of 10 right at tau 0.7 is a positive, 5 of 10 is dropped."""
    verdicts = [one.answer == "right" for one in said if one.answer is not None]
    if len(verdicts) < settings.least:
        return dropped(trace, "no_verdict")
    share = sum(verdicts) / len(verdicts)
    if share + ROUNDING >= settings.tau:
        return _label(trace, share, True)
    if 1 - share + ROUNDING >= settings.tau:
        return _label(trace, share, False, "called_wrong")
    return dropped(trace, "unsure")


def _label(trace: Trace, share: float, right: bool, reason: str = "") -> Label:
    return Label(
        problem_id=trace.problem_id,
        trace_id=trace.id,
        correct=right,
        value=share,
        reason=reason,
        labeller="self_verify",
    )
