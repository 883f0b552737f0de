"""The HTML report of a synthetic run: every panel's numbers are the metrics, and model text stays data."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_world import HOSTILE, World

import pipeline.evaluate
from pipeline.errors import RecipeError
from pipeline.evaluate import LEARNING, TRUST
from pipeline.report.html import build, charts, data, data_panels, data_traces, declared, words
from pipeline.run.record import metrics_rows
from pipeline.run.session import open_run
from pipeline.store.workspace import Workspace

#: one process makes the page that all of them read
pytestmark = pytest.mark.xdist_group("report_html")


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
    rows = drawn(specs(page)["accuracy-0"])
    assert len(rows) == 4 * 4  # rounds x greedy, sampled, majority, weighted
    for row in rows:
        name = f"measure/accuracy/{row['what']}"
        at = metrics[row["round"]]
        assert (row["value"], row["low"], row["high"]) == (at[name], at[f"{name}/low"], at[f"{name}/high"])
    for row in drawn(specs(page)["change-0"]):
        assert row["value"] == metrics[row["round"]]["measure/accuracy/greedy/change"]
    cells = drawn(specs(page)["difficulty-measure-0"])
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
    # as of pairs, each of which is made of two rows: 8 of 20 make 3; another filter stands behind, which drops
    last = {"traces/given": 20, "traces/examples": 3, "traces/dropped/no_chosen": 12}
    dropped = [name for name in found.metrics[3] if name.startswith("traces/dropped/")]
    found.metrics[3] = {k: v for k, v in found.metrics[3].items() if k not in dropped} | last
    assert (
        "Its filter kept 8 of 20 rows in round 3; most of the rest was dropped as no chosen (12)."
        in words._drops(found)
    )
    found.metrics[3] = {k: v for k, v in found.metrics[3].items() if k != "traces/dropped/no_chosen"}
    found.metrics[3] |= {"steps/dropped/duplicate": 4}
    assert words._drops(found) == "The filter kept all 20 rows of round 3."
    del found.metrics[3]["values/right"]  # as of a labeller of advantages, which judges no whole trace
    assert [row["round"] for row in data_panels.flow(found) if row["step"] == "right"] == [0, 1, 2]


def test_the_reward_model_and_the_costs_are_the_metrics(page: str, world: World):
    found = load(world)
    for row in data_panels.calibration(found, "quality", "calibration/"):
        front = f"quality/calibration/{row['bin']}"
        assert row["true"] == found.metrics[row["round"]][f"{front}/true"]
    assert {row["round"] for row in drawn(specs(page)["prm_auc-0"])} == {0, 1, 2, 3}
    curve = drawn(specs(page)["prm_roc-0"])
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
    kept, sampled = set(part.order), 0
    for one, other in zip(whole.places, part.places, strict=True):  # a problem is in or out as a whole
        wanted = [key for key, trace in one.traces.items() if trace.problem_id in kept]
        more = [key for key in other.traces if key not in wanted]
        assert list(other.traces) == [*wanted, *more]
        assert set(more) <= {other.main[problem_id] for problem_id in other.listed}
        sampled += len(wanted)
    assert 120 < sampled <= 200
    splits = [part.problems[problem_id].split for problem_id in part.order]
    assert splits == sorted(splits, key=["dev", "test", "train"].index)
    assert set(splits) == {"dev", "test", "train"}


def test_every_problem_won_or_lost_has_its_answers_before_and_now(world: World):
    """Also where next to nothing is sampled: no button of the page leads nowhere."""
    found = load(world)
    traces = data_traces.read_traces(found, most=40)
    told = json.loads(gzip.decompress(base64.b64decode(build.fit([found], [traces], [[]])[1])))["traces"]
    columns, groups = told["columns"], told["groups"]
    at: dict[tuple[int, int], list[int]] = {}
    for place, problem in enumerate(columns["p"]):
        if groups[columns["g"][place]]["stage"] == "measure":
            at.setdefault((groups[columns["g"][place]]["round"], problem), []).append(place)
    checked = 0
    for row in told["learned"][0]:
        for key, then, now in (("solved", 0, 1), ("lost", 1, 0)):
            assert len(row[key]) == row[f"num_{key}"]
            for problem in row[key]:
                assert now in {columns["ok"][i] for i in at[row["round"], problem]}
                assert then in {columns["ok"][i] for i in at[row["round"] - 1, problem]}
                checked += 1
    assert checked > 5


def test_a_wrong_trace_never_wears_newly_solved(page: str):
    columns = packed(page)["traces"]["columns"]
    marked = [(flag & 3, ok) for flag, ok in zip(columns["flag"], columns["ok"], strict=True) if flag & 3]
    assert set(marked) == {(1, 1), (2, 0)}


def test_no_answer_is_parted_by_its_cause(world: World):
    found = load(world)
    rows = data_traces.unanswered(data_traces.read_traces(found))
    for number, values in found.metrics.items():
        mine = {
            row["why"]: row["count"] for row in rows if (row["round"], row["stage"]) == (number, "measure")
        }
        assert sum(mine.values()) == round(values["measure/no_answer"] * values["measure/traces"])
    assert {row["why"] for row in rows} >= {"no answer"}
    task = world.task
    assert task.why_no_answer("3 + 4 = 8, left 8, 2\n8 * 2 = 16") == "invalid arithmetic"
    assert task.why_no_answer("I do not know") == task.why_no_answer("") == ""


def test_the_heat_map_counts_its_problems(page: str, world: World):
    for row in drawn(specs(page)["difficulty-measure-0"]):
        assert row["right"] == pytest.approx(row["value"] * row["problems"])
        assert row["label"] == f"{row['bin']} (of {row['problems']})"
    first = {row["bin"]: row["problems"] for row in drawn(specs(page)["difficulty-measure-0"])}
    assert sum(first.values()) == load(world).metrics[0]["measure/problems"]


def calibrated(world: World, *bins: tuple[float, float, float]) -> str:
    """What is said of a reward model with these (score, true, share) in its last round."""
    found = load(world)
    values = {name: value for name, value in found.metrics[3].items() if "/calibration/" not in name}
    for place, each in enumerate(bins):
        names = [f"quality/calibration/{place}/{key}" for key in ("score", "true", "share")]
        values |= dict(zip(names, each, strict=True))
    told = words.questions(dataclasses.replace(found, metrics={**found.metrics, 3: values}), [], 0)
    return next(row["answer"] for row in told if row["question"] == "Can I trust the PRM?")


def test_the_reward_model_is_judged_where_it_is_used(world: World):
    """A mass of low scores that are right says nothing of the few high ones that choose."""
    said = calibrated(world, (0.05, 0.05, 0.95), (0.45, 0.0, 0.03), (0.75, 0.0, 0.02))
    assert "no probabilities where they are used" in said
    assert "(5.0 % of all, the ones that choose) 0.0 % were sound, where 57.0 % are promised" in said
    said = calibrated(world, (0.05, 0.05, 0.8), (0.5, 0.48, 0.1), (0.9, 0.91, 0.1))
    assert "near probabilities where they are used" in said
    assert "take their order only" in calibrated(world, (0.05, 0.3, 1.0))


def test_what_is_measured_at_the_end_alone_is_drawn_too(world: World):
    """A reward model that `finally` judges: its figures and words, without the curves over rounds."""
    found = load(world)
    recipe = found.run.recipe
    late = tuple(
        dataclasses.replace(one, section="finally") if one.name == "quality" else one for one in recipe.stages
    )
    run = dataclasses.replace(found.run, recipe=dataclasses.replace(recipe, stages=late))
    mine = {name: value for name, value in found.metrics[3].items() if name.startswith("quality/")}
    rounds = {
        number: {name: value for name, value in values.items() if name not in mine}
        for number, values in found.metrics.items()
    }
    rows = [*found.rows, {"round": 3, "stage": "quality", "final": True, "metrics": mine}]
    ended = dataclasses.replace(found, run=run, metrics=rounds, rows=rows)
    told = words.questions(ended, [], 0)
    answer = next(row["answer"] for row in told if row["question"] == "Can I trust the PRM?")
    assert answer.startswith("At the end: ")
    before = {one.panel.kind: one for one in declared.figures(found, TRUST)}
    after = {one.panel.kind: one for one in declared.figures(ended, TRUST)}
    assert set(before) - set(after) == {"curve"}
    assert {"calibration", "roc"} <= set(after)
    for kind in ("calibration", "roc"):
        last = [row for row in declared.rows_of(found, before[kind]) if row["round"] == 3]
        assert declared.rows_of(ended, after[kind]) == last != []
    assert declared.figures(ended, LEARNING) == declared.figures(found, LEARNING)


def test_which_round_to_use_is_said_where_the_last_is_not_the_best(world: World):
    found = load(world)
    name = "measure/accuracy/greedy"
    assert words.which_round(found) == "" or found.metrics[3][name] < max(
        v[name] for v in found.metrics.values()
    )
    low = {**found.metrics[3], name: 0.11, f"{name}/low": 0.1, f"{name}/high": 0.12}
    worse = dataclasses.replace(found, metrics={**found.metrics, 3: low})
    best = max((0, 1, 2), key=lambda number: (found.metrics[number][name], number))
    assert words.which_round(worse).startswith(
        f"Use round {best}: with {100 * found.metrics[best][name]:.1f} %"
    )
    assert words.export_command(worse) == f"ratchet export world {best} --model policy"
    near = {**low, name: found.metrics[best][name] - 0.001, f"{name}/high": 1.0}
    near = dataclasses.replace(found, metrics={**found.metrics, 3: near})
    assert words.which_round(near).endswith("so either will do.")


def test_sections_without_content_leave(tmp_path: Path):
    begun = World(tmp_path / "data", rounds=1, num=16)
    empty = build.render([load(begun)])
    assert re.findall(r'<section id="(\w+)"', empty) == ["learning", "recipe"]
    assert re.findall(r'<li><a href="#(\w+)"', empty) == ["learning", "recipe"]


def test_a_long_run_stays_readable(world: World):
    """Two hundred rounds: bars and tables are thinned evenly, lines run, nothing of it is long."""
    found = load(world)
    metrics = {number: found.metrics[1 + number % 3] for number in range(201)}
    gates = {number: found.gates[1 + number % 3] for number in range(201)}
    rows = [
        row | {"round": n}
        for n in range(201)
        for row in found.rows
        if row["round"] == 1 + n % 3 and not row.get("final")
    ]
    seconds = {(n, "measure"): 2.0 for n in range(201)}
    long = dataclasses.replace(found, metrics=metrics, gates=gates, rows=rows, seconds=seconds)
    text = build.render([long])
    charted = specs(text)
    curve = drawn(charted["accuracy-0"])
    assert len({row["round"] for row in curve}) == 201
    near = [row for row in curve if row["what"] == "greedy" and 96 <= row["round"] <= 104]
    middle = next(row for row in near if row["round"] == 100)
    assert middle["mean"] == pytest.approx(sum(row["value"] for row in near) / 9)
    for name, most in (("flow-0", 20), ("time-0", 40), ("difficulty-measure-0", 40), ("change-0", 80)):
        shown = {row["round"] for row in drawn(charted[name])}
        assert len(shown) <= most, name
        assert max(shown) == 200, name
    assert all(table.count("<tr>") <= 401 for table in re.findall(r"<table>.*?</table>", text, re.S))
    assert len(text) < 6e6


THINKS = """
from pipeline.evaluate import TRUST, Panel
from pipeline.evaluate.prm_quality import *

