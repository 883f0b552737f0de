"""Revision chains (Snell et al., arXiv:2408.03314, section 6): a model that was taught to revise writes
attempt after attempt, each of which sees the last few; several chains run side by side.

A budget of attempts is `chains` x `length`: one chain of all is purely sequential, chains of one are plain
samples, and the paper's best ratio lies between, the harder the question the more chains. An attempt sees the
last `window` of its chain, as the turns of a conversation that the task words (`revise`); a model that no
`select: revisions` has taught gives little. A right attempt is often revised into a wrong one, so the answer
is chosen over the whole chain and never is just its last.

With `value` a verifier chooses: within a chain the answer with the highest sum of scores, by its best
attempt; then among the chains' choices in the same way (best of N weighted, twice). Without, the answer that
most attempts of all chains give. The paper's verifier of revisions sees what stood before (`sees: history`);
one that was trained on plain answers is shown the question alone (`sees: question`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import All, Asks, Continue, Prefix, Said, Same, Score, Turn, closed, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length, RewardModelName
from pipeline.vote import Kind, weight
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of


class Settings(GenerateSettings):
    """How the attempts are divided, and who chooses. The paper sweeps chains : length over powers of two."""

    acts: ClassVar[tuple[str, ...]] = ("revise",)
    draws: ClassVar[tuple[str, ...]] = ("chains",)

    chains: int = Field(4, ge=1, description="chains side by side")
    length: int = Field(4, ge=1, description="attempts a chain, one after the other")
    window: int = Field(4, ge=1, description="attempts of its chain that an attempt sees, the last ones")
    value: RewardModelName | None = Field(None, description="the verifier; none: the majority chooses")
    aggregate: Aggregate = Field("last", description="step scores -> the score of an attempt")
    sees: Literal["history", "question"] = Field(
        "history", description="what the verifier reads before an attempt: its whole turn, or the question"
    )

    @property
    def score_kind(self) -> Kind:
        return kind_of(self.aggregate)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        attempts = self.chains * self.length
        tokens = attempts * self.tokens(task)
        return Cost({self.by: tokens}, {self.value: tokens} if self.value else {}, attempts)


@dataclass(slots=True, eq=False)
class Attempt:
    """One turn of a chain. score: the verifier's, where it is a number."""

    question: Question
    prefix: Prefix
    score: float | None = None


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """A trace for each attempt, chain by chain; `parent` is the attempt before, one of them is chosen."""
    written = yield write(question, settings, [start(question)], settings.chains)
    chains = [[Attempt(question, closed(prefix))] for prefix in written]
    for _ in range(settings.length - 1):
        turns = yield from next_turns(question, settings, chains)
        written = yield write(question, settings, [start(turn) for turn in turns], 1)
        for chain, turn, prefix in zip(chains, turns, written, strict=True):
            chain.append(Attempt(turn, closed(prefix)))
    attempts = [attempt for chain in chains for attempt in chain]
    if settings.value is not None:
        yield from verify(question, settings, attempts)
    keys = yield Same([attempt.prefix.said for attempt in attempts])
    named = dict(zip(map(id, attempts), keys, strict=True))
    by = verified if settings.value is not None else majority
    return rows(question, settings, chains, by(chains, named, settings))


def write(question: Question, settings: Settings, prefixes: Sequence[Prefix], n: int) -> Continue:
    """The ask for whole attempts."""
    return Continue(
        prefixes,
        by=settings.by,
        n=n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )


def next_turns(
    question: Question, settings: Settings, chains: Sequence[Sequence[Attempt]]
) -> Asks[list[Question]]:
    """What each chain's next attempt sees; the question anew where all before it are empty."""
    asks = []
    for chain in chains:
        texts = [attempt.prefix.text for attempt in chain if attempt.prefix.text.strip()][-settings.window :]
        seen = [Said(text, "revise" if place else "") for place, text in enumerate(texts)]
        asks.append(Turn(question, "revise", seen, by=settings.by) if seen else None)
    worded = iter((yield All(*(ask for ask in asks if ask is not None))))
    return [next(worded) if ask is not None else question for ask in asks]


def verify(question: Question, settings: Settings, attempts: Sequence[Attempt]) -> Asks[None]:
    """The verifier's score of each attempt; one that is no number counts as none."""
    assert settings.value is not None
    shown = [attempt.prefix for attempt in attempts]
    if settings.sees == "question":
        shown = [replace(prefix, prompt=question.prompt_used, prompt_hash="") for prefix in shown]
    replies = yield Score(shown, by=settings.value)
    for attempt, steps in zip(attempts, replies, strict=True):
        score = aggregate(steps, settings.aggregate) if steps else math.nan
        attempt.score = score if math.isfinite(score) else None


def verified(
    chains: Sequence[Sequence[Attempt]], keys: dict[int, str | None], settings: Settings
) -> Attempt | None:
    """Best of N weighted within each chain, then among the chains' choices."""
    chosen = [weighted(chain, keys, settings) for chain in chains]
    return weighted([attempt for attempt in chosen if attempt is not None], keys, settings)


def weighted(attempts: Sequence[Attempt], keys: dict[int, str | None], settings: Settings) -> Attempt | None:
    """The best attempt of the answer with the highest sum of scores; the first of equals."""
    sums: dict[str, float] = {}
    for attempt in attempts:
        if (key := keys[id(attempt)]) is not None and attempt.score is not None:
            sums[key] = sums.get(key, 0.0) + weight(attempt.score, settings.score_kind)
    if not sums:
        return None
    winner = max(sums, key=lambda key: sums[key])
    members = [one for one in attempts if keys[id(one)] == winner and one.score is not None]
    return max(members, key=lambda one: one.score or 0.0)


def majority(
    chains: Sequence[Sequence[Attempt]], keys: dict[int, str | None], settings: Settings
) -> Attempt | None:
    """The first attempt with the answer that most attempts give; the answer that came first of equals."""
    votes: dict[str, int] = {}
    attempts = [attempt for chain in chains for attempt in chain]
    for attempt in attempts:
        if (key := keys[id(attempt)]) is not None:
            votes[key] = votes.get(key, 0) + 1
    if not votes:
        return None
    winner = max(votes, key=lambda key: votes[key])
    return next(attempt for attempt in attempts if keys[id(attempt)] == winner)


def rows(
    question: Question, settings: Settings, chains: Sequence[Sequence[Attempt]], chosen: Attempt | None
) -> list[Trace | Node | Dropped]:
    """One Trace an attempt; its id names its turn."""
    found: list[Trace | Node | Dropped] = []
    number = 0
    for chain in chains:
        parent: str | None = None
        for attempt in chain:
            trace = to_trace(
                attempt.question,
                attempt.prefix,
                number,
                temperature=settings.temperature,
                cut=settings.cuts,
                tokens_charged=attempt.prefix.num_tokens,
                score=attempt.score,
                parent=parent,
                chosen=attempt is chosen,
            )
            found.append(trace)
            parent, number = trace.id, number + 1
    return found
