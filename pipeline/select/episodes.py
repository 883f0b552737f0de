"""Rows of a policy gradient: each trace with its advantage and the log-probabilities that it was drawn by.

An advantage a step is spread over the step's tokens, one a token stays as it is, and one for the whole trace
stands alone. What was not drawn from the policy itself cannot be trained on and is dropped with its reason:
hinted, few_shot (another prompt than training shows), cut (top-p or top-k), tempered (temperature other than
1), no_logprobs, no_advantage.

`where: mixed` leaves out problems whose traces all have the advantage 0 (`equal_group`): DAPO's dynamic
sampling (arXiv:2503.14476, 3.2) in a loop of stages, without its refill. `whiten: true` brings the round's
advantages to mean 0 and deviation 1 over tokens (REINFORCE++, arXiv:2501.03262; PRIME). `truncated: drop` is
DAPO's mask of overlong answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.rows import Dropped, Example, Group, Label, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import example
from pipeline.tasks import BaseTask

Weight = Annotated[float, Field(ge=0)]
TINY = 1e-8
Moments = tuple[int, float, float]  #: tokens, the sum of their advantages, and of the squares


class Settings(SelectSettings):
    """Which traces, and what is done to their advantages."""

    where: Literal["all", "mixed"] = Field(
        "all", description="mixed: only problems whose traces differ in advantage"
    )
    whiten: bool = Field(False, description="advantages of the round to mean 0 and deviation 1 over tokens")
    clip: float | None = Field(None, gt=0, description="no advantage is larger than this, after whitening")
    truncated: Literal["keep", "drop"] = Field(
        "keep", description="traces that a limit cut: keep them as the failures they are, or drop them"
    )
    kl_weight: Weight | tuple[Weight, ...] | None = Field(
        None,
        description="multiplies the training's KL coefficient for these rows, or [first turn, second, ...], "
        "the last number for all later ones; none: 1",
    )
    turns: tuple[int, int | None] = Field((0, None), description="[first, last]: turns that are trained on")

    @field_validator("kl_weight")
    @classmethod
    def _some(cls, weight: Any) -> Any:
        if weight == ():
            raise ValueError("[] weighs no turn: write a number, or [first turn, second, ...]")
        return weight

    @field_validator("turns")
    @classmethod
    def _in_order(cls, turns: tuple[int, int | None]) -> tuple[int, int | None]:
        first, last = turns
        if first < 0 or (last is not None and last < first):
            raise ValueError(f"{[first, last]} holds no turn: [first, last], from 0; null: to the end")
        return turns

    def kl_of(self, turn: int) -> float | None:
        """The KL weight of a turn's rows."""
        if isinstance(self.kl_weight, tuple):
            return self.kl_weight[min(turn, len(self.kl_weight) - 1)]
        return self.kl_weight


def refused(trace: Trace, label: Label | None, settings: Settings) -> str:
    """Why a trace cannot be trained on, "" where it can."""
    first, last = settings.turns
    if trace.turn < first or (last is not None and trace.turn > last):
        return "other_turn"
    for reason, found in (
        ("hinted", trace.hinted),
        ("few_shot", trace.few_shot),
        ("cut", trace.cut),
        ("tempered", trace.temperature != 1),
        ("empty", not trace.token_ids),
        ("truncated", settings.truncated == "drop" and trace.finish in ("length", "budget")),
        ("no_logprobs", not trace.has_logprobs),
        ("no_advantage", by_token(trace, label) is None),
    ):
        if found:
            return reason
    return ""


def by_token(trace: Trace, label: Label | None) -> list[float] | None:
    """A trace's advantage, one for the whole or one a token; None where a labeller gave none that fits."""
    found = label.advantage if label is not None else None
    if not found or any(a is None or not math.isfinite(a) for a in found):
        return None
    if len(found) == 1:
        return [float(found[0] or 0.0)]
    if len(found) == len(trace.token_ids):
        return [float(a or 0.0) for a in found]
    if len(found) != len(trace.step_ends):
        return None
    spread: list[float] = []
    for end, advantage in zip(trace.step_ends, found, strict=True):
        spread += [float(advantage or 0.0)] * (end - len(spread))
    return spread


def usable(group: Group, settings: Settings) -> dict[str, list[float]]:
    """The advantages of a problem's traces that can be trained on, by trace."""
    found: dict[str, list[float]] = {}
    for trace in group.traces:
        label = group.label(trace)
        if not refused(trace, label, settings) and (spread := by_token(trace, label)) is not None:
            found[trace.id] = spread
    if settings.where == "mixed" and all(a == 0 for spread in found.values() for a in spread):
        return {}
    return found


def survey(group: Group, settings: Settings) -> Moments:
    """How many tokens a problem brings, the sum of their advantages and of the squares."""
    if not settings.whiten:
        return 0, 0.0, 0.0
    tokens = {trace.id: len(trace.token_ids) for trace in group.traces}
    number, total, squares = 0, 0.0, 0.0
    for name, spread in usable(group, settings).items():
        times = tokens[name] if len(spread) == 1 else 1
        number += times * len(spread)
        total += times * math.fsum(spread)
        squares += times * math.fsum(a * a for a in spread)
    return number, total, squares


def reduce(surveys: Iterable[Moments], settings: Settings) -> tuple[float, float]:
    """(mean, deviation) of the round's advantages over tokens; (0, 1) where they stay as they are."""
    numbers, totals, squares = zip(*surveys, strict=True) if settings.whiten else ((), (), ())
    number = sum(numbers)
    if number < 2:
        return 0.0, 1.0
    mean = math.fsum(totals) / number
    variance = max(math.fsum(squares) - number * mean * mean, 0.0) / (number - 1)
    return mean, math.sqrt(variance) + TINY


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]], *, whole: Any
) -> list[Example | StepExample | Pair | Dropped]:
    """One Example or one Dropped a trace."""
    mean, deviation = whole
    kept = usable(group, settings)
    rows: list[Example | StepExample | Pair | Dropped] = []
    for trace in group.traces:
        if trace.id not in kept:
            reason = refused(trace, group.label(trace), settings) or "equal_group"
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason))
            continue
        advantage = [(a - mean) / deviation for a in kept[trace.id]]
        if settings.clip is not None:
            advantage = [min(max(a, -settings.clip), settings.clip) for a in advantage]
        rows.append(
            example(
                trace,
                encode,
                advantage=list(advantage),
                old_logprobs=list(trace.logprobs),
                kl_weight=settings.kl_of(trace.turn),
            )
        )
    return rows
