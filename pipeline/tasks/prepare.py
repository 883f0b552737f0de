"""Problems into a run: tasks mixed, counted, split, and checked before anything is generated; prompts
rendered.

    found = gather([task, other])                       # Prepared(problems, rejected, dropped)
    shown = render(task, problem, few_shot=6, hint=True, template=engine.render)

The order is that of a hash of the question, so that any count of problems is a random but fixed sample, and
more of them only add to it. Nothing is written here: the loop stores what is found. Similar but not equal
questions are not looked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import DamagedData, RecipeError
from pipeline.rows import Dropped, Problem, Question
from pipeline.tasks import BaseTask, Message, normalise

if TYPE_CHECKING:
    from pipeline.asks import Turn

SPLITS = ("train", "dev", "test")
Template = Callable[[list[Message]], "str | None"]


@dataclass(frozen=True)
class Prepared:
    """What the tasks gave: every problem of the run, the rows refused, the questions met twice."""

    problems: list[Problem]  #: train, dev, test; in each the fixed random order
    rejected: list[dict[str, Any]] = field(default_factory=list)  #: {"task", "file", "line", "reason"}
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Problems a split."""
        return {split: sum(problem.split == split for problem in self.problems) for split in SPLITS}


@dataclass(frozen=True)
class Rendered:
    """A problem's prompts."""

    prompt: str  #: what training shows: no hint; the examples only with `train_few_shot`
    prompt_used: str  #: with the examples and the hint
    messages: str  #: JSON of the chat turns of `prompt_used`; empty without `chat`
    few_shot: bool
    hinted: bool
    stem: str = ""  #: what stands in front of the question in `prompt_used`: the examples


def gather(tasks: Sequence[BaseTask], *, max_rejected: float = 0.01) -> Prepared:
    """Every task's problems: taken by count, mixed, checked.

    Args:
        tasks: their names must differ; ids are prefixed with them where there are several.
        max_rejected: the share of a task's rows that may be malformed.

    Raises:
        DamagedData: too many malformed rows, a duplicate id, a question in two splits, or no row left.
        RecipeError: a split has fewer problems than asked for, or two tasks have one name.
    """
    twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if twice:
        raise RecipeError(f"task: {len(tasks)} tasks, and {twice[0]!r} names two of them: give each a `name`")
    rejected: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    everything: list[Problem] = []
    for task in tasks:
        read = list(task.problems())
        _check_rows(task, len(read), max_rejected)
        rejected += [{"task": task.name, **row} for row in task.rejected]
        dropped += task.dropped
        _check_ids(task, read)
        task.examples(read[0])  # worked examples that cannot be had are better missed now than in round 1
        everything += [_named(problem, task, prefix=len(tasks) > 1) for problem in read]
    keys = {problem.id: normalise(problem.question) for problem in everything}
    kept = _once(_unseen(everything, keys, tasks, dropped), keys, dropped)
    _check_splits(kept, keys)
    problems = _counted(kept, keys, tasks)
    if not problems:
        raise DamagedData(f"task: no problem is left of {', '.join(t.name for t in tasks)}: check the source")
    return Prepared(problems, rejected, dropped)


def _check_rows(task: BaseTask, num_read: int, most: float) -> None:
    bad = task.rejected
    num_rows = num_read + len(task.dropped) + len(bad)
    shown = "; ".join(f"{row['file']}:{row['line']}: {row['reason']}" for row in bad[:5])
    if num_read == 0:
        raise DamagedData(
            f"task {task.name}: no usable row among {num_rows}"
            + (f": {shown}" if bad else ": the source is empty")
            + ": check the file and the field names"
        )
    if len(bad) > most * num_rows:
        raise DamagedData(
            f"task {task.name}: {len(bad)} of {num_rows} rows are malformed, more than {most:.0%}: {shown}"
            f"{'; ...' if len(bad) > 5 else ''}: repair or remove them"
        )


