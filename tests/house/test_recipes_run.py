"""Every shipped recipe runs end to end, from its own file, with a tiny model made on the spot and small numbers."""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import real_world as world

from pipeline.commands import solve
from pipeline.commands.curve import curve
from pipeline.commands.show import show_rows
from pipeline.engine.endings import hash_ids
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.measures import mark_of
from pipeline.recipe.methods import method
from pipeline.recipe.read import load
from pipeline.recipe.shape import Recipe, Stage
from pipeline.report.console import Console
from pipeline.report.html import build, data, data_panels
from pipeline.report.summary import closing_words
from pipeline.rows import Dropped, Example, Label, Node, Pair, Problem, StepExample, Trace
from pipeline.run.session import open_run, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_hash, verify_run
from pipeline.store.workspace import Workspace
from pipeline.tasks import split_of
from pipeline.tasks.prepare import render

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
COUNTDOWN = ["task.train=40", "task.dev=12", "task.test=12", "task.max_tokens=60"]
#: of the four-number recipes: the rules that the tiny policy knows
THREE = ["task.numbers=3", "task.range=[1,20]", "task.target=[10,100]", "task.largest=200"]
BRIEF = ["rounds=2", "stages.learn.steps=4", "stages.learn.batch_size=8", "stages.learn.learning_rate=1e-3"]
#: a reward model of a few steps says nothing worth a check
NO_HEALTH = ["min_auc=0", "min_sd=0", "max_length_correlation=1", "samples=2", "split=train", "problems=16"]
#: how each search is made small
SMALL_SEARCH = {
    "mcts_star": ["iterations=3"],
    "alphazero": ["simulations=2", "branch=3"],
    "revise": ["chains=2", "length=2"],
    "rstar": ["rollouts=2", "votes=3"],
}
#: how each labeller is made small, and able to find something where the tiny policy is nearly always right
SMALL_LABELS = {
    "shepherd_deduction": ["before.credit.n=3", "before.credit.temperature=1.5"],
    "omega_deduction": ["before.tree.filter=0", "before.tree.n=3", "before.tree.temperature=1.5"],
    "diverse_deduction": ["before.sample.n=6"],
    "omega_countdown": ["before.tree.filter=0", "before.tree.n=3", "before.tree.temperature=1.5"],
    "diverse_countdown": ["before.sample.n=6"],
    "pivotal_countdown": ["before.warm.n=2", "before.pivots.n=4", "before.pivots.within=[0,1]", "before.pairs.on_empty=continue", "before.pivots.temperature=1.5"],
}  # fmt: skip
#: who covers which recipe: a test below
PLAIN = ("quickstart", "rest_em_countdown", "rest_em_countdown4")
DEDUCTION = ("rest_em_deduction", "process_deduction")
GRADIENT = ("grpo_countdown",)
ADDITION = ("star_addition", "star_addition_plain")
REAL = ("star_gsm8k", "star_csqa", "rest_em_math")
WORDS = ("star_words", "star_words_gold", "star_words_unfiltered", "star_svamp")
FAIR = ("fair_words",)
ROLLOUTS = ("shepherd_countdown", "pav_countdown")
VERIFIERS = (
    "alphamath_countdown",
    "orm_countdown",
    "implicit_countdown",
    "mips_countdown",
    "judge_countdown4",
    "verifiers_countdown",
)
TALKING = ("score_countdown", "cac_countdown")
#: in test_talk_recipes.py
JUDGING = ("self_rewarding_countdown", "self_countdown", "oracle_gap_countdown", "think_countdown",
           "critics_countdown", "hacked_countdown")  # fmt: skip
#: in test_chat_talks.py
CHATTING = ("self_words",)
#: in test_answer_recipes.py: with a policy that knows conversations by heart
ANSWERS = ("mctsr_countdown", "berry_countdown", "alphallm_countdown", "r_zero_countdown", "reflection_countdown",
           "world_model_countdown", "rewrites_countdown")  # fmt: skip
#: in test_looked_at_recipes.py
LOOKED_AT = (
    "probe_countdown",
    "pause_countdown",
    "dola_real",
    "dola_countdown",
    "evidence_csqa",
    "self_check_countdown",
)
PAIRS = ("iterated_dpo_countdown", "rstar_math_countdown", "strength_countdown", "rest_em_game24")
#: in test_step_files.py
PEOPLE = ("prm_from_people",)
#: in test_labels_table.py
COMPARED = ("labels_deduction", "labels_countdown4")
ROUNDS = ("ceiling_countdown", "compute_optimal_countdown")
THINKING = ("ets_countdown", "judge_deduction", "rebase_countdown", "rebase_deduction", "revise_countdown", "rstar_countdown",
            "searches_countdown")  # fmt: skip
REWARDS = ("ppo_steps_countdown", "pav_rl_countdown", "prime_countdown", "ttrl_countdown")
DISTILLED = ("distil_countdown",)
GRADIENT_ELSEWHERE = ("rloo_addition", "grpo_gsm8k")
SEARCHING = tuple(
    sorted(p.stem for p in RECIPES.glob("*.yaml") if p.stem.startswith(("rest_mcts", "alphazero")))
)


def run(name: str, *overrides: str, until: str | None = None) -> str:
    """A shipped recipe in this process; returns what the console said."""
    said = io.StringIO()
    recipe, console = load(RECIPES / f"{name}.yaml", overrides), Console(file=said)
    with session(recipe, console, Processes(), Workspace(DATA, CHECKPOINTS)) as working:
        if run_loop(working, until):
            console.finished(closing_words(working))
    return said.getvalue()


