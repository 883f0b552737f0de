"""Labellers that compare, look up or read a finished tree: each ask and each row to its last field."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from label_world import PROBLEM, Lines, trace
from test_label_trees_word_for_word import DRAWN, node, told
from test_label_word_for_word import asked, dropped, label, opened

from pipeline.asks import All, Choose, Continue, Cut, Prefix, prefix_of
from pipeline.label import duel, evidence, mutual, tree_value
from pipeline.rows import Dropped, Group
from pipeline.store.passages import Passage

# --- compared with others


def test_a_partner_is_asked_word_for_word() -> None:
    pair = [trace(0, "abcdefg", "x", score=0.75), trace(1, "hijklmn", "y", score=0.25)]
    pair = [dataclasses.replace(one, answer=answer) for one, answer in zip(pair, "xy", strict=True)]
    given = {"by": "b", "writer": "w", "masks": 2, "keep": (0.2, 0.6), "n": 2, "agree": 0.5, **DRAWN}
    cuts = [[opened(one, 0), opened(one, 1)] for one in pair]
    says = [["x", "x", "y", None], ["y", "x", "x", "x"]]
    ends = [Prefix("", finish="eos", answer=answer) for each in says for answer in each]
    ends[1] = dataclasses.replace(ends[1], finish="stop")
    rows, seen = asked(mutual, [trace(2), *pair], [cuts, ends], **given)
    assert seen == [
        All(*(Cut(prefix_of(one), at=[2, 6], by="w") for one in pair)),
        Continue([*cuts[0], *cuts[1]], by="b", n=2, **DRAWN),
    ]
    assert rows == [
        dropped(2, "no_answer"),
        label(0, "mutual", value=1.0),
        label(1, "mutual", value=0.0, reason="inconsistent"),
    ]
    ends[1] = dataclasses.replace(ends[1], finish="length")  # cut: it says nothing
    assert [row.value for row in asked(mutual, pair, [cuts, ends], **given)[0]] == [0.375, 0.125]
    sure, seen = asked(mutual, pair, [], sure=0.75)
    assert (seen, sure) == (
        [],
        [label(0, "mutual", value=1.0), label(1, "mutual", value=0.0, reason="inconsistent")],
    )
    assert mutual.Settings(keep=(0.5, 0.5)).keep == (0.5, 0.5)
    assert mutual.places(10, mutual.Settings(masks=3, keep=(0.0, 0.9))) == [0, 5, 9]


def test_two_are_shown_in_both_orders_word_for_word() -> None:
    traces = [
        dataclasses.replace(trace(k, text, answer="x"), prompt=f"Q{k}") for k, text in enumerate("abcd")
    ]
    given = {"by": "j", "most": 3, "prompt": "{question}|{first}|{second}", "options": ("y", "n")}
    likes = {"ab": 0.75, "ac": 0.25, "bc": 0.5, "ba": 0.25, "ca": 0.5, "cb": 0.75}
    replies = [[0.5 * yes, 0.5 * (1 - yes)] for yes in likes.values()]
    rows, seen = asked(duel, [*traces, trace(4)], [replies], **given)
    shown = [Prefix(prompt=f"Q{'abcd'.index(one)}|{one}\n|{two}\n") for one, two in likes]
    assert seen == [Choose(shown, options=("y", "n"), by="j")]
    # a beats b (.75), c beats a ((.25 + .5) / 2), c beats b ((.5 + .25) / 2)
    assert rows == [
        dropped(4, "no_answer"), dropped(3, "over_limit"),
        label(0, "duel", value=0.5), label(1, "duel", value=0.0), label(2, "duel", value=1.0),
    ]  # fmt: skip
    rows, seen = asked(duel, traces[:3], [replies[:3]], orders="one", **given)
    assert [ask.listed for ask in seen] == [shown[:3]]
    # b and c draw and so beat each other; a beats b and so c: all beat all, and what they do to one another decides
    assert [row.value for row in rows] == [0.5, 0.0, 1.0]


# --- looked up


def test_claims_are_looked_up_word_for_word(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")
    (tmp_path / "s.txt").write_text("Iron rusts in rain.\n\nIron rusts at sea.\n\nBees make honey.")
    given = {"by": "j", "store": str(tmp_path / "s.txt"), "k": 2, "sure": 0.5, "least_words": 2, "prompt": "{claim}<{passage}", "options": ("s", "c", "n"), "unknown": 0.25}  # fmt: skip
    one = trace(0, "Iron rusts. Nothing known here.", "Bees sting.", "Blue umbrellas.")
    replies = [[0.5, 0.25, 0.25], [0.25, 0.0, 0.75], [0.25, 0.49, 0.26]]
    rows, seen = asked(evidence, [one, trace(1, "Blue umbrellas."), trace(2)], [replies], **given)
    texts = ["Iron rusts in rain.", "Iron rusts at sea.", "Bees make honey."]
    claims = ["Iron rusts.", "Iron rusts.", "Bees sting."]
    shown = [Prefix(prompt=f"{claim}<{text}") for claim, text in zip(claims, texts, strict=True)]
    assert seen == [Choose(shown, options=("s", "c", "n"), by="j")]
    coverage = "coverage 0.25: 1 supported, 0 contradicted, 3 not found; passages 1"
    assert rows == [
        label(0, "evidence", step_scores=[1.0, None, None], value=1.0, reason=coverage),
        label(1, "evidence", step_scores=[None], value=0.25, reason="coverage 0.00: 0 supported, 0 contradicted, 1 not found"),
        dropped(2, "no_steps"),
    ]  # fmt: skip
    mute = asked(evidence, [trace(0, "ok")], [], **given)[0]
    assert mute == [label(0, "evidence", step_scores=[None], value=0.25, reason="coverage 0.00: 0 supported, 0 contradicted, 0 not found")]  # fmt: skip
    assert [evidence.verdict(said, 0.5) for said in ([(0.5, 0.0)], [(0.0, 0.5)], [(0.49, 0.49)], [(0.5, 0.5)], [(0.5, 0.4), (0.4, 0.6)])] == [1.0, 0.0, None, 1.0, 0.0]  # fmt: skip
    assert [evidence.least(scores) for scores in ([], [None], [None, 0.5], [1.0, 0.0, None])] == [
        None,
        None,
        0.5,
        0.0,
    ]
    index = evidence.Index((Passage("a", "red kite"), Passage("b", "red sea")), "here")
    assert [one.id for one in index.find("red", 1)] == ["a"]
    assert [one.id for one in index.find("red", 1, but="a")] == ["b"]
    with pytest.raises(Exception, match="^store: here: holds no passage$"):
        evidence.Index((), "here")


# --- values of a finished tree


def driven(group: Group, **given: Any) -> list[Any]:
    return asked(tree_value, group.traces, [], **given)[0] if not group.nodes else _of_nodes(group, **given)


def _of_nodes(group: Group, **given: Any) -> list[Any]:
    with pytest.raises(StopIteration) as stopped:
        next(tree_value.label(PROBLEM, group, tree_value.Settings(**given), Lines()))
    return stopped.value.value


def test_values_of_a_tree_word_for_word() -> None:
    traces = [
        trace(0, "a", "right"),
        trace(1, "a", "b", "no"),
        trace(2, "c", finish="budget"),
        trace(3, "d", "no"),
    ]
    rows = driven(Group("p", traces=traces))
    v = 0.5 - 0.5 / 2  # off the route at `a`, from where a right answer is one step away
    assert rows == [
        label(0, "tree_value", correct=True, step_scores=[0.5, 1.0], value=1.0),
        label(1, "tree_value", correct=False, step_scores=[0.5, v, max(0.0, v - (1 - v) / 2)], value=max(0.0, v - (1 - v) / 2), reason="wrong_answer"),
        label(2, "tree_value", correct=False, step_scores=[None], value=None, reason="truncated"),
        label(3, "tree_value", correct=False, step_scores=[0.0, 0.0], value=0.0, reason="wrong_answer"),
    ]  # fmt: skip
    simple = driven(Group("p", traces=traces), values="simple")
    assert [row.step_scores for row in simple] == [[0.5, 1.0], [0.5, 0.0, None], [0.0], [0.0, None]]
    deep = [trace(0, "a", "b", "c", "right"), trace(1, "a", "b", "x", "no")]
    assert driven(Group("p", traces=deep), values="simple")[1].step_scores == [0.25, 0.5, 0.25, None]
    nodes = [node(0, None, "", 0, 0.0), node(1, 0, "a\n", 1, 0.0), node(2, 1, "right\n", 2, 0.0, trace_id="p/0"), node(3, 0, "e\n", 1, 0.0)]  # fmt: skip
    rows = driven(Group("p", traces=traces[:1], nodes=nodes))
    assert rows == [
        label(0, "tree_value", correct=True, step_scores=[0.5, 1.0], value=1.0),
        told(0, "tree_value", 0.0), told(1, "tree_value", 0.5), told(2, "tree_value", 1.0),
        Dropped(problem_id="p", what="p/n3", reason="unknown_distance"),
    ]  # fmt: skip
    wrong = [trace(3, "d", "no")]
    by_rule = {
        rule: driven(Group("p", traces=wrong), no_correct=rule)[0] for rule in ("skip", "zeros", "branches")
    }
    assert {rule: (row.step_scores, row.value) for rule, row in by_rule.items()} == {
        "skip": ([None, None], None), "zeros": ([None, 0.0], 0.0), "branches": ([0.0, 0.0], 0.0),
    }  # fmt: skip
