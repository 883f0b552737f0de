"""Written checks -> training rows of a verifier: those that say of every step what is true (ThinkPRM, Khalifa
et al., arXiv:2504.16828, section 3: synthetic checks, filtered against step labels).

    verify: {label: verify_steps, from: sample, by: verifier, keep: true}
    truth:  {label: first_error, from: sample}          # or shepherd, omega, people's labels from a file
    checks: {select: verifications, from: [verify, truth]}
    learn:  {train: sft, model: verifier, from: checks}

A check is a turn of the act `critique` after an answer. The truth is the answer's label, of the stage that
`from` names last: `step_scores` above `above` call a step sound, and after one that is not none is; `correct`
is the last step's too. A check is kept if, of each step whose truth is known, it says in so many words what
is true (`match: steps`); a right verdict by false steps is not enough. `match: verdict` looks at the last
step alone: the paper's control, outcome labels in place of process labels.

Of the checks of an answer the first `per_answer` that say it in other words are kept; `balance` leaves as
many of right answers as of wrong ones, drawn by the hash of their ids. It must see the whole set for that.
An answer itself is never a row (`no_check` where nothing was said of it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.rows import Dropped, Example, Group, Label, Pair, StepExample, Trace, critiques_of
from pipeline.select import SelectSettings
from pipeline.select._rows import example, normalised
from pipeline.tasks import BaseTask
from pipeline.tasks._acts import held

Known = list[bool | None]  #: of each step: is all up to it sound? None: nobody knows
Candidate = tuple[bool, str]  #: is the answer sound, and the hash that its check is drawn by
OWN = "verify_steps"  #: who labels by the checks themselves: never the truth that they are held against


class Settings(SelectSettings):
    """The paper's: all steps, balanced."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")
    reads_rollouts: ClassVar[bool] = True

    match: Literal["steps", "verdict"] = Field(
        "steps", description="what of a check has to be true: what it says of each step, or the last word"
    )
    above: float = Field(
        0.0, description="a truth label above it calls a step sound; 0: some roll-out ended right"
    )
    per_answer: int | None = Field(1, ge=1, description="checks an answer, in other words each; none: all")
    balance: bool = Field(True, description="as many checks of right answers as of wrong ones")


@dataclass(frozen=True, slots=True)
class Sifted:
    """A check, why it is dropped ("" where it may be kept), and whether its answer is sound."""

    check: Trace
    reason: str
    sound: bool = False


def truth_of(trace: Trace, label: Label | None, settings: Settings) -> Known | None:
    """What is true of the answer's steps; None where nobody says anything that could be held against a
    check."""
    if label is None or label.labeller == OWN:
        return None
    num, known = len(trace.steps), list[bool | None]()
    scores = label.step_scores or []
    if len(scores) == num:
        known = list(accumulate((None if s is None else s > settings.above for s in scores), _so_far))
    elif settings.match == "steps":
        return None
    known = known or [None] * num
    if known and known[-1] is None and label.correct is not None:
        known[-1] = label.correct
    elif known and label.correct is False:
        known[-1] = False
    if settings.match == "verdict":
        known = [*[None] * (num - 1), *known[-1:]]
    return known if known and known[-1] is not None else None


def _so_far(before: bool | None, now: bool | None) -> bool | None:
    """Of all up to here: a fault before stays one."""
    if before is False or now is False:
        return False
    return None if before is None or now is None else True


def sifted(group: Group, settings: Settings, task: BaseTask) -> Iterator[Sifted]:
    """Each check of the problem's answers, in the order of the rows."""
    answers = {trace.id: trace for trace in group.traces if trace.is_attempt}
    for name, checks in critiques_of([*group.traces, *group.rollouts]).items():
        answer, kept = answers.get(name), set[tuple[str, ...]]()
        truth = truth_of(answer, group.label(answer), settings) if answer is not None else None
        for check in checks:
            if answer is None or truth is None:
                yield Sifted(check, "no_truth")
                continue
            reason = fault_of(check, truth, task)
            if not reason and normalised(check) in kept:
                reason = "duplicate"
            if not reason and settings.per_answer is not None and len(kept) >= settings.per_answer:
                reason = "over_limit"
            if not reason:
                kept.add(normalised(check))
            yield Sifted(check, reason, bool(truth[-1]))


def fault_of(check: Trace, truth: Known, task: BaseTask) -> str:
    """Why a check may not be learned, "" where all that it says is true."""
    if check.finish in ("length", "budget"):
        return "truncated"
    words = task.step_verdicts(check.text, len(truth))
    says = held(words, check.answer)
    if says is None:
        return "no_verdict"
    if says[-1] != truth[-1]:
        return "false_verdict"
    for said, spoken, true in zip(says[:-1], words[:-1], truth[:-1], strict=True):
        if true is not None and said != true:
            return "unsaid_step" if said is None else "false_step"
        if true and spoken is None:
            return "unsaid_step"
    return ""


def survey(group: Group, settings: Settings, *, task: BaseTask) -> list[Candidate]:
    """What could be kept of a problem."""
    if not settings.balance:
        return []
    return [(one.sound, drawn_by(one.check)) for one in sifted(group, settings, task) if not one.reason]


def drawn_by(check: Trace) -> str:
    """The name that a check is drawn by: nothing that it says."""
    return hashlib.sha256(f"{check.round} {check.id}".encode()).hexdigest()


def reduce(surveys: Iterable[list[Candidate]], settings: Settings) -> dict[bool, str]:
    """The last hash that is kept of right answers and of wrong ones; "" keeps none."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for one in surveys:
        for sound, name in one:
            found[sound].append(name)
    fewer = min(map(len, found.values()))
    return {sound: sorted(names)[fewer - 1] if fewer else "" for sound, names in found.items()}


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]], *, whole: Any
) -> list[Example | StepExample | Pair | Dropped]:
    """An Example or a Dropped for each check, a Dropped for each other trace."""
    rows: list[Example | StepExample | Pair | Dropped] = []
    seen: set[str] = set()
    told: set[str] = set()
    for one in sifted(group, settings, task):
        reason = one.reason
        if not reason and settings.balance and drawn_by(one.check) > whole[one.sound]:
            reason = "balance"
        seen.add(one.check.id)
        told.add(one.check.parent or "")
        rows.append(
            Dropped(problem_id=one.check.problem_id, what=one.check.id, reason=reason)
            if reason
            else example(one.check, encode)
        )
    for trace in (*group.traces, *group.rollouts):
        if trace.id not in seen:
            why = "no_attempt" if not trace.is_attempt else "answer" if trace.id in told else "no_check"
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=why))
    return rows
