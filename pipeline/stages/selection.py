"""Select stages: a selector over each problem's group, over the whole set first where it asks for that."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.engine.tokens import encoder
from pipeline.errors import NothingKept
from pipeline.processes.pulse import beat, long
from pipeline.recipe.methods import method
from pipeline.rows import Dropped, Group
from pipeline.stages.search import Drive, account, given_counts
from pipeline.stages.work import Work, make_search
from pipeline.store.plan import ChunkPlan


def select_stage(work: Work) -> Callable[[], dict[str, Any]]:
    """Plain code over groups, or searches where the selector asks models. Returns what is left at the end."""
    module = method("select", work.stage.method)
    run, settings = work.run, work.stage.settings
    policy = run.recipe.policy
    encode = encoder(run.versions.base(policy or next(iter(run.recipe.models))))
    more = {"whole": surveyed(work, module)} if hasattr(module, "reduce") else {}

    def selected(problem_id: str, group: Group) -> Any:
        problem = work.problem(problem_id)
        shown = dataclasses.replace(group, question=problem.question)
        return module.select(shown, settings, run.task_of(problem), encode, **more)

    if inspect.isgeneratorfunction(module.select):
        _select_by_asks(work, selected)
    else:
        _select_by_code(work, selected)
    return lambda: _check_kept(work)


def surveyed(work: Work, module: Any) -> Any:
    """What a selector or labeller says of the whole set: its inputs are read once for it, chunk by chunk."""
    reads = "task" in inspect.signature(module.survey).parameters

    def surveys() -> Iterator[Any]:
        for chunk in work.plan.chunks:
            for problem_id, group in work.reader.groups(chunk).items():
                more = {"task": work.run.task_of(work.problem(problem_id))} if reads else {}
                yield module.survey(group, work.stage.settings, **more)
                beat()

    long(f"{work.stage.name} looks at the whole set")
    return module.reduce(surveys(), work.stage.settings)


def input_ids(groups: Iterable[Group], settings: Any) -> list[str]:
    """The rows that a selector has to account for."""
    more = settings.reads_rollouts
    return [row.id for group in groups for row in (*group.traces, *(group.rollouts if more else ()))]


def _select_by_asks(work: Work, selected: Callable[[str, Group], Any]) -> None:
    """A selector that asks models: its problems are searches."""
    groups: dict[str, Group] = {}
    given: dict[str, list[str]] = {}

    def items(chunk: ChunkPlan) -> Iterator[Any]:
        found = work.reader.groups(chunk)
        given[chunk.ids[0]] = input_ids(found.values(), work.stage.settings)
        for problem_id, group in found.items():
            task = work.run.task_of(work.problem(problem_id))
            groups[problem_id] = group
            yield make_search(task, work.stage.settings, problem_id, selected(problem_id, group))

    Drive(work, items, lambda chunk: given.pop(chunk.ids[0]), group=groups.pop).run()


def _select_by_code(work: Work, selected: Callable[[str, Group], Any]) -> None:
    done = sum(len(work.plan.chunks[number].ids) for number in work.folder.done())
    num_read = num_dropped = 0
    with work.run.console.progress(work.stage.name, sum(len(c.ids) for c in work.plan.chunks)) as bar:
        for number in work.todo():
            groups = work.reader.groups(work.plan.chunks[number])
            whole: list[Any] = []
            for problem_id, group in groups.items():
                whole += [work.stamp(row) for row in selected(problem_id, group)]
                beat()
            read = input_ids(groups.values(), work.stage.settings)
            account(work, read, whole)
            counts = given_counts(work, read, whole)
            with work.folder.writing(number) as part:
                part.add(whole)
                for name, count in counts.items():
                    part.count(name, count)
            done += len(groups)
            num_read += len(read)
            num_dropped += sum(isinstance(row, Dropped) for row in whole)
            num_dropped -= sum(counts.values()) - counts["given"]  # those beside them
            kept: dict[str, Any] = {"kept": max(1 - num_dropped / num_read, 0.0)} if num_read else {}
            bar(done, **kept)


def _check_kept(work: Work) -> dict[str, Any]:
    """Nothing kept is said before any training, with the counts by reason."""
    kept: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for sidecar in work.folder.sidecars():
        kept.update(sidecar.counts.rows)
        dropped.update(sidecar.counts.dropped)
    if sum(kept.values()) == kept["Dropped"] and work.stage.settings.on_empty == "stop":
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common())
        raise NothingKept(
            f"round {work.round}: {work.stage.name}: 0 of {sum(dropped.values())} rows kept: "
            f"{reasons or 'there was no row to keep'}. {cure_of(dropped, work)}"
            f", or set {work.stage.section}.{work.stage.name}.on_empty=continue"
        )
    return {}


#: reasons of selectors that miss a labeller's word
UNSAID = frozenset({"no_advantage", "unlabelled", "unscored", "no_strength"})


def cure_of(dropped: Counter[str], work: Work) -> str:
    """What would keep rows, by the reason that most of them were dropped for."""
    reason = dropped.most_common(1)[0][0] if dropped else ""
    if "truncated" in reason:
        return (
            "Most were cut by the limit: raise task.max_tokens, see that answers end (task.stop, few_shot, "
            f"chat: true for an instruct model); `ratchet doctor {work.run.name}` shows which"
        )
    if "no_answer" in reason:
        return (
            "Most have no answer that is found: set task.extract or few_shot to the form that the model "
            f"writes; `ratchet doctor {work.run.name}` shows it"
        )
    if reason in UNSAID:
        read = " and ".join(source for source in work.stage.sources if isinstance(source, str))
        return (
            f"What {work.stage.name} goes by was not said of most: see for what reason {read} left them out, "
            "or name in `from` a labeller that says it"
        )
    return f"Sample more (n), loosen {work.stage.name}"
