"""Labellers that take a model's word: a judge, verdicts of its own, three critics joined."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

sys.path.append(str(Path(__file__).parent))

from label_world import PROBLEM, Lines, stamped, trace

from pipeline.asks import All, Choose, Continue, Cut, Prefix, Score, Turn
from pipeline.label import critic, judge, self_verify
from pipeline.rows import Dropped, Group, Label, Question, Trace

TASK = Lines()


class Talker:
    """Answers asks: `said(act, text of the answer, sample)` is what a turn says."""

    def __init__(self, said=None, chance=None, score=None, writes=None):
        self.said, self.chance, self.score, self.writes = said, chance, score, writes
        self.asked = []

    def reply(self, ask):
        self.asked.append(ask)
        if isinstance(ask, All):
            return [self.reply(one) for one in ask.asks]
        if isinstance(ask, Turn):
            assert ask.question.question == "?"
            text = ask.history[-1].text
            return dataclasses.replace(
                ask.question, prompt=text, prompt_used=text, act=ask.act, turn=len(ask.history)
            )
        if isinstance(ask, Continue):
            writes = self.writes or self.turn
            return [writes(prefix, k) for prefix in ask.listed for k in range(ask.n)]
        if isinstance(ask, Cut):
            return [
                Prefix(ask.prefix.prompt, ask.prefix.token_ids[:at], text=ask.prefix.text[:at])
                for at in ask.at
            ]
        if isinstance(ask, Choose):
            return [self.chance(prefix, ask.options) for prefix in ask.listed]
        assert isinstance(ask, Score)
        return [[self.score(ask.by, prefix, k) for k in range(len(prefix.steps))] for prefix in ask.listed]

    def turn(self, prefix, k):
        text = self.said(prefix.act, prefix.prompt, k)
        return dataclasses.replace(
            prefix, text=text, token_ids=tuple(map(ord, text)), steps=(text,), step_ends=(len(text),),
            finish="eos", answer=TASK.extract_turn(prefix.act, text),
        )  # fmt: skip

    def drive(self, method, group, settings, problem=PROBLEM):
        asks, reply = method.label(problem, group, settings, TASK), None
        while True:
            try:
                ask = asks.send(reply)
            except StopIteration as stop:
                return stamped(stop.value, method.__name__.rpartition(".")[2])
            reply = self.reply(ask)


def labels(rows):
    return {row.trace_id: row for row in rows if isinstance(row, Label)}


def reasons(rows):
    return {row.what: row.reason for row in rows if isinstance(row, Dropped)}


def talk(*extra: Trace) -> Group:
    """Two answers and a critique of the first."""
    critique = dataclasses.replace(trace(0, "fine"), id="p/critique.0", parent="p/0", answer="right")
    return Group("p", traces=[trace(0, "right"), trace(1, "bad", "wrong"), critique, *extra])


# --- judge


def test_points_are_averaged_over_the_range_and_a_judgement_without_a_number_is_no_zero():
    points = {"right\n": ["Score: 5", "Score: 3", "I cannot say"], "bad\nwrong\n": ["no", "none", "Score: 9"]}
    rows = Talker(lambda act, text, k: points[text][k]).drive(judge, talk(), judge.Settings())
    assert labels(rows)["p/0"].value == pytest.approx((5 + 3) / 2 / 5)
    assert labels(rows)["p/0"].reason == "no number in 1 of 3"
    assert labels(rows)["p/0"].correct is None
    assert reasons(rows) == {"p/1": "no_number", "p/critique.0": "no_attempt"}
    kept = [row for row in rows if isinstance(row, Trace)]
    assert [(row.id, row.parent, row.answer) for row in kept[:3]] == [
        ("p/judge.0", "p/0", "5"), ("p/judge.1", "p/0", "3"), ("p/judge.2", "p/0", None),
    ]  # fmt: skip
    assert kept[3].parent == "p/1"
    assert all(row.act == "judge" and not row.is_attempt for row in kept)


def test_a_judge_that_never_gives_a_number_labels_nothing():
    rows = Talker(lambda act, text, k: "well").drive(judge, talk(), judge.Settings(keep=False))
    assert labels(rows) == {}
    assert reasons(rows) == {"p/0": "no_number", "p/1": "no_number", "p/critique.0": "no_attempt"}
    assert not any(isinstance(row, Trace) for row in rows)


def test_the_chance_of_right_is_read_at_once_or_where_a_check_comes_to_its_verdict():
    seen = []

    def chance(prefix, options):
        seen.append((prefix.text, options))
        return [0.8, 0.2] if prefix.prompt == "right\n" else [0.1, 0.9]

    talker = Talker(lambda act, text, k: "4 - 4 = 0 right" if text == "right\n" else "1 ok, wrong.", chance)
    rows = talker.drive(judge, talk(), judge.Settings(how="chance"))
    assert {name: row.value for name, row in labels(rows).items()} == {"p/0": 0.8, "p/1": 0.1}
    assert seen == [("", ("right", "wrong"))] * 2
    seen.clear()
    rows = talker.drive(judge, talk(), judge.Settings(how="chance", after="check"))
    assert {name: row.value for name, row in labels(rows).items()} == {"p/0": 0.8, "p/1": 0.1}
    assert seen == [("4 - 4 = 0 ", ("right", "wrong")), ("1 ok, ", ("right", "wrong"))]
    mute = Talker(lambda act, text, k: "hm", chance)
    rows = mute.drive(judge, talk(), judge.Settings(how="chance", after="check"))
    assert reasons(rows)["p/0"] == "no_verdict"
    assert labels(rows) == {}


def test_a_token_that_carries_its_space_is_an_option_with_it():
    """Cut at tokens: ` right` is one, so the text before it lacks the space, and the option has it."""

    class Words(Talker):
        def reply(self, ask):
            if isinstance(ask, Cut):
                return [
                    Prefix("right\n", (1,) * k, text=text) for k, text in enumerate(["", "so", "so it is"])
                ]
            return super().reply(ask)

    seen = []
    talker = Words(
        lambda act, text, k: "so it is right", lambda p, options: (seen.append(options), [1, 0])[1]
    )
    talker.drive(judge, Group("p", traces=[trace(0, "right")]), judge.Settings(how="chance", after="check"))
    assert seen == [(" right", " wrong")]


def test_a_judge_has_two_words():
    with pytest.raises(ValidationError, match="two different words"):
        judge.Settings(options=("yes", "yes"))
    assert judge.Settings(temperature=0).draws_alike
    assert not judge.Settings.sees_gold


# --- self_verify


def verdicts(right, wrong, none=0):
    """So many verdicts, in this order."""
    words = ["Verdict: right"] * right + ["Verdict: wrong"] * wrong + ["?"] * none
    return Talker(lambda act, text, k: words[k])


@pytest.mark.parametrize(
    ("right", "wrong", "none", "tau", "said"),
    [
        (7, 3, 0, 0.7, (True, 0.7)),
        (3, 7, 0, 0.7, (False, 0.3)),
        (6, 4, 0, 0.7, "unsure"),
        (5, 5, 0, 0.51, "unsure"),
        (4, 4, 2, 0.51, "unsure"),
        (2, 0, 8, 0.7, (True, 1.0)),
        (0, 2, 8, 1.0, (False, 0.0)),
        (0, 0, 10, 0.7, "no_verdict"),
    ],
)
def test_the_share_of_verdicts_decides(right, wrong, none, tau, said):
    group = Group("p", traces=[trace(0, "right")])
    rows = verdicts(right, wrong, none).drive(self_verify, group, self_verify.Settings(n=10, tau=tau))
    if isinstance(said, str):
        assert reasons(rows) == {"p/0": said}
    else:
        row = labels(rows)["p/0"]
        assert (row.correct, row.value) == (said[0], pytest.approx(said[1]))
        assert row.reason == ("" if said[0] else "called_wrong")


def test_who_is_not_asked_and_how_many_verdicts_are_wanted():
    group = talk(trace(3, "cut", finish="length"), trace(4, "mute", answer=None))
    talker = verdicts(1, 0, 1)
    rows = talker.drive(self_verify, group, self_verify.Settings(n=2, least=2))
    assert reasons(rows) == {
        "p/0": "no_verdict", "p/1": "no_verdict", "p/critique.0": "no_attempt", "p/3": "truncated"
    }  # fmt: skip
    assert (labels(rows)["p/4"].correct, labels(rows)["p/4"].reason) == (False, "no_answer")
    kept = talker.drive(self_verify, group, self_verify.Settings(n=2, keep=True))
    critiques = [row for row in kept if isinstance(row, Trace)]
    assert [row.parent for row in critiques] == ["p/0", "p/0", "p/1", "p/1"]
    assert len({row.id for row in critiques}) == 4
    with pytest.raises(ValidationError, match="greater than 0.5"):
        self_verify.Settings(tau=0.5)


# --- critic


def scores(by, prefix, k):
    """value: a step's number of steps / 10; prm .9; orm: of a roll-out by its last character."""
    if by == "value":
        return 0.1 * (k + 1)
    if by == "prm":
        return 0.9
    return 1.0 if prefix.steps[k].startswith("good") else 0.0


