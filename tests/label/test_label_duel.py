"""Every two traces compared by a judge, and one order made of it."""

from __future__ import annotations

import pytest
from label_world import stamped
from pydantic import ValidationError

from pipeline.asks import Choose
from pipeline.engine.driver import drive_with_replies
from pipeline.label import duel
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings
from pipeline.tasks.prepare import render_turn
from pipeline.vote._preferences import PROMPT, shown

TASK = BaseTask(TaskSettings(use="none"))
PROBLEM = Problem(id="p", question="?", answer=None)


def group(*answers):
    return Group(
        "p",
        traces=[
            Trace(problem_id="p", id=f"p/{i}", prompt="q", text=f"so {answer}", token_ids=[1], step_ends=[1],
                  steps=["x"], answer=answer)
            for i, answer in enumerate(answers)
        ],
    )  # fmt: skip


def judged(found, likes, **settings):
    """likes: (first text, second text) -> how likely yes is."""
    seen = []

    def reply(ask):
        chances = []
        for prefix in ask.listed:
            texts = [line for line in prefix.prompt.splitlines() if line.startswith("so ")]
            chances.append(likes(texts[0][3:], texts[1][3:]))
        return [[0.5 * chance, 0.5 * (1 - chance)] for chance in chances]

    asks = duel.label(PROBLEM, found, duel.Settings(**settings), TASK)
    rows = drive_with_replies(asks, [reply] if len(found.traces) > 1 else [], seen)
    return stamped(rows, "duel"), seen


def test_the_better_one_wins_whatever_its_place():
    # the larger number is better, but the first place is liked by a quarter
    rows, [ask] = judged(
        group("3", "9", "5"), lambda a, b: min(1.0, 0.25 + (0.6 if int(a) > int(b) else 0.4))
    )
    assert isinstance(ask, Choose)
    assert ask.options == ("yes", "no")
    assert len(ask.listed) == 6
    assert {row.trace_id: row.value for row in rows} == {"p/0": 0.0, "p/1": 1.0, "p/2": 0.5}
    assert all(isinstance(row, Label) and row.correct is None for row in rows)
    one_way, [ask] = judged(group("3", "9"), lambda a, b: 0.9, orders="one")
    assert len(ask.listed) == 1
    assert [row.value for row in one_way] == [1.0, 0.0]


def test_what_is_not_compared():
    found = group("1", None, "2", "3")
    rows, [ask] = judged(found, lambda a, b: 0.5, most=2)
    assert len(ask.listed) == 2
    assert {row.what: row.reason for row in rows if isinstance(row, Dropped)} == {
        "p/1": "no_answer", "p/3": "over_limit",
    }  # fmt: skip
    rows, seen = judged(group("1"), lambda a, b: 0.5)
    assert ([row.value for row in rows], seen) == ([1.0], [])


def test_over_a_task_that_chats_the_question_stands_in_the_judges_template():
    task = BaseTask(TaskSettings(use="none", chat=True, system="Be fair."))
    found, seen = group("3", "9"), []

    def template(turns):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"

    def worded(ask):
        return [render_turn(task, turn, template) for turn in ask.asks]

    asks = duel.label(PROBLEM, found, duel.Settings(by="ranker"), task)
    rows = drive_with_replies(asks, [worded, [[0.4, 0.1], [0.1, 0.4]]], seen)
    turns, choose = seen
    assert {turn.by for turn in turns.asks} == {"ranker"}
    for prefix, texts in zip(choose.listed, (("so 3", "so 9"), ("so 9", "so 3")), strict=True):
        asked = shown(PROMPT, "?", *texts)  # the question's own message, not the traces' rendered prompt
        assert prefix.prompt == f"<system>Be fair.<user>{asked}<assistant>"
    assert {row.trace_id: row.value for row in rows} == {"p/0": 1.0, "p/1": 0.0}


def test_a_prompt_without_a_place():
    with pytest.raises(ValidationError, match=r"has no \{second\}"):
        duel.Settings(prompt="{question} {first}")
