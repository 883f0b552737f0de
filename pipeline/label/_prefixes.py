"""A tree of prefixes that were valued: what labellers share that test a completion at places of their own.

A place is a prefix of the problem's completions, by token ids; equal ids are one place, whoever wrote them.
Its rows are a Node each, below the longest shorter place that was valued, and a Label that holds the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.asks import Counted, Prefix
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Label, Node, Problem, Trace
from pipeline.tasks import BaseTask

Ids = tuple[int, ...]


@dataclass(slots=True, eq=False)
class ValuedPrefix:
    """One valued prefix."""

    prefix: Prefix
    value: float
    counted: Counted | None = None  #: the roll-outs behind the value; None where it is known without
    visits: int = 0  #: how often a search began here
    trace_id: str | None = None  #: of the trace that ends here

    @property
    def num_tokens(self) -> int:
        return self.prefix.num_tokens


@dataclass(slots=True)
class ValuedPrefixes:
    """All places of a problem, in the order in which they were valued; the first one is the root."""

    by_ids: dict[Ids, ValuedPrefix] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ValuedPrefix]:
        return iter(self.by_ids.values())

    def get(self, ids: Ids) -> ValuedPrefix | None:
        """The place with these ids."""
        return self.by_ids.get(ids)

    def counted(self, prefix: Prefix, found: Counted) -> ValuedPrefix:
        """Enter what roll-outs say of a prefix; what is known already stays."""
        return self.by_ids.setdefault(prefix.token_ids, ValuedPrefix(prefix, found.share, found))

    def ended(self, prefix: Prefix, right: bool, trace_id: str | None = None) -> ValuedPrefix:
        """Enter the end of a completion, whose value is its outcome. A place that roll-outs have valued (the
        same ids, still open) keeps its own."""
        place = self.by_ids.setdefault(prefix.token_ids, ValuedPrefix(prefix, float(right)))
        place.trace_id = place.trace_id or trace_id
        return place

    def rows(self, problem_id: str, labeller: str) -> list[Node | Label]:
        """A Node and a Label for each place, parents first."""
        ordered = sorted(
            self, key=lambda place: place.prefix.token_ids
        )  # a prefix comes before what it began
        names: dict[Ids, str] = {}
        above: list[tuple[ValuedPrefix, int]] = []  # the places on the way to this one, with their depths
        rows: list[Node | Label] = []
        for place in ordered:
            ids = place.prefix.token_ids
            while above and ids[: above[-1][0].num_tokens] != above[-1][0].prefix.token_ids:
                above.pop()
            parent = above[-1][0] if above else None
            names[ids] = f"{problem_id}/n{len(names)}"
            rows.append(
                Node(
                    problem_id=problem_id,
                    id=names[ids],
                    parent=names[parent.prefix.token_ids] if parent else None,
                    step=place.prefix.text[len(parent.prefix.text) :] if parent else "",
                    depth=above[-1][1] + 1 if above else 0,
                    value=place.value,
                    visits=place.visits,
                    terminal=place.prefix.done,
                    trace_id=place.trace_id,
                    token_ids=list(ids[parent.num_tokens if parent else 0 :]),
                )
            )
            rows.append(
                Label(problem_id=problem_id, trace_id=names[ids], value=place.value, labeller=labeller)
            )
            above.append((place, above[-1][1] + 1 if above else 0))
        return rows

    def trace_label(self, trace: Trace, correct: bool, reason: str, labeller: str) -> Label:
        """A trace's outcome, and the values of those of its steps that were tested; null for the others."""
        known = [self.get(tuple(trace.token_ids[:end])) for end in trace.step_ends]
        return Label(
            problem_id=trace.problem_id,
            trace_id=trace.id,
            correct=correct,
            step_scores=[None if place is None else place.value for place in known],
            value=float(correct),
            reason=reason,
            labeller=labeller,
        )


def usable(
    problem: Problem, traces: list[Trace], task: BaseTask
) -> tuple[list[tuple[Trace, bool, str]], list[Dropped]]:
    """(trace, right, why not) of the traces that ended by themselves, and why the others are not looked
    into."""
    if problem.answer is None:
        return [], [_left_out(trace, "no_gold") for trace in traces]
    kept: list[tuple[Trace, bool, str]] = []
    dropped: list[Dropped] = []
    for trace in traces:
        right, why = verdict(trace, problem, task)
        reason = "hinted" if trace.hinted else "no_steps" if not trace.step_ends else ""
        if reason := reason or ("truncated" if why == "truncated" else ""):
            dropped.append(_left_out(trace, reason))
        else:
            kept.append((trace, right, why))
    return kept, dropped


def _left_out(trace: Trace, reason: str) -> Dropped:
    return Dropped(problem_id=trace.problem_id, what=trace.id, reason=reason)