def rolled(prefix, k):
    """One roll-out of four ends well after the first step, three after the second."""
    well = k < (1 if len(prefix.steps) == 1 else 3)
    step = "good\n" if well else "poor\n"
    return dataclasses.replace(
        prefix, steps=(*prefix.steps, step), text=prefix.text + step, finish="eos",
        step_ends=(*prefix.step_ends, prefix.num_tokens + 5), token_ids=(*prefix.token_ids, 1, 2, 3, 4, 5),
    )  # fmt: skip


def test_three_critics_by_hand():
    group = Group("p", traces=[trace(0, "a", "b", "good")])
    settings = critic.Settings(value="value", prm="prm", outcome="orm", weights=(1, 1, 2))
    talker = Talker(score=scores, writes=rolled)
    [row] = talker.drive(critic, group, settings)
    # (v + .9 + 2 * share) / 4 with v .1, .2, .3 and shares 1/4, 3/4, and the trace itself: 1
    assert row.step_scores == pytest.approx(
        [(0.1 + 0.9 + 0.5) / 4, (0.2 + 0.9 + 1.5) / 4, (0.3 + 0.9 + 2) / 4]
    )
    assert row.value == row.step_scores[-1]
    [asked] = [ask for ask in talker.asked if isinstance(ask, Continue)]
    assert [len(prefix.steps) for prefix in asked.listed] == [1, 2]  # an ended trace needs no roll-out


