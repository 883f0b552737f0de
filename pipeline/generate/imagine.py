"""New problems from old ones: each question is shown, the model writes others like it, and what the task
can read as a question becomes a Problem without answer (self-instruct as in Self-Rewarding,
arXiv:2401.10020, section 2.2, and AlphaLLM, arXiv:2404.12253, section 4.2; proposers of R-Zero,
arXiv:2508.05004, and Absolute Zero, arXiv:2505.03335).

A generate stage that reads this one works on its problems. The stage itself drops those that stand in a
split (`stages/imagined.py`), which a generator cannot see.

`reward` makes the proposer learn. Each question is answered `votes` times by `solver`; p is the share of
the most frequent answer, which stands for the accuracy that nobody knows. Each proposal's Trace gets a
Label:

- r_zero: min(p, 1 - p) - its cluster's share of the proposals (arXiv:2508.05004, 3.1); no question: -1
- absolute_zero: 1 - p, and 0 where p is 0 (arXiv:2505.03335, eq. 4, with p for the executor's accuracy); no
  question: -1

Clusters are of the proposals at one problem (R-Zero: of the whole batch), by average linkage of 1 - BLEU
below `near`. `band` keeps the problems that are neither easy nor hopeless (R-Zero trains its solver on p
from .3 to .8). Answers count as equal where their texts are. Not here: several questions shown at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Continue, Prefix, Said, Turn, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName

Rows = list[Trace | Problem | Label | Dropped]
INVALID = -1.0  #: reward of what is no question of the task
SMOOTH = 0.1  #: BLEU: what an n-gram order without a match counts (nltk's method 1)


class Settings(GenerateSettings):
    """How many are proposed, and what for."""

    draws: ClassVar[tuple[str, ...]] = ("n", "votes")
    makes: ClassVar[tuple[str, ...]] = ("Trace", "Problem", "Label", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("propose",)

    n: int = Field(4, ge=1, description="questions proposed at each problem")
    reward: Literal["none", "r_zero", "absolute_zero"] = "none"
    solver: PolicyName | None = Field(None, description="who answers the proposals; none: `by`")
    votes: int = Field(10, ge=1, description="answers to each proposal, where `reward` or `band` asks for p")
    band: tuple[float, float] | None = Field(
        None, description="[low, high]: p of the problems that are kept; R-Zero [0.3, 0.8]; none: all"
    )
    near: float = Field(0.5, ge=0, le=1, description="1 - BLEU below which proposals are one cluster")

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.band is not None and not 0 <= self.band[0] <= self.band[1] <= 1:
            raise ValueError(f"band: {list(self.band)}: two shares from 0 to 1, the lower one first")
        return self

    @property
    def kinds_made(self) -> tuple[str, ...]:
        return self.makes if self.reward != "none" else tuple(k for k in self.makes if k != "Label")

    @property
    def solves(self) -> bool:
        """Are proposals answered?"""
        return self.reward != "none" or self.band is not None

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A question is about half as long as an answer; each is answered `votes` times where p is asked."""
        found = Cost({self.by: self.n * 0.5 * self.tokens(task)}, {}, self.n)
        if not self.solves:
            return found
        return found + Cost({self.solver or self.by: self.n * self.votes * self.tokens(task)})


def generate(question: Question, settings: Settings, given: Group | None) -> Asks[Rows]:
    """A Trace for each proposal, a Problem for each question among them that may be worked on, and a Dropped
    for each other (`no_question`, `repeated`, `outside_band`).
    """
    turn = yield Turn(question, "propose", [Said(question.question)], by=settings.by)
    written = yield Continue(
        start(turn),
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )
    cut = settings.cuts
    traces = [
        to_trace(turn, p, i, temperature=settings.temperature, cut=cut, tokens_charged=p.num_tokens)
        for i, p in enumerate(written)
    ]
    asked = [trace.answer if trace.finish in ("eos", "stop") else None for trace in traces]
    fresh = list(dict.fromkeys(text for text in asked if text is not None))
    shares = (yield from answered_alike(question, fresh, settings)) if settings.solves and fresh else {}
    rows: Rows = list(traces)
    seen: set[str] = set()
    for trace, text in zip(traces, asked, strict=True):
        reason = fate(text, seen, shares, settings)
        if reason:
            rows.append(Dropped(problem_id=question.id, what=f"{trace.id}.q", reason=reason))
        else:
            assert text is not None
            rows.append(Problem(id=f"{trace.id}.q", question=text, answer=None, source=question.task))
        seen.update([] if text is None else [text])
    if settings.reward != "none":
        values = rewards(asked, shares, settings)
        rows += [
            Label(
                problem_id=question.id,
                trace_id=trace.id,
                value=value,
                reason="" if text else "no_question",
                labeller=f"imagine/{settings.reward}",
            )
            for trace, text, value in zip(traces, asked, values, strict=True)
        ]
    return rows


