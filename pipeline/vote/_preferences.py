"""Pairwise preferences -> one order: the Enhanced Borda Count of LLaMA-Berry (arXiv:2410.02884, section 2.3).

A judge of pairs contradicts itself and need not see every pair alike. Who is better than whom is therefore
closed transitively first: A beats C where A beats B and B beats C. Each candidate then gets a point for every
candidate that it beats, by itself or through others.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Prefix, Turn, start
from pipeline.rows import Question
from pipeline.settings import Settings

#: what a judge of two reads, unless a recipe says otherwise; asked and trained alike
PROMPT = (
    "{question}\n\nFirst solution:\n{first}\n\nSecond solution:\n{second}\n\n"
    "Is the first solution better than the second? "
)
OPTIONS = ("yes", "no")  #: the answer for the first one, and against it
PLACES = ("{question}", "{first}", "{second}")

Matrix = Sequence[Sequence[float]]  #: [V, V]: how likely row beats column; the diagonal is not read


class PairQuestion(Settings):
    """What a judge of two is asked: the same words where it is taught (`select: duels`) and where it
    judges."""

    prompt: str = Field(
        PROMPT, description="what a judge of two reads, with {question}, {first} and {second}"
    )
    options: tuple[str, str] = Field(OPTIONS, description="the answer for the first, and against it")

    @field_validator("prompt")
    @classmethod
    def _has_places(cls, prompt: str) -> str:
        if missing := next((place for place in PLACES if place not in prompt), ""):
            raise ValueError(f"has no {missing}")
        return prompt

    @field_validator("options")
    @classmethod
    def _differ(cls, options: tuple[str, str]) -> tuple[str, str]:
        if not all(one.strip() for one in options) or options[0].strip() == options[1].strip():
            raise ValueError(f"{list(options)}: two words that differ, one for the first and one against it")
        return options


def shown(prompt: str, question: str, first: str, second: str) -> str:
    """A prompt with its places filled; model text is put in as it is and never formatted again."""
    parts = dict(zip(PLACES, (question, first, second), strict=True))
    found, rest = "", prompt
    while places := [place for place in PLACES if place in rest]:
        place = min(places, key=rest.index)
        before, _, rest = rest.partition(place)
        found += before + parts[place]
    return found + rest


def put(question: Question, texts: Sequence[str], by: str, chats: bool) -> Asks[list[Prefix]]:
    """What a judge of two is asked, as prefixes that its answer follows: each text as it stands, or, where
    the task chats, as the one message of a turn in the judge's template."""
    if not chats:
        return [Prefix(prompt=text) for text in texts]
    turns = yield All(*(Turn(question, "compare", [], by=by, words=text) for text in texts))
    return [start(turn) for turn in turns]


def closure(better: Matrix) -> list[list[bool]]:
    """Does row beat column, by itself (0.5 or more) or through others? Floyd and Warshall, V^3."""
    size = len(better)
    beats = [[i != j and better[i][j] >= 0.5 for j in range(size)] for i in range(size)]
    for via in range(size):
        for i in range(size):
            if beats[i][via]:
                for j in range(size):
                    beats[i][j] = beats[i][j] or (i != j and beats[via][j])
    return beats


def ranked(better: Matrix) -> list[int]:
    """The candidates, best first. Ties: by what they do to one another, then the first."""
    points = [sum(row) for row in closure(better)]

    def key(one: int) -> tuple[float, float, int]:
        tied = [other for other in range(len(points)) if other != one and points[other] == points[one]]
        return -points[one], -sum(better[one][other] for other in tied), one

    return sorted(range(len(points)), key=key)


def global_values(better: Matrix) -> list[float]:
    """Q_g = 1 - (rank - 1) / (V - 1) of each candidate: 1 for the best, 0 for the last."""
    order = ranked(better)
    values = [1.0] * len(order)
    for rank, one in enumerate(order):
        values[one] = 1 - rank / max(len(order) - 1, 1)
    return values
