"""A reward without gold: how certain the policy is of its own words (Intuitor, arXiv:2505.19590, eq. 4).

Self-certainty of a trace: the mean over its tokens of KL(uniform || p) = logsumexp(z) - mean(z) - log V. It
becomes `Label.value`; `group_advantage` makes advantages of it. A policy is soon certain of anything: watch
gold. `by` reads the whole distribution at each token, so it must run here and not on a server.
"""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Logprob, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Whose certainty."""

    sees_gold: ClassVar[bool] = False

    by: PolicyName = Field("policy", description="the model whose certainty it is")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost({}, {self.by: given * task.typical_tokens}, given)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label with the certainty as `value` for each trace; a Dropped for those without a token."""
    kept = [trace for trace in group.traces if trace.token_ids]
    rows: list[Label | Trace | Dropped] = [
        dropped(trace, "empty") for trace in group.traces if not trace.token_ids
    ]
    if not kept:
        return rows
    certain = yield Logprob([prefix_of(trace) for trace in kept], by=settings.by, of="certainty")
    for trace, values in zip(kept, certain, strict=True):
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                value=fmean(values),
                labeller="self_certainty",
            )
        )
    return rows
