"""The control that keeps a model's own traces whether they are right or not."""

from __future__ import annotations

from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select import unfiltered


def trace(number: int, text: str, finish: str = "eos") -> Trace:
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="Q:", text=text, token_ids=[1, 2], step_ends=[2], steps=[text],
        finish=finish,
    )  # fmt: skip


def chosen(traces, **settings):
    labels = {one.id: Label(problem_id="p", trace_id=one.id, correct=False) for one in traces}
    group = Group("p", traces=traces, labels=labels)
    rows = unfiltered.select(group, unfiltered.Settings(**settings), None, lambda prompt: [9])
    assert {row.problem_id for row in rows} <= {"p"}
    return rows


def test_wrong_traces_are_kept_and_cut_ones_repeated_ones_and_those_over_the_limit_are_not():
    traces = [trace(0, "a", "length"), trace(1, "b"), trace(2, " B "), trace(3, "c"), trace(4, "d")]
    rows = chosen(traces, max_per_problem=2)
    assert [row.trace_id for row in rows if isinstance(row, Example)] == ["p/1", "p/3"]
    assert [(row.what, row.reason) for row in rows if isinstance(row, Dropped)] == [
        ("p/0", "truncated"), ("p/2", "duplicate"), ("p/4", "over_limit"),
    ]  # fmt: skip
    kept = [row for row in chosen(traces, max_per_problem=None) if isinstance(row, Example)]
    assert [row.trace_id for row in kept] == ["p/1", "p/3", "p/4"]
    assert (kept[0].prompt_ids, kept[0].completion_ids, kept[0].completion) == ([9], [1, 2], "b")
