"""Searches in, committed chunks out: feeds the driver chunk by chunk and writes each chunk when its last
problem ends.

The driver's window spans several chunks, so that a slow problem does not leave the batch empty; a kill costs
the chunks under way."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError
from pipeline.processes.pulse import beat
from pipeline.rows import Dropped, Group, Label, Node, Problem, Trace, sources_of
from pipeline.run.record import NOT_GIVEN
from pipeline.stages.inputs import unaccounted
from pipeline.stages.rollouts import rows_of
from pipeline.store.plan import ChunkPlan

if TYPE_CHECKING:
    from pipeline.engine.driver import Finished, Search
    from pipeline.stages.work import Work

TOO_LONG = "prompt_too_long"  #: a prompt does not fit the model
UNTRIED = frozenset({TOO_LONG, "not_readable"})  #: why a problem was not tried at all
#: what a room gives for a chunk: searches, or (problem id, rows) where no model has to be asked
Items = Callable[[ChunkPlan], "Iterator[Search | tuple[str, list[Any]]]"]


@dataclass
class UnderWay:
    """One chunk whose problems are being worked on."""

    number: int
    plan: ChunkPlan
    left: dict[str, int]  #: searches that have not ended, by problem
    rows: dict[str, list[Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  #: tokens charged by model; roll-outs drawn and cut


class Drive:
    """Drives one stage's searches. `given` names the input rows of a chunk, for the account; `finish`
    completes a problem's rows; `group` gives what was read of a problem, once its search has ended."""

    def __init__(
        self,
        work: Work,
        items: Items,
        given: Callable[[ChunkPlan], list[str]],
        finish: Callable[[str, list[Any]], list[Any]] = lambda problem_id, rows: rows,
        per_problem: int = 1,
        draw: tuple[int, str] | None = None,
        group: Callable[[str], Group] = Group,
    ) -> None:
        self.work, self.items, self.given, self.finish = work, items, given, finish
        self.group = group
        self.per_problem = per_problem
        self.draw = draw or (work.round, work.stage.name)
        self.chunks: dict[str, UnderWay] = {}  # by problem id
        self.done = sum(len(work.plan.chunks[number].ids) for number in work.folder.done())
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        """Until every chunk that this process claims is committed."""
        from pipeline.engine.driver import Driver

        work, plan = self.work, self.work.plan
        driver = Driver(
            lambda name: work.engine(name),
            run_seed=work.run.recipe.seed,
            round=self.draw[0],
            stage=self.draw[1],
            is_right=self._is_right if work.stage.settings.sees_gold else None,
        )
        size = max((len(chunk.ids) for chunk in plan.chunks), default=1) * self.per_problem
        with work.run.console.progress(work.stage.name, sum(len(c.ids) for c in plan.chunks)) as bar:

            def tick(values: dict[str, Any]) -> None:
                beat()
                facts: dict[str, Any] = (
                    {"tokens/s": values["tokens"] / values["seconds"]} if values.get("seconds") else {}
                )
                bar(self.done, **(facts | {"in the batch": values["live"]} | self._kept()))

            for finished in driver.run(
                self._feed(), window=work.run.recipe.header.window * size, progress=tick
            ):
                self._settle(finished)
                beat()
                bar(self.done)
        work.spent = dict(driver.spent)

    def _kept(self) -> dict[str, float]:
        labelled = self.seen["labelled"]
        return {"right": self.seen["right"] / labelled} if labelled else {}

    def _is_right(self, problem_id: str, prefix: Any) -> bool:
        if prefix.finish not in ("eos", "stop"):
            return False  # cut by a limit: its answer may have been cut too (label/outcome.py)
        problem = self.work.problem(problem_id)
        return self.work.run.task_of(problem).correct(prefix.answer, problem)

    def _feed(self) -> Iterator[Search]:
        for number in self.work.todo():
            plan = self.work.plan.chunks[number]
            chunk = UnderWay(number, plan, dict.fromkeys(plan.ids, self.per_problem))
            self.chunks.update(dict.fromkeys(plan.ids, chunk))
            for item in self.items(plan):
                if isinstance(item, tuple):
                    self._add(item[0], item[1], {})
                else:
                    yield item

    def _settle(self, finished: Finished) -> None:
        problem_id, rows = finished.problem_id, finished.result
        group = self.group(problem_id)
        if finished.error:  # "prompt too long: 900 tokens, ...": counted by what happened, not by its numbers
            reason = finished.error.partition(":")[0].replace(" ", "_")
            lost = [trace.id for trace in group.traces] or [problem_id]
            rows = [Dropped(problem_id=problem_id, what=what, reason=reason) for what in lost]
        rows = share_charge(rows, finished.charged)
        if finished.drawn and self.work.stage.settings.keeps_rollouts:
            rows = [*rows, *rows_of(problem_id, finished.drawn, group.traces)]
        self.chunks[problem_id].counts.update(finished.counted)
        self._add(problem_id, rows, finished.charged)

    def _add(self, problem_id: str, found: list[Any], charged: dict[str, int]) -> None:
        chunk = self.chunks[problem_id]
        chunk.rows.setdefault(problem_id, []).extend(found)
        chunk.counts.update({f"charged/{model}": tokens for model, tokens in charged.items()})
        chunk.left[problem_id] -= 1
        if chunk.left[problem_id]:
            return
        del chunk.left[problem_id], self.chunks[problem_id]
        self.done += 1
        rows = self.finish(problem_id, _once(chunk.rows[problem_id]))
        if self.work.stage.room in ("generate", "label"):
            rows = own_ids(rows, problem_id, f"{self.work.stage.name}.{self.work.round}")
        chunk.rows[problem_id] = rows
        if not chunk.left:
            self._write(chunk)

    def _write(self, chunk: UnderWay) -> None:
        whole = [self.work.stamp(row) for problem_id in chunk.plan.ids for row in chunk.rows[problem_id]]
        read = self.given(chunk.plan)
        account(self.work, read, whole)
        verdicts = [row.correct for row in whole if isinstance(row, Label) and row.correct is not None]
        self.seen.update(labelled=len(verdicts), right=sum(map(bool, verdicts)))
        with self.work.folder.writing(chunk.number) as part:
            part.add(whole)
            for name, number in [
                *given_counts(self.work, read, whole).items(),
                *sorted(chunk.counts.items()),
            ]:
                part.count(name, number)
            if verdicts:
                part.count("right", sum(map(bool, verdicts)))


