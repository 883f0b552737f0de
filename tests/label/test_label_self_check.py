"""label/self_check: when the critic is asked, by each kind of critic, and what its verdicts make of the votes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from label_world import PROBLEM, Lines, stamped, trace, written
from pydantic import ValidationError

from pipeline.asks import All, Choose, Continue, Score
from pipeline.label.self_check import Settings, judged, label, values_of
from pipeline.rows import Dropped, Group, Label, Trace, without_gold
from pipeline.tasks.prepare import render_turn


def drive(asks: Any, critic: Any, task: Any) -> tuple[list[Any], list[Any]]:
    """What the labeller returns, and what was asked; critic(what it read) answers."""
    seen: list[Any] = []
    reply = None
    while True:
        try:
            ask = asks.send(reply)
        except StopIteration as stop:
            return stamped(stop.value, "self_check"), seen
        seen.append(ask)
        if isinstance(ask, All):
            reply = [render_turn(task, one, None) for one in ask.asks]
        elif isinstance(ask, Continue):
            said = [critic(prefix.prompt) for prefix in ask.listed]
            reply = [
                dataclasses.replace(
                    written(prefix, text), answer=task.extract_turn("critique", text), act=prefix.act
                )
                for prefix, text in zip(ask.listed, said, strict=True)
            ]
        elif isinstance(ask, Choose):
            reply = [critic(prefix.prompt) for prefix in ask.listed]
        else:
            assert isinstance(ask, Score)
            reply = [critic(prefix.text) for prefix in ask.listed]


def votes(*answers: str) -> Group:
    return Group("p", traces=[trace(n, "a step", answer) for n, answer in enumerate(answers)])


def found(rows: list[Any]) -> dict[str, tuple[float, str]]:
    return {row.trace_id: (row.value, row.reason) for row in rows if isinstance(row, Label)}


def test_values_by_hand() -> None:
    counted = Counter({"A": 3, "B": 2, "C": 1})
    assert values_of(counted, {"A": "rejected", "B": "accepted"}) == {
        "A": 0.0,
        "B": 1.0,
        "C": pytest.approx(1 / 6),
    }
    everything = dict.fromkeys("ABC", "rejected")
    assert values_of(counted, everything) == {"A": 0.5, "B": pytest.approx(1 / 3), "C": pytest.approx(1 / 6)}
    assert judged([True, False]) == "accepted"
    assert judged([None, False]) == "rejected"
    assert judged([None]) == judged([]) == "critic_silent"


def test_a_sure_vote_asks_nobody() -> None:
    settings = Settings(by="policy")
    rows, seen = drive(label(PROBLEM, votes("7", "8", "7"), settings, Lines()), None, Lines())
    assert seen == []  # two against one is certain
    assert found(rows) == {
        "p/0": (1.0, "certain"),
        "p/1": (pytest.approx(1 / 3), "not_asked"),
        "p/2": (1.0, "certain"),
    }
    assert drive(label(PROBLEM, votes("7"), settings, Lines()), None, Lines())[1] == []
    rows, seen = drive(
        label(PROBLEM, votes("7", "8"), Settings(by="policy", certainty=1), Lines()), None, Lines()
    )
    assert seen == []


def test_a_critic_in_words_reads_one_of_each_group_until_it_accepts() -> None:
    """Ties are in order of coming. Its critiques are kept, each beside the trace that it read."""
    task = Lines()
    critic = {"7": "It is off.\nVerdict: wrong", "8": "Verdict: right", "9": "Verdict: wrong"}
    rows, seen = drive(
        label(PROBLEM, votes("7", "8", "9", "7", "8", "9"), Settings(by="policy"), task),
        lambda prompt: critic[prompt.split("\n")[1]],
        task,
    )
    assert [type(ask) for ask in seen] == [All, Continue, All, Continue]
    assert all(len(ask.listed) == 1 for ask in seen if isinstance(ask, Continue))
    shown = [ask.listed[0].prompt for ask in seen if isinstance(ask, Continue)]
    assert all("a step\n" in prompt and prompt.endswith("check: ") for prompt in shown)
    labelled = found(rows)
    assert labelled["p/0"] == labelled["p/3"] == (0.0, "rejected")
    assert labelled["p/1"] == labelled["p/4"] == (1.0, "accepted")
    assert labelled["p/2"] == (pytest.approx(1 / 3), "not_asked")
    critiques = [row for row in rows if isinstance(row, Trace)]
    assert [(one.parent, one.is_attempt) for one in critiques] == [("p/0", False), ("p/1", False)]
    assert len({one.id for one in critiques}) == 2


def test_a_critic_that_says_nothing_rejects_nothing() -> None:
    task = Lines()
    rows, seen = drive(
        label(PROBLEM, votes("7", "8"), Settings(by="policy"), task), lambda prompt: "Hm.", task
    )
    assert len(seen) == 2
    assert found(rows)["p/0"] == (1.0, "critic_silent")
    rows, _ = drive(label(PROBLEM, votes("7", "8"), Settings(value="prm"), task), lambda text: [], task)
    assert found(rows)["p/0"] == (1.0, "critic_silent")


def test_where_all_are_rejected_the_vote_decides() -> None:
    task = Lines()
    rows, _ = drive(
        label(PROBLEM, votes("7", "8", "7", "8", "7"), Settings(judge="policy"), task),
        lambda prompt: [0.1, 0.9],
        task,
    )
    assert found(rows)["p/0"] == (pytest.approx(0.6), "rejected")
    assert found(rows)["p/1"][0] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("settings", "critic"),
    [
        (
            Settings(judge="policy"),
            lambda prompt: [0.2, 0.8] if prompt.startswith("Q:a step\n7") else [0.7, 0.3],
        ),
        (Settings(value="prm"), lambda text: [0.9, 0.2] if "7" in text else [0.6, 0.9]),
        (Settings(value="prm", reads=2, accept=0.55), lambda text: [0.9, 0.2] if "7" in text else [0.6, 0.9]),
    ],
)
def test_any_verifier_is_a_critic(settings: Settings, critic: Any) -> None:
    task = Lines()
    rows, seen = drive(label(PROBLEM, votes("7", "8", "8", "7"), settings, task), critic, task)
    assert found(rows)["p/0"] == (0.0, "rejected")
    assert found(rows)["p/1"] == (1.0, "accepted")
    assert len(seen) == 2
    assert all(len(ask.listed) == settings.reads for ask in seen)


def test_gold_changes_nothing_and_what_is_no_answer_is_dropped() -> None:
    cut = dataclasses.replace(trace(5, "a", "7"), finish="length")
    group = votes("7", "8")
    group.traces.extend([cut, trace(6)])
    task, settings = Lines(), Settings(judge="policy")
    both = [
        drive(label(problem, group, settings, task), lambda prompt: [0.4, 0.6], task)[0]
        for problem in (PROBLEM, without_gold(PROBLEM))
    ]
    assert both[0] == both[1]
    assert {row.what: row.reason for row in both[0] if isinstance(row, Dropped)} == {
        "p/5": "no_answer",
        "p/6": "no_answer",
    }
    assert drive(label(PROBLEM, Group("p"), settings, task), None, task)[0] == []


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, "give one critic"), ({"by": "a", "value": "b"}, "give one critic"), ({"judge": "a", "prompt": "?"}, r"has no \{question\}")],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(**given)


def test_only_a_critic_in_words_needs_turns() -> None:
    assert Settings(by="policy").talks
    assert not Settings(value="prm").talks
