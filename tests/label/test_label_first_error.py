"""Labels up to the first mistake."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from label_world import PROBLEM, Lines, World, stamped, trace

from pipeline.label import first_error
from pipeline.recipe.methods import method
from pipeline.rows import Dropped, Group, Label, Problem


def labelled(traces, task=None, problem=PROBLEM):
    world = World(lambda prefix, n: [])
    asks = first_error.label(
        problem, Group(problem.id, traces=traces), first_error.Settings(), task or Lines()
    )
    return stamped(world.drive(asks), "first_error", problem.id)


def test_all_from_the_first_mistake_on_is_wrong() -> None:
    rows = labelled([trace(0, "a", "bad", "right"), trace(1, "a", "right"), trace(2, "a", "no")])
    assert [row.step_scores for row in rows] == [[1, 0, 0], [1, 1], [1, 1]]
    assert [row.correct for row in rows] == [True, True, False]  # the outcome is another thing
    assert [row.value for row in rows] == [0, 1, 1]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1))
def test_labels_never_rise(verdicts) -> None:
    found = first_error.until_wrong(verdicts)
    assert found == sorted(found, reverse=True)
    assert sum(found) == (verdicts.index(False) if False in verdicts else len(verdicts))


def test_an_oracle_that_does_not_know() -> None:
    traces = [trace(0, "a", "no"), trace(1, step_ends=[], answer=None)]
    assert labelled(traces, Lines(oracle=False)) == [
        Dropped(problem_id="p", what="p/0", reason="no_oracle"),
        Dropped(problem_id="p", what="p/1", reason="no_steps"),
    ]


def test_gold_is_not_needed() -> None:
    [row] = labelled([trace(0, "a", "bad")], problem=Problem(id="p", question="?", answer=None))
    assert isinstance(row, Label)
    assert (row.correct, row.step_scores) == (None, [1, 0])


def test_countdown_s_own_oracle() -> None:
    module = method("tasks", "countdown")
    task = module.Task(module.Settings(use="countdown"))
    problem = task.problem((2, 3, 5), 25)
    rows = labelled([trace(0, "5 * 2 = 10, left 3, 10", "10 * 3 = 30")], task, problem)
    assert rows[0].step_scores == [0, 0]  # 3 and 10 cannot make 25
    rows = labelled([trace(0, "3 + 2 = 5, left 5, 5", "5 + 5 = 10")], task, problem)
    assert rows[0].step_scores == [1, 0]
