"""On-policy distillation: advantages by token, worked out by hand, and their way into training rows."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipeline.asks import Cut, Logprob
from pipeline.engine.driver import drive_with_replies
from pipeline.label import distil
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.select import episodes
from pipeline.tasks import BaseTask, TaskSettings
from pipeline.train.policy_gradient import fault_of

TASK = BaseTask(TaskSettings(use="none"))
PROBLEM = Problem(id="p", question="q", answer=None)
TRACE = Trace(
    problem_id="p", id="p/0", prompt="q", text="abc", token_ids=[5, 6, 7], step_ends=[1, 3], steps=["a", "bc"],
    logprobs=[-1.0, -2.0, -0.5],
)  # fmt: skip


def rows(*traces, teacher=(), seen=None, **settings):
    """What the labeller says where the teacher gives these log-probabilities, a list a trace."""
    replies = [lambda ask: [ask.prefix]] * len(teacher) + ([list(teacher)] if teacher else [])
    asks = distil.label(PROBLEM, Group("p", traces=list(traces)), distil.Settings(**settings), TASK)
    return drive_with_replies(asks, replies, seen)


def test_a_token_is_worth_what_the_teacher_likes_it_better():
    seen = []
    [row] = rows(TRACE, teacher=[[-0.25, -3.0, -0.5]], seen=seen)
    assert row == Label(
        problem_id="p", trace_id="p/0", advantage=[0.75, -1.0, 0.0], step_scores=[0.75, -1.0],
        value=pytest.approx(-0.25 / 3), labeller="distil",
    )  # fmt: skip
    assert isinstance(seen[0], Cut)  # another tokenizer is refused there
    assert isinstance(seen[1], Logprob)
    assert {ask.by for ask in seen} == {"teacher"}


def test_a_token_answers_for_what_follows_where_gamma_says_so():
    teacher = [[-0.25, -3.0, -1.5]]  # ratios .75, -1, -1
    for gamma, wanted in ((0.0, [0.75, -1, -1]), (0.5, [0.0, -1.5, -1]), (1.0, [-1.25, -2, -1])):
        [row] = rows(TRACE, teacher=teacher, gamma=gamma)
        assert row.advantage == pytest.approx(wanted)
        assert row.step_scores == [0.75, -2.0]  # whatever gamma is
    with pytest.raises(ValidationError):
        distil.Settings(gamma=1.5)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"token_ids": [], "logprobs": [], "step_ends": [], "steps": []}, "empty"),
        ({"hinted": True}, "hinted"),
        ({"few_shot": True}, "few_shot"),
        ({"logprobs": [-1.0]}, "no_logprobs"),
        ({"logprobs": [-1.0, -math.inf, -1.0]}, "no_logprobs"),
    ],
)
def test_what_says_nothing_of_the_student_is_dropped(more, reason):
    [row] = rows(replace(TRACE, **more))
    assert row == Dropped(problem_id="p", what="p/0", reason=reason)


def test_the_mean_of_the_advantages_is_minus_the_divergence():
    """Over all that a student of three words may write, weighed by how likely it is: -KL(student, teacher)
    exactly, and 0 where the two agree."""
    draw = random.Random(5)
    for _ in range(20):
        student, teacher = (
            [x / sum(w) for x in w] for w in ([draw.random() + 0.01 for _ in "abc"] for _ in "st")
        )
        mean = 0.0
        for p, q in zip(student, teacher, strict=True):
            one = replace(TRACE, token_ids=[1], logprobs=[math.log(p)], step_ends=[1], steps=["a"], text="a")
            [row] = rows(one, teacher=[[math.log(q)]])
            mean += p * row.advantage[0]
        kl = sum(p * math.log(p / q) for p, q in zip(student, teacher, strict=True))
        assert mean == pytest.approx(-kl)
        assert mean <= 1e-12
    [row] = rows(TRACE, teacher=[TRACE.logprobs])
    assert row.advantage == [0.0, 0.0, 0.0]


def test_advantages_by_token_reach_the_training_as_they_are():
    [row] = rows(TRACE, teacher=[[-0.25, -3.0, -0.5]])
    group = Group("p", traces=[TRACE], labels={"p/0": row})
    given = episodes.Settings(clip=0.9)
    whole = episodes.reduce([episodes.survey(group, given)], given)
    [example] = episodes.select(group, given, TASK, lambda text: [1, 2], whole=whole)
    assert example.advantage == [0.75, -0.9, 0.0]
    assert fault_of(example, 100) == ""
    given = episodes.Settings(whiten=True)
    assert episodes.survey(group, given) == (3, pytest.approx(-0.25), pytest.approx(0.75**2 + 1))
    wrong = replace(row, advantage=[0.1, 0.2, 0.3, 0.4])  # neither one a step nor one a token
    [out] = episodes.select(
        Group("p", traces=[TRACE], labels={"p/0": wrong}), given, TASK, lambda text: [1], whole=(0, 1)
    )
    assert out.reason == "no_advantage"
