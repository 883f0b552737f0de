"""`doctor RECIPE`: try it on 32 problems (fewer of a large model on a CPU) and say what would waste a week;
each finding with its cure.

Users of such loops lost weeks to completions cut before their answer, ends never written, and rewards that
are all alike. Nothing of it is stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.asks import Asks, Continue, start, to_trace
from pipeline.commands import HERE, Overrides, console_for
from pipeline.engine.tokens import encoder
from pipeline.errors import DamagedData, RecipeError
from pipeline.models.chat import chat_of, faults_of
from pipeline.recipe.memory import folder_of, needed
from pipeline.recipe.shape import Recipe
from pipeline.rows import Problem, Trace
from pipeline.run.run import Run
from pipeline.stages.work import engine_of, make_search, question_of, template_of
from pipeline.store.workspace import Workspace
from pipeline.tasks.prepare import gather

PROBLEMS, SAMPLES = 32, 8
LEAST, FEW = 8, 4  #: problems, and samples of each, of a model that writes slowly
TOKENS = 8192  #: that a large model writes in a minute on one core
LARGE = 200_000_000  #: bytes of a model's files from which it writes slowly


@dataclass(frozen=True)
class Finding:
    """One thing looked at: was it bad, what was seen, and the cure."""

    what: str
    bad: bool
    seen: str
    cure: str = ""

    def line(self) -> str:
        return f"{'BAD' if self.bad else 'ok '}  {self.what}: {self.seen}" + (
            f"\n     cure: {self.cure}" if self.bad else ""
        )


def examine(recipe: Recipe, console: Any, workspace: Workspace) -> list[Finding]:
    """Every finding, said as it is found."""
    found = []
    for finding in _looks(Run(recipe, console, workspace)):
        console.note(finding.line())
        found.append(finding)
    bad = sum(finding.bad for finding in found)
    console.note(f"{len(found)} things looked at, {bad or 'none'} bad")
    return found


def _looks(run: Run) -> Iterator[Finding]:
    if run.recipe.not_built:
        yield Finding("methods", True, "; ".join(run.recipe.not_built), "use a method that is there")
        return
    try:
        prepared = gather(list(run.tasks.values()))
        yield Finding("splits", False, f"disjoint; {prepared.counts}")
    except DamagedData as error:
        yield Finding("splits", True, str(error), "mend the data, as the message says")
        return
    problems = [p for p in prepared.problems if p.split == "train"][:PROBLEMS]
    yield _gold(run, problems)
    yield _disk(run)
    name = run.recipe.policy
    if name is None:
        raise RecipeError(f"{run.recipe.path}: no policy among the models")
    weights = run.versions.base_weights(name)
    yield _memory(run)
    engine = engine_of(run, weights)
    template = _template(run, engine)
    yield template
    if template.bad and any(task.settings.chat for task in run.tasks.values()):
        return  # nothing can be asked without it
    yield _longest(run, prepared.problems, weights.base, engine, template_of(run, weights))
    drawn = sampling(run.recipe, name)
    all_of_them = len(problems)
    problems, drawn["n"] = asked_of(run.recipe, problems, drawn, weights.base)
    if len(problems) < all_of_them:
        tried = f"{len(problems)} problems, {drawn['n']} samples each, for the model is large for a CPU"
        yield Finding("tried on fewer", False, f"{tried}: shares below are rough")
    yield Finding("sampling", drawn["temperature"] == 0, _said(drawn), "raise its temperature, or set n: 1")
    traces = _sample(run, name, problems, template_of(run, weights), drawn)
    yield from _completions(run, problems, traces)


def _gold(run: Run, problems: list[Problem]) -> Finding:
    wrong, known = [], 0
    for problem in problems:
        task = run.task_of(problem)
        text = task.gold_completion(problem)
        if text is None or problem.answer is None:
            continue
        known += 1
        if not task.correct(task.extract(text), problem):
            wrong.append(problem.id)
    return Finding(
        "gold extracts as itself",
        bool(wrong),
        f"{known - len(wrong)} of {known}" + (f", not {', '.join(wrong[:3])}" if wrong else ""),
        "the task's extraction or comparison does not fit its own gold answers: set extract and compare",
    )


def _disk(run: Run) -> Finding:
    run.workspace.data.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run.workspace.data).free
    return Finding(
        "disk", free < 1e9, f"{free / 1e9:.1f} GB free", "free some, or put data/ on a larger disk"
    )


def _memory(run: Run) -> Finding:
    import psutil

    need, unknown = needed(run.recipe, lambda base: folder_of(base, run.workspace.checkpoints))
    free = psutil.virtual_memory().available
    more = f", and what {', '.join(unknown)} takes" if unknown else ""
    seen = f"{free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB needed a process{more}"
    cure = "a smaller model, LoRA, fewer rows at once (engine.max_rows, window), or a launch file with ZeRO"
    return Finding("memory", need > free, seen, cure)


def _template(run: Run, engine: Any) -> Finding:
    has = bool(getattr(engine.tokenizer, "chat_template", None))
    asked = any(task.settings.chat for task in run.tasks.values())
    seen = f"tokenizer {'has one' if has else 'has none'}, task.chat is {str(asked).lower()}"
    cure = (
        "set task.chat=true for an instruct model"
        if has
        else "set task.chat=false: this tokenizer has no template"
    )
    if has and asked:
        tasks = [task.settings for task in run.tasks.values()]
        if faults := faults_of(engine.tokenizer, tasks, engine.name, run.recipe.talks):
            return Finding("chat template", True, seen, faults[0])
        chat = chat_of(engine.tokenizer)
        ends = engine.tokenizer.convert_ids_to_tokens(list(engine.eos_ids))
        seen += f"; a turn ends at {' or '.join(map(repr, ends)) or 'nothing'}"
        if chat.end is None and chat.end_text and chat.end_text not in ends:
            cure = (
                f"the template closes a turn with {chat.end_text[:40]!r}, which is no token of its own, so "
                "answers run on: use a model whose end mark is a token, or set task.chat=false and task.stop"
            )
            return Finding("chat template", True, seen, cure)
    return Finding("chat template", has != asked, seen, cure)


def _longest(run: Run, problems: list[Problem], base: Path, engine: Any, template: Any) -> Finding:
    encode = encoder(base)
    by_length = sorted(problems, key=lambda p: len(p.question))[-PROBLEMS:]
    asked = ((run.task_of(p), question_of(run.task_of(p), p, template)) for p in by_length)
    longest = max(len(encode(q.prompt_used)) + t.settings.max_tokens for t, q in asked if q is not None)
    return Finding(
        "longest prompt and answer",
        longest > engine.context,
        f"{longest} of {engine.context} tokens",
        "lower task.max_tokens or task.few_shot, or take a model with a longer context",
    )


def sampling(recipe: Recipe, name: str) -> dict[str, Any]:
    """How the recipe's first stage that writes by this model draws, temperature 1 where none does."""
    first = next((s for s in recipe.stages if s.room == "generate" and name in s.models.values()), None)
    keys = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 0}
    found = {key: getattr(first.settings, key, usual) for key, usual in keys.items()} if first else keys
    return {"stage": first.name if first else "", **found}


