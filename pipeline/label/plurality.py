"""A reward without gold: 1 where a trace's answer is the one that most of its problem's traces give.

TTRL (arXiv:2504.16084): 64 votes a problem, 32 of them trained on. Answers that mean the same count together
by the task's equality; ties go to the answer that came first. A majority that is wrong is rewarded all the
same, and a policy that always says one thing gets full reward: hold it against gold where there is some, and
bound a metric of the gate. `correct` stays unknown. Traces without an answer are wrong.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask
from pipeline.vote import keys


class Settings(LabelSettings):
    """Who votes, and who is rewarded."""

    sees_gold: ClassVar[bool] = False

    rewarded: int | None = Field(
        None, ge=1, description="traces a problem that get a reward, the first ones; TTRL 32 of 64; none: all"
    )
    least_share: float = Field(
        0.0, ge=0, le=1, description="of the votes that the winner needs, or the problem is left out"
    )

    @property
    def samples_wanted(self) -> int:
        return 2


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each rewarded trace, a Dropped for the others (`votes_only`, `no_majority`)."""
    yield from ()  # asks nothing
    answers = [None if trace.finish in ("length", "budget") else trace.answer for trace in group.traces]
    votes = keys(answers, task.same)
    counted = Counter(vote for vote in votes if vote is not None)
    winner, number = counted.most_common(1)[0] if counted else (None, 0)
    rows: list[Label | Trace | Dropped] = []
    for place, (trace, vote) in enumerate(zip(group.traces, votes, strict=True)):
        if winner is None or number / len(votes) < settings.least_share:
            rows.append(dropped(trace, "no_majority"))
        elif settings.rewarded is not None and place >= settings.rewarded:
            rows.append(dropped(trace, "votes_only"))
        else:
            rows.append(
                Label(
                    problem_id=trace.problem_id,
                    trace_id=trace.id,
                    value=float(vote == winner),
                    labeller="plurality",
                )
            )
    return rows
