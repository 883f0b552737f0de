"""label/evidence and the store that it reads: verdicts by hand, what is asked, what no store may hold."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_world import PROBLEM, Lines, stamped, trace
from pydantic import ValidationError

from pipeline.asks import Choose
from pipeline.errors import DamagedData, RecipeError
from pipeline.label import evidence
from pipeline.label.evidence import Settings, claims_of, label, least, verdict
from pipeline.rows import Dropped, Group, Label, Problem
from pipeline.store.passages import Passage, hash_of, leak, read_passages

STORE = "The Nile flows north.\n\nIron rusts in damp air.\n\nBees make honey\nin summer."


def store_of(folder: Path, text: str = STORE, name: str = "facts.txt") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def drive(asks: Any, said: Any) -> tuple[list[Any], list[Choose]]:
    """What the labeller returns where said(passage, claim) is the model's probabilities."""
    seen: list[Choose] = []
    reply = None
    while True:
        try:
            ask = asks.send(reply)
        except StopIteration as stop:
            return stamped(stop.value, "evidence"), seen
        assert isinstance(ask, Choose)
        seen.append(ask)
        reply = []
        for prefix in ask.listed:
            lines = prefix.prompt.split("\n")
            reply.append(list(said(lines[0].removeprefix("Text: "), lines[-3].removeprefix("Claim: "))))


# --- verdicts


def test_a_verdict_by_hand() -> None:
    assert verdict([(0.6, 0.1), (0.2, 0.7)], 0.5) == 0.0
    assert verdict([(0.6, 0.1)], 0.5) == 1.0
    assert verdict([(0.4, 0.3), (0.45, 0.2)], 0.5) is None
    assert verdict([(0.6, 0.6)], 0.5) == 1.0
    assert verdict([], 0.5) is None
    assert least([None, 1.0, 0.0]) == 0.0
    assert least([None, None]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6), st.floats(0.05, 0.95))
def test_more_passages_never_take_a_verdict_away(said: list[tuple[float, float]], sure: float) -> None:
    known = [verdict(said[:n], sure) is not None for n in range(len(said) + 1)]
    assert known == sorted(known)


def test_claims_are_sentences_or_steps() -> None:
    step = "The Nile flows north. So it is. Does it flow far? It does indeed!\n"
    settings = Settings(store="train")
    assert claims_of(step, settings) == [
        "The Nile flows north.",
        "So it is.",
        "Does it flow far?",
        "It does indeed!",
    ]
    assert claims_of(step, Settings(store="train", least_words=4)) == [
        "The Nile flows north.",
        "Does it flow far?",
    ]
    assert claims_of(step, Settings(store="train", claims="step")) == [step.strip()]
    assert claims_of("ok\n", settings) == []


# --- the labeller


def test_what_is_asked_and_labelled_by_hand(tmp_path: Path) -> None:
    """Three steps: supported, contradicted beside supported, nothing found; then a trace that the store knows nothing of,
    whose value is no number."""
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")
    one = trace(0, "The Nile flows north.", "Iron never rusts. Bees make honey.", "Seventeen blue umbrellas.")
    other = trace(1, "Seventeen blue umbrellas.", "No passage says this.")
    empty = trace(2)
    settings = Settings(store=store_of(tmp_path), k=2)

    def said(passage: str, claim: str) -> tuple[float, float, float]:
        if claim.split()[0] not in passage:
            return 0.1, 0.1, 0.8
        return (0.1, 0.8, 0.1) if "never" in claim else (0.9, 0.05, 0.05)

    rows, seen = drive(label(PROBLEM, Group("p", traces=[one, other, empty]), settings, Lines()), said)
    first, second, third = rows
    assert first.step_scores == [1.0, 0.0, None]
    assert first.value == 0.0
    assert first.reason == "coverage 0.75: 2 supported, 1 contradicted, 1 not found; passages 1, 2, 3"
    assert isinstance(second, Label)
    assert second.step_scores == [None, None]
    assert second.value is None  # no coverage is never taken for a verdict
    assert second.reason.startswith("coverage 0.00: 0 supported, 0 contradicted, 2 not found")
    assert isinstance(third, Dropped)
    assert third.reason == "no_steps"
    prompts = [prefix.prompt for ask in seen for prefix in ask.listed]
    assert prompts[0].startswith("Text: The Nile flows north.\nClaim: The Nile flows north.\n")
    assert all("umbrellas" not in prompt for prompt in prompts)  # nothing is near: nobody is asked
    assert all("right" not in prompt for prompt in prompts)  # gold
    rows, _ = drive(
        label(PROBLEM, Group("p", traces=[other]), settings.model_copy(update={"unknown": 0.5}), Lines()),
        said,
    )
    assert rows[0].value == 0.5
    assert rows[0].step_scores == [None, None]


