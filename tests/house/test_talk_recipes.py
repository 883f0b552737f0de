"""Recipes of models that judge their own answers, shrunk: a policy that knows a few answers, checks and judgements by
heart writes, judges, and is trained on what it said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_world as world

from pipeline.asks import Said
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.methods import method
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Dropped, Example, Label, Pair, Trace
from pipeline.run.session import session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace
from pipeline.tasks import _dialect
from pipeline.tasks.prepare import gather

pytestmark = pytest.mark.full
RECIPES = Path(__file__).parents[2] / "recipes"
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
TASK = {"largest": 100, "train": 6, "dev": 3, "test": 3, "max_tokens": 96}
SMALL = [f"task.{key}={value}" for key, value in TASK.items()]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each problem it knows a right answer and a wrong one, and of both what a check and a judge say."""
    module = method("tasks", "countdown")
    task = module.Task(module.Settings(use="countdown", **TASK))
    pairs = []
    for problem in gather([task]).problems:
        numbers, target = task.parse(problem.question)
        gold = str(task.gold_completion(problem))
        wrong = next(
            text
            for move in _dialect.moves(numbers, 100)
            for last in _dialect.moves(move.left, 100)
            if last.result != target and (text := f"{move.line}\n{last.line}")
        )
        for answer in (gold, wrong):
            pairs.append((task.prompt(problem.question), answer))
            checked = _dialect.check(numbers, target, answer, 100)
            turns = {"critique": checked.text, "judge": f"{checked.text}; score {checked.points}"}
            pairs += [
                (task.turn_prompt(problem.question, act, [Said(answer)]), said) for act, said in turns.items()
            ]
            for history in ([Said(answer)], [Said(answer), Said(checked.text, "critique")]):
                pairs.append((task.turn_prompt(problem.question, "revise", history), gold))
    return world.by_heart(tmp_path_factory.mktemp("talker") / "policy", pairs, steps=260)


