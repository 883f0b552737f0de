"""The HTML report of a synthetic run: every panel's numbers are the metrics, and model text stays data."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_world import HOSTILE, World

from pipeline.errors import RecipeError
from pipeline.report.html import build, charts, data, data_panels, data_traces, words
from pipeline.run.record import metrics_rows
from pipeline.run.session import open_run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three rounds of a run that learns."""
    return World(tmp_path_factory.mktemp("whole") / "data", num=16).write()


@pytest.fixture(scope="session")
def page(world: World) -> str:
    """Its report."""
    path = build.build_report([world.run.name], world.workspace, None)
    assert path == world.data / world.run.name / "report.html"
    return path.read_text(encoding="utf-8")


def load(world: World) -> data.RunData:
    return data.load_run(world.run.name, world.workspace)


def packed(page: str) -> dict[str, Any]:
    [text] = re.findall(r'<script type="text/plain" id="packed">(.*?)</script>', page, re.S)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def specs(page: str) -> dict[str, Any]:
    [text] = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)
    return json.loads(text)


def drawn(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a chart draws: of its largest data set."""
    held = [spec, *spec.get("layer", [])]
    return max((part["data"]["values"] for part in held if "values" in part.get("data", {})), key=len)


def test_a_report_is_one_file_that_asks_for_nothing(page: str):
    assert len(page.encode()) < 4e6
    assert page.count("<script") == page.count("</script>") == 4
    assert "default-src 'none'" in page
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(?:src|href)="(?!#)', body)


def test_model_text_is_data(page: str, world: World):
    assert "window.owned" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.S)
    assert "&lt;script&gt;window.owned=3" in page
    texts = [step for steps in packed(page)["traces"]["columns"]["steps"] for step in steps]
    assert any(HOSTILE in text for text in texts)
    assert build.inline_json({"a": "</script><!--"}).count("<") == 0
    assert json.loads(build.inline_json({"a": HOSTILE + "\u2028"})) == {"a": HOSTILE + "\u2028"}


def test_the_curves_are_the_metrics(page: str, world: World):
    metrics = load(world).metrics
    rows = drawn(specs(page)["learning-0"])
    assert len(rows) == 4 * 4  # rounds x greedy, sampled, majority, weighted
    for row in rows:
        name = f"measure/accuracy/{row['what']}"
        at = metrics[row["round"]]
        assert (row["value"], row["low"], row["high"]) == (at[name], at[f"{name}/low"], at[f"{name}/high"])
    for row in drawn(specs(page)["change-0"]):
        assert row["value"] == metrics[row["round"]]["measure/accuracy/greedy/change"]
    cells = drawn(specs(page)["heat-measure-0"])
    assert len(cells) >= 8
    for row in cells:
        assert row["value"] == metrics[row["round"]][f"measure/accuracy/greedy/{row['bin']}"]


def test_the_filter_adds_up(world: World):
    found = load(world)
    flow = data_panels.flow(found)
    assert {row["step"] for row in flow} >= {"generated", "labelled", "right", "kept by traces"}
    for number in (1, 2, 3):
        why = [r for r in data_panels.reasons(found) if r["stage"] == "traces" and r["round"] == number]
        assert sum(row["count"] for row in why) == found.metrics[number]["traces/given"]
        assert found.metrics[number]["search/traces"] == found.metrics[number]["traces/given"]
        [right] = [r["count"] for r in flow if r["round"] == number and r["step"] == "right"]
        assert right == found.metrics[number]["values/right"]


def test_the_reward_model_and_the_costs_are_the_metrics(page: str, world: World):
    found = load(world)
    for row in data_panels.calibration(found):
        front = f"quality/calibration/{row['bin']}"
        assert row["true"] == found.metrics[row["round"]][f"{front}/true"]
    assert {row["round"] for row in drawn(specs(page)["auc-0"])} == {0, 1, 2, 3}
    curve = drawn(specs(page)["roc-0"])
    assert len(curve) == 4 * 15  # rounds x points, the ends among them
    for row in curve:
        if 0 < row["false"] < 1:
            assert row["true"] == found.metrics[row["round"]][f"quality/roc/{round(100 * row['false']):02}"]
    tokens = drawn(specs(page)["tokens-0"])
    rows = metrics_rows(open_run(world.run.name, world.workspace))
    charged = sum(v for row in rows for k, v in row["metrics"].items() if "/charged/" in k)
    assert sum(row["tokens"] for row in tokens) == charged > 0
    assert sum(row["seconds"] for row in data_panels.times(found)) == pytest.approx(
        sum(found.seconds.values())
    )


def test_problems_won_and_lost_are_the_change_of_accuracy(world: World):
    found = load(world)
    rows = data_traces.learned(found, data_traces.read_traces(found))
    assert [row["round"] for row in rows] == [1, 2, 3]
    for row in rows:
        change = found.metrics[row["round"]]["measure/accuracy/greedy/change"]
        assert len(row["solved"]) - len(row["lost"]) == pytest.approx(change * row["problems"])
    assert sum(len(row["solved"]) for row in rows) > 0


def test_every_trace_has_its_label_fate_and_scores(page: str, world: World):
    told = packed(page)["traces"]
    columns, groups = told["columns"], told["groups"]
    assert len(columns["id"]) == told["total"] == sum(group["shown"] for group in groups)
    searched = [i for i, g in enumerate(columns["g"]) if groups[g]["stage"] == "search"]
    assert {columns["ok"][i] for i in searched} == {0, 1}
    assert {told["fates"][columns["fate"][i]] for i in searched} >= {"kept", "no_answer"}
    assert any(columns["sc"][i] and "tree_value" in columns["sc"][i] for i in searched)
    measured = [i for i, g in enumerate(columns["g"]) if groups[g]["stage"] == "measure"]
    assert any(columns["sc"][i] and {"prm", "gold"} <= set(columns["sc"][i]) for i in measured)
    right = sum(columns["ok"][i] == 1 for i in searched)
    assert right == sum(values.get("values/right", 0) for values in load(world).metrics.values())


def test_trees_keep_their_shape_and_the_chosen_way(page: str):
    trees = packed(page)["trees"]
    assert len({(tree["round"], tree["id"]) for tree in trees}) == len(trees) > 10
    for tree in trees:
        nodes = tree["nodes"]
        assert tree["all"] == len(nodes)
        assert [node["u"] for node in nodes].count(-1) == 1
        assert all(node["u"] < place for place, node in enumerate(nodes))
        assert sum(node.get("c", 0) for node in nodes) == 1


def test_the_sample_is_even_and_said(world: World):
    found = load(world)
    whole, part = data_traces.read_traces(found), data_traces.read_traces(found, most=200)
    assert part.total == whole.total == whole.shown
    assert 120 < part.shown <= 200
    kept = {trace.problem_id for place in part.places for trace in place.traces.values()}
    assert kept == set(part.order) & kept
    for one, other in zip(whole.places, part.places, strict=True):  # a problem is in or out as a whole
        wanted = [key for key, trace in one.traces.items() if trace.problem_id in kept]
        assert list(other.traces) == wanted


def test_a_file_that_would_be_too_big_is_sampled_further(world: World, monkeypatch: pytest.MonkeyPatch):
    found = load(world)
    traces = data_traces.read_traces(found)
    before = traces.shown
    monkeypatch.setattr(build, "MOST_PACKED", 12_000)
    columns, text = build.fit([found], [traces], [[]])
    assert len(text) <= 12_000
    assert 0 < len(columns["columns"]["id"]) == traces.shown < before


def test_verdict_and_gate_in_words(page: str, world: World):
    found = load(world)
    said = words.verdict(found)
    end = found.finals()[0]["metrics"]
    assert said.state == "better"
    assert f"{100 * end['final/accuracy/greedy']:.1f} %" in said.sentence
    assert f"{100 * end['final/gain/greedy']:+.1f} points" in said.sentence
    lines = words.gate_lines(found)
    assert [row["model"] for row in lines] == ["prm", "policy", "prm", "policy", "prm", "policy", "prm"]
    assert lines[0]["why"].startswith("Its first weights")
    change = found.metrics[1]["measure/accuracy/greedy/change"]
    assert f"{100 * change:+.1f} points" in lines[1]["why"]
    asked = words.questions(found, [], 60)
    assert len(asked) == 6
    assert all(row["answer"] and f'href="#{row["panel"]}"' in page for row in asked)


def test_many_rounds_are_thinned_evenly():
    rows = [{"round": number} for number in range(200)]
    kept = [row["round"] for row in charts.thinned(rows)]
    assert (kept[0], kept[-1], len(kept)) == (0, 199, 8)
    assert charts.thinned(rows[:5]) == rows[:5]


def test_an_unfinished_run_shows_what_is_committed(tmp_path: Path):
    world = World(tmp_path / "data", name="half", rounds=2, num=16, seed=1).write(until=(1, "search"))
    path = build.build_report(["half"], world.workspace, tmp_path / "out.html")
    page = path.read_text()
    assert path == tmp_path / "out.html"
    assert "Too early to say" in page
    assert "not finished" in page
    told = packed(page)
    assert any(group["stage"] == "search" and group["shown"] > 0 for group in told["traces"]["groups"])
    assert {tree["round"] for tree in told["trees"]} == {1}


def test_a_run_that_has_only_begun(tmp_path: Path):
    world = World(tmp_path / "data", rounds=1, num=16)
    assert "Nothing has been measured yet" in build.render([load(world)])


def test_two_runs_side_by_side(world: World, tmp_path: Path):
    other = World(world.data, name="other", rounds=1, num=16, seed=5).write()
    found = [load(world), load(other)]
    page = build.render(found)
    rows = drawn(specs(page)["runs"])
    assert {row["what"] for row in rows} == {"world", "other"}
    assert {"learning-0", "learning-1", "auc-0", "auc-1"} <= set(specs(page))
    assert packed(page)["traces"]["runs"] == ["world", "other"]
    assert "Where the recipes differ" in page
    assert [row["key"] for row in data_panels.recipe_differences(found)] == ["rounds"]


def test_a_wrong_name_names_the_nearest(world: World):
    with pytest.raises(RecipeError, match="did you mean world"):
        build.build_report(["wrld"], world.workspace, None)
    with pytest.raises(RecipeError, match="name at least one run"):
        build.build_report([], world.workspace, None)
