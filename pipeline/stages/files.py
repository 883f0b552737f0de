"""Files of human step labels as a run's own rows: `from: {file: PATH, form: prm800k}`.

A file is read once, before round 1, into a committed folder data/<run>/files/<stem>-<hash>/, which stages
read like any other stage's: its problems, its solutions as Traces (steps in the task's form, token ids of the
first policy's tokenizer), what people say of them as Labels, and both together as StepExamples for a training
that reads the file itself. A step that nobody looked at, because an error stands before it, has no label.

Malformed rows go to the run's rejected.jsonl with file, line and reason, as those of tasks do, and so do
solutions of questions that stand in dev or test where anything but an evaluation reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.evaluate.step_files import HUMAN, StepSolution, read_whole
from pipeline.recipe.shape import Recipe, dump, fingerprint
from pipeline.rows import SCHEMA_VERSION, Label, Problem, StepExample, Trace
from pipeline.run.run import Run
from pipeline.settings import FileSource
from pipeline.store.folder import StageFolder
from pipeline.store.plan import ChunkPlan, Plan
from pipeline.tasks import normalise

SPLIT = "file"  #: of its problems, which no stage draws
CHUNK = 128  #: problems


@dataclass(frozen=True)
class Found:
    """What a file gave: its solutions by normalised question, each with its line; and the rows refused."""

    groups: dict[str, list[tuple[int, StepSolution]]]
    rejected: list[dict[str, Any]]


def step_files_of(recipe: Recipe) -> dict[FileSource, bool]:
    """The files of published forms that a recipe reads; does anything but an evaluation read each?"""
    found: dict[FileSource, bool] = {}
    for stage in recipe.stages:
        for source in stage.sources:
            if isinstance(source, FileSource) and source.form:
                found[source] = found.get(source, False) or stage.room != "evaluate"
    return found


def path_of(run: Run, source: FileSource) -> str:
    """Its folder relative to data/."""
    stem = "".join(c if c.isalnum() else "-" for c in Path(source.file).stem)[:40]
    said = [dump(source), step_files_of(run.recipe)[source]]
    return f"{run.name}/files/{stem}-{fingerprint(said)[:8]}"


def folder_of(run: Run, source: FileSource) -> StageFolder:
    """Where its rows stand, or will."""
    return StageFolder(run.workspace.data / path_of(run, source), run.disk)


def bring_in(run: Run) -> None:
    """Every file that the recipe reads by its form, as committed rows. Done once; the run then owns them.

    Raises:
        DamagedData: a file that is not there, or not of its form.
    """
    for source, learned in step_files_of(run.recipe).items():
        folder = folder_of(run, source)
        if folder.plan() is None or not folder.is_complete():
            _bring(run, source, folder, held_out(run) if learned else {})


def held_out(run: Run) -> dict[str, str]:
    """Normalised question -> split, of the problems that nothing may learn from."""
    return {normalise(p.question): p.split for p in run.problems.values() if p.split in ("dev", "test")}


def read(source: FileSource, unseen: dict[str, str]) -> Found:
    """A file's solutions by question, without those that are held out."""
    path = Path(source.file).expanduser()
    if not path.is_file():
        raise DamagedData(f"from: {source.file}: no such file")
    solutions, rejected = read_whole(path, str(source.form))
    groups: dict[str, list[tuple[int, StepSolution]]] = {}
    for line, solution in solutions:
        key = normalise(solution.problem)
        if key in unseen:
            reason = f"its question stands in the {unseen[key]} split"
            rejected.append({"file": str(path), "line": line, "reason": reason})
        else:
            groups.setdefault(key, []).append((line, solution))
    if not groups:
        raise DamagedData(f"from: {source.file}: every question of it stands in dev or test: nothing is left")
    return Found(groups, rejected)


