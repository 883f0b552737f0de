"""Collapsed reward models that are really trained: on labels that are constant, shuffled or only lengths the
gate refuses the new one and the standing one stays, 20 seeds of 20; on right labels it passes 19 of 20.

The world: a small seed policy writes sums on the scratchpad, whose oracle says which steps are right. A first reward
model learns from those verdicts; each run then starts from it, goes on training on one kind of labels, and measures the
result on problems that nothing was trained on. Figures: `make faults-long`."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.methods import method
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import StepExample
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

pytestmark = pytest.mark.long

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
NUM_SEEDS = int(os.environ.get("RATCHET_PRM_SEEDS", "20"))
SEED = "seed://addition?steps=300&layers=2&hidden=64&inner=128"
TASK = {"use": "addition", "digits": [1, 2], "train": 160, "dev": 60, "test": 1, "max_tokens": 64}
LEARN = {"train": "prm", "model": "prm", "target": "value", "batch_size": 32, "learning_rate": 2e-3}
POLICY = {"base": SEED}
#: rows -> rows with other labels; `lot` belongs to the run's seed
Labels = Callable[[list[StepExample], random.Random], list[StepExample]]


def right(rows: list[StepExample], lot: random.Random) -> list[StepExample]:
    return rows


def constant(rows: list[StepExample], lot: random.Random) -> list[StepExample]:
    return [dataclasses.replace(row, labels=[0.5] * len(row.labels)) for row in rows]


def shuffled(rows: list[StepExample], lot: random.Random) -> list[StepExample]:
    """Every label at a step of its own, but not the one it was given for."""
    labels = [label for row in rows for label in row.labels]
    lot.shuffle(labels)
    return [dataclasses.replace(row, labels=[labels.pop() for _ in row.labels]) for row in rows]


def only_length(rows: list[StepExample], lot: random.Random) -> list[StepExample]:
    longest = max(len(row.token_ids) for row in rows)
    return [dataclasses.replace(row, labels=[end / longest for end in row.step_ends]) for row in rows]


KINDS: dict[str, Labels] = {"right": right, "constant": constant, "shuffled": shuffled, "length": only_length}


def run(name: str, models: dict[str, Any], stages: dict[str, Any], seed: int = 0) -> None:
    """A run of one round in the current folder."""
    data = {
        "name": name, "seed": seed, "wandb": {"mode": "disabled"}, "task": TASK, "rounds": 1,
        "models": {"policy": POLICY, **models}, "stages": stages,
    }  # fmt: skip
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    with session(
        load(path), Console(quiet=True, main=False), Processes(), Workspace(DATA, CHECKPOINTS)
    ) as working:
        run_loop(working)


def reward_model(
    name: str, rows: list[StepExample], seed: int, base: str, steps: int, **gate: Any
) -> dict[str, Any]:
    """Train one on these rows and measure it on dev. Returns the round's gate."""
    file = Path(f"{name}.jsonl")
    file.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows))
    source = {"file": str(file), "row": "StepExample"}
    stages = {
        "learn": LEARN | {"from": [source], "steps": steps, "on_empty": "continue"},
        "quality": {"evaluate": "prm_quality", "of": "prm", "by": "policy", "split": "dev", "samples": 2},
    }  # fmt: skip
    run(name, {"prm": {"base": base, "head": "value", "lora": {"r": 8}, **gate}}, stages, seed)
    return json.loads((DATA / name / "round-001/gate.json").read_text())


def metrics(name: str, stage: str, number: int = 1) -> dict[str, float]:
    """What a run's metrics.jsonl says of a stage of a round."""
    rows = map(json.loads, (DATA / name / "metrics.jsonl").read_text().splitlines())
    return next(row["metrics"] for row in rows if (row["stage"], row["round"]) == (stage, number))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[StepExample]:
    """Traces of the seed policy with the oracle's verdict on each step; a first reward model stands beside them."""
    place, before = tmp_path_factory.mktemp("prms"), Path.cwd()
    os.chdir(place)
    stages = {
        "sample": {"generate": "sample", "by": "policy", "n": 3},
        "check": {"label": "outcome", "from": "sample"},
        "rows": {"select": "step_values", "from": "check", "use": "correct"},
    }
    run("traces", {}, stages)
    module = method("tasks", "addition")
    task = module.Task(module.Settings(**TASK))
    problems = {problem.id: problem for problem in task.problems()}
    rows = []
    for row in StageFolder(DATA / "traces/round-001/rows").read(StepExample):
        verdicts = task.step_oracle(problems[row.problem_id], row.completions)
        rows.append(dataclasses.replace(row, labels=[float(ok) for ok in verdicts]))
    labels = [label for row in rows for label in row.labels]
    print(f"{len(rows)} traces, {len(labels)} steps, {sum(labels) / len(labels):.0%} right")
    gate = reward_model("first", rows, 0, SEED, 200)
    assert gate["decisions"]["prm"]["promote"], gate
    yield rows
    os.chdir(before)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_reward_models_at_the_gate(judged: list[StepExample], kind: str) -> None:
    promoted = unhealthy = 0
    for seed in range(NUM_SEEDS):
        name, rows = f"{kind}-{seed}", KINDS[kind](judged, random.Random(seed))
        rule = {"gate": {"metric": "quality/auc", "margin": 0.02}}
        gate = reward_model(name, rows, seed, "run://first@1/prm", 60, **rule)
        decision, standing = gate["decisions"]["prm"], gate["standing"]["prm"]
        promoted += decision["promote"]
        if seed == 0:  # the first reward model, merged into its base, scores as it did as an adapter
            as_base = metrics(name, "quality", 0)["quality/auc"]
            assert as_base == pytest.approx(metrics("first", "quality")["quality/auc"], abs=1e-3)
        print(
            f"{kind}, seed {seed}: {'promoted' if decision['promote'] else 'refused'}: {decision['reasons']}"
        )
        if not decision["promote"]:
            assert standing["round"] == -1, "the one before it stands"
            assert standing["hash"] != decision["candidate"]["hash"]
            assert any("health check" in reason or "refused" in reason for reason in decision["reasons"])
            unhealthy += any("health check" in reason for reason in decision["reasons"])
            row = metrics(name, "gate")
            assert row["gate/prm/promoted"] == 0.0
    print(f"MEASURED {kind} labels: {promoted} of {NUM_SEEDS} promoted, {unhealthy} failed the health check")
    if kind == "right":
        assert promoted >= NUM_SEEDS - max(1, NUM_SEEDS // 20)
    else:
        assert promoted == 0
