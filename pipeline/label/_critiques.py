"""Critiques of answers: what a labeller sets that has a model write several of each, and how it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.asks import All, Asks, Continue, Prefix, Said, Turn, about, start, to_trace
from pipeline.label import LabelSettings
from pipeline.rows import Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName

Critiques = list[tuple[Trace, Question, list[Prefix]]]  #: an answer, the turn that asks, what was written


class CritiqueSettings(LabelSettings):
    """Who writes critiques, how many of an answer, and how they are drawn."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Trace", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("critique",)
    draws: ClassVar[tuple[str, ...]] = ("n",)

    by: PolicyName = Field("policy", description="the model that verifies")
    n: int = Field(8, ge=1, description="critiques an answer")
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(0, ge=0, description="tokens a critique may have; 0: as the task says")
    keep: bool = Field(False, description="commit the critiques, for reading and for evaluations")

    @property
    def draws_alike(self) -> bool:
        return self.temperature == 0

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A critique is as long as an answer, as far as anybody knows beforehand."""
        one = min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        return Cost({self.by: given * self.n * one}, {}, given)


def critiques(problem: Problem, answers: Sequence[Trace], settings: CritiqueSettings) -> Asks[Critiques]:
    """`n` critiques of each answer."""
    question = about(problem.id, problem.question)
    turns = yield All(*(Turn(question, "critique", [Said(one.text)], by=settings.by) for one in answers))
    written = yield Continue(
        [start(turn) for turn in turns],
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    parts = (written[place * settings.n : (place + 1) * settings.n] for place in range(len(answers)))
    return list(zip(answers, turns, parts, strict=True))


def as_traces(found: Critiques, settings: CritiqueSettings, first: int = 0) -> list[list[Trace]]:
    """The critiques as rows, by answer; `first` is the number of the first one."""
    return [
        [
            to_trace(
                turn, prefix, first + place * settings.n + number, temperature=settings.temperature,
                cut=settings.top_p < 1, parent=trace.id, tokens_charged=prefix.num_tokens,
            )
            for number, prefix in enumerate(said)
        ]
        for place, (trace, turn, said) in enumerate(found)
    ]  # fmt: skip
