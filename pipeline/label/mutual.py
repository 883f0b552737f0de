"""rStar's discriminator (Qi et al., arXiv:2408.06195, section 3.3): a trace is believed where a second model,
given its beginning, comes to the same answer.

Each trace is cut at `masks` places between `keep` of its tokens; the partner completes each; a trace survives
where at least `agree` of the completions give its own answer. An answer's score is its survivors' share of
all survivors' scores plus the share of its traces that survived, and each survivor's value is half of that,
from 0 to 1; the others get 0 (`inconsistent`). Where none survives, the generator's shares decide. Where one
answer has `sure` of all scores, nobody is asked.

`evaluate: accuracy` with `choose: label` answers by these values. No gold is seen, unlike in the released
code: there a problem of which no survivor is right has no winner, and its caller falls back on the
generator's majority, which can only raise the accuracy. The partner reads the prompt that training shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Continue, Cut, Prefix, prefix_of
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask
from pipeline.vote import keys

Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(LabelSettings):
    """The paper's: four beginnings of 20 to 50 %, one completion each, half of which must agree."""

    sees_gold: ClassVar[bool] = False
    draws: ClassVar[tuple[str, ...]] = ("n",)

    by: PolicyName = Field("partner", description="the model that completes")
    writer: PolicyName = Field("policy", description="whose tokens the traces are")
    masks: int = Field(4, ge=1, description="beginnings of a trace that are completed")
    keep: tuple[Share, Share] = Field((0.2, 0.5), description="[shortest, longest] beginning, of its tokens")
    n: int = Field(1, ge=1, description="completions of each")
    agree: float = Field(0.5, gt=0, le=1, description="share of the completions that a survivor needs")
    sure: float = Field(0.999, gt=0, description="an answer with this share of the scores is not asked about")
    confidence: Literal["score", "count"] = Field(
        "score", description="what an answer's share is of: the traces' scores, or their number"
    )
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")

    @field_validator("keep")
    @classmethod
    def _ordered(cls, keep: tuple[float, float]) -> tuple[float, float]:
        if keep[0] > keep[1]:
            raise ValueError(f"{list(keep)}: the shortest comes first")
        return keep

    @property
    def draws_alike(self) -> bool:
        return self.temperature == 0

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Every trace completed from each of its beginnings."""
        rest = 1 - sum(self.keep) / 2
        return Cost({self.by: given * self.masks * self.n * rest * task.typical_tokens}, {}, given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label for each trace with an answer, a Dropped for each other."""
    candidates = [trace for trace in group.traces if prefix_of(trace).said is not None and trace.token_ids]
    held = {trace.id for trace in candidates}
    rows: list[Label | Dropped] = [
        dropped(trace, "no_answer") for trace in group.traces if trace.id not in held
    ]
    if not candidates:
        return rows
    said = [str(key) for key in keys([trace.answer for trace in candidates], task.same)]
    weights = [weight_of(trace, settings) for trace in candidates]
    before = shares(said, weights, [True] * len(said))
    certain = max(before, key=lambda key: before[key])
    if before[certain] >= settings.sure:
        survives = [key == certain for key in said]
    else:
        survives = yield from consistent(candidates, said, settings, task)
    for trace, value, alive in zip(candidates, values(said, weights, survives), survives, strict=True):
        rows.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                value=value,
                reason="" if alive else "inconsistent",
                labeller="mutual",
            )
        )
    return rows


def consistent(
    candidates: Sequence[Trace], said: Sequence[str], settings: Settings, task: BaseTask
) -> Asks[list[bool]]:
    """For each trace: do enough completions of its beginnings give its answer?"""
    cut = yield All(
        *(
            Cut(prefix_of(trace), at=places(len(trace.token_ids), settings), by=settings.writer)
            for trace in candidates
        )
    )
    begun: list[Prefix] = [prefix for prefixes in cut for prefix in prefixes]
    ends = yield Continue(
        begun,
        by=settings.by,
        n=settings.n,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
    )
    each, found = settings.masks * settings.n, []
    for number, answer in enumerate(said):
        mine = ends[number * each : (number + 1) * each]
        agreeing = sum(end.said is not None and task.same(end.said, answer) for end in mine)
        found.append(agreeing >= settings.agree * each)
    return found


def places(num_tokens: int, settings: Settings) -> list[int]:
    """Where a trace is cut: evenly from the shortest to the longest beginning, never the whole."""
    low, high = settings.keep
    apart = (high - low) / (settings.masks - 1) if settings.masks > 1 else 0.0
    kept = (math.ceil(num_tokens * (low + number * apart) - 1e-9) for number in range(settings.masks))
    return [min(number, num_tokens - 1) for number in kept]


def weight_of(trace: Trace, settings: Settings) -> float:
    """What a trace counts for its answer: its generator's score, where that is a number above 0."""
    if settings.confidence == "count" or trace.score is None or not math.isfinite(trace.score):
        return 1.0
    return max(0.0, trace.score)


def shares(said: Sequence[str], weights: Sequence[float], counted: Sequence[bool]) -> dict[str, float]:
    """Each answer's share of the weights of those that are counted; of their number where all weigh 0."""
    sums = dict.fromkeys(said, 0.0)
    total = math.fsum(weight for weight, counts in zip(weights, counted, strict=True) if counts)
    for key, weight, counts in zip(said, weights, counted, strict=True):
        if counts:
            sums[key] += weight / total if total else 1 / sum(counted)
    return sums


def values(said: Sequence[str], weights: Sequence[float], survives: Sequence[bool]) -> list[float]:
    """Half of confidence plus survival rate of each survivor's answer; 0 for the others. Without survivors
    half of the generator's own confidence.
    """
    nobody = not any(survives)
    confidence = shares(said, weights, [True] * len(said) if nobody else survives)
    alive = Counter(key for key, lives in zip(said, survives, strict=True) if lives)
    rate = {key: alive[key] / count for key, count in Counter(said).items()}
    return [
        (confidence[key] + rate[key]) / 2 if lives or nobody else 0.0
        for key, lives in zip(said, survives, strict=True)
    ]
