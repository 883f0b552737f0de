"""`plan`: every method says its own cost, and nothing that costs is said to cost nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe.cost import Lengths, expected
from pipeline.recipe.methods import method
from pipeline.recipe.pace import Pace, paces
from pipeline.recipe.plan import describe, stage_cost
from pipeline.recipe.read import build, data_settings, load
from pipeline.recipe.shape import fingerprint

ROOT = Path(__file__).parents[2]
MODELS = {
    "policy": {"base": "seed://countdown"},
    "prm": {"base": "seed://countdown", "head": "value"},
}
BEFORE = {
    "probe": {"generate": "sample", "n": 4},
    "credit": {"label": "outcome", "from": "probe"},
    "seeds": {"select": "step_values", "from": "credit"},
    "first": {"train": "prm", "from": "seeds", "steps": 5},
}


def planned(stages: dict[str, Any], **more: Any) -> Any:
    task = {"use": "countdown", "train": 100, "dev": 20, "test": 20}
    return build(
        {"name": "x", "task": task, "models": MODELS, "before": BEFORE, "rounds": 1, "stages": stages} | more
    )


def tokens(stage: dict[str, Any], **more: Any) -> tuple[float, float]:
    """Tokens written and read for one problem of one stage that reads `probe`'s four labelled traces."""
    recipe = planned({"one": stage}, **more)
    cost = expected(recipe, recipe.stage("one"), Lengths(recipe.tasks))
    return sum(cost.written.values()), sum(cost.read.values())


WHOLE = 17.0  # tokens of a typical play with three numbers: 7 + 2 * 2, and 6
STEP = WHOLE / 2


@pytest.mark.parametrize(
    ("stage", "written", "read"),
    [
        ({"generate": "sample", "n": 8}, 8 * WHOLE, 0),
        ({"generate": "best_of_n", "n": 8}, 8 * WHOLE, 8 * WHOLE),
        ({"generate": "beam", "n": 8}, 8 * WHOLE, 8 * WHOLE),
        ({"generate": "lookahead", "n": 8, "ahead": 1}, 8 * 3 * STEP, 8 * 3 * STEP),
        # the root and three children can be expanded, each into three steps and a roll-out of one
        ({"generate": "mcts_star", "iterations": 50}, 4 * 4 * STEP, 4 * 4 * STEP),
        ({"generate": "mcts_star", "iterations": 2}, 2 * 4 * STEP, 2 * 4 * STEP),
        # four trees of two moves, whose five simulations visit five of six children once: 408 tokens, 406 measured
        ({"generate": "alphazero", "branch": 6, "searches": 4}, 4 * 2 * 6 * STEP, 4 * 2 * 6 * STEP),
        # two moves of five expansions are ten, but only 1 + 6 nodes can be expanded
        ({"generate": "alphazero", "branch": 6, "deferred": False}, 7 * 6 * STEP, 7 * 6 * STEP),
        ({"generate": "alphazero", "branch": 6, "budget_tokens": 100}, 100, 100),
        ({"label": "outcome", "from": "credit"}, 0, 0),
        ({"label": "prefix_values", "from": "credit", "wrong": 3, "traces": 2}, 2 * 3 * WHOLE, 0),
        ({"evaluate": "accuracy", "samples": 8, "value": "prm"}, 9 * WHOLE, 8 * WHOLE),
        ({"evaluate": "accuracy", "of": ["policy", "policy@0"], "kl": "policy@0"}, 2 * WHOLE, WHOLE),
        ({"evaluate": "accuracy", "search": {"generate": "beam", "n": 8}}, 8 * WHOLE, 8 * WHOLE),
        ({"evaluate": "prm_quality", "samples": 4}, 4 * WHOLE, 4 * WHOLE),
    ],
)
def test_a_method_says_what_a_problem_costs(stage: dict[str, Any], written: float, read: float) -> None:
    assert tokens(stage) == pytest.approx((written, read))


def test_labels_that_have_text_written_stand_in_the_plan() -> None:
    recipe = load(ROOT / "recipes" / "rest_mcts_addition.yaml")
    labelled = [s for s in recipe.stages if s.room == "label" and s.method == "prefix_values"]
    assert labelled
    assert all(stage_cost(recipe, stage).tokens > 0 for stage in labelled)


