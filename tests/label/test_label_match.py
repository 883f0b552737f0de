"""DiVeRSe's labels by hand and along any path; results as the tasks say them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_world import PROBLEM, World, stamped, trace

from pipeline.label import match
from pipeline.recipe.methods import method
from pipeline.rows import Dropped, Group, Problem
from pipeline.tasks import BaseTask, TaskSettings


class Numbers(BaseTask):
    """A step is `SOMETHING = RESULT`; right is the answer 42; a solution may be known."""

    def __init__(self, gold: str | None = None) -> None:
        super().__init__(TaskSettings(use="numbers"))
        self.gold = gold

    def correct(self, answer, problem):
        return answer == "right"

    def gold_completion(self, problem):
        return self.gold


def labelled(traces, solution=None, problem=PROBLEM, **settings):
    group = Group("p", traces=traces)
    world = World(lambda prefix, n: [])
    rows = world.drive(match.label(problem, group, match.Settings(**settings), Numbers(solution)))
    return stamped(rows, "match")


def scores(rows) -> dict[str, list]:
    return {row.trace_id: row.step_scores for row in rows}


def test_the_paper_s_labels_by_hand() -> None:
    rows = labelled(
        [
            trace(0, "2 + 3 = 5", "5 * 3 = 15", "right"),
            trace(1, "5 * 3 = 15", "2 + 3 = 5", "9 = 9", "15 = 15", "no"),  # in any order; 9 in none
            trace(2, "2 + 3 = 5", "3 + 2 = 5", "no"),  # 5 twice, and no path has it twice
            trace(3, "so far", "2 + 3 = 5", "no"),  # a step without a result
            trace(4, "nothing", "no"),
        ]
    )
    assert scores(rows) == {
        "p/0": [1, 1, 1],
        "p/1": [1, 1, 0, 0, None],
        "p/2": [1, 0, None],
        "p/3": [None, 1, None],
        "p/4": [0, 0],
    }
    assert [row.correct for row in rows] == [True, False, False, False, False]
    assert all(row.labeller == "match" for row in rows)


def test_results_of_two_right_paths_do_not_mix() -> None:
    right = [trace(0, "1 = 1", "2 = 2", "right"), trace(1, "3 = 3", "4 = 4", "right")]
    [*_, last] = labelled([*right, trace(2, "1 = 1", "4 = 4", "no")])
    assert last.step_scores == [1, 0, None]


def test_the_task_s_own_solution_is_a_path() -> None:
    wrong = [trace(0, "2 + 3 = 5", "5 - 1 = 4", "no")]
    assert scores(labelled(wrong, solution="2 + 3 = 5\n5 * 3 = 15")) == {"p/0": [1, 0, None]}
    [row] = labelled(wrong, solution="2 + 3 = 5\n5 * 3 = 15", gold=False)
    assert (row.what, row.reason) == ("p/0", "no_right_path")
    assert labelled(wrong)[0].reason == "no_right_path"


def test_without_gold_or_results_there_is_a_reason() -> None:
    nobody = Problem(id="p", question="?", answer=None)
    rows = labelled([trace(0, "a = 1", "no")], problem=nobody)
    assert rows == [Dropped(problem_id="p", what="p/0", reason="no_gold")]
    rows = labelled([trace(0, "a", "right"), trace(1, "b", "no")])
    assert [row.reason for row in rows] == ["no_results", "no_results"]
    assert labelled([]) == []


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=5), min_size=1, max_size=4),
    st.lists(st.sampled_from(["1", "2", "3", "9", None]), max_size=6),
)
def test_labels_fall_once_and_never_rise(positive, results) -> None:
    from collections import Counter

    found = match.matched(results, [Counter(r for r in path if r is not None) for path in positive])
    assert len(found) == len(results)
    known = [label for label in found if label is not None]
    assert known == sorted(known, reverse=True)
    if all(results) and any(Counter(results) <= Counter(path) for path in positive):
        assert known == [1.0] * len(known)


@pytest.mark.parametrize(
    ("task", "step", "result"),
    [
        ("countdown", "12 - 7 = 5, left 3, 5\n", "5"),
        ("countdown", "5 * 3 = 15", "15"),
        ("countdown", "five", None),
        ("gsm8k", "The bakery has 6 * 15 = 90 rolls.\n", "90"),
        ("gsm8k", "Half of it: 48/2 = <<48/2=24>>24 clips.\n", "24"),
        ("gsm8k", "She pays 3 * 0.50 = $1.50 in all.\n", "1.5"),
        ("gsm8k", "#### 1,200", "1200"),
        ("gsm8k", "So she thinks again.\n", None),
        ("words", "17 + 26 = 43\n", "43"),
        ("deduction", "Every bramax is a fennax.\n", "a fennax"),
        ("deduction", "answer: red", "red"),
        ("deduction", "so it is", None),
        ("addition", "6 2 + 2 5 , 3 C: 1\n", None),
    ],
)
def test_what_a_step_comes_to(task, step, result) -> None:
    module = method("tasks", task)
    made = module.Task(module.Settings(use=task))
    assert made.step_result(step) == result
