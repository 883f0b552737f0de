"""Best of n (Cobbe et al., arXiv:2110.14168): n completions, one chosen by the PRM's aggregated score.

Majority and weighted votes over the same traces are `vote`'s; each trace keeps its `score`.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Continue, Score, closed, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.generate.tree import answered
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length, RewardModelName
from pipeline.vote import Kind
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of


class Settings(GenerateSettings):
    """Cobbe et al. draw 100 at temperature 0.7; search-and-learn takes powers of two and the last step's
    score.
    """

    draws: ClassVar[tuple[str, ...]] = ("n",)

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Dropped")

    n: int = Field(16, ge=1, description="completions a problem")
    value: RewardModelName = Field("prm", description="the model that scores steps")
    aggregate: Aggregate = Field("last", description="step scores -> one score")
    temperature: float = Field(0.7, ge=0, le=10)

    @property
    def score_kind(self) -> Kind:
        return kind_of(self.aggregate)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        tokens = self.n * self.tokens(task)
        return Cost({self.by: tokens}, {self.value: tokens}, self.n)


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """n scored traces, the best with an answer `chosen`; a score that is not a number drops its trace
    (`bad_score`).
    """
    written = yield Continue(
        start(question),
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )
    written = [closed(prefix) for prefix in written]
    replies = yield Score(written, by=settings.value)
    scores = [aggregate(steps, settings.aggregate) if steps else math.nan for steps in replies]
    whole = [i for i, score in enumerate(scores) if math.isfinite(score)]
    best = max(whole, key=lambda i: (answered(written[i]), scores[i]), default=None)
    rows: list[Trace | Node | Dropped] = []
    for i, prefix in enumerate(written):
        if i not in whole:
            rows.append(Dropped(problem_id=question.id, what=f"{question.id}/{i}", reason="bad_score"))
            continue
        rows.append(
            to_trace(
                question,
                prefix,
                i,
                temperature=settings.temperature,
                cut=settings.cuts,
                tokens_charged=prefix.num_tokens,
                score=scores[i],
                chosen=i == best,
            )
        )
    return rows