def fate(text: str | None, seen: set[str], shares: dict[str, float], settings: Settings) -> str:
    """Why a proposal is no new problem; "" where it is one."""
    if text is None:
        return "no_question"
    if text in seen:
        return "repeated"
    low, high = settings.band or (0.0, 1.0)
    return "outside_band" if settings.band and not low <= shares[text] <= high else ""


def answered_alike(question: Question, texts: Sequence[str], settings: Settings) -> Asks[dict[str, float]]:
    """p of each question: the share of its solver's answers that the most frequent one has."""
    by = settings.solver or settings.by
    shown = yield All(*(Turn(replace(question, question=text), "", [], by=by) for text in texts))
    replies: list[Prefix] = yield Continue([start(one) for one in shown], by=by, n=settings.votes)
    found = {}
    for place, text in enumerate(texts):
        mine = replies[place * settings.votes : (place + 1) * settings.votes]
        votes = Counter(p.answer for p in mine if p.answer is not None and p.finish in ("eos", "stop"))
        found[text] = max(votes.values(), default=0) / settings.votes
    return found


def rewards(asked: Sequence[str | None], shares: dict[str, float], settings: Settings) -> list[float]:
    """The reward of each proposal (r_zero by hand: p .6, cluster 2 of 4 -> .4 - .5 = -.1)."""
    texts = [text for text in asked if text is not None]
    repeated = cluster_shares(texts, settings.near) if settings.reward == "r_zero" else [0.0] * len(texts)
    penalty = iter(repeated)
    found = []
    for text in asked:
        if text is None:
            found.append(INVALID)
        elif settings.reward == "r_zero":
            p = shares[text]
            found.append(min(p, 1 - p) - next(penalty) * len(texts) / len(asked))
        else:
            found.append(1 - shares[text] if shares[text] > 0 else 0.0)
    return found


def cluster_shares(texts: Sequence[str], near: float) -> list[float]:
    """Of each text the share of all that its cluster has: average linkage of 1 - BLEU, up to `near`."""
    far = [[1 - (bleu(a, b) + bleu(b, a)) / 2 for b in texts] for a in texts]
    clusters = [[place] for place in range(len(texts))]

    def apart(one: list[int], other: list[int]) -> float:
        return math.fsum(far[i][j] for i in one for j in other) / (len(one) * len(other))

    while len(clusters) > 1:
        pairs = [(apart(a, b), i, j) for i, a in enumerate(clusters) for j, b in enumerate(clusters) if i < j]
        least, i, j = min(pairs)
        if least >= near:
            break
        clusters[i] += clusters.pop(j)
    size = {place: len(cluster) for cluster in clusters for place in cluster}
    return [size[place] / len(texts) for place in range(len(texts))]


def bleu(said: str, reference: str) -> float:
    """Sentence BLEU over words, n-grams up to 4 or as long as the shorter text, an order without a match
    counting 0.1 (by hand: `a b c d` of `a b c e`: (3/4 2/3 1/2 .1/1)^(1/4) = 0.3976)."""
    ours, theirs = said.split(), reference.split()
    most = min(4, len(ours), len(theirs))
    if not most:
        return 0.0
    total = 0.0
    for n in range(1, most + 1):
        mine = Counter(tuple(ours[i : i + n]) for i in range(len(ours) - n + 1))
        other = Counter(tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1))
        matched = sum((mine & other).values())
        total += math.log((matched or SMOOTH) / mine.total())
    brevity = min(0.0, 1 - len(theirs) / len(ours))
    return math.exp(brevity + total / most)
