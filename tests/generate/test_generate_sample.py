"""Sampling and rationalization, driven by hand with canned replies."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.asks import Continue, Prefix, closed, start
from pipeline.generate import rationalize, sample
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.tasks import BaseTask, TaskSettings


class Sums(BaseTask):
    """A task whose hint is the answer in brackets."""

    def leaks(self, problem, text):
        return "names the hint" if f"({problem.answer})" in text else None


QUESTION = Question(id="p", question="1 + 1", prompt="1 + 1 =", prompt_used="1 + 1 =")
HINTED = Question(id="p", question="1 + 1", prompt="1 + 1 =", prompt_used="1 + 1 (2) =", hinted=True)
PROBLEM = Problem(id="p", question="1 + 1", answer="2")
TASK = Sums(TaskSettings(use="sums"))


def written(text, *, tokens=None, steps=None, ends=None, finish="eos", prompt="1 + 1 =", answer=None):
    ids = tuple(range(tokens if tokens is not None else len(text)))
    return Prefix(
        prompt=prompt,
        token_ids=ids,
        step_ends=tuple(ends or ()),
        steps=tuple(steps or ()),
        text=text,
        logprobs=tuple(-1.0 for _ in ids),
        finish=finish,
        answer=answer,
    )


def finish(search, reply):
    """Send the last reply and take the result."""
    with pytest.raises(StopIteration) as stopped:
        search.send(reply)
    return stopped.value.value


def test_sample_asks_once_and_returns_every_completion_in_order():
    settings = sample.Settings(n=3, temperature=0.7, top_p=0.9)
    search = sample.generate(QUESTION, settings, None)
    ask = next(search)
    assert ask == Continue(start(QUESTION), by="policy", n=3, temperature=0.7, top_p=0.9)
    rows = finish(search, [written("a", answer="2"), written("bb", finish="length"), written("")])
    assert [row.id for row in rows] == ["p/0", "p/1", "p/2"]
    assert [row.tokens_charged for row in rows] == [1, 2, 0]
    assert [row.finish for row in rows] == ["eos", "length", "eos"]
    assert all(row.cut and row.temperature == 0.7 and row.prompt == "1 + 1 =" for row in rows)
    assert rows[0].answer == "2"


def test_zero_samples_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        sample.Settings(n=0)


def test_a_lone_end_token_belongs_to_the_step_before_it():
    prefix = written("a\nb\n", tokens=5, steps=["a\n", "b\n"], ends=[2, 4])
    assert closed(prefix).step_ends == (2, 5)
    assert closed(prefix).steps == ("a\n", "b\n")
    cut = written("a\nb", tokens=3, steps=["a\n"], ends=[2], finish="length")
    assert (closed(cut).step_ends, closed(cut).steps) == ((2, 3), ("a\n", "b"))
    whole = written("a\n", tokens=2, steps=["a\n"], ends=[2])
    assert closed(whole) is whole


def hinted_search(given, question=HINTED):
    return rationalize.generate(question, rationalize.Settings(n=2), given, problem=PROBLEM, task=TASK)


def test_rationalize_stores_no_hint_and_drops_leaks():
    search = hinted_search(None)
    ask = next(search)
    assert ask.listed[0].prompt == "1 + 1 (2) ="
    rows = finish(search, [written("it is 2", prompt="1 + 1 (2) ="), written("as (2) says, 2")])
    assert isinstance(rows[0], Trace)
    assert rows[0].hinted
    assert rows[0].prompt == "1 + 1 ="
    assert rows[1] == Dropped(problem_id="p", what="p/1", reason="hint_leak")


def test_rationalize_numbers_go_on_after_the_first_try():
    tried = Trace(problem_id="p", id="p/0", prompt="", text="", token_ids=[], step_ends=[], steps=[])
    given = Group("p", traces=[tried], labels={"p/0": Label(problem_id="p", trace_id="p/0", correct=False)})
    search = hinted_search(given)
    next(search)
    assert [row.id for row in finish(search, [written("x"), written("y")])] == ["p/1", "p/2"]


def test_rationalize_leaves_solved_problems_and_tasks_without_hints_alone():
    given = Group("p", labels={"p/0": Label(problem_id="p", trace_id="p/0", correct=True)})
    for search, reason in ((hinted_search(given), "solved"), (hinted_search(None, QUESTION), "no_hint")):
        with pytest.raises(StopIteration) as stopped:
            next(search)
        assert [row.reason for row in stopped.value.value] == [reason]
