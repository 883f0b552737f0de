"""One pool of samples of a problem, drawn and scored once: what N of them would have given, for every N.

pass@N and best of N are exact means over all sub-samples (search-and-learn reports powers of two);
votes are means over sub-samples drawn at random, by the rules of `vote/` themselves. All are unbiased, and
all figures of a problem share the pool, so that they can be paired.

Not here: drawing and scoring (`accuracy.py`), intervals over problems (`intervals.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.intervals import best_at
from pipeline.rows import Trace
from pipeline.vote import Candidate, Rule, keys
from pipeline.vote import rule as vote_rule
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of


@dataclass(frozen=True)
class Pool:
    """The samples of one problem. `steps`: the reward model's scores of each; `same`: the task's equality."""

    traces: Sequence[Trace]
    right: Sequence[bool]
    steps: Sequence[Sequence[float | None]]
    same: Callable[[str, str], bool]

    @property
    def tokens(self) -> float:
        """Mean tokens of a sample."""
        return sum(len(trace.token_ids) for trace in self.traces) / len(self.traces)

    def scores(self, rule: Aggregate) -> list[float]:
        """One score a trace; -infinity where it has no answer or no finite score, so it is never chosen."""
        found = []
        for trace, steps in zip(self.traces, self.steps, strict=True):
            known = [score for score in steps if score is not None]
            score = aggregate(known, rule) if known and trace.answer is not None else -math.inf
            found.append(score if math.isfinite(score) else -math.inf)
        return found

    def best_at(self, n: float, rule: Aggregate = "last") -> float:
        """The chance that the best scored of n is right; a broken n, as a budget of tokens gives it, lies
        between its neighbours.
        """
        scores, below = self.scores(rule), math.floor(n)
        low = best_at(scores, self.right, below)
        if n == below:
            return low
        return low + (n - below) * (best_at(scores, self.right, below + 1) - low)

    def votes(
        self,
        rules: Sequence[str | Rule],
        sizes: Sequence[int],
        draws: int,
        seed: int,
        rule: Aggregate = "last",
    ) -> dict[tuple[str, int], float]:
        """The chance of a right vote among n of the pool, by (rule of vote/, n): the mean over `draws` random
        orders, of which the first n vote.
        """
        spelled, scores = keys([trace.answer for trace in self.traces], self.same), self.scores(rule)
        candidates = [
            Candidate(
                trace.answer, score, math.fsum(trace.logprobs), key or "", kind_of(rule), len(trace.logprobs)
            )
            for trace, score, key in zip(self.traces, scores, spelled, strict=True)
        ]
        verdicts = {t.answer: ok for t, ok in zip(self.traces, self.right, strict=True)}
        ready = [vote_rule(each) if isinstance(each, str) else each for each in rules]
        vote = {each.label: each for each in ready}
        generator = np.random.Generator(np.random.PCG64(seed))
        found = dict.fromkeys([(name, n) for name in vote for n in sizes], 0.0)
        for _ in range(draws):
            order = [candidates[i] for i in generator.permutation(len(candidates))]
            for name, n in found:
                winner = vote[name](order[:n])
                found[name, n] += (winner is not None and verdicts[winner]) / draws
        return found
