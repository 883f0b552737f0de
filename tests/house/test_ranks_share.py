"""Ranks claim chunks as they get free: with the same inputs and models, a stage's shards are the same at 1, 2 and 4 CPU
processes, for plain sampling and for tree search with a reward model; and so are what labels and selects them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from test_launch import LAUNCH, ratchet

from pipeline.store.run_folder import tree_files

sys.path.append(str(Path(__file__).parents[1] / "faults"))

STAGES = {
    "rest_mcts_countdown": ("search", "values", "traces", "steps"),
    "plain": ("sample", "check", "rows"),
    "rollouts": ("sample", "credit", "gained"),
}
#: labels by roll-outs, the second reading those of the first
ROLLOUTS = {
    "credit": {"label": "shepherd", "from": "sample", "n": 3},
    "gained": {"label": "advantage", "from": ["sample", "credit"], "reuse": ["credit"], "n": 4, "scout": 2},
}


def begin(name: str, place: Path, tiny: Path) -> str:
    """A run whose first stages one process has done: the models of round 1 stand. Returns the last stage to share."""
    if name != "rest_mcts_countdown":
        from tiny_world import recipe_data

        data = recipe_data(tiny, name=name, wandb={"mode": "disabled"})
        data["stages"]["sample"]["chunk"] = 5
        if name == "rollouts":
            data["stages"] = {"sample": data["stages"]["sample"]} | ROLLOUTS | data["stages"]
    else:
        from loop_world import tiny_recipe

        data = tiny_recipe(tiny).resolved()
        data["task"] = data["task"] | {"train": 24}
        data["stages"]["search"] |= {"chunk": 3}
    (place / "r.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    ratchet("run", "r.yaml", "--until", "measure")
    return STAGES[name][-1]


@pytest.mark.full
@pytest.mark.parametrize("name", STAGES)
def test_shards_are_the_same_on_one_two_and_four_processes(name: str, place: Path, tiny: Path) -> None:
    last = begin(name, place, tiny)
    config = yaml.safe_load((LAUNCH / "cpu2.yaml").read_text())
    made = {}
    for number in (1, 2, 4):
        here = place / f"on-{number}"
        here.mkdir()
        for part in ("data", "checkpoints", "r.yaml"):
            if (place / part).is_dir():
                shutil.copytree(place / part, here / part)
            elif (place / part).exists():
                shutil.copy(place / part, here)
        (here / "launch.yaml").write_text(yaml.safe_dump(config | {"num_processes": number}))
        os.chdir(here)
        ratchet("run", "r.yaml", "--until", last, config=here / "launch.yaml" if number > 1 else None)
        made[number] = {
            f"{stage}/{path}": found
            for stage in STAGES[name]
            for path, found in tree_files(here / "data" / name / "round-001" / stage).items()
        }
    shards = [path for path in made[1] if path.endswith(".parquet")]
    assert len([path for path in shards if path.startswith(f"{STAGES[name][0]}/train-")]) == 8
    assert made[1] == made[2] == made[4]


@pytest.mark.full
def test_labellers_that_search_share_their_chunks(place: Path, tiny: Path) -> None:
    """OmegaPRM's and pivotal tokens' shards are the same at 1 and 2 processes."""
    from loop_world import labels_data

    made = {}
    for number in (1, 2):
        here = place / f"on-{number}"
        here.mkdir()
        (here / "r.yaml").write_text(yaml.safe_dump(labels_data(tiny, "labels"), sort_keys=False))
        os.chdir(here)
        ratchet("run", "r.yaml", config=LAUNCH / "cpu2.yaml" if number > 1 else None)
        made[number] = {
            f"{stage}/{path}": found
            for stage in ("tree", "pivots", "steps", "pairs")
            for path, found in tree_files(here / "data" / "labels" / "round-000" / stage).items()
        }
    shards = [path for path in made[1] if path.endswith(".parquet")]
    assert len([path for path in shards if path.startswith("tree/nodes/")]) == 3
    assert made[1] == made[2]
