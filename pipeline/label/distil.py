"""On-policy distillation: a teacher judges each token that the student itself wrote (GKD, Agarwal et al.,
arXiv:2306.13649, with student data alone and the reverse KL).

The advantage of a token is log p_teacher - log p_student of it. Under samples of the student its mean is
minus KL(student || teacher) at the prefixes that the student reaches, and as a policy gradient it is that
divergence's own gradient, with the sampled token in place of the sum over the vocabulary. As in GKD nothing
flows back through what was sampled before: a token answers for itself (`gamma: 0`). With `gamma: 1` it
answers for all that follows, which is the divergence of whole completions (MiniLLM, arXiv:2306.08543).

The Label has one advantage a token, as `step_scores` the log-ratio of each step, and as `value` its mean a
token: 0 where the two agree, and below it otherwise. `select: episodes` and `train: policy_gradient` go on
from there. No gold, no labels, no reward model. The teacher is any named model that reads the student's
tokens; one with another tokenizer is refused. Not here: other divergences, which need whole distributions,
and a mix with texts of the teacher (`train: sft` on its samples is that part).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Cut, Logprob, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped, to_go
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """Whose word, and how far ahead a token is held to account."""

    sees_gold: ClassVar[bool] = False

    by: PolicyName = Field("teacher", description="the teacher")
    gamma: float = Field(
        0.0, ge=0, le=1, description="discount of later tokens' log-ratios; 0: each its own (GKD), 1: MiniLLM"
    )

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost({}, {self.by: given * task.typical_tokens}, given)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label with one advantage a token for each trace; a Dropped for those without log-probabilities of
    their own, or that were written under another prompt than training shows.
    """
    rows: list[Label | Trace | Dropped] = []
    kept: list[Trace] = []
    for trace in group.traces:
        if reason := refused(trace):
            rows.append(dropped(trace, reason))
        else:
            kept.append(trace)
    if not kept:
        return rows
    prefixes = [prefix_of(trace) for trace in kept]
    for prefix in prefixes:
        yield Cut(prefix, [prefix.num_tokens], by=settings.by)  # refuses another tokenizer; costs nothing
    theirs = yield Logprob(prefixes, by=settings.by)
    for trace, teacher in zip(kept, theirs, strict=True):
        ratios = [told - own for told, own in zip(teacher, trace.logprobs, strict=True)]
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                advantage=list(to_go(ratios, settings.gamma)),
                step_scores=list(by_step(ratios, trace.step_ends)),
                value=math.fsum(ratios) / len(ratios),
                labeller="distil",
            )
        )
    return rows


def refused(trace: Trace) -> str:
    """Why a trace says nothing of the student, "" where it does."""
    if not trace.token_ids:
        return "empty"
    if trace.hinted or trace.few_shot:
        return "hinted" if trace.hinted else "few_shot"
    return "" if trace.has_logprobs else "no_logprobs"


def by_step(ratios: Sequence[float], ends: Sequence[int]) -> list[float]:
    """Of each step the sum of its tokens' log-ratios (1, 0, .5 to 1, 3 -> 1, .5)."""
    starts = [0, *ends[:-1]]
    return [math.fsum(ratios[start:end]) for start, end in zip(starts, ends, strict=True)]
