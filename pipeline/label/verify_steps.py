"""A generative verifier: a model writes out a check of each answer, step by step, several times, and each
step gets the share of the checks that hold everything up to it sound (ThinkPRM, Khalifa et al.,
arXiv:2504.16828; GenPRM, arXiv:2504.00891).

    verify: {label: verify_steps, from: sample, by: verifier, n: 4, keep: true}

A check is a turn of the act `critique`; the task reads it (`BaseTask.step_verdicts`: `Step 2: ... is wrong`,
the embedded seed's own dialect). From the first step that it calls wrong nothing is sound; one that calls the
answer `right` holds all of it sound; one that finds no step wrong and the answer wrong speaks of the end, and
so of the last step (and of those before only where it says so). `step_scores` are the shares of the checks
that say, `value` the share that holds the answer sound: the last step's.

A check without a verdict (or cut before it), or with one that denies its own steps, is in no share: `reason`
says how many there were, and an answer without any other is dropped (`no_verdict`), never scored 0. An answer
that a limit cut is dropped (`truncated`). No gold is seen; how true the labels are say `evaluate:
label_quality` (`above: 0.5`) and `evaluate: critique`. The paper reads the probability of `yes` after each
check where this counts them: `label: judge` with `after: check` does that. `select: verifications` makes
training rows of what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from pipeline.asks import Asks
from pipeline.label._critiques import CritiqueSettings, as_traces, critiques
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask
from pipeline.tasks._acts import held

Held = list[bool | None]


class Settings(CritiqueSettings):
    """Who verifies, and how often."""

    n: int = Field(4, ge=1, description="checks an answer")
    max_tokens: int = Field(0, ge=0, description="tokens a check may have; 0: as the task says")
    keep: bool = Field(True, description="commit the checks, for reading and for training a verifier")


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each answer that some check can be read of, the checks as Traces, a Dropped for each
    other."""
    rows: list[Label | Trace | Dropped] = []
    asked: list[Trace] = []
    for trace in group.traces:
        if reason := refused(trace):
            rows.append(dropped(trace, reason))
        else:
            asked.append(trace)
    if not asked:
        return rows
    found = yield from critiques(problem, asked, settings)
    first = 1 + max((number_of(trace) for trace in group.traces if trace.act == "critique"), default=-1)
    for (trace, _, said), checks in zip(found, as_traces(found, settings, first), strict=True):
        num = len(trace.steps)
        rows.append(shares(trace, [held(task.step_verdicts(one.text, num), one.said) for one in said]))
        rows += checks if settings.keep else []
    return rows


def number_of(trace: Trace) -> int:
    """A turn's number among those of its act: 3 of `PROBLEM/critique.3`."""
    return int(trace.id.rpartition(".")[2])


def refused(trace: Trace) -> str:
    """Why an answer cannot be checked, "" where it can."""
    if not trace.is_attempt:
        return "no_attempt"
    if trace.finish in ("length", "budget"):
        return "truncated"
    return "" if trace.steps else "no_steps"


def shares(trace: Trace, checks: Sequence[Held | None]) -> Label | Dropped:
    """Of each step the share of the checks that hold it and all before it sound, of those that say (two
    steps; sound and sound, sound and not, not and not, nothing -> 2/3, 1/3)."""
    read = [check for check in checks if check is not None]
    if not read:
        return dropped(trace, "no_verdict")
    scores: list[float | None] = []
    for column in zip(*read, strict=True):
        said = [sound for sound in column if sound is not None]
        scores.append(sum(said) / len(said) if said else None)
    missing = len(checks) - len(read)
    return Label(
        problem_id=trace.problem_id,
        trace_id=trace.id,
        step_scores=scores,
        value=scores[-1],
        reason=f"no verdict in {missing} of {len(checks)}" if missing else "",
        labeller="verify_steps",
    )
