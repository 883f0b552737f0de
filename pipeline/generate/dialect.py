"""Conversations that rules make, as traces: what a model learns a dialect from, or keeps it by.

    talk:  {generate: dialect, by: policy, n: 2}
    words: {select: unfiltered, from: talk, max_per_problem: null}
    learn: {train: sft, model: policy, from: [rows, words]}

Training on answers alone erodes what a model knows of critiques and second tries; a few such rows in each
training keep it. On a model that never had it they are a warm-up, like the meta-skill stage of SELF
(arXiv:2310.00533). The task makes them (`BaseTask.conversation`): answers right, wrong and spoiled, and
what is to be said of them. They are about questions of its own, never of dev or test; the stage's problems
name the draws and count the rows. Prompts are rendered as any `Turn` is, for the model `by`. No model
writes, and token ids are left to the trainer.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Turn
from pipeline.errors import RecipeError
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Problem, Question, Trace, act_id
from pipeline.settings import Cost, Length, added
from pipeline.tasks import BaseTask

TRIES = 1000  #: draws until a wanted act comes up


class Settings(GenerateSettings):
    """How many, of which acts, and how good the critic is that they teach."""

    sees_gold: ClassVar[bool] = True  # rules know what is right, and the task is asked for them
    shows_hint: ClassVar[bool] = False
    acts: ClassVar[tuple[str, ...]] = ("critique", "revise", "compare", "judge", "propose")

    n: int = Field(1, ge=1, description="turns for each problem of the stage")
    only: tuple[str, ...] = Field((), description="of these acts alone: critique, revise, ...; none: all")
    holed: bool = Field(False, description="the critic believes every step and looks at the end alone")
    within: int = Field(0, ge=0, description="the critic calls an end right that is so near")
    pairs: bool = added(False, description="as for a seed that is to judge two answers (`talk=1&pairs=1`)")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost(traces=given + self.n)


def generate(
    question: Question, settings: Settings, given: Group | None, *, problem: Problem, task: BaseTask
) -> Asks[list[Trace | Node | Dropped]]:
    """n turns, or a Dropped (`no_dialect`) where the task makes none.

    Raises:
        RecipeError: the task's conversations have none of the wanted acts.
    """
    draw = random.Random(question.id)
    rows: list[Trace | Node | Dropped] = []
    more = {"pairs": True} if settings.pairs else {}
    while len(rows) < settings.n:
        for _ in range(TRIES):
            made = task.conversation(draw, holed=settings.holed, within=settings.within, **more)
            if made is None:
                return [Dropped(problem_id=question.id, what=question.id, reason="no_dialect")]
            if not settings.only or made.act in settings.only:
                break
        else:
            raise RecipeError(
                f"only: [{', '.join(settings.only)}]: the conversations of task {task.name} have no such turn"
            )
        asked = replace(question, question=made.question)
        turn = yield Turn(asked, made.act, made.history, by=settings.by)
        rows.append(
            Trace(
                problem_id=question.id,
                id=act_id(question.id, made.act, len(rows)),
                prompt=turn.prompt,
                text=made.said,
                token_ids=[],
                step_ends=[],
                steps=task.steps(made.said),
                answer=task.extract_turn(made.act, made.said),
                turn=turn.turn,
                tokens_charged=0,
                model="rules",
            )
        )
    return rows
