"""Does a second turn help? Accuracy of the first attempt and of later ones, and what changed in between
(SCoRe, arXiv:2409.12917, section 3: Acc@t1, Acc@t2, their difference, wrong to right, right to wrong).

    talk: {evaluate: turns, of: policy, split: dev, search: {generate: two_turn}}

A conversation is an attempt and those that followed it (`Trace.parent`). `accuracy/t2` is of the answer in
force after two attempts: one that was never revised stands. `lift` is the last of `turns` less the first.
What changed is told between these two: `wrong_to_right` and `right_to_wrong` as shares of all conversations,
`unchanged` (the same answer, by the task's equality), `copied` (the same text), `distance` (edit distance of
the two in tokens, over the tokens of both), the last three of conversations that have a second attempt.

Not here: what critiques between the attempts said (`critique`), what would have been had (`verification`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from pipeline.asks import Asks
from pipeline.evaluate import GOLD, LEARNING, TROUBLE, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.accuracy import grade as grade  # the task's word on each attempt
from pipeline.evaluate.accuracy import named
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.rows import Group, Label, Problem, Question, Trace, conversations
from pipeline.tasks import BaseTask


class Settings(EvaluateSettings):
    """How many attempts count."""

    turns: int = Field(2, ge=2, le=9, description="attempts of a conversation that are told apart")
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")

    @model_validator(mode="after")
    def _of_something(self) -> Settings:
        if (self.search is None) == (not self.from_):
            raise ValueError(
                "give search (a generate method that takes turns), or from (a stage whose traces are turns)"
            )
        return self


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation."""

    right: tuple[bool, ...]  #: of the answer in force after 1, 2, ... attempts
    attempts: int
    tokens: int  #: of all attempts
    same_answer: bool = False  #: the last attempt that counts against the first
    same_text: bool = False
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnsOutcome:
    """One model's conversations on one problem."""

    problem_id: str
    talks: tuple[Talk, ...]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[object]]:
    """What the search gives, or `from` brings, under the model's name."""
    if search is None:
        yield from ()
        return [named(trace, question.id, model) for trace in (given.traces if given else ())]
    found = yield from search(question)
    return [named(row, question.id, model) for row in found]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> TurnsOutcome:
    """The conversations of one model; a problem without any counts as one that was never answered."""
    right = {row.trace_id: bool(row.correct) for row in labels if row.labeller == GOLD}
    talks = conversations(trace for trace in traces if trace.model == model)
    found = [talk_of(talk[: settings.turns], right, settings.turns, task) for talk in talks]
    return TurnsOutcome(problem.id, tuple(found) or (Talk((False,) * settings.turns, 0, 0),))


def talk_of(talk: Sequence[Trace], right: Mapping[str, bool], turns: int, task: BaseTask) -> Talk:
    """A conversation, cut to the attempts that count."""
    first, last = talk[0], talk[-1]
    answers = first.answer, last.answer
    same = answers[0] == answers[1] or (None not in answers and task.same(*map(str, answers)))
    length = len(first.token_ids) + len(last.token_ids)
    return Talk(
        right=tuple(right.get(talk[min(k, len(talk) - 1)].id, False) for k in range(turns)),
        attempts=len(talk),
        tokens=sum(len(trace.token_ids) for trace in talk),
        same_answer=same,
        same_text=first.text.strip() == last.text.strip(),
        distance=edit_distance(first.token_ids, last.token_ids) / length if length else 0.0,
    )


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein's distance of two rows of tokens (1 2 3 against 1 3 4 -> 2)."""
    theirs, column = np.array(other, dtype=np.int64), np.arange(len(other) + 1)
    row = column.copy()
    for place, token in enumerate(one, 1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (theirs != token))
        row = np.minimum.accumulate(np.concatenate([[place], changed]) - column) + column
    return int(row[-1])


