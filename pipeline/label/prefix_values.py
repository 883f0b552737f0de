"""The first PRM's data (ReST-MCTS*, arXiv:2406.03816, section 3.3): right prefixes get k / K.

One wrong step after each comes from the weak policy.

The paper cuts gold solutions; here the cut ones are *verified*: this problem's shortest right traces, whose
token ids are the policy's own. After each of their prefixes the policy is asked for `wrong` next steps; one
that leaves the right route gets the value of a wrong step, v - (1 - v) / (m + 1). Wrong is what the task's
step oracle says; where it has none, a step unlike that of any right trace, as in the paper, which makes
some false negatives. Each such step comes back as a Trace of its own (`parent`: the right one; finish:
budget).

Right traces are labelled with k / K at each step; wrong ones only as wrong, and teach nothing here
(`tree_value` reads those).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Continue, Prefix, closed, prefix_of
from pipeline.label import LabelSettings
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask


class Settings(LabelSettings):
    """The paper takes one wrong step of a weak 6B model for each prefix."""

    makes: ClassVar[tuple[str, ...]] = ("Label", "Trace", "Dropped")

    by: PolicyName = Field("policy", description="the weak policy that writes wrong steps")
    wrong: int = Field(1, ge=1, description="next steps asked for after each prefix")
    traces: int = Field(1, ge=1, description="right traces cut a problem, the shortest first")
    temperature: float = Field(1.0, ge=0, le=10)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A step after each prefix of the right traces that are cut; of as many problems as are solved."""
        cut = min(given, self.traces) * self.wrong
        return Cost({self.by: cut * task.typical_tokens}, {}, given + cut * task.typical_steps)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace and each wrong step; the wrong steps as Traces; a Dropped for what a problem
    without gold brings.
    """
    if problem.answer is None:
        return [Dropped(problem_id=problem.id, what=trace.id, reason="no_gold") for trace in group.traces]
    rows: list[Label | Trace | Dropped] = []
    right: list[Trace] = []
    for trace in group.traces:
        correct, reason = verdict(trace, problem, task)
        num_steps = len(trace.step_ends)
        values: list[float | None] = [None] * num_steps
        if correct and num_steps and not trace.hinted:
            right.append(trace)
            values = [(k + 1) / num_steps for k in range(num_steps)]
        rows.append(_label(trace, values, correct, reason))
    cut = sorted(right, key=lambda trace: len(trace.step_ends))[: settings.traces]
    prefixes = [(trace, k) for trace in cut for k in range(len(trace.step_ends))]
    if not prefixes:
        return rows
    grown = yield Continue(
        [prefix_of(trace, k) for trace, k in prefixes],
        by=settings.by,
        n=settings.wrong,
        until="step",
        temperature=settings.temperature,
    )
    routes = {_key(trace.steps[: k + 1]) for trace in right for k in range(len(trace.steps))}
    seen: set[tuple[str, ...]] = set()
    for place, (trace, k) in enumerate(prefixes):
        for reply in grown[place * settings.wrong : (place + 1) * settings.wrong]:
            whole = closed(reply)
            steps = _key(whole.steps)
            if len(whole.steps) != k + 1 or steps in seen or steps in routes:
                continue
            if leaves_route(problem, whole, task):
                seen.add(steps)
                made = _trace(trace, whole, len(group.traces) + len(seen) - 1)
                rows += [
                    made,
                    _label(made, [None] * k + [wrong_value(k, len(trace.step_ends))], False, "wrong_step"),
                ]
    return rows


def wrong_value(num_right: int, length: int) -> float:
    """The value of a wrong step after k right ones of K: v = k/K falls by (1 - v) / (m + 1), m = K - k
    (by hand: 1/3, 3 -> 1/9).
    """
    before = num_right / length
    return max(0.0, before - (1 - before) / (length - num_right + 1))


def leaves_route(problem: Problem, prefix: Prefix, task: BaseTask) -> bool:
    """Is the last step wrong? By the oracle where the task has one; else every step that no right trace
    took is.
    """
    if prefix.finish in ("eos", "stop") and task.correct(prefix.answer, problem):
        return False  # another way to end right
    verdicts = task.step_oracle(problem, list(prefix.steps))
    return True if not verdicts else not verdicts[-1]


def _key(steps: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return tuple(" ".join(step.split()) for step in steps)


def _trace(origin: Trace, prefix: Prefix, number: int) -> Trace:
    return Trace(
        problem_id=origin.problem_id,
        id=f"{origin.problem_id}/{number}",
        prompt=origin.prompt,
        text=prefix.text,
        token_ids=list(prefix.token_ids),
        step_ends=list(prefix.step_ends),
        steps=list(prefix.steps),
        logprobs=list(prefix.logprobs),
        answer=prefix.answer,
        finish=prefix.finish or "budget",
        parent=origin.id,
        prompt_hash=prefix.prompt_hash,
        model=prefix.model,
        tokens_charged=prefix.num_tokens
        - (origin.step_ends[len(prefix.steps) - 2] if len(prefix.steps) > 1 else 0),
    )


def _label(trace: Trace, values: list[float | None], correct: bool, reason: str) -> Label:
    return Label(
        problem_id=trace.problem_id,
        trace_id=trace.id,
        correct=correct,
        step_scores=values,
        value=values[-1] if values else None,
        reason=reason,
        labeller="prefix_values",
    )
