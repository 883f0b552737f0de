"""Labellers with no setting at its default: each ask to its last field, and each row to its last field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from label_world import PROBLEM, Lines, trace

from pipeline.asks import (
    All,
    Choose,
    Continue,
    Counted,
    Cut,
    MonteCarlo,
    Prefix,
    Said,
    Score,
    Turn,
    about,
    prefix_of,
)
from pipeline.engine.driver import drive_with_replies
from pipeline.label import (
    _critiques,
    advantage,
    judge,
    relative,
    self_check,
    self_verify,
    shepherd,
    verify_steps,
)
from pipeline.rows import Dropped, Group, Label, Question, Trace

TASK = Lines()
DRAWN: dict[str, Any] = {"temperature": 0.5, "top_p": 0.75, "top_k": 7}


def asked(method: Any, traces: list[Trace], replies: list[Any], labels: Any = (), more: Any = None, /, **given: Any) -> tuple[list[Any], list[Any]]:  # fmt: skip
    """What a labeller returns when it is told these replies, and what it asked."""
    seen: list[Any] = []
    group = Group("p", traces=traces, labels={one.trace_id: one for one in labels})
    asks = method.label(PROBLEM, group, method.Settings(**given), TASK, **(more or {}))
    return drive_with_replies(asks, replies, seen), seen


def label(number: int, labeller: str, **more: Any) -> Label:
    return Label(problem_id="p", trace_id=f"p/{number}", labeller=labeller, **more)


def dropped(number: int | str, reason: str) -> Dropped:
    return Dropped(problem_id="p", what=f"p/{number}", reason=reason)


def opened(one: Trace, steps: int) -> Prefix:
    return prefix_of(one, steps)


# --- roll-outs


@pytest.mark.parametrize(
    ("method", "given", "scores", "more"),
    [
        (shepherd, {"estimate": "soft"}, [1 / 3, 1.0], None),
        (relative, {"ratio": 0.5}, [1.0, 1.0], None),
        (advantage, {"base": "m", "scout": 0, "best_of": 2}, [1 / 3, 1.0], [0.0, 1 - (1 - (2 / 3) ** 2)]),
    ],
)
def test_labellers_by_roll_outs(method: Any, given: Any, scores: Any, more: Any) -> None:
    one = trace(0, "a", "right")
    places = [opened(one, 1), prefix_of(one)]
    counts = [Counted(3, 1), Counted(3, 3)]
    if method is not shepherd:
        places, counts = [opened(one, 0), *places], [Counted(3, 1), *counts]
    rows, seen = asked(method, [one, trace(1)], [counts], by="m", n=3, **DRAWN, **given)
    assert seen == [MonteCarlo(places, by="m", n=3, **DRAWN)]
    name = method.__name__.rpartition(".")[2]
    wanted = label(0, name, correct=True, step_scores=pytest.approx(scores), value=scores[-1])
    if more is not None:
        wanted = dataclasses.replace(wanted, advantage=pytest.approx(more))
    assert sorted(rows, key=lambda row: type(row).__name__) == [dropped(1, "no_step_ends"), wanted]


def test_scouts_are_of_the_base_and_what_is_valued_of_both() -> None:
    one = trace(0, "a", "b", "c", "d", "no")
    shares = [Counted(2, 2), Counted(2, 2), Counted(2, 1), Counted(2, 1), Counted(2, 0), Counted(2, 0)]
    base, prover = ([Counted(3, 3), Counted(3, k)] for k in (1, 2))
    given = {"by": "m", "base": "b", "n": 3, "scout": 2, "collapse": 0.5, "around": 0, "best_of": 1, **DRAWN}
    rows, seen = asked(advantage, [one], [shares, base, prover], **given)
    near = [opened(one, 1), opened(one, 2)]
    assert seen == [
        MonteCarlo([*(opened(one, k) for k in range(5)), prefix_of(one)], by="b", n=2, **DRAWN),
        MonteCarlo(near, by="b", n=3, **DRAWN),
        MonteCarlo(near, by="m", n=3, **DRAWN),
    ]
    assert rows == [
        label(0, "advantage", correct=False, reason="wrong_answer", step_scores=[1.0, 1 / 3, None, None, None],
              advantage=[None, pytest.approx(2 / 3 - 1), None, None, None])
    ]  # fmt: skip
    few = asked(advantage, [one], [shares, base, prover], **given | {"scout": 9, "n": 2})[1]
    assert few[0].n == 2  # no more scouts than roll-outs


@pytest.mark.parametrize(("share", "kept"), [(1, False), (2, True), (6, True), (7, False)])
def test_the_bounds_of_a_band_are_within(share: int, kept: bool) -> None:
    one = trace(0, "right")
    counts = [Counted(8, share), Counted(8, 8)]
    rows, _ = asked(relative, [one], [counts], between=(0.25, 0.75))
    assert isinstance(rows[0], Label) is kept
    for wrong in ((-0.1, 0.5), (0.5, 1.1), (0.6, 0.5)):
        with pytest.raises(ValueError, match="two shares, 0 <= low <= high <= 1"):
            relative.Settings(between=wrong)
    assert relative.Settings(between=(0.5, 0.5)).between == (0.5, 0.5)


def test_a_share_at_the_ratio_is_good() -> None:
    assert relative.good_steps(0.5, [0.25, 0.125, 0.0625], 0.5) == [1, 1, 1]
    assert relative.good_steps(0.5, [0.24, 0.25], 0.5) == [0, 1]
    assert relative.good_steps(0.5, [0.25, 0.5, 0.25], 1.0, denoise=True) == [0, 1, 0]
    assert relative.good_steps(0.0, [0.0], 0.5) == [0]


# --- checks and judgements


def told(one: Trace, act: str, model: str = "m") -> Question:
    return dataclasses.replace(
        about("p", "?"), prompt=f"show {one.id}", prompt_used=f"use {one.id}", act=act, turn=3
    )


def said(question: Question, text: str, answer: str | None, number: int = 0) -> Prefix:
    ids = tuple(map(ord, text))
    return Prefix(
        prompt=question.prompt_used, token_ids=ids, step_ends=(len(ids),), steps=(text,), text=text,
        logprobs=(-0.5,) * len(ids), finish="stop", answer=answer, prompt_hash=f"h{number}", model="writer", act=question.act,
    )  # fmt: skip


def kept(question: Question, prefix: Prefix, number: int, parent: str, **more: Any) -> Trace:
    """A turn as the row that is committed of it."""
    return Trace(
        problem_id="p", id=f"p/{question.act}.{number}", prompt=question.prompt, text=prefix.text,
        token_ids=list(prefix.token_ids), step_ends=list(prefix.step_ends), steps=list(prefix.steps),
        answer=prefix.answer, logprobs=list(prefix.logprobs), finish="stop", turn=3, parent=parent,
        prompt_hash=prefix.prompt_hash, model="writer", **more,
    )  # fmt: skip


def talked(
    act: str, texts: list[tuple[str, str | None]], traces: list[Trace]
) -> tuple[list[Question], list[Prefix]]:
    turns = [told(one, act) for one in traces]
    each = len(texts) // len(traces)
    return turns, [said(turns[k // each], text, answer, k) for k, (text, answer) in enumerate(texts)]


@pytest.mark.parametrize("top_p", [0.75, 1.0])
def test_critiques_are_asked_for_and_kept_whole(top_p: float) -> None:
    pair = [trace(0, "right"), trace(1, "b")]
    turns, replies = talked(
        "critique", [("ok", "right"), ("no", "wrong"), ("hm", None), ("ok", "right")], pair
    )
    given = {
        "by": "m",
        "n": 2,
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": top_p,
        "keep": True,
        "tau": 0.75,
    }
    rows, seen = asked(self_verify, pair, [turns, replies], **given)
    begun = [Prefix(prompt=f"use p/{k}", act="critique") for k in range(2)]
    assert seen == [
        All(*(Turn(about("p", "?"), "critique", [Said(one.text)], by="m") for one in pair)),
        Continue(begun, by="m", n=2, max_tokens=9, temperature=0.5, top_p=top_p),
    ]
    drawn = {"temperature": 0.5, "cut": top_p < 1, "tokens_charged": 2}
    rows_kept = [kept(turns[k // 2], replies[k], k, f"p/{k // 2}", **drawn) for k in range(4)]
    assert rows == [
        dropped(0, "unsure"),
        *rows_kept[:2],
        label(1, "self_verify", correct=True, value=1.0),
        *rows_kept[2:],
    ]
    found = [(pair[k], turns[k], replies[2 * k : 2 * k + 2]) for k in range(2)]
    numbered = _critiques.as_traces(found, self_verify.Settings(**given), 5)
    assert [[one.id for one in each] for each in numbered] == [["p/critique.5", "p/critique.6"], ["p/critique.7", "p/critique.8"]]  # fmt: skip


def test_a_check_of_steps_word_for_word() -> None:
    one, earlier = trace(0, "a", "b"), dataclasses.replace(trace(0, "x"), id="p/critique.4", parent="p/0")
    texts: list[tuple[str, str | None]] = [("Step 1: right. Step 2: wrong.", "wrong"), ("hm", None)]
    turns, replies = talked("critique", texts, [one])
    rows, _ = asked(verify_steps, [one, earlier], [turns, replies], by="m", n=2)
    drawn = [{"temperature": 1.0, "cut": False, "tokens_charged": len(text)} for text, _ in texts]
    assert rows == [
        dropped("critique.4", "no_attempt"),
        label(0, "verify_steps", step_scores=[1.0, 0.0], value=0.0, reason="no verdict in 1 of 2"),
        *(kept(turns[0], replies[k], 5 + k, "p/0", **drawn[k]) for k in range(2)),
    ]
    two = [[True, None], [False, False], None]
    assert verify_steps.shares(one, two) == label(0, "verify_steps", step_scores=[0.5, 0.0], value=0.0, reason="no verdict in 1 of 3")  # fmt: skip
    assert verify_steps.shares(one, two[:1]) == label(0, "verify_steps", step_scores=[1.0, None])
    assert verify_steps.number_of(earlier) == 4
    reasons = [verify_steps.refused(trace(9, "a", finish=how)) for how in ("eos", "stop", "length", "budget")]
    assert reasons == ["", "", "truncated", "truncated"]


@pytest.mark.parametrize("top_p", [0.75, 1.0])
def test_points_are_asked_for_and_kept_whole(top_p: float) -> None:
    pair = [trace(0, "right"), trace(1, "b"), dataclasses.replace(trace(2, "c"), id="p/critique.0")]
    turns, replies = talked("judge", [("five", "5"), ("four", "4"), ("", None), ("none", None)], pair[:2])
    given = {"by": "m", "samples": 2, "max_tokens": 9, "temperature": 0.5, "top_p": top_p}
    rows, seen = asked(judge, pair, [turns, replies], **given)
    assert seen == [
        All(*(Turn(about("p", "?"), "judge", [Said(one.text)], by="m") for one in pair[:2])),
        Continue([Prefix(prompt=f"use p/{k}", act="judge") for k in range(2)], by="m", n=2, max_tokens=9, temperature=0.5, top_p=top_p),
    ]  # fmt: skip
    drawn = [{"temperature": 0.5, "cut": top_p < 1, "tokens_charged": size} for size in (4, 4, 0, 4)]
    rows_kept = [kept(turns[k // 2], replies[k], k, f"p/{k // 2}", **drawn[k]) for k in range(4)]
    rows_kept[2] = dataclasses.replace(rows_kept[2], step_ends=[0])
    assert rows == [
        dropped("critique.0", "no_attempt"),
        label(0, "judge", value=0.9),
        *rows_kept[:2],
        dropped(1, "no_number"),
        *rows_kept[2:],
    ]
    assert asked(judge, pair[2:], [])[0] == [dropped("critique.0", "no_attempt")]


def test_a_verdicts_chance_after_a_check_is_read_where_it_stands() -> None:
    """The last of the options in the text is the verdict; what no token border leaves is part of the options."""
    pair = [trace(0, "right"), trace(1, "b"), trace(2, "c")]
    texts: list[tuple[str, str | None]] = [("bad? no, good!", None), ("bad", None), ("well", None)]
    turns, replies = talked("critique", texts, pair)
    cuts = [
        [Prefix("", (1,) * k, text=text[: 2 * k]) for k in range(len(text) // 2 + 1)] for text, _ in texts[:2]
    ]
    given = {"how": "chance", "after": "check", "by": "m", "options": ("good", "bad"), "max_tokens": 9, "temperature": 0.5, "top_p": 0.75}  # fmt: skip
    rows, seen = asked(judge, pair, [turns, replies, *cuts, [[[0.75, 0.25]], [[0.125, 0.875]]]], **given)
    assert seen[:2] == [
        All(*(Turn(about("p", "?"), "critique", [Said(one.text)], by="m") for one in pair)),
        Continue([Prefix(prompt=f"use p/{k}", act="critique") for k in range(3)], by="m", max_tokens=9, temperature=0.0),
    ]  # fmt: skip
    assert seen[2:4] == [Cut(replies[0], range(14), by="m"), Cut(replies[1], range(3), by="m")]
    before = Prefix("", (1,) * 4, text="bad? no,")
    assert seen[4:] == [
        All(
            Choose(before, options=(" good", " bad"), by="m"),
            Choose(Prefix("", (), text=""), options=("good", "bad"), by="m"),
        )
    ]
    drawn = [{"temperature": 0.0, "cut": True, "tokens_charged": len(text)} for text, _ in texts]
    rows_kept = [kept(turns[k], replies[k], k, f"p/{k}", **drawn[k]) for k in range(3)]
    assert rows == [
        *rows_kept,
        dropped(2, "no_verdict"),
        label(0, "judge", value=0.75),
        label(1, "judge", value=0.125),
    ]
    rows, seen = asked(
        judge, pair[:1], [turns[:1], [[[0.5, 0.5]]]], how="chance", by="m", options=("good", "bad")
    )
    assert seen[1] == All(Choose(Prefix(prompt="use p/0", act="critique"), options=("good", "bad"), by="m"))
    assert rows == [label(0, "judge", value=0.5)]
    for wrong in (("a", "a"), ("", "b"), ("a", "")):
        with pytest.raises(ValueError, match="two different words"):
            judge.Settings(options=wrong)


def test_a_critic_in_words_is_asked_and_kept_whole() -> None:
    pair = [trace(0, "x", "7"), trace(1, "x", "8"), trace(2, "x", "7"), trace(3, "x", "8")]
    turns, replies = talked(
        "critique", [("off", "wrong"), ("bad", "wrong"), ("ok", "right"), ("hm", "right")], pair
    )
    turns = [turns[k] for k in (0, 2, 1, 3)]
    replies[1] = dataclasses.replace(replies[1], finish="length")  # a cut verdict is none
    replies[3] = dataclasses.replace(replies[3], finish="")
    given = {"by": "m", "reads": 2, "temperature": 0.5, "max_tokens": 9}
    rows, seen = asked(self_check, pair, [turns[:2], replies[:2], turns[2:], replies[2:]], **given)
    asks = Question(id="p", question="?", prompt="Q:", prompt_used="Q:", task="lines")
    assert seen == [
        All(*(Turn(asks, "critique", [Said(pair[k].text)], by="m") for k in (0, 2))),
        Continue([Prefix(prompt=f"use p/{k}", act="critique") for k in (0, 2)], by="m", temperature=0.5, max_tokens=9),
        All(*(Turn(asks, "critique", [Said(pair[k].text)], by="m") for k in (1, 3))),
        Continue([Prefix(prompt=f"use p/{k}", act="critique") for k in (1, 3)], by="m", temperature=0.5, max_tokens=9),
    ]  # fmt: skip
    critiques = [kept(turns[k], replies[k], k, f"p/{(0, 2, 1, 3)[k]}", temperature=0.5) for k in range(4)]
    critiques[1] = dataclasses.replace(critiques[1], finish="length")
    critiques[3] = dataclasses.replace(critiques[3], finish="budget")
    verdicts = [(0.0, "rejected"), (1.0, "accepted")] * 2
    assert rows == [
        *critiques,
        *(label(k, "self_check", value=value, reason=reason) for k, (value, reason) in enumerate(verdicts)),
    ]


def test_a_critic_that_chooses_or_scores_is_asked_whole() -> None:
    pair = [trace(0, "x", "7"), trace(1, "x", "8"), dataclasses.replace(trace(2, "x"), id="p/critique.0")]
    given = {"judge": "j", "prompt": "{answer}|{question}|", "options": ("y", "n"), "accept": 0.25}
    rows, seen = asked(self_check, pair, [[[0.24, 0.76]], [[0.25, 0.75]]], **given)
    assert seen == [
        Choose([Prefix(prompt=f"{one.text}|Q:|")], options=("y", "n"), by="j") for one in pair[:2]
    ]
    assert rows == [
        dropped("critique.0", "no_attempt"),
        label(0, "self_check", value=0.0, reason="rejected"),
        label(1, "self_check", value=1.0, reason="accepted"),
    ]
    rows, seen = asked(self_check, pair[:2], [[[0.9, 0.3]], [[0.5, 0.5]]], value="v", aggregate="min")
    assert seen == [Score([prefix_of(one)], by="v") for one in pair[:2]]
    assert [(row.value, row.reason) for row in rows] == [(0.0, "rejected"), (1.0, "accepted")]
    assert self_check.judged([True, True, False, None]) == "accepted"
    assert self_check.judged([False, True, True, False]) == "accepted"
    assert self_check.judged([True, False, False]) == "rejected"
    two = [trace(k, "x", answer) for k, answer in enumerate("AAABBC")]
    certain, _ = asked(self_check, two, [], judge="j", certainty=1.5)
    assert [row.reason for row in certain] == ["certain"] * 3 + ["not_asked"] * 3
    _, seen = asked(self_check, two, [[[1.0, 0.0]]], judge="j", certainty=1.6)
    assert len(seen) == 1