def measure(found: Mapping[str, Sequence[TurnsOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, over the problems that all models were measured on."""
    return over_problems(found, lambda rows: columns(rows, settings), settings.resamples)


def columns(found: Sequence[TurnsOutcome], settings: Settings) -> Measured:
    """The statistics of one model over problems; a problem counts by its conversations."""
    last = settings.turns - 1
    measured = Measured()
    stats = measured.compared
    for turn in range(settings.turns):
        stats[f"accuracy/t{turn + 1}"] = ratio(
            ((sum(t.right[turn] for t in o.talks), len(o.talks)) for o in found), share=True
        )
    for name, before, after in (("wrong_to_right", False, True), ("right_to_wrong", True, False)):
        stats[name] = ratio(
            (
                (sum((t.right[0], t.right[last]) == (before, after) for t in o.talks), len(o.talks))
                for o in found
            ),
            share=True,
        )
    stats["lift"] = ratio((sum(t.right[last] - t.right[0] for t in o.talks), len(o.talks)) for o in found)
    second = [[talk for talk in o.talks if talk.attempts > 1] for o in found]
    for name, key in (("unchanged", "same_answer"), ("copied", "same_text"), ("distance", "distance")):
        stats[name] = ratio((sum(getattr(t, key) for t in talks), len(talks)) for talks in second)
    stats["second_turns"] = ratio((len(two), len(o.talks)) for two, o in zip(second, found, strict=True))
    stats["length/mean"] = ratio((sum(t.tokens for t in o.talks), len(o.talks)) for o in found)
    return measured


def metrics(settings: Settings) -> list[Metric]:
    """What may be named before anything has run."""
    last = settings.turns
    found = [
        Metric(
            f"accuracy/t{last}", f"accuracy after {last} attempts", headline=True, main=True,
            short=f"turn {last}", column="accuracy", gain=f"gain/t{last}",
        )
    ]  # fmt: skip
    found += [
        Metric(f"accuracy/t{k}", f"accuracy of attempt {k}" if k == 1 else f"accuracy after {k} attempts",
               headline=k == 1, short=f"turn {k}", gain=f"gain/t{k}")
        for k in range(1, last)
    ]  # fmt: skip
    return [
        *found,
        Metric("lift", "later turns add", headline=True, short="lift", column="later turns add"),
        Metric("wrong_to_right", "wrong to right"),
        Metric("right_to_wrong", "right to wrong", less=True),
        Metric("unchanged", "second attempts with the same answer", short="unchanged"),
        Metric("copied", "second attempts with the same text", short="copied"),
        Metric("distance", "edit distance of the attempts, over both lengths", share=False, short="distance"),
        Metric("second_turns", "conversations with a second attempt"),
        Metric("length/mean", "tokens of all attempts", less=True, share=False, short="length"),
    ]


def panels(settings: Settings) -> list[Panel]:
    """Accuracy by attempt over the rounds, what later turns change, and whether they edit at all."""
    last, question = settings.turns, "Do later turns help?"
    right = {f"accuracy/t{k}": f"attempt {k}" if k == 1 else f"after {k}" for k in range(1, last + 1)}
    flips = {"wrong_to_right": "wrong to right", "right_to_wrong": "right to wrong"}
    edits = {"unchanged": "same answer", "copied": "same text"}
    return [
        Panel(LEARNING, "Accuracy by attempt", "curve", right, axis="accuracy", picture="turns"),
        Panel(question, "What the last attempt changed", "curve", flips, axis="share of conversations"),
        Panel(question, "Second attempts that change nothing", "curve", edits),
        Panel(question, "Edit distance of the attempts", "curve", {"distance": "over both lengths"},
              share=False, small=True),
        Panel(TROUBLE, "Change of each round", "changes", {f"accuracy/t{last}": f"after {last}"},
              "paired, with 95 % interval"),
    ]  # fmt: skip


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What later turns came to, in words."""
    lift = metrics.get("lift")
    if lift is None:
        return {}
    low, high = metrics.get("lift/low", lift), metrics.get("lift/high", lift)
    word = "help" if low > 0 else "hurt" if high < 0 else "change nothing that can be told from chance"
    said = (
        f"Later turns {word}: {100 * lift:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), "
        f"{100 * metrics.get('wrong_to_right', 0.0):.1f} % from wrong to right and "
        f"{100 * metrics.get('right_to_wrong', 0.0):.1f} % from right to wrong."
    )
    if metrics.get("copied", 0.0) > COLLAPSED:
        said += f" {100 * metrics['copied']:.0f} % of the second attempts copy the first: no edit is learned."
    return {"Do later turns help?": said}


COLLAPSED = 0.9  #: copied second attempts, above which nothing is being corrected


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Are there second turns, and do they say anything new?"""
    if not metrics.get("second_turns"):
        return Health(
            warnings=["no conversation has a second attempt: accuracy by turn is that of the first"]
        )
    if metrics.get("copied", 0.0) > COLLAPSED:
        share = metrics["copied"]
        return Health(warnings=[f"{share:.0%} of the second attempts copy the first: collapse to no edit"])
    return Health()