def own_ids(rows: list[Any], problem_id: str, where: str) -> list[Any]:
    """Rows whose new ids name their stage and round, so that pools of several rounds never mix two traces up.

    Methods number their rows within the problem (`PROBLEM/0`); ids of earlier stages, which they may also
    name, stay."""
    new = {row.id for row in rows if isinstance(row, (Trace, Node))}

    def renamed(row: Any) -> Any:
        named = ("id", "parent", "trace_id", "rejected_id", "what")
        held = [f.name for f in dataclasses.fields(row) if f.name in named]
        changes = {
            name: f"{problem_id}/{where}/{value.removeprefix(problem_id + '/')}"
            for name in held
            if (value := getattr(row, name)) in new
        }
        return dataclasses.replace(row, **changes) if changes else row

    return [renamed(row) for row in rows]


def _once(rows: list[Any]) -> list[Any]:
    """Two models of one evaluation may drop the same problem for the same reason: said once."""
    seen: set[str] = set()
    kept = []
    for row in rows:
        if isinstance(row, Dropped):
            if row.what in seen:
                continue
            seen.add(row.what)
        kept.append(row)
    return kept


def share_charge(found: list[Any], tokens: dict[str, int]) -> list[Any]:
    """Give traces that do not know their cost an equal share of their search's, the first one the rest."""
    traces = [row for row in found if isinstance(row, Trace)]
    unknown = [i for i, row in enumerate(found) if isinstance(row, Trace) and row.tokens_charged < 0]
    if not unknown:
        return found
    known = sum(trace.tokens_charged for trace in traces if trace.tokens_charged >= 0)
    share, rest = divmod(max(sum(tokens.values()) - known, 0), len(unknown))
    found = list(found)
    for place, i in enumerate(unknown):
        found[i] = dataclasses.replace(found[i], tokens_charged=share + (rest if place == 0 else 0))
    return found


def given_counts(work: Work, read: Collection[str], whole: Iterable[Any]) -> dict[str, int]:
    """What a chunk counts of the rows that it was given: their number, and by reason what a filter dropped
    beside them (a tree's nodes), which is no share of them."""
    counts = {"given": len(read)}
    if work.stage.room == "select":
        known = set(read)
        others = Counter(row.reason for row in whole if isinstance(row, Dropped) and row.what not in known)
        counts |= {f"{NOT_GIVEN}/{reason}": number for reason, number in sorted(others.items())}
    return counts


def account(work: Work, read: Iterable[str], whole: list[Any]) -> None:
    """Every input row is named by an output row or by exactly one Dropped row.

    Raises:
        RecipeError: the method lost or doubled one; the chunk is not written.
    """
    named: set[str] = set()
    for row in whole:
        if isinstance(row, Dropped):
            continue
        named.add(row.id if isinstance(row, Problem) else row.problem_id)
        named.update(sources_of(row))
    lost = unaccounted(read, named, [row for row in whole if isinstance(row, Dropped)])
    if lost:
        raise RecipeError(
            f"{work.stage.section}.{work.stage.name}: {work.stage.room} {work.stage.method} lost or doubled "
            f"{len(lost)} of its input rows, first {lost[0]}: this is a fault of the method, which must name "
            "each input row in an output row or in exactly one Dropped row. Nothing of the chunk was written"
        )
