"""Conversations -> training rows: feedback, a refined answer, and that answer straight from the question
(SELF, arXiv:2310.00533, sections 3.1 and 3.2).

An answer r, its feedback f and the refined answer r^ make three rows: (q, r) -> f, (q, r, f) -> r^, and q ->
r^. All three teach the meta-skill (`rows: [feedback, refine, direct]`); a round of evolution trains on what
it wrote itself and keeps the answers whose own feedback ends in `right` (`keep: own`), or those that a
labeller calls right (`keep: label`, for a meta-skill set made by rule or by a stronger model).

Feedback is kept where it is of a kept answer, or led to one; with `keep: label` only where its verdict is
true. Feedback is a turn of the act `critique`, a refined answer one of `rewrite` or `revise` (`generate:
self_refine`, `two_turn`, `check_context`). Several critiques of an answer vote; a tie is no verdict. Each
row has the prompt that its own turn was shown; that of a direct row is the question's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace, conversations, critiques_of
from pipeline.select import SelectSettings
from pipeline.select._rows import example
from pipeline.tasks import BaseTask

Row = Literal["feedback", "refine", "direct"]


class Settings(SelectSettings):
    """Which of the three rows, and whose word an answer is kept on."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    rows: tuple[Row, ...] = Field(
        ("feedback", "refine", "direct"), description="(q, r) -> f, (q, r, f) -> r^, q -> r^"
    )
    keep: Literal["own", "label", "all"] = Field(
        "own", description="answers that their own feedback calls right, that a labeller does, or all"
    )

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        return (*self.needs, "Label") if self.keep == "label" else self.needs

    @field_validator("rows")
    @classmethod
    def _some(cls, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        if not rows:
            raise ValueError("none of feedback, refine, direct")
        return rows


def own_verdict(critiques: Sequence[Trace]) -> bool | None:
    """What the critiques of an answer say, by most of those that say something; None at a tie or without."""
    said = [one.answer == "right" for one in critiques if one.answer is not None]
    return None if 2 * sum(said) == len(said) else 2 * sum(said) > len(said)


def refused(answer: Trace, critiques: Sequence[Trace], group: Group, settings: Settings) -> str:
    """Why an answer may not be trained on, or ""."""
    if answer.finish in ("length", "budget"):
        return "truncated"
    if settings.keep == "label":
        label = group.label(answer)
        if label is None or label.correct is None:
            return "unlabelled"
        return "" if label.correct else label.reason or "wrong_answer"
    if settings.keep == "all":
        return ""
    if answer.answer is None:
        return "no_answer"
    verdict = own_verdict(critiques)
    return "no_verdict" if verdict is None else "" if verdict else "called_wrong"


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """The rows of a problem's conversations, and a Dropped for each trace that is in none."""
    critiques, rows = critiques_of(group.traces), list[Example]()
    reasons: dict[str, str] = {}
    told: dict[str, None] = {}  # answers whose feedback is kept
    seen: set[str] = set()
    for talk in conversations(group.traces):
        for place, answer in enumerate(talk):
            if answer.id in seen:
                continue
            seen.add(answer.id)
            reason = refused(answer, critiques.get(answer.id, []), group, settings)
            reasons[answer.id] = reason or "not_wanted"
            if reason:
                continue
            told |= dict.fromkeys([*(one.id for one in talk[max(0, place - 1) : place]), answer.id])
            if place and "refine" in settings.rows:
                rows.append(example(answer, encode))
            if "direct" in settings.rows and answer is talk[-1]:
                rows.append(example(answer, encode, talk[0].prompt))  # under the question as first asked
    if "feedback" in settings.rows:
        rows += [example(one, encode) for one in feedback(told, critiques, group, settings)]
    named = {row.trace_id for row in rows}
    left = (trace for trace in group.traces if trace.id not in named)
    return [
        *rows,
        *(
            Dropped(problem_id=trace.problem_id, what=trace.id, reason=_why(trace, reasons, group, settings))
            for trace in left
        ),
    ]


def feedback(
    told: Mapping[str, None], critiques: Mapping[str, Sequence[Trace]], group: Group, settings: Settings
) -> list[Trace]:
    """The critiques that are trained on: they end, they have a verdict, and with `keep: label` a true one."""
    found = []
    for name in told:
        label = group.labels.get(name)
        truth = label.correct if label is not None and settings.keep == "label" else None
        for one in critiques.get(name, []):
            ended = one.finish not in ("length", "budget") and one.answer is not None
            if ended and truth in (None, one.answer == "right"):
                found.append(one)
    return found


def _why(trace: Trace, reasons: Mapping[str, str], group: Group, settings: Settings) -> str:
    """Why a trace is in no row."""
    if trace.is_attempt:
        return reasons.get(trace.id, "not_wanted")
    if trace.act != "critique":
        return "no_attempt"
    if "feedback" not in settings.rows:
        return "not_wanted"
    return "no_verdict" if trace.answer is None else "feedback_of_dropped"
