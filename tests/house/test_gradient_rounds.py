"""Policy gradients in the loop: stopped anywhere, extended, carried, garbage collected; what `check` refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_loop import CHECKPOINTS, DATA, hashes, run

from pipeline.commands.gc import collect
from pipeline.errors import RecipeError
from pipeline.evaluate.gate import SAME
from pipeline.recipe.read import load
from pipeline.report.html.build import build_report
from pipeline.run.record import read
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace

LEARN = {
    "train": "policy_gradient", "model": "policy", "from": "episodes", "loss": "dapo", "learning_rate": 1e-3,
    "minibatches": 2, "schedule": "linear", "schedule_rounds": 4, "carry_optimizer": True,
}  # fmt: skip


def gradient(**more: Any) -> dict[str, Any]:
    """Ten problems a round, four samples each."""
    return {
        "problems_per_round": 10,
        "stages": {
            "sample": {"generate": "sample", "by": "policy", "n": 4, **more.pop("sample", {})},
            "check": {"label": "outcome", "from": "sample"},
            "gain": {"label": "group_advantage", "from": "check", "kind": "rloo"},
            "episodes": {"select": "episodes", "from": "gain", "where": "mixed", "whiten": True},
            "learn": LEARN | more.pop("learn", {}),
            "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 1, "every": 2},
        },
        "finally": {},
        **more,
    }


def model(base: Path, **more: Any) -> dict[str, Any]:
    gate = {"metric": "measure/accuracy/greedy", "margin": 1}
    return {"policy": {"base": str(base), "restart_from": "previous", "lora": {"r": 4}, "gate": gate, **more}}


def test_stopped_anywhere_and_extended_is_the_same_run(write_recipe: Callable[..., Path], tiny: Path) -> None:
    path = write_recipe(rounds=2, models=model(tiny), **gradient())
    run(path)
    run("tiny", "rounds=3")
    whole = hashes()
    rows = {
        row["round"]: row["metrics"] for row in read(DATA / "tiny/metrics.jsonl") if row["stage"] == "learn"
    }
    assert sorted(rows) == [1, 2, 3]
    for said in rows.values():
        assert said["learn/ratio"] == pytest.approx(1, abs=0.2)
        assert said["learn/mismatch"] < 1e-4
        assert said["learn/steps"] == 2
        assert said["learn/staleness"] == 1
        assert said["learn/equal_groups"] == 0
    beside = sorted(p.parent.name for p in CHECKPOINTS.glob("tiny/round-*/policy.optimizer"))
    assert beside == ["round-001", "round-002", "round-003"]
    (place := Path("again")).mkdir()
    os.chdir(place)
    for until in ("learn", "gain", "episodes", "learn"):
        run(Path("..") / path.name, "rounds=3", until=until)
    run("tiny")
    assert hashes() == whole
    damaged = CHECKPOINTS / "tiny/round-003/policy.optimizer/optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert any("SHA-256" in problem for problem in verify_run(DATA / "tiny", CHECKPOINTS / "tiny"))
    shutil.rmtree(damaged.parent)  # as `verify --repair` does
    run("tiny")
    assert hashes() == whole  # made again, for a next round may need it
    said = collect("tiny", Workspace(DATA, CHECKPOINTS))
    assert "1 optimizers of earlier rounds dropped" in said
    run("tiny")
    left = sorted(p.parent.name for p in CHECKPOINTS.glob("tiny/round-*/policy.optimizer"))
    assert left == ["round-002", "round-003"]  # round 3 was not measured: it may be gone back on
    assert verify_run(DATA / "tiny", CHECKPOINTS / "tiny") == []
    run("tiny", "rounds=4")
    assert (CHECKPOINTS / "tiny/round-004/policy.optimizer/manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "changed", "words"),
    [
        (
            {"sample": {"temperature": 0.7}},
            {},
            "stages.learn.from: the traces of sample are drawn with temperature 0.7",
        ),
        ({"sample": {"top_p": 0.9, "top_k": 5}}, {}, "drawn with top_p 0.9, top_k 5"),
        (
            {"sample": {"by": "other"}},
            {},
            "stages.learn.from: the traces of sample are written by other, and policy learns from them",
        ),
        ({"learn": {"args": {"deepspeed": "zero2.json"}}}, {}, "carry_optimizer: under ZeRO"),
        ({}, {"restart_from": "base"}, "carry_optimizer: the model restarts from its base"),
        ({"learn": {"schedule_rounds": 1}}, {}, "is over after 1 trainings, and the recipe has 2"),
        (
            {"learn": {"schedule": "constant", "warmup_steps": 2}},
            {},
            "warmup_steps: 2, and schedule: constant",
        ),
        (
            {"learn": {"kl": {"coefficient": 0.1, "kind": "k1", "reference": "start"}}},
            {},
            "start is these very weights: nothing would be paid",
        ),
        ({"learn": {"kl": {"kind": "k1"}}}, {}, "kind without a coefficient, which is 0"),
        (
            {"learn": {"schedule": "reduce_lr_on_plateau"}},
            {},
            "schedule_rounds: reduce_lr_on_plateau follows",
        ),
    ],
)
def test_what_cannot_go_together_is_said_by_check(
    write_recipe: Callable[..., Path], tiny: Path, more: dict, changed: dict, words: str
) -> None:
    beside = {"other": {"base": str(tiny)}}
    with pytest.raises(RecipeError) as caught:
        load(write_recipe(models=model(tiny, **changed) | beside, **gradient(**more)))
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"metric": "learn/kl/older", "at_most": 1}, "learn watches no 'kl/older' (did you mean kl/old?)"),
        ({"metric": "learn/kl/old", "margin": 1}, "learn/kl/old has no interval"),
        ({"metric": "lern/kl/old", "at_most": 1}, "no evaluate stage 'lern' in stages (did you mean learn?)"),
    ],
)
def test_a_bound_on_a_training_names_what_it_watches(
    write_recipe: Callable[..., Path], tiny: Path, rule: dict, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write_recipe(models=model(tiny, gate=rule), **gradient()))
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


def test_a_training_that_leaves_its_bound_is_refused_in_the_rounds_that_nothing_measures(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    rules = [
        {"metric": "measure/accuracy/greedy", "margin": 1},
        {"metric": "learn/entropy", "at_least": 50},
        {"metric": "learn/length", "at_most": 500},
    ]
    run(write_recipe(rounds=1, models=model(tiny, gate=rules), **gradient()))
    decided = json.loads((DATA / "tiny/round-001/gate.json").read_text())
    said = decided["decisions"]["policy"]
    assert not said["promote"]
    assert any(reason.endswith("at least 50: refused") for reason in said["reasons"])
    assert any(
        "learn/length" in reason and reason.endswith("at most 500: kept") for reason in said["reasons"]
    )
    assert decided["standing"]["policy"]["round"] == -1
    metrics = next(row for row in read(DATA / "tiny/metrics.jsonl") if row["stage"] == "learn")["metrics"]
    assert metrics["learn/perplexity"] >= 1
    assert 0 < metrics["learn/distinct"] <= 1
    page = build_report(["tiny"], Workspace(DATA, CHECKPOINTS), Path("page.html")).read_text()
    assert "entropy, nats a token" in page
    assert "is below the limit of" in page


def test_a_training_that_changed_nothing_has_nothing_to_be_compared_with(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    """The first step of a warm-up has the rate 0: after round 1, which made an adapter, the same weights, so no
    change that a gate could read."""
    given = gradient(learn={"minibatches": 1, "warmup_steps": 3, "schedule_rounds": None})
    given["stages"]["measure"]["every"] = 1
    run(write_recipe(rounds=2, models=model(tiny), **given))
    first, second = (json.loads((DATA / f"tiny/round-00{k}/gate.json").read_text()) for k in (1, 2))
    [reason] = first["decisions"]["policy"]["reasons"]
    assert "change +0" in reason
    assert second["decisions"]["policy"]["reasons"] == [SAME]
    assert second["standing"]["policy"]["round"] == 2
    page = build_report(["tiny"], Workspace(DATA, CHECKPOINTS), Path("page.html")).read_text()
    assert SAME in page


def test_examples_before_every_prompt_and_zero_are_refused(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    from tiny_world import SETTINGS

    from pipeline.commands.run import refuse_launch

    with pytest.raises(RecipeError, match="learn: worked examples stand before every prompt"):
        load(write_recipe(models=model(tiny), task=SETTINGS | {"few_shot": 2}, **gradient()))
    recipe = load(write_recipe(models=model(tiny), **gradient()))
    refuse_launch(recipe, {"distributed_type": "MULTI_GPU"})
    with pytest.raises(RecipeError, match="stages.learn.carry_optimizer: under DEEPSPEED"):
        refuse_launch(recipe, {"distributed_type": "DEEPSPEED"})
