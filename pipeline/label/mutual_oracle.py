"""rStar's discriminator as its released code answers (arXiv:2408.06195, run_src/do_discriminate.py,
`_find_winner_filtered`): where two or more traces survive and none of them is right by gold, there is no
winner, and the generator's own most confident answer is taken instead.

**It sees gold**: a control that shows the size of that leak, no method to report. Every metric of an
evaluation that answers by it is named `gold/...` and says so. It draws nothing: it reads what `mutual` said
of the same traces, so that the two differ in the fallback alone.

    agree:  {label: mutual, from: search, by: partner}
    leak:   {label: mutual_oracle, from: agree}
    leaked: {evaluate: accuracy, of: policy, from: leak, split: test, choose: label}
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks
from pipeline.label import LabelSettings, mutual
from pipeline.rows import Dropped, Group, Label, Problem
from pipeline.tasks import BaseTask
from pipeline.vote import keys


class Settings(LabelSettings):
    """What the generator's confidence in an answer is."""

    leaks: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")

    confidence: Literal["score", "count"] = Field(
        "score",
        description="what an answer's share is of, as `mutual` has it",
    )


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """The discriminator's Labels; those of its fallback where gold says that no survivor is right."""
    yield from ()  # asks nothing
    said = {trace.id: one for trace in group.traces if (one := group.label(trace)) and one.value is not None}
    held = [trace for trace in group.traces if trace.id in said]
    if problem.answer is None:
        return [Dropped(problem_id=problem.id, what=trace.id, reason="no_gold") for trace in group.traces]
    left = [trace for trace in held if not said[trace.id].reason]
    rows: list[Label | Dropped] = [
        Dropped(
            problem_id=problem.id, what=trace.id, reason="no_answer" if trace.answer is None else "unlabelled"
        )
        for trace in group.traces
        if trace.id not in said
    ]
    falls_back = len(left) > 1 and not any(task.correct(trace.answer, problem) for trace in left)
    spelled = [str(key) for key in keys([trace.answer for trace in held], task.same)]
    alike = mutual.Settings.model_validate({"confidence": settings.confidence})
    weights = [mutual.weight_of(trace, alike) for trace in held]
    own = mutual.values(spelled, weights, [False] * len(held))
    for trace, value in zip(held, own, strict=True):
        one = replace(said[trace.id], labeller="mutual_oracle")
        rows.append(replace(one, value=value, reason="gold_fallback") if falls_back else one)
    return rows
