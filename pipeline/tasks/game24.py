"""The game of 24, as in Tree of Thoughts (Yao et al. 2023, arXiv:2305.10601, section 4.1): four numbers of 1
to 13, each used once, into 24.

It is countdown with four numbers and one target, and all of `countdown.py` holds here: three steps, an exact
oracle, `seed://countdown` built for these rules. Numbers on the way are whole and between 1 and `largest`,
so the hands that need fractions or less than 1 are not here: 1,346 of the 1,362 that the paper's source
lists. That is few to learn from; `range: [1, 20]` gives 5,528 and `target: [20, 30]` with 1 to 13 gives
12,631. The paper's measure is the share of hands solved by any of its proposals; here it is accuracy, and
pass@k by `samples`.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.tasks import countdown


class Settings(countdown.Settings):
    """Countdown's settings, with the game's defaults."""

    numbers: int = Field(4, ge=2, le=5, description="how many numbers a problem has")
    range: tuple[int, int] = Field((1, 13), description="[smallest, largest] number")
    target: tuple[int, int] = Field((24, 24), description="[smallest, largest] target")


class Task(countdown.Task):
    """Hands of the game; countdown's rules and oracle."""