def _check_ids(task: BaseTask, problems: list[Problem]) -> None:
    twice = [name for name, count in Counter(problem.id for problem in problems).items() if count > 1]
    if twice:
        raise DamagedData(
            f"task {task.name}: {len(twice)} ids stand more than once, {twice[0]!r} first: ids must"
            " be unique:"
            " remove the repeated rows"
        )


def _named(problem: Problem, task: BaseTask, *, prefix: bool) -> Problem:
    new_id = f"{task.name}:{problem.id}" if prefix else problem.id
    return dataclasses.replace(problem, id=new_id, source=task.name)


def _unseen(
    problems: list[Problem], keys: dict[str, str], tasks: Sequence[BaseTask], dropped: list[Dropped]
) -> list[Problem]:
    """Without the dev and test problems that stand among the worked examples: they would measure nothing."""
    shown = {normalise(question) for task in tasks for question in task.shown()}
    met = [p for p in problems if p.split != "train" and keys[p.id] in shown] if shown else []
    dropped += [
        Dropped(problem_id=p.id, what=p.id, reason=f"a worked example, left out of {p.split}") for p in met
    ]
    gone = {problem.id for problem in met}
    return [problem for problem in problems if problem.id not in gone] if gone else problems


def _once(problems: list[Problem], keys: dict[str, str], dropped: list[Dropped]) -> list[Problem]:
    """The first of the problems of a split that ask the same."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.split, keys[problem.id])
        if key not in first:
            first[key] = problem
            continue
        other = "" if first[key].answer == problem.answer else ", with another answer"
        reason = f"the same question as {first[key].id}{other}"
        dropped.append(Dropped(problem_id=problem.id, what=problem.id, reason=reason))
    return list(first.values())


def _check_splits(problems: list[Problem], keys: dict[str, str]) -> None:
    """Disjoint by normalised question, or every overlap named."""
    where: dict[str, Problem] = {}
    overlaps: list[tuple[Problem, Problem]] = []
    for problem in problems:
        other = where.setdefault(keys[problem.id], problem)
        if other is not problem:
            overlaps.append((other, problem))
    if overlaps:
        shown = "; ".join(f"{a.id} ({a.split}) = {b.id} ({b.split})" for a, b in overlaps[:20])
        more = f"; and {len(overlaps) - 20} more" if len(overlaps) > 20 else ""
        raise DamagedData(
            f"task: {len(overlaps)} questions stand in two splits: {shown}{more}: a test question that was"
            " trained on measures nothing: remove them from one of the two"
        )


def _by_hash(problems: list[Problem], task: BaseTask, split: str) -> str:
    """Where a split is small because the hash made it: how it came about, and what else can be done."""
    every = sum(problem.source == task.name for problem in problems)
    num = sum(problem.split == split and problem.source == task.name for problem in problems)
    if split == "train" or num > 0.2 * every:
        return ""
    own = "`split:`, the field that says it, or `test_path`" if split == "test" else "`split:`, the field"
    return (
        f" (a row that names no split goes by its question's hash: one in ten to dev, one in ten to test,"
        f" so {every} rows gave {num}; {own} that says it, sets them yourself)"
    )


def _counted(problems: list[Problem], keys: dict[str, str], tasks: Sequence[BaseTask]) -> list[Problem]:
    # another hash than the split's, or the order would depend on it
    order = {p.id: hashlib.sha256(b"order\0" + keys[p.id].encode()).digest() for p in problems}
    taken: list[Problem] = []
    wrong: list[str] = []
    for split in SPLITS:
        chosen: list[Problem] = []
        for task in tasks:
            mine = [p for p in problems if p.split == split and p.source == task.name]
            mine.sort(key=lambda problem: order[problem.id])
            wanted = getattr(task.settings, split, None)
            if wanted is not None and wanted > len(mine):
                wrong.append(
                    f"task {task.name}: {split}: {wanted} problems are asked for and {len(mine)} are there:"
                    f" ask for fewer, or give more rows{_by_hash(problems, task, split)}"
                )
            chosen += mine[:wanted]
        taken += sorted(chosen, key=lambda problem: order[problem.id])
    if wrong:
        raise RecipeError(wrong)
    return taken


def render(
    task: BaseTask,
    problem: Problem,
    *,
    few_shot: int | None = None,
    hint: bool = False,
    template: Template | None = None,
) -> Rendered:
    """The prompts of a problem.

    Args:
        few_shot: at most so many worked examples in front; None: as the task's base is shown.
        hint: with the answer given away, in the examples too where the task can.
        template: the tokenizer's chat template, wanted where the task says `chat`.

    Raises:
        RecipeError: a hint is wanted and the task has none, or `chat` without a chat template.
    """
    hinted = task.hinted(problem) if hint else problem.question
    if hinted is None:
        raise RecipeError(f"task {task.name}: rationalization wants a hint, and it has none for {problem.id}")
    wanted = task.settings.shots() if few_shot is None else few_shot
    shown = (task.hinted_examples(problem) if hint else task.examples(problem))[:wanted] if wanted else []
    trained = task.examples(problem)[:wanted] if wanted and task.settings.train_few_shot else []
    plain = _prompt(task, problem.question, trained, template)
    used = _prompt(task, hinted, shown, template)
    return Rendered(
        prompt=plain,
        prompt_used=used,
        messages=json.dumps(_turns(task, hinted, shown), ensure_ascii=False) if task.settings.chat else "",
        few_shot=bool(shown),
        hinted=hint,
        stem=_stem(task, hinted, used) if shown else "",
    )


def _stem(task: BaseTask, question: str, prompt: str) -> str:
    """What stands in a prompt in front of its question; empty where a template has changed the question."""
    asked = task.messages(question)[-1]["content"] if task.settings.chat else task.prompt(question)
    return prompt[: max(0, prompt.rfind(asked))]


def _prompt(task: BaseTask, question: str, examples: list[tuple[str, str]], template: Template | None) -> str:
    if not task.settings.chat:
        front = [task.prompt(asked) + completion for asked, completion in examples]
        return task.example_separator.join([*front, task.prompt(question)])
    text = template(_turns(task, question, examples)) if template is not None else None
    if text is None:
        raise RecipeError(
            f"task {task.name}: chat: true, but the tokenizer has no chat template: set chat: false"
        )
    return text


def _turns(task: BaseTask, question: str, examples: list[tuple[str, str]]) -> list[Message]:
    """The chat: system prompt, each example as a turn of both, the question."""
    *system, asked = task.messages(question)
    for shown, completion in examples:
        system += [task.messages(shown)[-1], {"role": "assistant", "content": completion.strip()}]
    return [*system, asked]


def render_turn(task: Any, ask: Turn, template: Template) -> Question:
    """The question as a later turn shows it (`asks.Turn`), in the acting model's template where the task
    chats.

    Raises:
        RecipeError: the task has no words for the act, or the tokenizer no template that takes these turns.
    """
    asked, history = ask.question.question, list(ask.history)
    if task.settings.chat:
        turns = task.turn_messages(asked, ask.act, history) if ask.act else task.messages(asked)
        if ask.words:
            turns = [*task.messages(asked)[:-1], {"role": "user", "content": ask.words}]
        prompt, messages = template(turns), json.dumps(turns, ensure_ascii=False)
        if prompt is None:
            raise RecipeError(
                f"task {task.name}: chat: true, but the tokenizer of {ask.by} has no chat template: its "
                f"{ask.act} cannot be asked for; set task.chat=false, or take a chat model"
            )
    else:
        prompt = task.turn_prompt(asked, ask.act, history) if ask.act else task.prompt(asked)
        prompt, messages = ask.words or prompt, ""
    return replace(
        ask.question,
        prompt=prompt,
        prompt_used=prompt,
        messages=messages,
        few_shot=False,
        hinted=False,
        stem="",
        act=ask.act,
        turn=len(history),
    )