def test_critics_that_do_not_count_are_not_asked():
    group = Group("p", traces=[trace(0, "a", "good"), trace(1)])
    talker = Talker(score=scores, writes=rolled)
    rows = talker.drive(
        critic, group, critic.Settings(value="value", prm="prm", outcome="orm", weights=(1, 0, 0))
    )
    assert labels(rows)["p/0"].step_scores == pytest.approx([0.1, 0.2])
    assert reasons(rows) == {"p/1": "no_steps"}
    assert not any(isinstance(ask, Continue) for ask in talker.asked)
    with pytest.raises(ValidationError, match="no critic has a weight"):
        critic.Settings()
    with pytest.raises(ValidationError, match="no critic has a weight"):
        critic.Settings(value="value", weights=(0, 1, 1))


def test_an_abandoned_trace_is_rolled_out_from_its_end_too():
    group = Group("p", traces=[trace(0, "a", "b", finish="budget")])
    talker = Talker(score=scores, writes=rolled)
    [row] = talker.drive(critic, group, critic.Settings(outcome="orm"))
    assert row.step_scores == pytest.approx([0.25, 0.75])


# --- gold


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (judge, judge.Settings()),
        (judge, judge.Settings(how="chance")),
        (self_verify, self_verify.Settings(n=2)),
        (critic, critic.Settings(value="value", outcome="orm")),
    ],
)
def test_a_poisoned_gold_makes_no_difference(method, settings):
    def rows(answer):
        problem = dataclasses.replace(PROBLEM, answer=answer, solution=str(answer), meta=str(answer))
        talker = Talker(lambda act, text, k: "Score: 2 right", lambda p, o: [0.5, 0.5], scores, None)
        talker.writes = rolled if method is critic else None
        return talker.drive(method, talk(), settings, problem)

    assert not settings.sees_gold
    assert rows("right") == rows("poison") == rows(None)


def test_a_question_to_talk_about_has_no_prompt():
    from pipeline.asks import about

    assert about("p", "?") == Question(id="p", question="?", prompt="", prompt_used="")
