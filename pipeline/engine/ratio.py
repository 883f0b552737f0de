"""`head: implicit`: two language models as one verifier, what was trained and the base that it started from.

The score at a step's end is beta times the sum of log-ratios of the completion's tokens up to there
(Yuan et al., arXiv:2412.01981); beta stands in `prm.json` beside the adapter. Both read each prefix whole:
what a search remembers are keys and values, and these sums want the log-probability of every token.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.errors import Diverged, RecipeError

Logprobs = Callable[[Sequence[tuple[Sequence[int], int]]], list[list[float]]]


def beta_of(name: str, *folders: Path | None) -> float:
    """Beta as the training wrote it.

    Raises:
        RecipeError: nothing beside the weights says it.
    """
    for folder in folders:
        if folder is not None and (folder / "prm.json").exists():
            said = json.loads((folder / "prm.json").read_text()).get("beta")
            if isinstance(said, int | float) and math.isfinite(said) and said > 0:
                return float(said)
    raise RecipeError(
        f"model {name}: head: implicit: no prm.json beside its weights says beta; train it here "
        "(train: implicit), or use another head"
    )


def partial_sums(
    items: Sequence[tuple[Sequence[int], Sequence[int]]],
    begins: Sequence[int],
    beta: float,
    ours: Logprobs,
    start: Logprobs,
) -> list[list[float]]:
    """For each (ids, positions): beta * sum of log-ratios of ids[begin:position + 1], at each position.

    begins: where each completion begins. ours, start: log-probabilities of ids[begin:] under either model.
    """
    asked = [n for n, (_, at) in enumerate(items) if len(at)]
    spans = [(items[n][0][: items[n][1][-1] + 1], max(begins[n], 1)) for n in asked]
    replies: list[list[float]] = [[] for _ in items]
    for n, (_, begin), high, low in zip(asked, spans, ours(spans), start(spans), strict=True):
        sums = [0.0, *accumulate(a - b for a, b in zip(high, low, strict=True))]
        replies[n] = [beta * sums[max(place + 1 - begin, 0)] for place in items[n][1]]
    return replies


def finite(replies: list[list[float]], name: str) -> list[list[float]]:
    """The scores, if all are numbers.

    Raises:
        Diverged: one is not finite.
    """
    if not all(math.isfinite(score) for reply in replies for score in reply):
        raise Diverged(f"model {name}: a score is not finite; the reward model diverged")
    return replies


@functools.cache
def ratio_kind(kind: Any) -> Any:
    """An engine of this kind whose scores are log-ratios to its base."""

    class RatioEngine(kind):
        """Writes as what was trained; scores against its base."""

        def __init__(self, folder: Path, adapter: Path | None = None, **settings: Any) -> None:
            super().__init__(folder, adapter, **settings)
            self.beta = beta_of(self.name, self.adapter, self.folder)
            plain = {**settings, "head": None, "weights_hash": "", "name": f"{self.name}'s start"}
            self.start = kind(folder, None, **plain)
            self.start.min_rows = self.min_rows

        def score(self, items: Any, memories: Any = ()) -> list[list[float]]:
            """As the engine's: the partial sum at each position. Without `memories` nobody says where the
            completion begins, and the whole text counts as one.
            """
            self.start.min_rows, self.start.trim = self.min_rows, self.trim
            begins = [num_prompt for _, num_prompt in memories] or [1] * len(items)
            found = partial_sums(items, begins, self.beta, self.logprobs, self.start.logprobs)
            return finite(found, self.name)

    return RatioEngine
