"""Problems that a stage imagined: which of them may stand, and where they are found again.

A generator that writes Problem rows does not see the splits; here each of its questions is read by the task
(`BaseTask.proposed`), which gives it its name, and held against every problem of the run. One that stands in
a split, or that the hash of its question would put into dev or test in another run of the task, is dropped
with its reason: a test problem that was trained on measures nothing. A generate stage that reads such a stage
works on its problems (`inputs.chunks_imagined`), whose answers nobody knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.rows import Dropped, Problem
from pipeline.run.run import Run
from pipeline.tasks import BaseTask, normalise, split_of

if TYPE_CHECKING:
    from pipeline.stages.work import Work


def imagined_in(run: Run) -> dict[str, Problem]:
    """Every problem that the run's stages imagined so far, by id; of equal questions the first one's row."""
    found: dict[str, Problem] = {}
    for stage in run.recipe.stages:
        if stage.room != "generate" or not stage.built or "Problem" not in stage.settings.kinds_made:
            continue
        for number in range(run.recipe.rounds + 1):
            folder = run.stage_folder(stage, number)
            if folder.manifest() is not None:
                for problem in folder.read(Problem):
                    found.setdefault(problem.id, problem)
    return found


def admit(work: Work) -> Callable[[str, list[Any]], list[Any]]:
    """Completes a problem's rows: each imagined Problem as the task reads it, or a Dropped and why."""
    known: dict[str, str] = {}

    def finish(problem_id: str, rows: list[Any]) -> list[Any]:
        if not any(isinstance(row, Problem) for row in rows):
            return rows
        if not known:
            known.update({normalise(p.question): p.split for p in work.run.problems.values()})
        task = work.run.task_of(work.problem(problem_id))
        return [admitted(problem_id, row, task, known) if isinstance(row, Problem) else row for row in rows]

    return finish


def admitted(origin: str, row: Problem, task: BaseTask, known: Mapping[str, str]) -> Problem | Dropped:
    """One imagined problem as the task reads it, or why it may not stand. origin: the problem that it was
    imagined at; known: normalised question -> split, of the run's own problems."""
    found = task.proposed(row.question)
    reason = "no_question"
    if found is not None:
        split, by_hash = known.get(normalise(found.question)), split_of(found.question)
        if split is None and by_hash == "train":
            return dataclasses.replace(found, difficulty=row.difficulty, split="train")
        reason = f"stands_in_{split}" if split else f"hash_says_{by_hash}"
    return Dropped(problem_id=origin, what=f"{origin}/{found.id if found else row.id}", reason=reason)