def run(name: str, talker: Path, *words: str) -> dict[str, Any]:
    """A shipped recipe to its end; its metrics by round, and at last."""
    recipe = load(RECIPES / f"{name}.yaml")
    small = [*SMALL, *words, "wandb.mode=disabled", *(f"models.{n}.base={talker}" for n in recipe.models)]
    for stage in recipe.stages:
        if stage.room == "train":
            here = f"{stage.section}.{stage.name}"
            small += [f"{here}.steps=2", f"{here}.batch_size=4", f"{here}.learning_rate=1e-4"]
            small += [f"{here}.warmup_steps=1"]
    recipe = load(RECIPES / f"{name}.yaml", small)
    workspace = Workspace(DATA, CHECKPOINTS)
    with session(recipe, Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    status = run_status(name, workspace)
    assert status["complete"]
    assert verify_run(DATA / name, CHECKPOINTS / name) == []
    return status


def rows(name: str, number: int, stage: str, kind: type) -> list[Any]:
    return list(StageFolder(DATA / name / f"round-{number:03d}" / stage).read(kind))


WARM = ["before.probe.problems=6", "before.talk.problems=4"]


def test_a_policy_rewards_itself(place: Path, talker: Path) -> None:
    name = "self_rewarding_countdown"
    status = run(
        name, talker, *WARM, "rounds=1", "problems_per_round=6", "stages.sample.n=6", "stages.judge.samples=2"
    )
    values = {row.trace_id: row.value for row in rows(name, 1, "judge", Label)}
    assert len(values) > 12
    assert all(0 <= value <= 1 for value in values.values())
    pairs = rows(name, 1, "pairs", Pair)
    assert pairs
    assert all(values[row.trace_id] > values[row.rejected_id] for row in pairs)
    judged = rows(name, 1, "judge", Trace)
    assert {row.act for row in judged} == {"judge"}
    assert {row.parent for row in judged if row.answer is not None} == set(values)
    metrics = status["rounds"][1]["metrics"]
    gold = {row.trace_id: row.correct for row in rows(name, 1, "trust", Label) if row.labeller == "gold"}
    called = [gold[row.id] for row in rows(name, 1, "trust", Trace) if values.get(own_id(row.id), 0) > 0.8]
    assert metrics["trust/verdicts"] == len(values)
    assert metrics["trust/precision"] == pytest.approx(sum(called) / len(called), abs=1e-7)


def own_id(name: str) -> str:
    """A trace's id without the model that an evaluation puts into it."""
    problem, _, rest = name.partition("/")
    return f"{problem}/{rest.partition('/')[2]}"


def test_a_policy_evolves_by_its_own_feedback(place: Path, talker: Path) -> None:
    name = "self_countdown"
    status = run(name, talker, "rounds=2", "problems_per_round=4", "stages.talk.problems=4")
    for number in (1, 2):
        traces = {row.id: row for row in rows(name, number, "refine", Trace)}
        kept = rows(name, number, "evolve", Example)
        assert {row.prompt for row in kept if traces.get(row.trace_id) and traces[row.trace_id].is_attempt}
        assert any(row.trace_id in traces and traces[row.trace_id].act == "critique" for row in kept)
        dropped = {row.what for row in rows(name, number, "evolve", Dropped)}
        assert not dropped & {row.trace_id for row in kept}
    assert "critic/balanced" in status["rounds"][1]["metrics"]
    final = status["final"]["metrics"]
    assert 0 <= final["turns/accuracy/t2"] <= 1
    assert final["turns/lift"] == pytest.approx(
        final["turns/wrong_to_right"] - final["turns/right_to_wrong"], abs=1e-7
    )


def test_the_gap_to_an_oracle(place: Path, talker: Path) -> None:
    name = "oracle_gap_countdown"
    small = ["rounds=1", "problems_per_round=6", "stages.verify.n=3", "finally.final.samples=2"]
    small += ["finally.arms.problems=3", "finally.arms.attempts=3"]
    status = run(name, talker, *WARM, *small)
    for stage in ("pairs", "pairs2"):
        assert rows(name, 1, stage, Pair), stage
    own = {row.trace_id: row for row in rows(name, 1, "verify", Label)}
    assert all(row.correct == (row.value >= 0.7) for row in own.values())
    metrics = status["rounds"][1]["metrics"]
    behind = metrics["gap/accuracy/greedy@taught"] - metrics["gap/accuracy/greedy"]
    assert metrics["gap/gap"] == pytest.approx(behind, abs=1e-7)
    final = status["final"]["metrics"]
    assert {f"arms/accuracy/{arm}" for arm in ("once", "self", "binary", "all_errors", "resample")} <= set(
        final
    )
    assert final["arms/accuracy/resample"] >= final["arms/accuracy/once"]


def test_critics_by_how_true_they_are(place: Path, talker: Path) -> None:
    name = "critics_countdown"
    talks = [f"before.talk{near}.problems=4" for near in (10, 20, 40)]
    final = run(name, talker, *talks, "finally.curve.checks=2")["final"]["metrics"]
    found = rows(name, 0, "talk40", Trace)
    assert {row.act for row in found} == {"critique"}
    critics = ("policy", "within10", "within20", "within40")
    turns = list(StageFolder(DATA / name / "final-000" / "curve").read(Trace))
    assert {row.model for row in turns if row.act == "critique"} == set(critics)
    firsts = {row.id for row in turns if not row.parent}
    assert len(firsts) == TASK["test"]
    assert {row.parent for row in turns if row.act == "critique"} >= firsts
    for critic in critics:
        assert 0 <= final[f"curve/accuracy/{critic}/1"] <= 1
        assert final[f"curve/accuracy/{critic}"] == final[f"curve/accuracy/{critic}/2"]
    assert 0 <= final["curve/p"] <= 1


def test_a_hole_in_the_critic_is_rewarded(place: Path, talker: Path) -> None:
    name = "hacked_countdown"
    small = [
        "rounds=2",
        "problems_per_round=6",
        "before.probe.problems=6",
        "stages.trust.every=1",
        "stages.trust2.every=1",
    ]
    for stage in ("learn", "learn2"):
        small += [f"stages.{stage}.warmup_steps=0"]
    status = run(name, talker, *small)
    for samples, verdicts in (("sample", "verdict"), ("sample2", "verdict2")):
        said = {row.trace_id: row for row in rows(name, 2, verdicts, Label)}
        assert said
        assert set(said) <= {row.id for row in rows(name, 2, samples, Trace)}
        assert all(row.value in (0, 1) for row in said.values())
    trust = status["rounds"][2]["metrics"]
    assert 0 < trust["trust/right"] <= 1  # the share, and not how many
    final = status["final"]["metrics"]
    assert {"said/says_right", "said/right", "said2/says_right", "final/accuracy/greedy@mended"} <= set(final)
    assert {"astray/legal", "astray/legal@mended"} <= set(final)


def test_a_verifier_learns_from_checks_that_say_the_truth(place: Path, talker: Path) -> None:
    name = "think_countdown"
    small = ["problems_per_round=6", "stages.sample.n=6", "stages.verify.n=2", "finally.pool.n=4"]
    status = run(name, talker, *small, "finally.said0.n=2", "finally.said.n=2")
    truth = {row.trace_id: row for row in rows(name, 1, "truth", Label)}
    checks = {row.id: row for row in rows(name, 1, "verify", Trace)}
    assert {row.act for row in checks.values()} == {"critique"}
    said = rows(name, 1, "verify", Label)
    assert all(0 <= score <= 1 for row in said for score in row.step_scores if score is not None)
    kept = rows(name, 1, "checks", Example)
    assert kept
    calls_right = [checks[row.trace_id].answer == "right" for row in kept]
    assert 2 * sum(calls_right) == len(kept)
    assert calls_right == [truth[checks[row.trace_id].parent].correct for row in kept]
    assert all(row.completion == checks[row.trace_id].text for row in kept)
    dropped = [row.what for row in rows(name, 1, "checks", Dropped)]
    assert sorted([*dropped, *(row.trace_id for row in kept)]) == sorted([*truth, *checks])
    assert 0 <= status["rounds"][1]["metrics"]["checks/kept_share"] <= 1
    final = status["final"]["metrics"]
    assert {"critic/balanced", "critic0/balanced", "steps/accuracy", "chosen/accuracy/weighted"} <= set(final)