def asked_of(
    recipe: Recipe, problems: list[Problem], drawn: dict[str, Any], base: Path
) -> tuple[list[Problem], int]:
    """The problems that are tried, and the samples of each: of a large model on a CPU so few that a look
    takes about a minute.
    """
    num = SAMPLES if drawn["temperature"] else 1
    if Path("/dev/nvidiactl").exists() or sum(p.stat().st_size for p in base.glob("*.safetensors")) < LARGE:
        return problems, num
    length = drawn["max_tokens"] or max(task.max_tokens for task in recipe.tasks)
    if length * num * len(problems) > TOKENS:
        num = min(num, FEW)
    return problems[: max(LEAST, TOKENS // (length * num))], num


def _said(drawn: dict[str, Any]) -> str:
    where = f"as {drawn['stage']} does: " if drawn["stage"] else ""
    more = [f"top_p {drawn['top_p']:g}"] if drawn["top_p"] < 1 else []
    more += [f"top_k {drawn['top_k']}"] if drawn["top_k"] else []
    more += [f"max_tokens {drawn['max_tokens']}"] if drawn["max_tokens"] else []
    return where + ", ".join([f"temperature {drawn['temperature']:g}", *more])


def _sample(
    run: Run, name: str, problems: list[Problem], template: Any, drawn: dict[str, Any]
) -> dict[str, list[Trace]]:
    from pipeline.engine.driver import Driver

    asked = {key: value for key, value in drawn.items() if key not in ("stage", "n")}

    def asks(question: Any) -> Asks[list[Trace]]:
        grown = yield Continue(start(question), by=name, n=drawn["n"], **asked)
        return [to_trace(question, prefix, number) for number, prefix in enumerate(grown)]

    def searches() -> Iterator[Any]:
        for problem in problems:
            task = run.task_of(problem)
            question = question_of(task, problem, template)
            assert question is not None
            yield make_search(task, None, problem.id, asks(question))

    driver = Driver(
        lambda model: engine_of(run, run.versions.base_weights(model)),
        run_seed=run.recipe.seed,
        round=0,
        stage="doctor",
    )
    with run.console.progress("doctor", len(problems)) as bar:
        found = {}
        for number, finished in enumerate(driver.run(searches()), 1):
            found[finished.problem_id] = finished.result or []
            bar(number)
    return found


def _completions(run: Run, problems: list[Problem], traces: dict[str, list[Trace]]) -> Iterator[Finding]:
    whole = [trace for problem in problems for trace in traces.get(problem.id, [])]
    if not whole:
        yield Finding(
            "completions", True, "no problem could be asked", "prompts are longer than the model's context"
        )
        return
    cut = sum(trace.finish == "length" and trace.answer is None for trace in whole) / len(whole)
    endless = sum(trace.finish == "length" and trace.answer is not None for trace in whole) / len(whole)
    mute = sum(trace.answer is None and trace.finish != "length" for trace in whole) / len(whole)
    right: list[float] = []
    for problem in problems:
        task = run.task_of(problem)
        verdicts = [task.correct(trace.answer, problem) for trace in traces.get(problem.id, [])]
        right.append(sum(verdicts) / max(len(verdicts), 1))
    accuracy = sum(right) / len(right)
    varied = sum(0 < share < 1 for share in right) / len(right)
    longer = "raise task.max_tokens"
    yield Finding("completions cut before an answer", cut > 0.2, f"{cut:.0%} of {len(whole)}", longer)
    yield Finding(
        "answers that never end",
        endless > 0.2,
        f"{endless:.0%}",
        "a base model needs few_shot or a stop text; see task.stop",
    )
    yield Finding(
        "completions without an answer", mute > 0.5, f"{mute:.0%}", "more few_shot, or another answer pattern"
    )
    yield Finding(
        "accuracy between 2 and 98 %",
        not 0.02 <= accuracy <= 0.98,
        f"{accuracy:.1%} sampled",
        "too hard: easier problems or a stronger model; too easy: harder problems",
    )
    yield Finding(
        "rewards differ within a problem",
        varied == 0 and len(whole) > len(problems),
        f"on {varied:.0%} of the problems some samples are right and some wrong",
        "rewards that are all alike teach nothing: raise n or the temperature, or change the difficulty",
    )


def command(
    target: Annotated[str, typer.Argument(help="A recipe file or a run.")], overrides: Overrides = None
) -> None:
    """Try a recipe on 32 problems and say what would waste a week: truncation, missing ends, rewards all
    alike.

    `ratchet doctor recipes/star_gsm8k.yaml`
    """
    from pipeline.run.session import find

    findings = examine(find(target, overrides or [], None, HERE.data), console_for(False, False), HERE)
    raise typer.Exit(1 if any(finding.bad for finding in findings) else 0)
