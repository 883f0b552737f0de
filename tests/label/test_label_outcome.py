"""Outcome labels."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.label import outcome
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings


class Exact(BaseTask):
    def correct(self, answer, problem):
        return answer == problem.answer


TASK = Exact(TaskSettings(use="exact"))


def trace(number, answer, finish="eos"):
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text=str(answer), token_ids=[1], step_ends=[1],
        steps=[str(answer)], answer=answer, finish=finish,
    )  # fmt: skip


def labels_of(problem, traces):
    search = outcome.label(problem, Group(problem.id, traces=traces), outcome.Settings(), TASK)
    with pytest.raises(StopIteration) as stopped:
        next(search)
    return stopped.value.value


def test_every_trace_gets_one_label_with_its_reason():
    traces = [
        trace(0, "4"),
        trace(1, "5"),
        trace(2, None),
        trace(3, "4", "length"),
        trace(4, "4", "budget"),
        trace(5, "4", "stop"),
    ]
    rows = labels_of(Problem(id="p", question="2 + 2", answer="4"), traces)
    assert [row.trace_id for row in rows] == [t.id for t in traces]
    assert [row.correct for row in rows] == [True, False, False, False, False, True]
    assert [row.reason for row in rows] == ["", "wrong_answer", "no_answer", "truncated", "truncated", ""]


def test_what_is_no_attempt_has_no_outcome_and_the_rows_say_the_rest():
    critique = dataclasses.replace(trace(1, "4"), id="p/critique.0", parent="p/0")
    right, dropped = labels_of(Problem(id="p", question="2 + 2", answer="4"), [trace(0, "4"), critique])
    assert right == Label(problem_id="p", trace_id="p/0", correct=True, value=1.0, labeller="outcome")
    assert dropped == Dropped(problem_id="p", what="p/critique.0", reason="no_attempt")


def test_problems_without_an_answer_are_dropped_with_a_reason():
    rows = labels_of(Problem(id="p", question="?", answer=None), [trace(0, "4"), trace(1, None)])
    assert rows == [Dropped(problem_id="p", what=f"p/{n}", reason="no_gold") for n in (0, 1)]
