"""Conversations in the trace browser and answer trees in the viewer: what the page is told, and what it shows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_browser import Browser, Tab, chromium
from report_world import World

from pipeline.label import outcome
from pipeline.report.html import build
from pipeline.report.html.data import load_run
from pipeline.report.html.data_columns import columns
from pipeline.report.html.data_traces import read_traces
from pipeline.report.html.data_trees import read_trees
from pipeline.report.show import render_rows
from pipeline.rows import Label, Node, Problem, Trace


class Talking(World):
    """Its samples are conversations (an answer, a critique, another answer, a critique), its trees hold whole answers."""

    def _rows(self, stage: Any, number: int, problem: Problem, group: Any) -> list[Any]:
        if stage.method == "sample":
            return self._talk(problem, f"{problem.id}/probe.0")
        if stage.method == "mcts_star":
            return self._answer_tree(problem, f"{problem.id}/search.{number}")
        return super()._rows(stage, number, problem, group)

    def _turn(self, problem: Problem, name: str, text: str, parent: str | None = None, **more: Any) -> Trace:
        made = self._whole(problem, name, text.splitlines(keepends=True))
        trace = replace(made, parent=parent, **more)
        return replace(trace, answer=self.task.extract_turn(trace.act, text) if trace.act else trace.answer)

    def _talk(self, problem: Problem, front: str) -> list[Any]:
        gold = self.task.gold_completion(problem) or ""
        wrong = gold.rpartition("= ")[0] + "= 1"
        right_at_once = random.Random(problem.id).random() < 0.3
        return [
            self._turn(problem, f"{front}/0", gold if right_at_once else wrong),
            self._turn(problem, f"{front}/critique.0", "all ok, 5 - 4 = 1 wrong", f"{front}/0", turn=1),
            self._turn(problem, f"{front}/revise.0", gold, f"{front}/critique.0", turn=2, chosen=True),
            self._turn(problem, f"{front}/critique.1", "9 - 9 = 0 right", f"{front}/revise.0", turn=3),
            self._turn(problem, f"{front}/judge.0", "so so", f"{front}/revise.0", turn=3),
            self._turn(problem, f"{front}/1", wrong),
        ]

    def _answer_tree(self, problem: Problem, front: str) -> list[Any]:
        gold = self.task.gold_completion(problem) or ""
        wrong = gold.replace("=", "= 1", 1)
        first = self._turn(problem, f"{front}/0", wrong, score=0.2)
        second = self._turn(problem, f"{front}/rewrite.0", gold, first.id, turn=2, score=0.9, chosen=True)
        made = {"problem_id": problem.id}
        return [
            Node(id=f"{front}/n0", parent=None, step="", depth=0, visits=3, **made),
            Node(id=f"{front}/n1", parent=f"{front}/n0", step=wrong, depth=1, visits=2, value=0.2, trace_id=first.id, **made),
            Node(id=f"{front}/n2", parent=f"{front}/n1", step=gold, depth=2, visits=1, value=0.9, trace_id=second.id, **made),
            first,
            second,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return Talking(tmp_path_factory.mktemp("talks") / "data", rounds=1, num=8).write()


def test_turns_know_the_one_that_they_follow(world: World) -> None:
    traces = read_traces(load_run("world", world.workspace))
    told = columns([load_run("world", world.workspace)], [traces])
    table, groups = told["columns"], told["groups"]
    probe = [i for i, g in enumerate(table["g"]) if groups[g]["stage"] == "probe"]
    acts = [told["acts"][table["act"][i]] for i in probe]
    assert acts == ["", "critique", "revise", "critique", "judge", ""] * 8
    first = probe[:6]
    assert [table["up"][i] for i in first] == [-1, first[0], first[1], first[2], first[2], -1]
    assert [table["a"][i] for i in first][1::2][:2] == ["wrong", "right"]
    assert table["a"][first[4]] is None
    assert all(table["ok"][i] == -1 for i in probe if told["acts"][table["act"][i]] in ("critique", "judge"))
    assert all(table["ok"][i] >= 0 for i in probe if told["acts"][table["act"][i]] in ("", "revise"))
    measured = [i for i, g in enumerate(table["g"]) if groups[g]["stage"] == "measure"]
    assert all(table["up"][i] == -1 for i in measured)


def test_a_verdict_without_gold_is_not_shown_as_the_truth(world: World) -> None:
    """The same labels from a stage that sees no gold: called right, not right."""
    found = load_run("world", world.workspace)
    stage = world.recipe.stage("credit")
    gold = type(stage.settings).sees_gold
    assert gold is outcome.Settings.sees_gold is True
    type(stage.settings).sees_gold = False
    try:
        place = next(place for place in read_traces(found).places if place.stage.name == "probe")
    finally:
        type(stage.settings).sees_gold = gold
    assert place.solved == {}
    assert {True, False} <= set(place.called.values())
    assert all(label.correct is None for labels in place.labels.values() for label in labels)


def test_nodes_with_whole_answers_say_so(world: World) -> None:
    found = load_run("world", world.workspace)
    tree = read_trees(found, read_traces(found))[0]
    assert [node.get("w") for node in tree["nodes"]] == [None, "answer", "rewrite"]
    assert tree["nodes"][2]["a"]


def test_show_words_the_act(world: World) -> None:
    problem = next(iter(world.run.problems.values()))
    rows = world._talk(problem, "p")
    lines = render_rows(
        [*rows, Label(problem_id=problem.id, trace_id="p/revise.0", correct=True)]
    ).splitlines()
    heads = [line for line in lines if line.startswith("[")]
    assert "critique, turn 1 after p/0, says wrong, " in heads[1]
    assert "revise, turn 2 after p/critique.0, RIGHT, answer " in heads[2]
    assert "judge, turn 3 after p/revise.0, says nothing, " in heads[4]
    assert "turn" not in heads[0]
    tree = render_rows(world._answer_tree(problem, "p")).splitlines()
    assert "rewrite: " in tree[3]


# --- as a browser shows it


@pytest.fixture(scope="module")
def tab(world: World) -> Iterator[Tab]:
    with Browser() as browser:
        yield browser.open(build.build_report(["world"], world.workspace, None))


@pytest.mark.full
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian's package `chromium`)")
def test_a_conversation_stands_together_in_order(tab: Tab) -> None:
    tab.evaluate("byId('f-stage').value = 'probe'; findTraces()")
    assert tab.evaluate("byId('traces-count').textContent").startswith("48 traces in 16 conversations")
    turns = "[...document.querySelectorAll('#trace-list li article')][0].querySelectorAll('.talk>li')"
    assert tab.evaluate(f"{turns}.length") == 5
    heads = tab.evaluate(f"[...{turns}].map((each) => each.querySelector('h4').innerText)")
    assert [head.split()[0] for head in heads] == ["answer", "critique", "revise", "critique", "judge"]
    assert "says wrong" in heads[1].replace("\n", " ")
    assert "true verdict" in heads[3].replace("\n", " ")
    tab.evaluate("byId('f-ok').value = '1'; findTraces()")  # found by one turn, shown whole
    assert tab.evaluate(f"{turns}.length") == 5
    tab.evaluate("byId('filters').reset()")
    assert tab.problems() == []


@pytest.mark.full
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian's package `chromium`)")
def test_an_answer_tree_names_its_nodes_by_their_answers(tab: Tab) -> None:
    tab.evaluate("openTree(0)")
    labels = tab.evaluate(
        "[...document.querySelectorAll('#tree [role=treeitem]')].map((n) => n.getAttribute('aria-label'))"
    )
    assert labels[0].startswith("question")
    assert labels[1].startswith("answer: no answer") or labels[1].startswith("answer: ")
    assert labels[2].startswith("rewrite: ")
    tab.evaluate("goTo(wood.nodes[2])")
    assert tab.evaluate("byId('tree-detail').querySelector('h3').textContent") == "Rewrite, depth 2"


#: two nodes below each of a way of this many, whole answers, one of them right and as often visited as can be
DEEP = """(depth) => { const nodes = [{u: -1, s: "", n: 1}];
  for (let at = 1; at <= depth; at++) for (const place of [0, 1]) nodes.push({u: Math.max(0, nodes.length - 2 - place),
    s: "x", w: "rewrite", a: "15 + 13 = 28, 28 + 3 = 31", n: 9, v: .5, ok: place, c: at === depth && place ? 1 : 0});
  wood.trees[0] = {...wood.trees[0], nodes, all: nodes.length}; openTree(0); }"""
#: labels that touch a label or another's node; nodes and labels that stand outside
TOUCHING = """(() => { const inside = byId("tree").getBoundingClientRect(), all = [...document.querySelectorAll("#tree .node")]
    .map((n) => [n.querySelector(".label").getBoundingClientRect(), n.querySelector(".shape").getBoundingClientRect()]);
  const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const out = (b) => b.left < inside.left - 1 || b.right > inside.right + 1 || b.top < inside.top - 1 || b.bottom > inside.bottom + 1;
  let both = 0; all.forEach(([label], i) => all.forEach(([other, shape], j) => { if (i !== j) both += touch(label, other) + touch(label, shape); }));
  return [all.length, both, all.flat().filter(out).length]; })()"""


@pytest.mark.full
@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian's package `chromium`)")
@pytest.mark.parametrize("depth", [3, 6, 8])
def test_a_deep_tree_opens_whole_and_its_labels_stand_apart(tab: Tab, depth: int) -> None:
    tab.evaluate(f"({DEEP})({depth})")
    assert tab.evaluate(TOUCHING) == [1 + 2 * depth, 0, 0]
    assert tab.evaluate("wood.zoom") >= 0.6  # or nobody can read it
    tab.evaluate(f"({DEEP})(30)")  # too deep to be read whole: it opens at the chosen answer
    assert tab.evaluate(TOUCHING)[:2] == [61, 0]
    assert tab.evaluate("wood.zoom") >= 0.6


def screenshots(to: Path) -> None:
    """`python -c "import test_report_talks as t; t.screenshots(Path('/tmp'))"`: to be looked at."""
    import base64
    import tempfile

    made = Talking(Path(tempfile.mkdtemp()) / "data", rounds=1, num=8).write()
    with Browser() as browser:
        page = browser.open(build.build_report(["world"], made.workspace, None))
        page.evaluate("byId('f-stage').value = 'probe'; findTraces(); openTree(0); goTo(wood.nodes[2])")
        for name in ("traces-count", "tree-panel"):
            page.evaluate(f"byId('{name}').scrollIntoView({{behavior: 'instant'}})")
            shot = page.ask("Page.captureScreenshot", format="png")
            (to / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
