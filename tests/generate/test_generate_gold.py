"""Gold rationales as traces, for controls."""

from __future__ import annotations

from pipeline.engine.driver import drive_with_replies
from pipeline.generate import gold
from pipeline.rows import Dropped, Problem, Question
from pipeline.tasks import words


def made(problem: Problem):
    task = words.Task(words.Settings(use="words"))
    question = Question(
        id=problem.id, question=problem.question, prompt="Q", prompt_used="examples Q", hinted=True
    )
    asks = gold.generate(question, gold.Settings(), None, problem=problem, task=task)
    return task, drive_with_replies(asks, [])


def test_the_gold_rationale_becomes_a_right_trace_without_hint_or_model():
    problem = next(words.Task(words.Settings(use="words")).problems())
    task, [trace] = made(problem)
    assert trace.text == task.gold_completion(problem)
    assert (trace.prompt, trace.hinted, trace.few_shot, trace.model) == ("Q", False, False, "gold")
    assert trace.answer == problem.answer
    assert all(task.step_oracle(problem, trace.steps))
    assert gold.Settings.sees_gold


def test_a_problem_without_a_rationale_is_dropped_with_a_reason(monkeypatch):
    monkeypatch.setattr(words.Task, "gold_completion", lambda self, problem: None)
    _, [row] = made(Problem(id="p", question="?", answer="1"))
    assert isinstance(row, Dropped)
    assert row.reason == "no_gold"