def test_the_passage_that_is_named_is_the_strongest_voice_of_the_verdict(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")
    store = store_of(tmp_path, "Iron rusts in rain.\n\nIron rusts at sea.\n\nBees make honey all summer.")
    turn = dataclasses.replace(trace(1), id="p/critique.0", parent="p/0")
    group = Group("p", traces=[trace(0, "Iron rusts never."), turn])

    def said(passage: str, claim: str) -> tuple[float, float, float]:
        return (0.3, 0.55, 0.15) if "rain" in passage else (0.1, 0.8, 0.1)

    rows, _ = drive(label(PROBLEM, group, Settings(store=store, k=2), Lines()), said)
    first, other = rows
    assert first.step_scores == [0.0]
    assert first.reason.endswith("; passages 2")
    assert (other.what, other.reason) == ("p/critique.0", "other_turn")


def test_the_nearest_passage_comes_first_and_ties_by_place(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")
    texts = ["red kite", "a red red kite over red fields", "blue sea", "red kite"]
    index = evidence.Index(tuple(Passage(str(n), text) for n, text in enumerate(texts)), "here")
    assert [one.id for one in index.find("a kite over fields", 1)] == ["1"]
    assert [one.id for one in index.find("KITE!", 9)] == ["0", "3", "1"]
    assert [one.id for one in index.find("kite", 9, but="0")] == ["3", "1"]
    assert index.find("umbrella", 4) == []
    assert index.find("", 4) == []


def test_training_solutions_are_a_store_without_the_problems_own() -> None:
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")

    class Solved(Lines):
        def problems(self) -> Any:
            for name, split in (("p", "train"), ("q", "train"), ("t", "test")):
                yield Problem(
                    id=name, question="?", answer="x", split=split, solution=f"Rivers of {name} flow north."
                )

    rows, seen = drive(
        label(
            PROBLEM, Group("p", traces=[trace(0, "Rivers flow north.")]), Settings(store="train"), Solved()
        ),
        lambda passage, claim: (0.9, 0.0, 0.1),
    )
    assert [prefix.prompt.split("\n")[0] for prefix in seen[0].listed] == ["Text: Rivers of q flow north."]
    assert rows[0].value == 1.0

    class Bare(Lines):
        def problems(self) -> Any:
            yield PROBLEM

    asks = label(PROBLEM, Group("p", traces=[]), Settings(store="train"), Bare())
    with pytest.raises(RecipeError, match="no training problem of lines has a solution"):
        next(asks)


# --- the store


def test_passages_of_both_forms(tmp_path: Path) -> None:
    assert [one.text for one in read_passages(Path(store_of(tmp_path)))][2] == "Bees make honey\nin summer."
    lines = "\n".join(json.dumps(row) for row in ({"id": "a", "text": "one two"}, {"text": "three"}))
    assert read_passages(Path(store_of(tmp_path, lines, "s.jsonl"))) == (
        Passage("a", "one two"),
        Passage("2", "three"),
    )
    odd = json.dumps({"text": "one\u2028two\x85three"}, ensure_ascii=False)  # no line ends in JSON Lines
    assert len(read_passages(Path(store_of(tmp_path, odd, "odd.jsonl")))) == 1
    before = hash_of(tmp_path / "facts.txt")
    store_of(tmp_path, STORE + " More.")
    assert hash_of(tmp_path / "facts.txt") != before


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [("", "s.txt", "holds no passage"), (" \n\n--\n", "s.txt", "holds no passage"), ('{"text": 3}', "s.jsonl", r"s\.jsonl:1: not of the form"),
     ("x\n", "s.jsonl", "not of the form"), ("", "s.jsonl", "holds no passage")],
)  # fmt: skip
def test_a_store_that_is_none_is_said(tmp_path: Path, text: str, name: str, words: str) -> None:
    with pytest.raises(DamagedData, match=words):
        read_passages(Path(store_of(tmp_path, text, name)))
    with pytest.raises(DamagedData, match="no such file"):
        read_passages(tmp_path / "none.txt")


def test_what_no_store_may_hold() -> None:
    passages = [
        Passage("1", "Rivers: where does the Nile, a river, flow? It flows north."),
        Passage("2", "She adds 3 and 4, which is 7, and doubles it to 14."),
        Passage("3", "He won the long distance medal."),
    ]

    def problem(**more: Any) -> Problem:
        return Problem(
            **{"id": "t1", "question": "Nothing like it?", "answer": "north", "split": "test"} | more
        )

    assert leak(passages, [problem()]) == ""  # a short answer stands in any text
    assert leak(passages, [problem(question="Nile?")]) == ""
    asked = "Where does the Nile (a river) flow?\nAnswer choices:\n(a) north"
    assert "passage 1 holds the question of the test problem t1" in leak(
        passages, [problem(), problem(question=asked)]
    )
    solved = "adds 3 and 4, which is 7, and doubles"
    assert "passage 2 holds the solution of the test problem t1" in leak(passages, [problem(solution=solved)])
    assert "passage 3 holds the answer of the dev" in leak(
        passages, [problem(answer="the long-distance medal", split="dev")]
    )


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="store"):
        Settings()
    with pytest.raises(ValidationError, match=r"has no \{claim\}"):
        Settings(store="train", prompt="{passage}?")
    assert Settings(store="train").texts == ()
    assert Settings(store="a.txt").texts == ("a.txt",)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(RecipeError, match=r"pip install 'ratchet-lm\[evidence\]'"):
        evidence.Index((Passage("1", "a"),), "here")
