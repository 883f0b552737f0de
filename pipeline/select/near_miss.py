"""Wrong answers that were mended later -> rows of one turn: revise this, verify this (REVES,
arXiv:2606.18910).

A conversation that ends right after wrong attempts has recovered; each of these attempts is a near miss. Two
kinds of rows come from it, without the turns in between:

- revise: the question and the near miss -> the right answer that the conversation came to
- verify: the question and an attempt -> a critique of it that ends in the true verdict, where the
  conversation holds one; of the near misses and of the right answer

The prompts are worded anew by the task for one turn (`asks.Turn`), in the template of `by`. Which attempts
are right a labeller says (`label: outcome`, or without gold `self_verify`). The paper trains on such prompts
by reinforcement; these are rows for `train: sft`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Said, Turn, about
from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace, conversations, critiques_of
from pipeline.select import SelectSettings
from pipeline.select._rows import example
from pipeline.settings import PolicyName
from pipeline.tasks import BaseTask

Shown = tuple[str, Trace, Trace]  #: the act, what its turn shows, what is learned


class Settings(SelectSettings):
    """Which rows, and of which near misses."""

    acts: ClassVar[tuple[str, ...]] = ("revise", "critique")

    by: PolicyName = Field("policy", description="in whose template the turns are worded: who learns")
    rows: tuple[Literal["revise", "verify"], ...] = ("revise", "verify")
    which: Literal["all", "last"] = Field(
        "all", description="near misses: every wrong attempt before the right one, or the one just before"
    )

    @field_validator("rows")
    @classmethod
    def _some(cls, rows: tuple[str, ...]) -> tuple[str, ...]:
        if not rows:
            raise ValueError("none of revise, verify")
        return rows


def recovered(talk: list[Trace], group: Group) -> tuple[list[Trace], Trace] | None:
    """(the wrong attempts, the first right one after them); None where a conversation did not recover."""
    wrong: list[Trace] = []
    for trace in talk:
        label = group.label(trace)
        if label is None or label.correct is None or trace.finish in ("length", "budget"):
            continue
        if label.correct:
            return (wrong, trace) if wrong else None
        wrong.append(trace)
    return None


def shown_of(group: Group, settings: Settings) -> Iterator[Shown]:
    """The turns that a problem's recovered conversations give, each once."""
    critiques = critiques_of(group.traces)
    verified: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for talk in conversations(group.traces):
        found = recovered(talk, group)
        if found is None:
            continue
        misses, right = found[0] if settings.which == "all" else found[0][-1:], found[1]
        for miss in misses if "revise" in settings.rows else ():
            if (miss.id, right.id) not in seen:
                seen.add((miss.id, right.id))
                yield "revise", miss, right
        for attempt in (*misses, right) if "verify" in settings.rows else ():
            truth = "right" if attempt is right else "wrong"
            true_ones = [one for one in critiques.get(attempt.id, []) if one.answer == truth]
            if attempt.id not in verified:
                verified.add(attempt.id)
                yield from (("critique", attempt, one) for one in true_ones[:1])


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> Asks[list[Example | StepExample | Pair | Dropped]]:
    """The rows, and a Dropped for each trace that is learned in none."""
    shown = list(shown_of(group, settings))
    rows: list[Example | StepExample | Pair | Dropped] = []
    if shown:
        question = about(group.problem_id, group.question)
        turns = yield All(*(Turn(question, act, [Said(seen.text)], by=settings.by) for act, seen, _ in shown))
        for turn, (_, _, learned) in zip(turns, shown, strict=True):
            rows.append(example(learned, encode, turn.prompt))
    learned_ids = {learned.id for _, _, learned in shown}
    in_prompt = {seen.id for _, seen, _ in shown}
    for trace in group.traces:
        if trace.id not in learned_ids:
            reason = "near_miss" if trace.id in in_prompt else _why(trace, group)
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason))
    return rows


def _why(trace: Trace, group: Group) -> str:
    label = group.label(trace)
    if trace.is_attempt and (label is None or label.correct is None):
        return "unlabelled"
    return "not_recovered" if trace.is_attempt else "no_row"