def whole(name: str, rounds: int = 2) -> dict[str, Any]:
    """The final metrics of a run that is complete and undamaged."""
    status = run_status(name, Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert [entry["round"] for entry in status["rounds"]] == list(range(rounds + 1))
    assert verify_run(DATA / name, CHECKPOINTS / name) == []
    final = status["final"]["metrics"]
    for key in ("greedy", "greedy@0"):
        assert 0 <= final[f"final/accuracy/{key}"] <= 1
    assert "final/gain/greedy/low" in final
    return final


def rows(name: str, round_number: int, stage: str, kind: type) -> list[Any]:
    return list(StageFolder(DATA / name / f"round-{round_number:03d}" / stage).read(kind))


def test_every_recipe_is_run_below() -> None:
    covered = [*PLAIN, *DEDUCTION, *GRADIENT, *ADDITION, *REAL, *WORDS, *SEARCHING, *SMALL_LABELS, *ROLLOUTS]
    covered += [*VERIFIERS, *PAIRS, *TALKING, *JUDGING, *CHATTING, *LOOKED_AT, *ROUNDS, *THINKING, *REWARDS]
    covered += [*GRADIENT_ELSEWHERE, *ANSWERS, *COMPARED, *FAIR, *PEOPLE, *DISTILLED]
    assert sorted(covered) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert len(covered) >= 8


# --- made tasks


@pytest.mark.parametrize("name", PLAIN)
def test_rest_em_on_countdown(name: str, place: Path, tiny: Path) -> None:
    rules = THREE if name.endswith("4") else []
    said = run(name, f"models.policy.base={tiny}", *COUNTDOWN, *rules, *BRIEF)
    final = whole(name)
    assert "final/accuracy/majority" in final
    assert "round 2" in said
    kept = rows(name, 2, "rows", Example)
    assert kept
    recipe = load(RECIPES / f"{name}.yaml")
    most = recipe.stage("rows").settings.max_per_problem
    per_problem = [sum(row.problem_id == i for row in kept) for i in {row.problem_id for row in kept}]
    assert max(per_problem) <= most
    if recipe.stage("measure").settings.kl:
        metrics = run_status(name, Workspace(DATA, CHECKPOINTS))["rounds"][2]["metrics"]
        assert metrics["measure/kl"] == pytest.approx(metrics["measure/kl"])


def test_policy_gradients_on_countdown(place: Path, tiny: Path) -> None:
    small = [
        "before.probe.problems=24",
        "before.probe.n=2",
        "before.warm.steps=2",
        "before.warm.batch_size=8",
    ]
    small += ["rounds=2", "problems_per_round=6", "stages.sample.n=3", "stages.measure.every=2"]
    small += ["stages.episodes.where=all"]  # the tiny policy is nearly always right
    run("grpo_countdown", f"models.policy.base={tiny}", *COUNTDOWN, *small)
    whole("grpo_countdown")
    assert len(rows("grpo_countdown", 0, "probe", Trace)) == 48
    kept = rows("grpo_countdown", 2, "episodes", Example)
    assert len(kept) == 18
    assert all(len(row.old_logprobs) == len(row.completion_ids) for row in kept)
    assert sorted(p.parent.name for p in CHECKPOINTS.glob("*/round-*/policy.optimizer")) == [
        "round-001",
        "round-002",
    ]


# --- conversations


def test_second_attempts_by_policy_gradient(place: Path, tiny: Path) -> None:
    small = ["before.probe.problems=24", "before.probe.n=2", "before.talk.problems=8"]
    small += ["before.warm.steps=2", "before.warm.batch_size=8"]
    small += ["rounds=2", "problems_per_round=6", "stages.turns.n=3", "stages.again.every=2"]
    small += ["stages.first.rounds=[1,1]", "stages.second.rounds=[2,null]"]
    run("score_countdown", f"models.policy.base={tiny}", *COUNTDOWN, *small)
    status = run_status("score_countdown", Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert verify_run(DATA / "score_countdown", CHECKPOINTS / "score_countdown") == []
    for number, stage in ((1, "first"), (2, "second")):
        traces = {trace.id: trace for trace in rows("score_countdown", number, "turns", Trace)}
        assert len(traces) == 6 * 3 * 2
        right = {label.trace_id: label.value for label in rows("score_countdown", number, "check", Label)}
        labels = {label.trace_id: label for label in rows("score_countdown", number, stage, Label)}
        assert set(labels) == set(traces)
        for trace in traces.values():
            if trace.parent:
                first, second = right[trace.parent], right[trace.id]
                bonus = 10 * (second - first) if number == 2 else 0
                assert labels[trace.id].value == second + bonus
                assert labels[trace.parent].value == (first if number == 2 else 0)
                assert traces[trace.parent].text in trace.prompt
        kept = rows("score_countdown", number, "episodes", Example)
        assert len(kept) == len(traces)
        assert {row.prompt for row in kept} == {trace.prompt for trace in traces.values()}
    final = status["final"]["metrics"]
    assert 0 <= final["final/accuracy/search"] <= 1
    assert "final/gain/search/low" in final


def test_checks_as_context(place: Path, tiny: Path) -> None:
    models = [f"models.{name}.base={tiny}" for name in ("policy", "blind", "holed")]
    small = ["finally.once.samples=2", "finally.four.search.checks=2", "finally.refine.search.attempts=2"]
    run("cac_countdown", *models, *COUNTDOWN, *small)
    status = run_status("cac_countdown", Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    for stage, turns in (("one", 3), ("four", 5), ("near", 9)):
        found = list(StageFolder(DATA / "cac_countdown" / "final-000" / stage).read(Trace))
        assert len(found) == 12 * turns
        assert sum(trace.chosen for trace in found) == 12
        assert 0 <= status["final"]["metrics"][f"{stage}/accuracy/search"] <= 1


def few_rows(stage: Stage) -> list[str]:
    """A small batch, where the recipe does not say how many a round has."""
    return [] if getattr(stage.settings, "minibatches", 1) > 1 else ["batch_size=8"]


def run_shrunk(path: Path, tiny: Path, *more: str) -> Recipe:
    """A recipe on countdown to its end, each stage as small as it goes."""
    words = [*COUNTDOWN, "task.train=16", "wandb.mode=disabled", *more]
    for name, model in load(path).models.items():
        lora = [] if model.lora == "none" else [f"models.{name}.lora={{r: 4}}"]
        words += [f"models.{name}.base={tiny}", *lora]
        # the tiny policy is nearly always right: then there is no AUC that a gate could look at
        words += [f"models.{name}.gate=[]"] if model.head and model.gate else []
    for stage in load(path).stages:
        here, keys = f"{stage.section}.{stage.name}", list[str]()
        if stage.room == "train":
            keys = ["steps=2", *few_rows(stage)]
        elif stage.room == "label" and stage.settings.draws_by:
            keys = ["n=2"]
        elif stage.method == "prm_quality":
            keys = [word for word in NO_HEALTH if not word.startswith("split")]
        elif stage.room == "generate":
            keys = [
                *(SMALL_SEARCH[stage.method] if stage.method in ("revise", "rstar") else []),
                *(["problems=8"] if stage.settings.problems else []),
            ]
        elif stage.method == "compute_optimal":
            budget = min(stage.settings.budgets[:2], key=lambda budget: abs(budget - 4))
            keys = ["difficulty=2", "bins=1", f"budgets=[{budget}]", "resamples=100"]
            limited = [name for name, way in stage.settings.strategies.items() if "budgets" in way]
            keys += [f"strategies.{name}.budgets=[{budget}]" for name in limited]
        elif stage.room == "evaluate" and (search := stage.settings.search):
            keys = [
                f"search.{key}"
                for key in SMALL_SEARCH.get(search["generate"], [f"n={search.get('width', 4)}"])
            ]
        elif stage.room == "evaluate" and not stage.sources:
            keys = ["samples=2"]
        words += [f"{here}.{key}" for key in keys]
    recipe = load(path, words)
    workspace = Workspace(DATA, CHECKPOINTS)
    with session(recipe, Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    assert run_status(recipe.name, workspace)["complete"]
    assert verify_run(DATA / recipe.name, CHECKPOINTS / recipe.name) == []
    return recipe


@pytest.mark.parametrize("name", [*ROLLOUTS, "pav"])
def test_labels_by_roll_outs_on_countdown(name: str, place: Path, tiny: Path) -> None:
    """The two recipes, and PAV with a prover of its own over two rounds."""
    path = RECIPES / f"{name}.yaml" if name in ROLLOUTS else ROOT / "tests" / "recipes" / f"{name}.yaml"
    recipe = run_shrunk(path, tiny)
    [first] = sorted(DATA.glob(f"{recipe.name}/round-*/*/rollouts"))[:1]
    drawn = rows(recipe.name, int(first.parts[-3][-3:]), first.parts[-2], Trace)
    assert drawn
    assert all(row.model in recipe.models and row.tokens_charged > 0 for row in drawn)
    if name != "shepherd_countdown":
        gained = rows(recipe.name, int(first.parts[-3][-3:]), "gained", Label)
        assert any(gain for row in gained for gain in row.advantage or () if gain)


@pytest.mark.full
@pytest.mark.parametrize("name", [*VERIFIERS, *PAIRS])
def test_verifiers_and_pairs_on_countdown(name: str, place: Path, tiny: Path) -> None:
    rules = THREE if name.endswith("4") else []
    recipe = run_shrunk(RECIPES / f"{name}.yaml", tiny, *rules)
    trained = [stage for stage in recipe.stages if stage.room == "train"]
    assert trained
    for stage in trained:
        assert list(CHECKPOINTS.glob(f"{recipe.name}/round-*/{stage.settings.model}/manifest.json")), (
            stage.name
        )


def test_a_generate_stage_on_test_takes_as_many_problems_as_it_is_told(place: Path, tiny: Path) -> None:
    more = ["finally={pool: {generate: sample, by: policy, n: 2, split: test, problems: 3}}", "rounds=0"]
    run("quickstart", f"models.policy.base={tiny}", *COUNTDOWN, "stages.learn.steps=4", *more)
    found = open_run("quickstart", Workspace(DATA, CHECKPOINTS))
    traces = list(found.stage_folder(found.recipe.stage("pool"), 0).read(Trace))
    assert [trace.problem_id for trace in traces] == [i for i in found.ids("test")[:3] for _ in range(2)]


def test_better_or_only_sharper(place: Path, tiny: Path) -> None:
    """Two rounds: the base's samples are drawn once, gates read what drifts, the report says both."""
    small = ["stages.ceiling.samples=6", "stages.ceiling.read=2", "stages.ceiling.problems=5"]
    small += ["stages.drift.samples=3", "stages.drift.problems=6", "stages.drift.warn={kl: -1}"]
    said = run("ceiling_countdown", f"models.policy.base={tiny}", *COUNTDOWN, *BRIEF, *small)
    whole("ceiling_countdown")
    assert "nats a token from the base" in said  # the warning
    written = [
        Counter(row.model for row in rows("ceiling_countdown", n, "ceiling", Trace)) for n in (0, 1, 2)
    ]
    assert written[0] == {"policy": 30, "policy@0": 30}
    assert written[1] == written[2] == {"policy": 30}  # nothing of the base, nor of the round before
    status = run_status("ceiling_countdown", Workspace(DATA, CHECKPOINTS))
    found = status["rounds"][2]["metrics"]
    assert found["ceiling/pass@1@0"] == status["rounds"][0]["metrics"]["ceiling/pass@1"]
    assert {"ceiling/pass@6" in found, "ceiling/pass@4" in found} == {False, True}
    assert found["ceiling/lost"] == pytest.approx(
        found["ceiling/lost@incumbent"] + found["ceiling/lost/change"]
    )
    gate = json.loads((DATA / "ceiling_countdown" / "round-002" / "gate.json").read_text())
    assert any("drift/distinct" in reason for reason in gate["decisions"]["policy"]["reasons"])
    report = page_of("ceiling_countdown")
    for told in ("Better, or only sharper? Round 2", "Does it go astray? Round 2", "Beware: nats a token"):
        assert told in report


def page_of(name: str) -> str:
    return build.render([data.load_run(name, Workspace(DATA, CHECKPOINTS))])


def test_spending_by_difficulty(place: Path, tiny: Path) -> None:
    """Every strategy at every budget; then `solve` spends by what was measured."""
    name = "compute_optimal_countdown"
    small = [f"models.{model}.base={tiny}" for model in ("policy", "verifier")]
    small += [f"before.{drawn}.{key}" for drawn in ("sample", "again") for key in ("n=6", "temperature=1.5")]
    small += ["before.again.problems=8", "before.warm.steps=2", "before.learn.steps=2"]
    small += ["before.learn.batch_size=8", "before.learn.on_empty=continue"]
    small += ["before.spend.budgets=[1,4]", "before.spend.difficulty=3", "before.spend.bins=2"]
    beam = "{generate: beam, n: N, width: 4, budgets: [4]}"
    small += [f"before.spend.strategies={{majority: majority, best: best, beam: {beam}}}"]
    run(name, *COUNTDOWN, "task.train=16", *small)
    status = run_status(name, Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    found = status["rounds"][0]["metrics"]
    assert {
        f"spend/{line}@{n}" for line in ("optimal", "optimal/predicted", "single") for n in (1, 4)
    } <= set(found)
    assert found["spend/accuracy/majority@1"] == pytest.approx(found["spend/accuracy/best@1"])  # one is one
    assert found["spend/tokens/beam@4"] > 0
    assert found["spend/tokens/optimal@4/counted"] == pytest.approx(
        found["spend/tokens/optimal@4"] + found["spend/tokens/difficulty"]
    )
    page = page_of(name)
    assert "How should samples be spent?" in page
    assert "No rounds to compare: chosen by true difficulty" in page
    assert "Nothing has been measured yet" not in page
    problem = next(iter(StageFolder(DATA / name / "prepare").read(Problem)))
    told = solve.Solver(name, None, [], Workspace(DATA, CHECKPOINTS), 5).answer(problem.question)
    assert re.match(r"difficulty [12] of 2 \(1 is the easiest\): (majority|best|beam), 4 samples\n", told)
    with pytest.raises(RecipeError, match="leave out --search"):
        solve.Solver(name, "beam", [], Workspace(DATA, CHECKPOINTS), 4)


@pytest.mark.full
def test_a_learning_curve(place: Path, tiny: Path) -> None:
    """Three sizes in two arms: five runs, and the same again reads them."""
    small = [f"models.policy.base={tiny}", *COUNTDOWN, "rounds=1", *BRIEF[1:], "wandb.mode=disabled"]
    call = (RECIPES / "quickstart.yaml", [8, 16, 24], [0], small, Console(quiet=True, main=False))
    told = curve(*call, Workspace(DATA, CHECKPOINTS))
    names = sorted(path.name for path in DATA.glob("curve-quickstart-*"))
    assert names == [
        "curve-quickstart-16-epochs-s0",
        "curve-quickstart-16-steps-s0",
        "curve-quickstart-24-full-s0",
        "curve-quickstart-8-epochs-s0",
        "curve-quickstart-8-steps-s0",
    ]
    assert "same steps: error =" in told
    before = (DATA / "curve-quickstart.json").read_bytes()
    assert curve(*call, Workspace(DATA, CHECKPOINTS)) == told
    assert (DATA / "curve-quickstart.json").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ets_countdown", marks=pytest.mark.full),
        pytest.param("judge_deduction", marks=pytest.mark.full),
        pytest.param("rebase_countdown", marks=pytest.mark.full),
        pytest.param("rebase_deduction", marks=pytest.mark.full),
        pytest.param("searches_countdown", marks=pytest.mark.full),
        "revise_countdown",
        "rstar_countdown",
        "rstar",
    ],
)
def test_thinking_longer_on_countdown(name: str, place: Path, tiny: Path) -> None:
    """The recipes (that of deduction too: its stages are what is run), and rStar with a partner of another run."""
    path = RECIPES / f"{name}.yaml" if name in THINKING else ROOT / "tests" / "recipes" / f"{name}.yaml"
    other = ["task={use: countdown, train: 16, dev: 6, test: 6, max_tokens: 60}"]
    rules = other if name.endswith("deduction") else THREE if name == "ets_countdown" else []
    recipe = run_shrunk(path, tiny, *rules)
    stages = {stage.name: stage for stage in recipe.stages}
    final = run_status(recipe.name, Workspace(DATA, CHECKPOINTS))["final"]["metrics"]
    for stage in (one for one in recipe.section("finally") if one.method == "accuracy"):
        head = "search" if stage.settings.search or stage.sources else "greedy"
        assert 0 <= final[f"{stage.name}/{mark_of(stage)}accuracy/{head}"] <= 1
        if stage.settings.held:
            assert final[f"{stage.name}/held/tokens"] >= final[f"{stage.name}/held/nodes"] > 0
    for stage in (one for one in recipe.section("finally") if one.method == "compute_optimal"):
        for way, budget in stage.settings.cells:  # with each reward model, what each strategy found and wrote
            assert 0 <= final[f"{stage.name}/accuracy/{way}@{budget}"] <= 1
            assert final[f"{stage.name}/tokens/{way}@{budget}"] > 0
    here = DATA / recipe.name / "final-000"
    if name == "rstar":  # no training: the policy writes what a typical answer is
        charged = sum(row.tokens_charged for row in StageFolder(here / "search").read(Trace))
        settings = stages["search"].settings
        said_before = settings.cost(recipe.tasks[0]).written["policy"] * 12
        assert 0.5 * said_before <= charged <= 2 * said_before
    assert [stage.name for stage in recipe.stages if mark_of(stage)] == ["leaked"] * (
        name == "rstar_countdown"
    )
    if "agree" in stages:
        said = list(StageFolder(here / "agree").read(Label))
        assert {label.labeller for label in said} == {"mutual"}
        assert all(label.correct is None and 0 <= label.value <= 1 for label in said)
        known = {label.problem_id for label in said}
        scores = [
            trace.score
            for trace in StageFolder(here / "final").read(Trace)
            if trace.problem_id in known and trace.score is not None
        ]
        assert sorted(scores) == sorted(label.value for label in said)
    if "mixed" in stages:
        turns = [trace for trace in StageFolder(here / "mixed").read(Trace) if trace.act]
        assert {trace.act for trace in turns} == {"revise"}
        assert all(trace.prompt.endswith("\nrevise: ") and trace.parent for trace in turns)
        assert {row.prompt.endswith("\nrevise: ") for row in rows(recipe.name, 0, "chains", Example)} <= {
            True,
            False,
        }


@pytest.mark.full
@pytest.mark.parametrize("name", REWARDS)
def test_rewards_that_are_not_gold_on_countdown(name: str, place: Path, tiny: Path) -> None:
    """PRM and critic, Q + alpha A, implicit rewards, votes: what came of them stands in the rows of a round."""
    few = ["rounds=3", "problems_per_round=6", "stages.measure.every=3", "stages.sample.temperature=1"]
    few += ["stages.episodes.on_empty=continue", "stages.episodes.where=all"]
    few += (
        ["stages.braked.scale=true"] if name == "ppo_steps_countdown" else []
    )  # nothing is far from the start yet
    few += (
        ["stages.gain.between=[0,1]"] if name == "prime_countdown" else []
    )  # how many it leaves out is luck
    recipe = run_shrunk(RECIPES / f"{name}.yaml", tiny, *few)
    episodes = rows(recipe.name, 3, "episodes", Example)
    assert len(episodes) == 8 * len({row.problem_id for row in episodes}) >= 32
    steps = [row.advantage for row in episodes if len(row.advantage) > 1]
    assert bool(steps) == (name != "ttrl_countdown")
    labels = rows(recipe.name, 3, "votes" if name == "ttrl_countdown" else "reward", Label)
    assert all(label.correct is None for label in labels)
    if name == "ppo_steps_countdown":
        assert not (DATA / recipe.name / "round-002" / "learn").exists()  # the critic warms up alone
        assert (DATA / recipe.name / "round-002" / "refit" / "manifest.json").exists()
        braked = {row.trace_id: row for row in rows(recipe.name, 3, "braked", Label)}
        drawn = {row.id: row for row in rows(recipe.name, 3, "sample", Trace)}
        raw = {row.trace_id: row.step_scores for row in labels}
        assert {len(row.step_scores) for row in braked.values()} == {
            len(drawn[name].step_ends) for name in braked
        }
        assert any(row.step_scores != raw[name] for name, row in braked.items())


@pytest.mark.full
@pytest.mark.parametrize("name", DISTILLED)
def test_a_students_own_tokens_judged_by_a_teacher(name: str, place: Path, tiny: Path) -> None:
    """One advantage a token from the labeller to the training; no stage of the student's saw gold."""
    few = ["rounds=2", "problems_per_round=6", "stages.measure.every=2", "stages.learn.schedule_rounds=2"]
    recipe = run_shrunk(RECIPES / f"{name}.yaml", tiny, *few, "before.school.learning_rate=1e-2")
    drawn = {row.id: row for row in rows(recipe.name, 2, "sample", Trace)}
    labels = rows(recipe.name, 2, "distil", Label)
    assert {row.trace_id for row in labels} == set(drawn)
    assert all(len(row.advantage) == len(drawn[row.trace_id].token_ids) for row in labels)
    assert any(row.value for row in labels)
    assert all(row.correct is None for row in labels)
    kept = {row.trace_id: row for row in rows(recipe.name, 2, "episodes", Example)}
    bound = recipe.stage("episodes").settings.clip
    for row in labels:
        wanted = [min(max(a, -bound), bound) for a in row.advantage]
        assert kept[row.trace_id].advantage == pytest.approx(wanted)


@pytest.mark.full
def test_leave_one_out_on_addition(place: Path) -> None:
    base, small = addition_policy(place)
    small += ["rounds=2", "problems_per_round=6", "stages.measure.every=2", "stages.episodes.where=all"]
    run("rloo_addition", f"models.policy.base={base}", *small)
    whole("rloo_addition")
    assert len(rows("rloo_addition", 2, "episodes", Example)) == 48


@pytest.mark.full
def test_a_policy_gradient_on_real_rows(place: Path) -> None:
    """The GPU recipe on a few rows of GSM8K, with a small chat model made on the spot."""
    name, folder = "grpo_gsm8k", place / "real"
    task = task_of(name, [])
    world.write_rows(
        folder / "train.jsonl", world.rows_of(task, "gsm8k/train.jsonl", 250, {"train": 9, "dev": 2})
    )
    world.write_rows(folder / "test.jsonl", world.rows_of(task, "gsm8k/test.jsonl", 250, {"train": 2}))
    small = [f"task.path={folder}", "task.max_tokens=64", "task.dev=2"]
    base = real_policy(name, place, small)
    small += [f"models.policy.base={base}", "models.policy.lora={r: 4}", "rounds=2", "problems_per_round=4"]
    small += ["stages.measure.every=2", "stages.episodes.where=all", "stages.learn.learning_rate=1e-4"]
    run(name, *small)
    whole(name)
    assert len(rows(name, 2, "episodes", Example)) == 32


def deduction_policy(name: str, place: Path) -> tuple[Path, list[str]]:
    """A policy that knows half of the chains, and of the others a lucky guess; the overrides for it."""
    small = ["task.hops=[2,2]", "task.train=16", "task.dev=6", "task.test=6"]
    task = task_of(name, small)

    def told(number: int, problem: Problem, hinted: bool) -> str:
        gold = task.gold_completion(problem)
        assert gold is not None
        first, *_, answer = gold.split("\n")
        return gold if number % 2 else f"{first}\n{answer}"

    return world.by_heart(place / "policy", world.lessons(task, told, hints=False), steps=150), small


@pytest.mark.parametrize("name", [DEDUCTION[0], pytest.param(DEDUCTION[1], marks=pytest.mark.full)])
def test_rest_em_on_deduction(name: str, place: Path) -> None:
    """Outcomes keep sound chains and lucky guesses, the oracle the sound ones alone, and `valid` tells."""
    base, small = deduction_policy(name, place)
    task = task_of(name, small)
    run(name, f"models.policy.base={base}", *small, *BRIEF)
    final = whole(name)
    assert {"final/valid", "final/valid@0", "final/gain/valid"} <= set(final)
    problems = {p.id: p for p in StageFolder(DATA / name / "prepare").read(Problem)}
    sound = [
        all(task.step_oracle(problems[row.problem_id], task.steps(row.completion)) or [False])
        for row in rows(name, 1, "rows", Example)
    ]
    assert set(sound) == ({True} if name == "process_deduction" else {True, False})  # both were right
    metrics = run_status(name, Workspace(DATA, CHECKPOINTS))["rounds"][1]["metrics"]
    assert metrics["measure/valid"] <= metrics["measure/accuracy/greedy"]
    assert 0 <= metrics["measure/trace_error"] <= 1


ADDITION_SETTINGS = {"digits": [1, 1], "train": 16, "dev": 4, "test": 4, "max_tokens": 60}


def addition_policy(place: Path) -> tuple[Path, list[str]]:
    """A policy that knows half of the sums, and of the others the scratchpad once it sees the target; the overrides
    for it."""
    module = method("tasks", "addition")
    task = module.Task(module.Settings(use="addition", **ADDITION_SETTINGS))

    def told(number: int, problem: Problem, hinted: bool) -> str:
        gold = task.gold_completion(problem)
        assert gold is not None
        return gold if hinted or number % 2 else gold.replace("</scratch>\n", "</scratch>\n9 9 ")

    base = world.by_heart(place / "policy", world.lessons(task, told), steps=150)
    return base, [f"task.{key}={value}" for key, value in ADDITION_SETTINGS.items()]


@pytest.mark.parametrize("name", ADDITION)
def test_star_on_addition(name: str, place: Path) -> None:
    base, small = addition_policy(place)
    run(name, f"models.policy.base={base}", *small, *BRIEF)
    whole(name)
    kept = rows(name, 1, "rows", Example)
    assert kept
    assert all(row.prompt.endswith("\nTarget:\n") for row in kept)  # the form without a hint
    if name == "star_addition":
        hinted = rows(name, 1, "retry", Trace)
        assert hinted
        assert all(trace.hinted and trace.prompt.endswith("\nTarget:\n") for trace in hinted)
        assert {trace.id for trace in hinted} & {row.trace_id for row in kept}
        solved = [row for row in rows(name, 1, "retry", Dropped) if row.reason == "solved"]
        assert solved  # a problem that was solved gets no hint
    else:
        assert not (DATA / name / "round-001" / "retry").exists()


STORIES = ["task.few_shot=0", "task.train=16", "task.dev=4", "task.test=4"]


def words_policy(name: str, place: Path) -> tuple[Path, list[str]]:
    """A policy that knows half of the word problems by heart, of the recipe's own task; the overrides for it."""
    small = list(STORIES)
    if name == "star_svamp":
        rows = [
            {
                "ID": f"chal-{701 * (i % 4 == 0) + i}",
                "Body": f"Ann had {i + 9} pens. She gave {i} of them to Bob",
                "Question": "How many pens are left?",
                "Equation": f"( {i + 9}.0 - {i}.0 )",
                "Answer": 9.0,
            }
            for i in range(2, 60)
        ]
        small.append(f"task.path={world.write_rows(place / 'svamp.jsonl', rows)}")
    task = task_of(name, small)

    def told(number: int, problem: Problem, hinted: bool) -> str:
        gold = task.gold_completion(problem)
        assert gold is not None
        return gold + world.GOES_ON if number % 2 else " 1 + 1 = 3" + world.GOES_ON

    return world.by_heart(place / "policy", world.lessons(task, told, hints=False), steps=150), small


def test_a_loop_that_knows_one_name_is_refused(place: Path) -> None:
    """A policy that solves what is asked of a woman and fails what is asked of a man: the pairs part, and a policy
    that goes on so is refused."""
    given = [json.loads(line) for line in (RECIPES / "fair_words.jsonl").read_text().splitlines()]
    file = world.write_rows(place / "pairs.jsonl", [row for row in given if int(row["pair"]) % 6 == 0])
    small = [f"task.path={file}", "task.few_shot=0", "task.few_shot_file=''"]
    task = task_of(FAIR[0], small)

    def told(number: int, problem: Problem, hinted: bool) -> str:
        known = json.loads(problem.meta)["group"] == "woman"
        return (task.gold_completion(problem) or "" if known else " 1 + 1 = 2") + world.GOES_ON

    base = world.by_heart(place / "policy", world.lessons(task, told, hints=False), steps=150)
    run(FAIR[0], f"models.policy.base={base}", *small, *BRIEF, "rounds=1", "stages.learn.learning_rate=1e-6")
    status = run_status(FAIR[0], Workspace(DATA, CHECKPOINTS))
    found = status["rounds"][1]["metrics"]
    assert found["fair/pairs"] == 4
    assert found["fair/gap"] > 0.7
    assert found["fair/consistency"] < 0.5
    assert found["fair/accuracy/woman"] > found["fair/accuracy/man"]
    assert status["rounds"][1]["promoted"] == {"policy": False}
    assert 0 <= status["final"]["metrics"]["final/consistency"] <= 1


@pytest.mark.parametrize("name", WORDS)
def test_star_on_word_problems(name: str, place: Path) -> None:
    """With its controls: one trains on gold rationales, one on whatever the model wrote."""
    base, small = words_policy(name, place)
    rounds = 1 if name == "star_words_gold" else 2
    run(name, f"models.policy.base={base}", *small, *BRIEF, f"rounds={rounds}")
    whole(name, rounds)
    task = task_of(name, small)
    problems = {p.id: p for p in StageFolder(DATA / name / "prepare").read(Problem)}
    kept = rows(name, 1, "rows", Example)
    right = [task.correct(task.extract(row.completion), problems[row.problem_id]) for row in kept]
    assert kept
    assert all(right) == (name != "star_words_unfiltered")
    if name == "star_words_gold":
        assert {row.completion for row in kept} == {
            task.gold_completion(p) for p in problems.values() if p.split == "train"
        }


# --- real text

SHOTS = [
    {
        "question": "Ann has 2 pens and buys 3. How many now?",
        "completion": "2 + 3 = 5 pens.\n#### 5",
        "answer": "5",
    },
    {"question": "Half of 8?", "completion": "8 / 2 = 4.\n#### 4", "answer": "4"},
]
CHOICES = "Answer choices:\n(a) hot\n(b) cold\n(c) wet"
CHOICE_SHOTS = [
    {
        "question": f"Fire is what?\n{CHOICES}",
        "completion": "Fire heats. The answer is hot (a).",
        "answer": "a",
    },
    {
        "question": f"Ice is what?\n{CHOICES}",
        "completion": "Ice cools. The answer is cold (b).",
        "answer": "b",
    },
]
WRONG = {
    "gsm8k": " I do not know.\n#### 7777",
    "csqa": " I do not know (z).",
    "math": "Let us see.\n\n\\boxed{7777}",
}


def task_of(name: str, overrides: list[str]) -> Any:
    """The task of a recipe, as the overrides make it."""
    [settings] = load(RECIPES / f"{name}.yaml", overrides).tasks
    return method("tasks", settings.use).Task(settings)


def real_task(name: str, place: Path) -> list[str]:
    """A few real rows on disk for a recipe, and the overrides that point it at them."""
    folder = place / "real"
    counts = {"train": 9, "dev": 2}
    if load(RECIPES / f"{name}.yaml").tasks[0].use == "math":
        task = task_of(name, [])
        math = world.rows_of(task, "math500/math_500.json", 110, {**counts, "test": 2})
        tests = [row for row in math if split(task, row) == "test"]
        world.write_rows(folder / "some.jsonl", [row for row in math if row not in tests])
        world.write_rows(place / "held.jsonl", tests)
        return [
            f"task.path={folder}",
            f"task.test_path={place}/held.jsonl",
            "task.max_tokens=48",
            "task.dev=2",
            "task.test=2",
        ]
    shots = world.write_rows(place / "shots.jsonl", SHOTS if name == "star_gsm8k" else CHOICE_SHOTS)
    few = ["task.few_shot=2", f"task.few_shot_file={shots}"]
    task = task_of(name, few)
    files = ("gsm8k/train.jsonl", "gsm8k/test.jsonl", 250) if name == "star_gsm8k" else (
        "commonsenseqa/train.jsonl", "commonsenseqa/dev.jsonl", 340)  # fmt: skip
    world.write_rows(folder / "train.jsonl", world.rows_of(task, files[0], files[2], counts))
    world.write_rows(folder / Path(files[1]).name, world.rows_of(task, files[1], files[2], {"train": 2}))
    return [*few, f"task.path={folder}", "task.max_tokens=64", "task.dev=2"]


def split(task: Any, row: dict[str, Any]) -> str:
    return split_of(task.read(row).question)


def real_policy(name: str, place: Path, overrides: list[str]) -> Path:
    """A policy that knows the rows by heart: every third plain answer is wrong; some completions go on like a base
    model's where the task has a stop text for that."""
    task = task_of(name, overrides)

    def told(number: int, problem: Problem, hinted: bool) -> str:
        if number % 3 == 0 and not hinted:
            return WRONG[task.settings.use]
        gold = task.gold_completion(problem)
        assert gold is not None
        if task.settings.use == "math":
            gold = f"Let us see.\n\n{gold}"
        return gold + world.GOES_ON if task.stop and number % 3 == 1 else gold

    return world.by_heart(
        place / "policy", world.lessons(task, told, hints=task.settings.use != "math"), steps=140
    )


def check_traces(task: Any, engine: Any, problems: dict[str, Problem], traces: list[Trace]) -> None:
    """Prompts, hints, examples, steps and answers of stored traces, on real text."""
    template = world.chat if task.settings.chat else None
    for trace in traces:
        problem = problems[trace.problem_id]
        used = render(task, problem, hint=trace.hinted, template=template)
        assert trace.prompt == render(task, problem, template=template).prompt
        assert problem.question in trace.prompt
        assert trace.prompt_hash == hash_ids(engine.encode(used.prompt_used))
        for shot, completion in task.examples(problem):
            assert completion in used.prompt_used
            assert (shot in trace.prompt) == task.settings.train_few_shot
        if trace.hinted:
            hinted = task.hinted(problem)
            assert hinted in used.prompt_used
            assert hinted not in trace.prompt
        assert "".join(trace.steps) == trace.text
        assert task.steps(trace.text) == trace.steps
        starts = [0, *trace.step_ends]
        assert [
            engine.decode(trace.token_ids[a:b]) for a, b in zip(starts, starts[1:], strict=False)
        ] == trace.steps
        assert trace.step_ends[-1] == len(trace.token_ids)
        assert trace.answer == task.extract(trace.text)
        assert not any(stop in trace.text for stop in task.stop)
        assert (trace.finish == "eos") == (trace.token_ids[-1] in engine.eos_ids)


def check_kept(name: str, task: Any, engine: Any, problems: dict[str, Problem], number: int) -> None:
    """What a round trains on: right answers, the tokens that were written, an end."""
    from pipeline.train.sft import token_ids

    stages = [
        s for s in ("sample", "retry") if (DATA / name / f"round-{number:03d}" / s / "manifest.json").exists()
    ]
    traces = {trace.id: trace for stage in stages for trace in rows(name, number, stage, Trace)}
    check_traces(task, engine, problems, list(traces.values()))
    kept = rows(name, number, "rows", Example)
    assert kept
    settings = load(DATA / name / "recipe.yaml").stage("learn").settings
    for row in kept:
        trace, problem = traces[row.trace_id], problems[row.problem_id]
        assert task.correct(trace.answer, problem)
        assert trace.answer == problem.answer
        assert row.prompt == trace.prompt
        assert row.completion == trace.text
        assert row.prompt_ids == engine.encode(row.prompt)
        assert row.completion_ids == trace.token_ids
        prompt, completion, fault = token_ids(row, settings, engine.tokenizer, set(engine.eos_ids))
        assert fault == ""
        assert prompt == row.prompt_ids
        assert completion[-1] in engine.eos_ids
        assert engine.decode(completion) == row.completion
    learned = json.loads((DATA / name / f"round-{number:03d}" / "learn" / "manifest.json").read_text())[
        "extra"
    ]
    assert learned["dropped"] == {}
    assert learned["metrics"]["examples"] == len(kept)


@pytest.mark.parametrize("name", REAL)
def test_real_rows_with_a_model_made_on_the_spot(name: str, place: Path) -> None:
    from pipeline.engine.local import Engine

    overrides = real_task(name, place)
    base = real_policy(name, place, overrides)
    overrides += [f"models.policy.base={base}", *BRIEF, "finally.final.samples=2", "stages.measure.samples=2"]
    if name == "rest_em_math":
        overrides += ["stages.sample.n=4", "stages.sample.chunk=4"]
    if name == "star_gsm8k":  # hints from the second round on
        overrides += ["stages.retry.rounds=[2,null]", "stages.recheck.rounds=[2,null]"]
    run(name, *overrides)
    whole(name)
    task, engine = task_of(name, overrides), Engine(base)
    problems = {p.id: p for p in StageFolder(DATA / name / "prepare").read(Problem)}
    assert {p.split for p in problems.values()} == {"train", "dev", "test"}
    for number in (1, 2):
        check_kept(name, task, engine, problems, number)
    last = rows(name, 2, "sample", Trace)
    assert any(trace.finish == "eos" for trace in last)
    assert any(len(trace.steps) > 1 for trace in last) == (name != "star_csqa")
    assert problems[last[0].problem_id].question.split("\n")[0] in show_rows(
        name, 2, "check", None, 3, Workspace(DATA, CHECKPOINTS)
    )
    if name != "rest_em_math":
        assert any(trace.finish == "stop" for trace in last)
        hinted = rows(name, 2, "retry", Trace)
        right = {label.trace_id for label in rows(name, 2, "recheck", Label) if label.correct}
        kept = {row.trace_id for row in rows(name, 2, "rows", Example)}
        assert {trace.id for trace in hinted} & right & kept
        assert all(trace.hinted for trace in hinted)
    # the same bytes where it is stopped and goes on
    first = tree_hash(DATA / name), tree_hash(CHECKPOINTS / name)
    (again := place / "again").mkdir()
    os.chdir(again)
    for until in ("check", "learn", "measure", "sample"):
        run(name, *overrides, until=until)
    run(name, *overrides)
    assert (tree_hash(DATA / name), tree_hash(CHECKPOINTS / name)) == first


# --- search with a reward model


def made_small(name: str) -> list[str]:
    """Overrides that make every stage of a searching recipe small."""
    recipe, found = load(RECIPES / f"{name}.yaml"), ["rounds=2"]
    phases = {stage.name: rounds for stage in recipe.stages if (rounds := stage.settings.rounds)}
    late = max([first - 2 for first, _ in phases.values()], default=0)  # all of them in two rounds
    for stage in recipe.stages:
        keys: list[str] = []
        if late > 0 and stage.name in phases:
            first, last = phases[stage.name]
            end = "null" if last is None else max(1, last - late)
            found.append(f"{stage.section}.{stage.name}.rounds=[{max(1, first - late)}, {end}]")
        if stage.method == "probe":
            keys = ["layer=best"]
        elif stage.room == "train":
            keys = ["steps=4", *few_rows(stage), "learning_rate=1e-3", "on_empty=continue"]  # few are right
        elif stage.room == "generate":
            keys = [*SMALL_SEARCH.get(stage.method, ["n=4"]), "chunk=16"]
        elif stage.method == "prm_quality":
            keys = NO_HEALTH
        elif stage.method == "top_value":
            keys = ["threshold=0"]  # of a reward model of four steps
        elif stage.room == "evaluate" and stage.settings.search:
            keys = [f"search.{key}" for key in SMALL_SEARCH[stage.settings.search["generate"]]]
        elif stage.room == "evaluate":
            keys = ["samples=2"]
        found += [f"{stage.section}.{stage.name}.{key}" for key in keys]
    return found


@pytest.mark.parametrize("name", SEARCHING)
def test_search_with_a_reward_model(name: str, place: Path, request: pytest.FixtureRequest) -> None:
    recipe = load(RECIPES / f"{name}.yaml", made_small(name))
    use = recipe.tasks[0].use
    if use == "countdown":
        base, small = request.getfixturevalue("tiny"), [*COUNTDOWN, *(THREE if name.endswith("4") else [])]
    elif use == "addition":
        base, small = addition_policy(place)
    elif use == "deduction":
        base, small = deduction_policy(name, place)
    elif use == "words":
        base, small = words_policy(name, place)
    else:
        small = real_task(name, place)
        base = real_policy(name, place, small)
    run(name, *small, *made_small(name), *(f"models.{model}.base={base}" for model in recipe.models))
    whole(name)
    metrics = run_status(name, Workspace(DATA, CHECKPOINTS))["rounds"][1]["metrics"]
    assert any(key.startswith("quality/") for key in metrics)
    searched = next(stage for stage in recipe.section("stages") if stage.method in SMALL_SEARCH)
    first, _ = searched.settings.rounds or (1, None)
    found = rows(name, first, searched.name, Trace)
    assert found
    assert {trace.model for trace in found} == {"policy"}
    nodes = rows(name, first, searched.name, Node)
    assert {node.trace_id for node in nodes if node.trace_id} <= {trace.id for trace in found}
    assert any(node.value is not None for node in nodes)
    steps = rows(name, 1, "steps", StepExample)
    assert steps
    for row in steps:
        assert len(row.step_ends) == len(row.labels) == len(row.completions)
        assert row.step_ends[-1] <= len(row.token_ids)
        assert all(0 <= label <= 1 for label in row.labels if label is not None)
    # shares are of the rows that a filter was given, whatever nodes of a tree it drops beside them
    why = data_panels.reasons(data.load_run(name, Workspace(DATA, CHECKPOINTS)))
    fates = [row["count"] for row in why if (row["round"], row["stage"]) == (1, "steps")]
    assert sum(fates) == metrics["steps/given"]
    assert min(fates) > 0
    if first == 1 and len(recipe.stage("steps").sources) == 1:
        dropped = {row.what for row in rows(name, 1, "steps", Dropped)}
        share = sum(trace.id not in dropped for trace in found) / len(found)
        assert metrics["steps/kept_share"] == pytest.approx(share)
    assert all(0 <= value <= 1 for key, value in metrics.items() if key.endswith("/kept_share"))
    if (
        name == "rest_mcts_addition"
    ):  # the first reward model learns from verified prefixes and wrong steps after them
        credit = rows(name, 0, "credit", Label)
        assert {label.labeller for label in credit} == {"prefix_values"}
        fallen = {label.trace_id for label in credit if label.reason == "wrong_step"}
        assert {label.trace_id for label in credit if label.correct}
        assert fallen <= {trace.id for trace in rows(name, 0, "credit", Trace)}
        assert fallen & {row.trace_id for row in rows(name, 0, "seeds", StepExample)}
    for name_of, model in recipe.models.items():  # both learn in each round
        file = "probe" if model.head == "probe" else "adapter_model"
        assert (CHECKPOINTS / name / "round-002" / name_of / f"{file}.safetensors").is_file()


# --- step labels


@pytest.mark.parametrize("name", SMALL_LABELS)
def test_step_labels(name: str, place: Path, tiny: Path) -> None:
    recipe = load(RECIPES / f"{name}.yaml")
    small = [
        "task={use: countdown, train: 16, dev: 6, test: 6, max_tokens: 60}",
        "before.sample.temperature=1.5",
        *SMALL_LABELS[name],
        *(f"models.{model}.base={tiny}" for model in recipe.models),
        *("before.learn.steps=2", "before.learn.batch_size=8", "before.learn.on_empty=continue"),
    ]
    for stage in recipe.section("finally"):
        if stage.method == "prm_quality":
            small += [f"finally.{stage.name}.{key}" for key in NO_HEALTH]
        elif stage.method == "accuracy":
            small.append(f"finally.{stage.name}.samples=2")
    run(name, *small)
    status = run_status(name, Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert verify_run(DATA / name, CHECKPOINTS / name) == []
    [labeller] = [
        stage
        for stage in recipe.section("before")
        if stage.method in ("shepherd", "omega", "match", "pivotal")
    ]
    labels = rows(name, 0, labeller.name, Label)
    assert {label.labeller for label in labels} == {labeller.method}
    final = status["final"]["metrics"]
    if "finally.truth" in {f"{stage.section}.{stage.name}" for stage in recipe.stages}:
        assert final["truth/prefixes"] > 0
        assert final["truth/unknown"] < 0.05  # what the oracle cannot read is counted
        assert 0 <= final["truth/accuracy"] <= 1
        spends = labeller.method in ("omega", "shepherd")
        assert (final["truth/tokens_a_label"] > 0) == spends
    if name == "pivotal_countdown":
        pairs = rows(name, 0, "pairs", Pair)
        assert pairs
        for pair in pairs:
            assert len(pair.chosen_ids) == len(pair.rejected_ids) == 1
            assert pair.chosen_ids != pair.rejected_ids
            assert pair.margin >= 0.2
