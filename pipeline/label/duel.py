"""Traces against one another: a model is asked of every two which is better, and the Enhanced Borda Count
makes one order of what it says (LLaMA-Berry, arXiv:2410.02884, sections 2.2 and 2.3).

The value of a trace is its Q_g, 1 for the best of the problem and 0 for the last; no gold is seen. Each two
are shown in both orders and the answers averaged, for a judge likes one place better; `orders: one` halves
the cost. n traces cost n (n - 1) questions, so `most` bounds them.

Any policy may judge; LLaMA-Berry's pairwise preference model is one with `head: pair`, which `select/duels`
and `train/dpo` teach to answer. {question} is the traces' prompt as training shows it; where the task chats,
it is the question's own message, and the whole stands in the judge's template.

Not done: LLaMA-Berry's local value Q_l, which needs its search.
"""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Choose, about
from pipeline.label import LabelSettings
from pipeline.rows import Dropped, Group, Label, Problem
from pipeline.settings import Cost, JudgeName, Length
from pipeline.tasks import BaseTask
from pipeline.vote._preferences import PairQuestion, global_values, put, shown


class Settings(PairQuestion, LabelSettings):
    """Who judges, and how it is asked."""

    sees_gold: ClassVar[bool] = False

    by: JudgeName = Field("policy", description="the model that says which of two is better")
    orders: Literal["both", "one"] = "both"
    most: int = Field(8, ge=2, description="traces a problem that are compared, the first ones")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each two read once or twice, with the question."""
        number = min(given, self.most)
        times = number * (number - 1) / (1 if self.orders == "both" else 2)
        return Cost({}, {self.by: max(0.0, times) * 3 * task.typical_tokens}, given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label for each trace that was compared, a Dropped for each other."""
    reasons = {trace.id: "no_answer" for trace in group.traces if trace.answer is None}
    running = [trace for trace in group.traces if trace.id not in reasons]
    reasons |= {trace.id: "over_limit" for trace in running[settings.most :]}
    running = running[: settings.most]
    rows: list[Label | Dropped] = [
        Dropped(problem_id=problem.id, what=what, reason=reason) for what, reason in reasons.items()
    ]
    pairs = list(combinations(range(len(running)), 2))
    orders = [*pairs, *((j, i) for i, j in pairs)] if settings.orders == "both" else pairs
    better = [[0.5] * len(running) for _ in running]
    if orders:
        chats = task.settings.chat
        content = task.messages(problem.question)[-1]["content"] if chats else ""
        texts = [
            shown(settings.prompt, content or running[i].prompt, running[i].text, running[j].text)
            for i, j in orders
        ]
        asked = yield from put(about(problem.id, problem.question), texts, settings.by, chats)
        replies = yield Choose(asked, options=settings.options, by=settings.by)
        said = {both: yes / (yes + no) for both, (yes, no) in zip(orders, replies, strict=True)}
        for i, j in pairs:
            other = 1 - said[j, i] if (j, i) in said else said[i, j]
            better[i][j] = (said[i, j] + other) / 2
            better[j][i] = 1 - better[i][j]
    rows += [
        Label(problem_id=problem.id, trace_id=trace.id, value=value, labeller="duel")
        for trace, value in zip(running, global_values(better), strict=True)
    ]
    return rows
