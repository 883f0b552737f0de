"""A stage under way: its run, plan, models and chunks, and what the rooms' runners share."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import RecipeError
from pipeline.models.chat import faults_of
from pipeline.models.registry import Weights
from pipeline.processes.pulse import long
from pipeline.recipe.check import learns
from pipeline.recipe.shape import Stage
from pipeline.rows import Problem, Question, Row
from pipeline.run.run import Run
from pipeline.stages.files import problems_of
from pipeline.stages.imagined import imagined_in
from pipeline.stages.inputs import ChunkReader
from pipeline.store.folder import StageFolder
from pipeline.store.plan import Plan


@dataclass
class Work:
    """A stage under way: what its runner needs."""

    run: Run
    stage: Stage
    round: int
    folder: StageFolder
    plan: Plan
    models: dict[str, Weights]
    reader: ChunkReader
    started: float = field(default_factory=time.monotonic)
    spent: dict[str, Any] = field(default_factory=dict)

    def problem(self, problem_id: str) -> Problem:
        """A prepared problem, or one that a stage imagined."""
        if problem_id in self.brought:
            return self.brought[problem_id]
        known = self.run.problems.get(problem_id)
        return self.imagined[problem_id] if known is None else known

    @functools.cached_property
    def imagined(self) -> dict[str, Problem]:
        """The problems that stages of this run imagined (`stages/imagined.py`)."""
        return imagined_in(self.run)

    @functools.cached_property
    def brought(self) -> dict[str, Problem]:
        """The problems that files of step labels brought (`stages/files.py`)."""
        return problems_of(self.run)

    def stamp(self, row: Any) -> Any:
        """A row with this stage's name and round."""
        return (
            dataclasses.replace(row, round=self.round, stage=self.stage.name) if isinstance(row, Row) else row
        )

    def todo(self) -> Iterator[int]:
        """The chunks that this process does."""
        world = self.run.processes
        done = set(world.share(sorted(self.folder.done()) if world.main else []))
        waiting = [number for number in range(len(self.plan.chunks)) if number not in done]
        yield from world.claim(f"{self.stage.name}-{self.round}", waiting)

    def engine(self, name: str) -> Any:
        """The engine of an acting model."""
        return engine_of(self.run, self.models[name])


def template_of(run: Run, weights: Weights) -> Callable[[list[dict[str, str]]], str | None] | None:
    """The chat template of a model's tokenizer, as a function; None where no task of the recipe chats.

    Raises:
        RecipeError: it refuses the turns of a task.
    """
    chatting = [task.settings for task in run.tasks.values() if task.settings.chat]
    if not chatting:
        return None
    engine = engine_of(run, weights)
    if engine.tokenizer.chat_template and (
        faults := faults_of(engine.tokenizer, chatting, weights.model, run.recipe.talks)
    ):
        raise RecipeError(faults)
    return engine.render


def question_of(
    task: Any, problem: Problem, template: Any, trained: int = -1, hint: bool = False
) -> Question | None:
    """What a generator may see of a problem; None where a hint is wanted and the task has none. trained: the
    round that trained the version which writes; -1: a base.
    """
    from pipeline.tasks.prepare import render

    if hint and task.hinted(problem) is None:
        return None
    shown = render(task, problem, few_shot=task.settings.shots(trained), hint=hint, template=template)
    return Question(
        id=problem.id,
        question=problem.question,
        prompt=shown.prompt,
        prompt_used=shown.prompt_used,
        task=task.name,
        messages=shown.messages,
        few_shot=bool(task.settings.shots(trained)),
        hinted=hint,
        stem=shown.stem,
    )


def make_search(
    task: Any, settings: Any, problem_id: str, asks: Any, stem: str = "", rollouts: Any = None
) -> Any:
    """One problem's search, with the tokens that a completion may have: as the settings say, else (or without
    any) as the task does, drawn as the settings say. stem: what its prompt shares. rollouts: Monte-Carlo
    roll-outs that stand."""
    from pipeline.engine.driver import Search

    most = (settings.completion_limit if settings else 0) or task.settings.max_tokens
    more = rollouts or {}
    decoding = settings.decoding if settings else None
    return Search(problem_id, task, asks, most, stem, more, decoding)


def served_settings(run: Run, weights: Weights) -> dict[str, Any]:
    """What a server is asked for a model: an adapter of zeros before the first training of its own."""
    model = run.recipe.models[weights.model]
    if not model.engine.server:
        return {}
    return {
        "served_as": model.engine.model,
        "api_key_env": model.engine.api_key_env,
        "timeout": model.engine.timeout,
        "lora": model.lora if weights.adapter is None and learns(run.recipe, weights.model) else None,
        "scratch": run.weights,
        "verify": run.processes.main,
    }


def connect(run: Run) -> None:
    """Meet every server of a recipe before any work: a mistake in its start ends a run here, not after the
    first training.

    Raises:
        RecipeError: what a server cannot do and the recipe needs. WorkerLost: it gives no good answer.
    """
    if run.connected:
        return
    run.connected = True
    for name, model in run.recipe.models.items():
        if model.engine.server:
            engine_of(run, run.versions.base_weights(name))


def engine_of(run: Run, weights: Weights) -> Any:
    """The engine of a version of a model, loaded once and kept until a training wants the memory."""
    key = f"{weights.hash}/{weights.head}"  # a policy and a fresh reward model may share their base
    if key not in run.engines:
        long(f"loading {weights.model}")
        from pipeline.engine.start import start_engine

        settings = run.recipe.models[weights.model]
        with run.console.task(f"loading {weights.model}, and whether a row's bits are its own") as tick:
            engine = run.engines[key] = start_engine(
                weights.base,
                weights.adapter,
                head=weights.head,
                dtype=settings.dtype,
                device=settings.engine.device,
                max_rows=settings.engine.max_rows,
                servers=settings.engine.server,
                weights_hash=weights.hash,
                name=weights.model if settings.engine.server else "",
                check=True,
                progress=tick,
                **served_settings(run, weights),
            )
        for note in engine.notes if settings.engine.server else ():
            run.console.note(f"model {weights.model}: {note}")
        if settings.dtype == "auto" and not settings.engine.server and engine.device.type == "cpu":
            kind = str(engine.dtype).removeprefix("torch.")
            if kind != "float32":
                run.console.note(f"{weights.model}: {kind} on this CPU: faster, and as exact (dtype: auto)")
        if engine.reads_whole:
            run.console.warn(
                f"model {weights.model}: its family is read whole at each token, which is right and many "
                "times slower (docs/models.md); its rows are the same in distribution only"
            )
        elif not engine.exact:
            where = "a server" if settings.engine.server else f"this machine ({engine.device})"
            run.console.warn(
                f"model {weights.model}: on {where} a row's bits feel its neighbours, so its rows are the "
                "same in distribution only; a resume keeps what is written"
            )
    return run.engines[key]
