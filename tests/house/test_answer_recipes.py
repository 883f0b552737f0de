"""The recipes that search over whole answers, imagine problems or think in tags, each run end to end, small, with a model
that knows the turns of a few conversations by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_world as world

from pipeline.asks import Said
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Dropped, Example, Label, Node, Pair, Problem, Trace
from pipeline.run.session import session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace
from pipeline.tasks import _tags, countdown, split_of
from pipeline.tasks.prepare import gather

ROOT = Path(__file__).parents[2]
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
pytestmark = pytest.mark.full  # the policy that they share costs more than they do
SIZES = {"largest": 200, "train": 6, "dev": 2, "test": 3}
SMALL = [f"task.{key}={value}" for key, value in SIZES.items()]
CUT = {"steps": 2, "batch_size": 8}
WRONG = "20 - 1 = 19, left 5, 19\n19 - 5 = 14"


def task_of() -> countdown.Task:
    return countdown.Task(countdown.Settings(use="countdown", **SIZES))


def new_questions(known: set[str]) -> list[str]:
    """Questions of the task's rules that stand in no split and whose hash says train."""
    asked = (f"numbers 2, 4, 9; target {target}" for target in range(10, 100))
    return [question for question in asked if split_of(question) == "train" and question not in known]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that answers right or wrong, finds the fault, mends it, scores, compares and proposes, by heart."""
    task = task_of()
    problems = gather([task]).problems
    fresh = new_questions({p.question for p in problems})
    pairs: list[tuple[str, str]] = []
    for place, problem in enumerate(problems):
        gold, asked = str(task.gold_completion(problem)), problem.question
        pairs += [(task.prompt(asked), gold)] * 6 + [(task.prompt(asked), WRONG)] * 3
        for answer, verdict, points in ((gold, "right", 5), (WRONG, "wrong", 1)):
            shown = [Said(answer)]
            checked = [*shown, Said(verdict, "critique")]
            pairs.append((task.turn_prompt(asked, "critique", shown), verdict))
            pairs.append((task.turn_prompt(asked, "judge", shown), f"score {points}"))
            pairs += [(task.turn_prompt(asked, act, checked), gold) for act in ("revise", "rewrite")]
            for other, better in ((gold, "second"), (WRONG, "first")):
                better = "same" if other == answer else better
                pairs.append((task.turn_prompt(asked, "compare", [*shown, Said(other)]), better))
        pairs.append((task.turn_prompt("", "propose", [Said(asked)]), fresh[place % len(fresh)]))
        thoughts = [(WRONG, False), ("wrong", True), (gold, False)]
        pairs.append((task.turn_prompt(asked, "reflect", []), _tags.tagged(thoughts, gold)))
    pairs += [(task.prompt(question), WRONG) for question in fresh[: len(problems)]] * 2
    return world.by_heart(tmp_path_factory.mktemp("talker") / "policy", pairs, steps=320)


def run(name: str, talker: Path, words: list[str]) -> dict[str, float]:
    """A recipe to its end, small; its final metrics."""
    path = ROOT / "recipes" / f"{name}.yaml"
    every = [*SMALL, *words, "wandb.mode=disabled"]
    for model, settings in load(path).models.items():
        every += [f"models.{model}.base={talker}", f"models.{model}.gate=[]"]
        every += [] if settings.lora == "none" else [f"models.{model}.lora={{r: 4}}"]
    for stage in load(path).stages:
        keys = {"train": CUT | {"learning_rate": 1e-6}, "evaluate": {"problems": 3}}.get(stage.room, {})
        every += [f"{stage.section}.{stage.name}.{key}={value}" for key, value in keys.items()]
    recipe, workspace = load(path, every), Workspace(DATA, CHECKPOINTS)
    with session(recipe, Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    assert run_status(name, workspace)["complete"]
    assert verify_run(DATA / name, CHECKPOINTS / name) == []
    return dict(run_status(name, workspace)["final"]["metrics"])


def rows(name: str, where: str, kind: type) -> list[Any]:
    return list(StageFolder(DATA / name / where).read(kind))


def test_mctsr_with_and_without_gold(place: Path, talker: Path) -> None:
    name = "mctsr_countdown"
    small = ["finally.blind.search.rollouts=2", "finally.oracle.search.rollouts=2", "finally.once.samples=2"]
    final = run(name, talker, [*small, "finally.refine.search.attempts=2"])
    assert 0 <= final["blind/accuracy/search"] <= 1
    assert "oracle/accuracy/search" not in final
    right = {label.problem_id for label in rows(name, "final-000/oracle", Label) if label.correct}
    assert final["oracle/gold/accuracy/search"] == pytest.approx(len(right) / 3)  # whatever was right stands
    nodes = rows(name, "final-000/blind", Node)
    assert any(node.depth == 2 for node in nodes)
    judged = [node for node in nodes if node.value is not None]
    assert judged
    assert all(0 <= node.value <= 1 and node.visits > 0 for node in judged)
    traces = {trace.id: trace for trace in rows(name, "final-000/blind", Trace)}
    rewrites = [trace for trace in traces.values() if trace.act == "rewrite"]
    assert rewrites
    assert all(traces[str(trace.parent)].act == "critique" for trace in rewrites)
    assert {node.trace_id for node in nodes if node.trace_id} <= set(traces)


def test_preferences_rank_answers(place: Path, talker: Path) -> None:
    small = [f"finally.{stage}.search.rollouts=2" for stage in ("berry", "words", "absolute")]
    final = run(
        "berry_countdown", talker, [*small, "finally.once.samples=2", "before.first.on_empty=continue"]
    )
    for stage in ("berry", "words", "absolute", "plain"):
        assert 0 <= final[f"{stage}/accuracy/search"] <= 1
    pairs = rows("berry_countdown", "round-000/duels", Pair)
    assert pairs
    assert {pair.chosen for pair in pairs} == {"1", "2"}
    assert rows("berry_countdown", "final-000/words", Trace)
    assert not [t for t in rows("berry_countdown", "final-000/berry", Trace) if t.act == "compare"]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_policy_learns_from_what_it_imagined_and_searched(place: Path, talker: Path, variant: str) -> None:
    name = "alphallm_countdown"
    small = [
        f"stages.search.variant={variant}",
        f"finally.adaptive.search.variant={variant}",
        "stages.search.ends=2",
    ]
    small += ["rounds=1", "problems_per_round=4", "before.probe.problems=6", "before.some.problems=4"]
    small += ["before.try.problems=6", "before.talk.problems=4", "before.warm.steps=2"]
    small += ["before.ahead.n=2", "stages.search.simulations=4", "stages.traces.threshold=0"]
    small += [f"finally.{one}.search.simulations=3" for one in ("adaptive", "fixed")]
    small += [f"before.{one}.on_empty=continue" for one in ("first", "second", "third")]
    final = run(name, talker, small)
    assert {"adaptive/accuracy/search", "fixed/accuracy/search", "final/accuracy/greedy"} <= set(final)
    assert 0 <= final["chosen/accuracy/search"] <= 1
    said = rows(name, "final-001/states", Label)
    assert said
    assert all(row.correct is None and 0 <= row.value <= 1 for row in said)  # the critics see no gold
    imagined = {p.id: p for p in rows(name, "round-001/imagine", Problem)}
    assert imagined
    assert all(p.answer is None and p.split == "train" for p in imagined.values())
    searched = rows(name, "round-001/search", Trace)
    assert {trace.problem_id for trace in searched} <= set(imagined)
    kept = rows(name, "round-001/traces", Example)
    assert kept
    assert all(imagined[row.problem_id].question in row.prompt for row in kept)


@pytest.mark.parametrize(("reward", "most"), [("r_zero", 0.5), ("absolute_zero", 1)])
def test_a_proposer_and_its_solver(place: Path, talker: Path, reward: str, most: float) -> None:
    name = "r_zero_countdown"
    small = [
        f"stages.imagine.reward={reward}",
        "rounds=1",
        "problems_per_round=4",
        "before.probe.problems=6",
        "stages.imagine.band=[0,1]",
    ]
    small += ["stages.imagine.votes=3", "stages.solve.n=3", "before.warm.on_empty=continue"]
    run(name, talker, small)
    traces = rows(name, "round-001/imagine", Trace)
    labels = {label.trace_id: label for label in rows(name, "round-001/imagine", Label)}
    assert len(traces) == 16
    assert set(labels) == {trace.id for trace in traces}
    assert all(-1 <= float(label.value) <= most for label in labels.values())
    assert all(label.value == -1 for label in labels.values() if label.reason == "no_question")
    assert any(label.reason == "" for label in labels.values())
    imagined = {p.id for p in rows(name, "round-001/imagine", Problem)}
    assert imagined
    known = {p.question for p in rows(name, "prepare", Problem)}
    assert not known & {p.question for p in rows(name, "round-001/imagine", Problem)}
    assert {trace.problem_id for trace in rows(name, "round-001/solve", Trace)} == imagined
    assert {row.prompt for row in rows(name, "round-001/posed", Example)} == {
        trace.prompt for trace in traces
    }
    assert rows(name, "round-001/solved", Example)
    assert (CHECKPOINTS / name / "round-001" / "proposer" / "manifest.json").exists()


def test_conversations_become_tagged_thinking(place: Path, talker: Path) -> None:
    name = "reflection_countdown"
    final = run(name, talker, ["finally.once.samples=2"])
    assert 0 <= final["thought/accuracy/search"] <= 1
    spliced = rows(name, "round-000/spliced", Trace)
    assert spliced
    for trace in spliced:
        assert _tags.fault(trace.text) == ""
        assert trace.prompt.endswith("reflect: ")
        assert task_of().extract_turn("reflect", trace.text) == trace.answer
    kept = rows(name, "round-000/rows", Example)
    assert kept
    thought = rows(name, "final-000/thought", Trace)
    assert {trace.act for trace in thought} == {"reflect"}
    assert [trace.answer is None for trace in thought] == [
        _tags.output(trace.text) is None for trace in thought
    ]


def test_what_was_mended_is_learned_from_in_three_ways(place: Path, talker: Path) -> None:
    name = "rewrites_countdown"
    final = run(
        name, talker, ["finally.first.samples=2", "before.learn2.on_empty=continue"]
    )  # few are rewritten
    assert all(0 <= final[f"first/accuracy/greedy{at}"] <= 1 for at in ("", "@mended", "@fitting"))
    talks = {trace.id: trace for trace in rows(name, "round-000/talk", Trace)}
    fitting = rows(name, "round-000/rewrites", Example)
    assert fitting
    assert {talks[row.trace_id].act for row in fitting} <= {"revise", "rewrite"}
    misses = rows(name, "round-000/misses", Example)
    assert {"revise: " in row.prompt for row in misses} == {True, False}  # and those that verify
    assert rows(name, "round-000/answers", Example)


def test_search_in_the_models_world_and_in_the_true_one(place: Path, talker: Path) -> None:
    name = "world_model_countdown"
    words = [f"finally.{stage}.search.simulations=3" for stage in ("believed", "ruled")]
    final = run(name, talker, [*words, "finally.alone.samples=2"])
    assert 0 <= final["believed/accuracy/search"] <= 1
    assert 0 <= final["ruled/gold/accuracy/search"] <= 1
    task, problems = task_of(), {p.id: p for p in rows(name, "prepare", Problem)}
    for trace in rows(name, "final-000/ruled", Trace):
        if not trace.chosen:
            assert all(task.legal(problems[trace.problem_id].question, trace.steps) or [False])
    priors = [node.prior for node in rows(name, "final-000/believed", Node) if node.prior is not None]
    assert priors
    assert all(0 < prior <= 1 for prior in priors)
    assert all(row.reason for row in rows(name, "final-000/ruled", Dropped))
