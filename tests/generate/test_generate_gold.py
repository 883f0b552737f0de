"""No generator and no vote but those that declare it can reach gold: what each is handed is the same under a
poisoned one."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from pipeline.recipe import methods as registry
from pipeline.rows import without_gold
from pipeline.stages.work import question_of
from pipeline.tasks import addition, countdown, deduction, words
from pipeline.vote import Candidate

GOLD = {"problem", "task"}
POISON = {"answer": "poison", "solution": "poison", "meta": "poison", "difficulty": "poison"}
TASKS = [
    task.Task(task.Settings(use=name, train=2, dev=1, test=1, chat=chat))
    for name, task in (("addition", addition), ("countdown", countdown), ("deduction", deduction), ("words", words))
    for chat in (False, True)
]  # fmt: skip


def registered(room: str) -> list:
    """Every method of a room that a recipe may name, those of installed packages too."""
    names = registry.methods(room)
    assert names
    return [pytest.param(registry.method(room, name), id=name) for name in names]


@pytest.mark.parametrize("method", registered("generate"))
def test_a_generator_is_handed_gold_only_where_it_declares_so(method) -> None:
    taken = set(inspect.signature(method.generate).parameters) & GOLD
    assert taken == (GOLD if method.Settings.sees_gold else set())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}{'/chat' * task.settings.chat}")
def test_what_a_generator_sees_is_the_same_under_a_poisoned_gold(task) -> None:
    def template(turns) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)

    for problem in task.problems():
        poisoned = dataclasses.replace(problem, **POISON)
        shown = question_of(task, problem, template)
        assert shown == question_of(task, poisoned, template)
        assert "poison" not in repr(question_of(task, poisoned, template))


def test_what_a_blind_labeller_sees_is_the_same_under_a_poisoned_gold() -> None:
    for problem in TASKS[0].problems():
        gold = {name: value for name, value in POISON.items() if name != "difficulty"}
        assert without_gold(problem) == without_gold(dataclasses.replace(problem, **gold))


@pytest.mark.parametrize("method", registered("vote"))
def test_a_vote_is_handed_candidates_alone_and_they_hold_no_verdict(method) -> None:
    assert set(inspect.signature(method.vote).parameters) == {"candidates", "settings"}
    names = {field.name for field in dataclasses.fields(Candidate)}
    assert names == {"answer", "score", "logprob", "key", "kind", "num_tokens"}
