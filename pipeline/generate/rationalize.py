"""Rationalization: a second try at the problems that nobody solved, with the answer as a hint (STaR,
arXiv:2203.14465, section 3.3).

The loop renders the task's hint into `question.prompt_used`; the trace is stored under `question.prompt`,
which has none, so training never shows it. A trace that mentions the hint is refused (`hint_leak`): trained
on, it would teach the model to expect one. Only failed items get a hint, and all of them do (the paper's
code drops the last partial batch of failures).

It does not check the answers: a label stage does, as for any other trace.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Continue, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Problem, Question, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask


class Settings(GenerateSettings):
    """STaR decodes nearly greedily: temperature 0.01, top-p 0.9 (the authors' device_inference.py)."""

    draws: ClassVar[tuple[str, ...]] = ("n",)

    sees_gold: ClassVar[bool] = True

    where: Literal["all", "unsolved"] = "unsolved"
    n: int = Field(1, ge=1, description="hinted completions a problem")
    temperature: float = Field(0.01, ge=0, le=10)
    top_p: float = Field(0.9, gt=0, le=1)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Where every problem needs a second try."""
        return Cost({self.by: self.n * self.tokens(task)}, {}, given + self.n)


def generate(
    question: Question, settings: Settings, given: Group | None, *, problem: Problem, task: BaseTask
) -> Asks[list[Trace | Node | Dropped]]:
    """n hinted traces, less those that give the hint away."""
    if settings.where == "unsolved" and given is not None and given.solved:
        return [Dropped(problem_id=question.id, what=question.id, reason="solved")]
    if not question.hinted:  # no gold answer, or a task without hints
        return [Dropped(problem_id=question.id, what=question.id, reason="no_hint")]
    written = yield Continue(
        start(question),
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )
    rows: list[Trace | Node | Dropped] = []
    first = len(given.traces) if given is not None else 0  # numbers go on after the traces of the first try
    for number, prefix in enumerate(written, first):
        trace = to_trace(
            question,
            prefix,
            number,
            temperature=settings.temperature,
            cut=settings.cuts,
            tokens_charged=prefix.num_tokens,
        )
        if task.leaks(problem, trace.text):
            rows.append(Dropped(problem_id=question.id, what=trace.id, reason="hint_leak"))
        else:
            rows.append(trace)
    return rows
