"""Gold rationales as traces: what a loop that writes its own is held against.

No model writes. Each problem's gold solution, in the task's own form (`gold_completion`), becomes one trace,
so that a control trains on human rationales through the very stages that the loop uses (a comparison of
STaR's, arXiv:2203.14465, section 4). Its token ids are left to the trainer, so give the selector
`min_tokens: 0`.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.asks import Asks
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Problem, Question, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask


class Settings(GenerateSettings):
    """Nothing to set; `by` names the model whose template the prompts are rendered in."""

    sees_gold: ClassVar[bool] = True

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost(traces=given + 1)


def generate(
    question: Question, settings: Settings, given: Group | None, *, problem: Problem, task: BaseTask
) -> Asks[list[Trace | Node | Dropped]]:
    """One trace, or a Dropped (`no_gold`) where nobody knows a rationale."""
    yield from ()  # asks nothing
    text = task.gold_completion(problem)
    if not text:
        return [Dropped(problem_id=question.id, what=question.id, reason="no_gold")]
    trace = Trace(
        problem_id=question.id,
        id=f"{question.id}/0",
        prompt=question.prompt,
        text=text,
        token_ids=[],
        step_ends=[],
        steps=task.steps(text),
        answer=task.extract(text),
        tokens_charged=0,
        model="gold",
    )
    return [trace]