def _bring(run: Run, source: FileSource, folder: StageFolder, unseen: dict[str, str]) -> None:
    found = read(source, unseen)
    reject(run, found.rejected)
    rows = {problem.id: [problem, *more] for problem, more in rows_of(run, source, found)}
    ids, name = list(rows), writer(run)
    plan = Plan.make(
        run=run.name,
        round=-1,
        stage=folder.path.name,
        room="file",
        method=str(source.form),
        main="Trace",
        settings={"from": dump(source), "solutions": fingerprint(_said(found))},
        inputs={},
        models={name: run.versions.base_weights(name).hash},
        schema=SCHEMA_VERSION,
        seed=run.recipe.seed,
        chunks=[ChunkPlan(ids=ids[i : i + CHUNK]) for i in range(0, len(ids), CHUNK)],
        recorded=run.recorded(),
    )
    folder.begin(plan)
    for number, chunk in enumerate(plan.chunks):
        if number not in folder.done():
            with folder.writing(number) as part:
                part.add(row for i in chunk.ids for row in rows[i])
    solutions = sum(map(len, found.groups.values()))
    folder.commit({"solutions": solutions, "rejected": len(found.rejected)})
    run.console.note(f"read {solutions:,} solutions of {len(ids):,} problems from {source.file}")


def _said(found: Found) -> list[Any]:
    """What a file says, for the fingerprint."""
    return [
        [line, one.problem, one.answer, one.right, one.steps, one.verdicts]
        for group in found.groups.values()
        for line, one in group
    ]


def writer(run: Run) -> str:
    """The model whose tokenizer the ids are of: the first policy, as for every selector."""
    return run.recipe.policy or next(iter(run.recipe.models))


def rows_of(run: Run, source: FileSource, found: Found) -> Iterator[tuple[Problem, list[Any]]]:
    """Each question as a Problem, with the rows of its solutions."""
    from transformers import AutoTokenizer

    from pipeline.engine.tokens import encode_prompt
    from pipeline.models.chat import render as render_chat
    from pipeline.tasks.prepare import render

    task = next(iter(run.tasks.values()))
    tokenizer: Any = AutoTokenizer.from_pretrained(run.versions.base(writer(run)))

    def template(turns: list[dict[str, str]]) -> str:
        return render_chat(tokenizer, turns, writer(run))

    def encode_more(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    name = Path(path_of(run, source)).name
    for group in found.groups.values():
        first, one = group[0]
        problem = Problem(
            id=f"{name}-{first}", question=one.problem, answer=one.answer, split=SPLIT, source=task.name
        )
        shown = render(task, problem, few_shot=0, template=template)
        prompt_ids = encode_prompt(tokenizer, shown.prompt)
        rows: list[Any] = []
        for number, (_, solution) in enumerate(group):
            trace = trace_of(problem, number, solution, shown.prompt, task, encode_more)
            labels = [None if ok is None else float(ok) for ok in solution.verdicts]
            rows += [
                trace,
                Label(
                    problem_id=problem.id,
                    trace_id=trace.id,
                    correct=solution.right,
                    step_scores=labels,
                    labeller=HUMAN,
                ),
                StepExample(
                    problem_id=problem.id,
                    prompt=shown.prompt,
                    completions=trace.steps,
                    labels=labels,
                    token_ids=prompt_ids + trace.token_ids,
                    step_ends=[len(prompt_ids) + end for end in trace.step_ends],
                    trace_id=trace.id,
                ),
            ]
        yield problem, rows


def trace_of(
    problem: Problem,
    number: int,
    solution: StepSolution,
    prompt: str,
    task: Any,
    encode_more: Callable[[str], list[int]],
) -> Trace:
    """A solution as a trace whose steps end with the task's own separator."""
    steps = [step.strip() + task.step_separator for step in solution.steps]
    ids: list[int] = []
    ends: list[int] = []
    for step in steps:
        ids += encode_more(step)
        ends.append(len(ids))
    text = "".join(steps)
    return Trace(
        problem_id=problem.id,
        id=f"{problem.id}/{number}",
        prompt=prompt,
        text=text,
        token_ids=ids,
        step_ends=ends,
        steps=steps,
        answer=task.extract(text),
        finish="stop",
        tokens_charged=0,
        model=solution.source or HUMAN,
    )


def reject(run: Run, rows: list[dict[str, Any]]) -> None:
    """Add rows to rejected.jsonl, each once."""
    if not rows:
        return
    path = run.folder / "rejected.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    new = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines += [line for line in new if line not in lines]
    run.disk.write(path, "".join(f"{line}\n" for line in lines).encode())
    run.console.warn(f"{len(rows)} input rows rejected: {path} says which and why")


def problems_of(run: Run) -> dict[str, Problem]:
    """The problems that files brought, by id."""
    folders = [folder_of(run, source) for source in step_files_of(run.recipe)]
    return {p.id: p for folder in folders if folder.manifest() is not None for p in folder.read(Problem)}
