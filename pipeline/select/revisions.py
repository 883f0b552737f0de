"""What teaches a policy to revise (Snell et al., arXiv:2408.03314, appendix H): wrong answers, then a right
one, which alone is learned.

Each right trace is one row. What stands before it are 0 to `most_wrong` wrong traces of its problem, their
number drawn evenly: the last is the one nearest to it by edit distance (Levenshtein, in characters), so that
there is something to correct; the others are drawn at random. They come from plain samples and were never
written one after the other. The prompt is what the task words as a `revise` turn, in the template of `by`;
the loss is on the right trace's own tokens alone. Draws are named by the trace.

Rows without a wrong answer before keep the model able to answer at once. Not here: pairs of turns that a
model itself wrote in a chain.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from pipeline.asks import Asks, Said, Turn
from pipeline.rows import Dropped, Example, Group, Pair, Question, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import example, normalised
from pipeline.settings import PolicyName
from pipeline.tasks import BaseTask


class Settings(SelectSettings):
    """The paper's: every right trace of 64 samples, up to four wrong ones before it."""

    acts: ClassVar[tuple[str, ...]] = ("revise",)

    by: PolicyName = Field("policy", description="the model whose template words the turn")
    most_wrong: int = Field(4, ge=0, description="wrong answers before a right one, at most")
    max_per_problem: int | None = Field(None, ge=1, description="right traces a problem, the first ones")


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> Asks[list[Example | StepExample | Pair | Dropped]]:
    """An Example for each right trace that says something new, a Dropped for each other trace."""
    rows: list[Example | StepExample | Pair | Dropped] = []
    reasons: dict[str, str] = {}
    right, wrong = sorted_out(group, settings, reasons)
    for trace in right:
        before = context(trace, wrong, settings)
        reasons |= {shown.id: "stands_before" for shown in before}
        prompt = trace.prompt
        if before:
            said = [Said(shown.text, "revise" if place else "") for place, shown in enumerate(before)]
            question = Question(
                id=trace.problem_id, question=group.question, prompt=trace.prompt, prompt_used=trace.prompt
            )
            prompt = (yield Turn(question, "revise", said, by=settings.by)).prompt
        rows.append(example(trace, encode, prompt))
    dropped = [
        Dropped(problem_id=group.problem_id, what=what, reason=reason) for what, reason in reasons.items()
    ]
    return [*rows, *dropped]


def sorted_out(group: Group, settings: Settings, reasons: dict[str, str]) -> tuple[list[Trace], list[Trace]]:
    """The right traces and the wrong ones, of those that say the same the first; why not, of the others."""
    found: dict[bool, list[Trace]] = {True: [], False: []}
    seen: set[tuple[str, ...]] = set()
    for trace in group.traces:
        label = group.label(trace)
        reason = ""
        if label is None or label.correct is None:
            reason = "unlabelled"
        elif trace.finish in ("length", "budget"):
            reason = "truncated"
        elif not trace.text.strip():
            reason = "empty"
        elif normalised(trace) in seen:
            reason = "duplicate"
        elif label.correct and len(found[True]) == settings.max_per_problem:
            reason = "over_limit"
        if reason or label is None:
            reasons[trace.id] = reason
            continue
        seen.add(normalised(trace))
        found[bool(label.correct)].append(trace)
        if not label.correct:
            reasons[trace.id] = label.reason or "wrong_answer"
    return found[True], found[False]


def context(trace: Trace, wrong: Sequence[Trace], settings: Settings) -> list[Trace]:
    """The wrong traces before a right one, the nearest last."""
    draw = random.Random(trace.id)  # named by the trace: the same in every process
    count = min(draw.randint(0, settings.most_wrong), len(wrong))
    if not count:
        return []
    far = [levenshtein(one.text, trace.text) for one in wrong]
    nearest = wrong[far.index(min(far))]
    others = [one for one in wrong if one is not nearest]
    return [*draw.sample(others, count - 1), nearest]


def levenshtein(one: str, other: str) -> int:
    """The edit distance of two texts, in characters (kitten, sitting -> 3)."""
    letters, columns = np.array(list(map(ord, other)), dtype=np.int64), np.arange(len(other) + 1)
    row = columns.copy()
    for place, letter in enumerate(one, 1):
        replaced_or_gone = np.minimum(row[:-1] + (letters != ord(letter)), row[1:] + 1)
        fresh = np.concatenate(([place], replaced_or_gone))
        row = np.minimum.accumulate(fresh - columns) + columns  # an insertion costs 1 a column
    return int(row[-1])
