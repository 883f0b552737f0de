"""Pairs -> questions for a judge of two: which of these completions is better?

LLaMA-Berry (arXiv:2410.02884, section 2.2) trains its pairwise preference model by DPO on such rows: the
prompt shows both completions, the chosen answer is the right one of two words. Each pair makes two rows, one
in each order, so that no place is the better one. Train a model of `head: pair` on them (`train: dpo`) and
ask it by `label: duel` with the same `prompt` and `options`. Over a task that chats `by` names that model:
its template stands around the question then, as when it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, about
from pipeline.rows import Dropped, Example, Group, Pair, StepExample, sources_of
from pipeline.select import SelectSettings
from pipeline.settings import ModelName, added
from pipeline.tasks import BaseTask
from pipeline.vote._preferences import PairQuestion, put, shown


class Settings(PairQuestion, SelectSettings):
    """How a judge is asked."""

    needs: ClassVar[tuple[str, ...]] = ("Pair",)
    makes: ClassVar[tuple[str, ...]] = ("Pair", "Dropped")

    most: int | None = Field(None, ge=1, description="pairs a problem, the first ones; none: all")
    by: ModelName | None = added(
        None, description="over a task that chats: in whose template the question stands, who learns to judge"
    )

    @property
    def fault_over_chat(self) -> str:
        return "" if self.by else "by: the task chats: name the model that learns to judge (by: ranker)"


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> Asks[list[Example | StepExample | Pair | Dropped]]:
    """Two rows a pair, and a Dropped for each trace that is in none. Text is split into tokens by the
    trainer, for nobody has written these rows.
    """
    rows: list[Example | StepExample | Pair | Dropped] = []
    pairs = [row for row in group.examples if isinstance(row, Pair)]
    question = about(group.problem_id, group.question)
    content = task.messages(group.question)[-1]["content"] if task.settings.chat else ""
    for row in pairs[: settings.most]:
        for flipped in (False, True):
            first, second = (row.rejected, row.chosen) if flipped else (row.chosen, row.rejected)
            right, wrong = settings.options[::-1] if flipped else settings.options
            text = shown(settings.prompt, content or row.prompt, first, second)
            [asked] = yield from put(question, [text], settings.by or "", task.settings.chat)
            rows.append(
                Pair(
                    problem_id=row.problem_id,
                    prompt=asked.prompt,
                    chosen=right,
                    rejected=wrong,
                    margin=row.margin,
                    confidence=row.confidence,
                    trace_id=row.trace_id,
                    rejected_id=row.rejected_id,
                )
            )
    named = {name for row in rows for name in sources_of(row)}
    rows += [
        Dropped(problem_id=group.problem_id, what=trace.id, reason="no_pair")
        for trace in group.traces
        if trace.id not in named
    ]
    return rows