def panels(settings):
    asks = "Does it think?"
    return [
        Panel(asks, "Brier score", "curve", {"points": "steps"}, "of the scored", False),
        Panel(asks, "In numbers", "table", {"points": "steps"}, share=False),
        Panel(asks, "Errors", "bars", {"points": "steps", "true_share": "sound"}, share=False),
        Panel(TRUST, "AUC", "curve", {"auc": "all steps"}, share=False, picture="prm_auc"),
    ]
"""


def test_what_an_evaluation_declares_is_drawn_by_the_names_of_its_metrics(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """An evaluation of somebody else's, in a file of its own, with figures of four kinds."""
    (tmp_path / "thinks.py").write_text(THINKS)
    monkeypatch.setattr(pipeline.evaluate, "__path__", [*pipeline.evaluate.__path__, str(tmp_path)])
    shutil.copytree(world.data, tmp_path / "data")
    recipe = tmp_path / "data" / "world" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("evaluate: prm_quality", "evaluate: thinks"))
    found = data.load_run("world", Workspace(tmp_path / "data", tmp_path / "checkpoints"))
    text = build.render([found])
    charted = specs(text)
    assert {"brier-score-0", "errors-0", "prm_auc-0"} <= set(charted)
    assert not {"prm_calibration-0", "prm_roc-0"} & set(charted)  # nothing is drawn that is not declared
    assert [row["value"] for row in drawn(charted["prm_auc-0"])] == [
        values["quality/auc"] for values in found.metrics.values()
    ]
    for row in drawn(charted["brier-score-0"]):
        assert row["value"] == found.metrics[row["round"]]["quality/points"]
    assert [row["metric"] for row in drawn(charted["errors-0"])] == ["points", "true_share"]
    assert "Does it think?" not in charted
    assert f'<td class="n">{found.metrics[3]["quality/points"]:.4g}</td>' in text


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
    assert {"accuracy-0", "accuracy-1", "prm_auc-0", "prm_auc-1"} <= set(specs(page))
    assert packed(page)["traces"]["runs"] == ["world", "other"]
    assert "Where the recipes differ" in page
    assert [row["key"] for row in data_panels.recipe_differences(found)] == ["rounds"]


def test_a_wrong_name_names_the_nearest(world: World):
    with pytest.raises(RecipeError, match="did you mean world"):
        build.build_report(["wrld"], world.workspace, None)
    with pytest.raises(RecipeError, match="name at least one run"):
        build.build_report([], world.workspace, None)
