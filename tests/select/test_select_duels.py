"""Pairs as questions for a judge of two."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.engine.driver import drive_with_replies
from pipeline.rows import Dropped, Group, Pair, Trace
from pipeline.select import duels
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="none"))
SHORT = {"prompt": "{question}{first};{second}:", "options": ("1", "2")}


def test_each_pair_is_asked_in_both_orders():
    traces = [
        Trace(problem_id="p", id=f"p/{i}", prompt="q", text="x", token_ids=[1], step_ends=[1], steps=["x"])
        for i in range(3)
    ]
    pair = Pair(
        problem_id="p", prompt="q?", chosen="{second}", rejected="bad", margin=0.5, confidence=0.8,
        trace_id="p/0", rejected_id="p/1", chosen_ids=[1], rejected_ids=[2],
    )  # fmt: skip
    found = Group("p", traces=traces, examples=[pair])
    rows = drive_with_replies(duels.select(found, duels.Settings(**SHORT), TASK, list), [])
    first, second, dropped = rows
    assert (first.prompt, first.chosen, first.rejected) == ("q?{second};bad:", "1", "2")
    assert (second.prompt, second.chosen, second.rejected) == ("q?bad;{second}:", "2", "1")
    assert (first.margin, first.confidence, first.trace_id, first.rejected_id) == (0.5, 0.8, "p/0", "p/1")
    assert first.chosen_ids == []  # nobody drew them
    assert dropped == Dropped(problem_id="p", what="p/2", reason="no_pair")


def test_a_prompt_without_a_place():
    with pytest.raises(ValidationError, match=r"has no \{question\}"):
        duels.Settings(prompt="{first} {second}")