def test_labels_of_another_split_are_planned_for_its_problems() -> None:
    final = {
        "tried": {"generate": "sample", "split": "test"},
        "judged": {"label": "outcome", "from": "tried"},
    }
    recipe = planned({"one": {"generate": "sample"}}, **{"finally": final})
    assert [stage_cost(recipe, recipe.stage(name)).problems for name in ("one", "tried", "judged")] == [
        100,
        20,
        20,
    ]


@pytest.mark.parametrize(("base", "told"), [("seed://countdown", True), ("seed://smollm2", False)])
def test_how_long_a_real_model_reads_is_not_said_to_be_known(base: str, told: bool) -> None:
    models = {"policy": {"base": base}, "prm": {"base": base, "head": "value"}}
    recipe = planned({"one": {"label": "step_reward", "from": "probe", "value": "prm"}}, models=models)
    cost = stage_cost(recipe, recipe.stage("one"), {})
    assert (cost.seconds is not None) == told


def test_what_runs_wrote_and_read_is_known_whatever_version_did_it(tmp_path: Path) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "recipe.yaml").write_text("models: {policy: {base: seed://smollm2}}\n")
    (run / "metrics.jsonl").write_text("")
    stages = [
        {"written": {"policy@0": 100}, "read": {}, "seconds": {"write": 3, "read": 0, "search": 1}},
        {"written": {"policy": 300}, "read": {}, "seconds": {"write": 3, "read": 0, "search": 1}},
        {"written": {}, "read": {"policy": 500}, "seconds": {"write": 0, "read": 2, "search": 2}},
    ]
    rows = [{"round": 0, "stage": f"s{n}", "seconds": 4, "spent": spent} for n, spent in enumerate(stages)]
    (run / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = paces(tmp_path)
    assert known == {"seed://smollm2": Pace(tokens=50.0, rows=None, reads=250.0)}
    models = {"policy": {"base": "seed://smollm2"}, "prm": {"base": "seed://smollm2", "head": "value"}}
    recipe = planned({"one": {"label": "step_reward", "from": "probe", "value": "prm"}}, models=models)
    cost = stage_cost(recipe, recipe.stage("one"), known)
    assert cost.seconds == pytest.approx(cost.read / 250, rel=0.01)


def jsonl(tmp_path: Path, number: int) -> Any:
    path = tmp_path / "mine.jsonl"
    rows = [
        json.dumps({"question": f"How much is {n} and {n}?", "answer": str(2 * n)}) for n in range(number)
    ]
    path.write_text("\n".join(rows) + "\n")
    stages = {"sample": {"generate": "sample", "n": 2}}
    task = {"use": "jsonl", "path": str(path), "max_tokens": 50}
    return build({"name": "x", "task": task, "models": MODELS, "rounds": 1, "stages": stages})


def test_problems_of_a_local_file_are_counted(tmp_path: Path) -> None:
    recipe = jsonl(tmp_path, 300)
    [sample] = recipe.stages
    module = method("tasks", "jsonl")
    train = sum(p.split == "train" for p in module.Task(recipe.tasks[0]).problems())
    assert 200 < train < 300
    assert stage_cost(recipe, sample).problems == train
    assert f"{train} problems, about {train * 50:,} tokens" in describe(recipe)


def test_what_only_the_data_says_is_not_said_to_be_nothing(tmp_path: Path) -> None:
    recipe = jsonl(tmp_path, 3)
    (tmp_path / "mine.jsonl").unlink()
    said = describe(recipe)
    assert "all problems of the data, about 50 tokens each, time unknown" in said
    assert "in all: as many tokens as the data has problems, time unknown" in said
    assert " 0 s" not in said


def test_a_later_key_at_its_default_is_in_no_fingerprint() -> None:
    """Runs from before `ties`, `merge` and `refill` go on; a value of their own makes another fingerprint."""
    kind = method("generate", "alphazero").Settings
    plain = data_settings(kind())
    assert "ties" not in plain
    assert fingerprint(plain) == fingerprint(data_settings(kind(ties="value")))
    assert data_settings(kind(ties="order")) == plain | {"ties": "order"}
    assert {"merge", "refill"}.isdisjoint(data_settings(method("generate", "beam").Settings()))
