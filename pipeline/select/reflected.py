"""Rewritten answers that the learner finds worth learning (Selective Reflection-Tuning, arXiv:2402.10110,
section 3).

Two ratios of perplexities, both under the learner `by`:

- IFD(x, y) = ppl(y | x) / ppl(y): how little the question helps to write the answer; higher is harder
- r-IFD(x, y) = ppl(x | y) / ppl(x): how little the answer tells of the question; lower fits better

A rewritten answer is kept where its r-IFD is lower than that of the answer it was written from and both its
ratios are below 1, as the authors' code does; originals are left out. `ifd: rises` also wants a higher IFD
than the original's, the paper's test of a rewritten *question*. For reasoning traces a rewrite must be right
first (`right: true`), by whatever labeller stands in `from`.

Rewrites are turns of the act `rewrite` or `revise`; they are trained on under the question's own prompt.
`alone` is what a text without its condition stands behind; nothing is the tokenizer's start token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.asks import Asks, Logprob, Prefix, prefix_of
from pipeline.rows import Dropped, Example, Group, Pair, StepExample, Trace, conversations
from pipeline.select import SelectSettings
from pipeline.select._rows import example
from pipeline.settings import Cost, Length, ModelName
from pipeline.tasks import BaseTask

ANSWER = "{answer}"


class Settings(SelectSettings):
    """Whose perplexities, and which tests."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    by: ModelName = Field("policy", description="the learner, whose perplexities they are")
    right: bool = Field(True, description="rewrites must be right, by a labeller in `from`")
    r_ifd: Literal["falls", "any"] = Field("falls", description="against the answer it was written from")
    ifd: Literal["rises", "any"] = Field("any", description="the same; the paper: of rewritten questions")
    below: float = Field(1.0, gt=0, description="both ratios must be lower than this")
    inverse: str = Field("{answer}\n", description="what stands before the question when it is guessed")
    alone: str = Field("", description="what stands before a text without its condition")

    @field_validator("inverse")
    @classmethod
    def _has_the_answer(cls, inverse: str) -> str:
        if ANSWER not in inverse:
            raise ValueError(f"has no {ANSWER}")
        return inverse

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        return (*self.needs, "Label") if self.right else self.needs

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each answer read behind its question and alone; the question, no longer, behind it and alone."""
        return Cost({}, {self.by: 4 * given * task.typical_tokens}, given)


def ratio(conditioned: Sequence[float], alone: Sequence[float]) -> float:
    """ppl(a | b) / ppl(a) from log-probabilities a token (mean losses 1.2 and 2.0 -> .44933)."""
    losses = [-math.fsum(logprobs) / len(logprobs) for logprobs in (conditioned, alone)]
    return math.exp(losses[0] - losses[1])


def refused(trace: Trace, group: Group, settings: Settings) -> str:
    """Why a rewrite is not looked at, or ""."""
    if trace.finish in ("length", "budget"):
        return "truncated"
    label = group.label(trace)
    if settings.right and (label is None or label.correct is None):
        return "unlabelled"
    if settings.right and label is not None and not label.correct:
        return label.reason or "wrong_answer"
    return "" if trace.token_ids and group.question else "empty"


def measured(
    group: Group, pairs: Sequence[tuple[Trace, Trace]], encode: Callable[[str], list[int]], settings: Settings
) -> Asks[dict[str, tuple[float, float]]]:
    """(IFD, r-IFD) of each answer by id; the pairs are (answer, the first turn of its conversation)."""
    question = tuple(_without_start(encode(group.question), encode("")))
    asked = Prefix("", question, (len(question),), (group.question,), group.question)
    prefixes = [_behind(asked, settings.alone)]
    for answer, first in pairs:
        given = prefix_of(answer, prompt=first.prompt)
        before = settings.inverse.replace(ANSWER, answer.text.rstrip("\n"))
        prefixes += [given, _behind(given, settings.alone), _behind(asked, before)]
    plain, *rest = yield Logprob(prefixes, by=settings.by)
    found = {}
    for place, (answer, _) in enumerate(pairs):
        behind, alone, guessed = rest[3 * place : 3 * place + 3]
        found[answer.id] = ratio(behind, alone), ratio(guessed, plain)
    return found


def _behind(prefix: Prefix, prompt: str) -> Prefix:
    return Prefix(prompt, prefix.token_ids, prefix.step_ends, prefix.steps, prefix.text)


def _without_start(ids: list[int], start: list[int]) -> list[int]:
    return ids[len(start) :] if start and ids[: len(start)] == start else ids


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> Asks[list[Example | StepExample | Pair | Dropped]]:
    """One Example a kept rewrite, one Dropped a trace else."""
    reasons = {trace.id: "original" if trace.is_attempt else "no_attempt" for trace in group.traces}
    rewrites: dict[str, tuple[Trace, Trace, Trace]] = {}  # id -> it, what it was written from, the first turn
    for talk in conversations(group.traces):
        for before, after in zip(talk, talk[1:], strict=False):
            reasons[after.id] = refused(after, group, settings)
            if not reasons[after.id] and not before.token_ids:
                reasons[after.id] = "empty"
            if not reasons[after.id]:
                rewrites[after.id] = after, before, talk[0]
    if rewrites:
        wanted = {one.id: (one, first) for *both, first in rewrites.values() for one in both}
        ratios = yield from measured(group, list(wanted.values()), encode, settings)
        for after, before, _ in rewrites.values():
            reasons[after.id] = tested(ratios[after.id], ratios[before.id], settings)
    rows: list[Example | StepExample | Pair | Dropped] = []
    for trace in group.traces:
        if reasons[trace.id]:
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reasons[trace.id]))
            continue
        rows.append(example(trace, encode, rewrites[trace.id][2].prompt))
    return rows


def tested(after: tuple[float, float], before: tuple[float, float], settings: Settings) -> str:
    """Why a rewrite with these (IFD, r-IFD) is not kept beside its original's, or ""."""
    if settings.r_ifd == "falls" and not after[1] < before[1]:
        return "fits_no_better"
    if settings.ifd == "rises" and not after[0] > before[0]:
        return "no_harder"
    if not after[0] < settings.below:
        return "question_no_help"
    return "" if after[1] < settings.below else "answer_no_help"
