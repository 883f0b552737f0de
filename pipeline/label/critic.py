"""Three critics of a state, joined: a value, a step's reward, and how roll-outs end (AlphaLLM,
arXiv:2404.12253, section 4.4).

    s(state) = (b_v v(state) + b_p PRM(state) + b_o E[ORM(roll-out)]) / (b_v + b_p + b_o)

`value` and `prm` are asked of the state after each step; for `outcome` n fast roll-outs of `by` are written
from there and each is scored whole; after the last step of a trace that ended it is the trace itself that is
scored. The paper adds the three with all b = 1; the sum is divided by the weights here, so that a Label
holds a number from 0 to 1 whoever is asked. `step_scores` is s after each step, `value` the last one. Its
released code leaves the PRM out (`weights: [1, 0, 1]`).

No gold is seen: the critics say what a right end is worth. A critic that is not named has no weight. The
paper's ORM may use a tool that calculates; here it is a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Continue, Prefix, Score, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName, RewardModelName
from pipeline.tasks import BaseTask

Weight = Annotated[float, Field(ge=0)]


class Settings(LabelSettings):
    """The critics, and how much each counts."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    draws: ClassVar[tuple[str, ...]] = ("n",)

    value: RewardModelName | None = Field(None, description="the value critic: what a state is worth")
    prm: RewardModelName | None = Field(None, description="the step critic: was the last step good?")
    outcome: RewardModelName | None = Field(None, description="the outcome critic: is a whole answer right?")
    by: PolicyName = Field("policy", description="who writes the roll-outs that `outcome` scores")
    n: int = Field(4, ge=1, description="roll-outs a state; 4 in the paper")
    temperature: float = Field(1.0, ge=0, le=10, description="of the roll-outs")
    weights: tuple[Weight, Weight, Weight] = Field(
        (1.0, 1.0, 1.0), description="of value, prm and outcome; all 1 in the paper, 1, 0, 1 in its code"
    )

    @property
    def asked(self) -> list[str | None]:
        """Value, PRM and ORM, where they are named and count."""
        named = (self.value, self.prm, self.outcome)
        return [name if weight else None for name, weight in zip(named, self.weights, strict=True)]

    @model_validator(mode="after")
    def _someone_counts(self) -> Settings:
        if not any(self.asked):
            raise ValueError("no critic has a weight: name value, prm or outcome, with a weight above 0")
        return self

    @property
    def draws_alike(self) -> bool:
        return self.temperature == 0

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each trace read by the step critics; n roll-outs of half a completion after each step but the
        last."""
        steps = given * max(task.typical_steps - 1, 0.0)
        rolled = steps * self.n * task.typical_tokens / 2
        whole = given * task.typical_tokens
        found = Cost({self.by: rolled} if self.asked[2] else {}, {}, given)
        for name, tokens in zip(self.asked, (whole, whole, whole + 2 * rolled), strict=True):
            found += Cost(read={name: tokens} if name else {})
        return found


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each attempt that has steps, a Dropped for the others."""
    rows: list[Label | Trace | Dropped] = []
    kept: list[Trace] = []
    for trace in group.traces:
        if not trace.is_attempt:
            rows.append(dropped(trace, "no_attempt"))
        elif not trace.step_ends:
            rows.append(dropped(trace, "no_steps"))
        else:
            kept.append(trace)
    if not kept:
        return rows
    value, prm, outcome = settings.asked
    whole = [prefix_of(trace) for trace in kept]
    asks = [Score(whole, by=name) for name in (value, prm) if name]
    found = iter((yield All(*asks)) if asks else [])
    columns = [next(found) if name else None for name in (value, prm)]
    columns.append((yield from _ends(kept, outcome, settings)) if outcome else None)
    for place, trace in enumerate(kept):
        joined = [
            join([None if each is None else each[place][step] for each in columns], settings.weights)
            for step in range(len(trace.step_ends))
        ]
        rows.append(
            Label(
                problem_id=trace.problem_id,
                trace_id=trace.id,
                step_scores=list(joined),
                value=joined[-1],
                labeller="critic",
            )
        )
    return rows


def join(scores: Sequence[float | None], weights: Sequence[float]) -> float:
    """The weighted mean of those who were asked (.6, .9, .3 at weights 1, 1, 1 -> .6; at 1, 0, 1 -> .45)."""
    pairs = [(score, weight) for score, weight in zip(scores, weights, strict=True) if score is not None]
    return sum(score * weight for score, weight in pairs) / sum(weight for _, weight in pairs)


def _ends(traces: Sequence[Trace], outcome: str, settings: Settings) -> Asks[list[list[float]]]:
    """By trace and step the mean score of the roll-outs from there."""
    open_ones: list[Prefix] = []
    places: dict[tuple[int, int], int] = {}
    for number, trace in enumerate(traces):
        last = len(trace.step_ends)
        for step in range(1, last + (trace.finish == "budget")):
            places[number, step] = len(open_ones)
            open_ones.append(prefix_of(trace, step))
    rolled: list[Prefix] = []
    if open_ones:
        rolled = yield Continue(open_ones, by=settings.by, n=settings.n, temperature=settings.temperature)
    scored = yield Score([*rolled, *(prefix_of(trace) for trace in traces)], by=outcome)
    last_ones = [steps[-1] if steps else 0.0 for steps in scored]
    found: list[list[float]] = []
    for number, trace in enumerate(traces):
        means = []
        for step in range(1, len(trace.step_ends) + 1):
            at = places.get((number, step))
            if at is None:
                means.append(last_ones[len(rolled) + number])
            else:
                means.append(fmean(last_ones[at * settings.n : (at + 1) * settings.n]))
        found.append(means)
    return found
