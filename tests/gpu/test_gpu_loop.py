"""One round of the quickstart and of rest_mcts_countdown on a GPU, small: killed in its search and gone on with. What
was committed keeps its bytes; every problem has its traces, in order; labels and rows name them; all hashes hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.recipe.read import load

ROOT = Path(__file__).parents[2]
SEEDS = ROOT / "checkpoints" / "seed"
NO_HEALTH = {"min_auc": 0, "min_sd": 0, "max_length_correlation": 1, "split": "train"}
SMALL = ("rounds=1", "save_every=4", "wandb.mode=disabled", "task.train=192", "task.dev=24", "task.test=24")
PATIENCE = 600.0


def words_of(path: Path) -> list[str]:
    """The recipe, small."""
    words, recipe = list(SMALL), load(path)
    if path.stem == "rest_mcts_countdown":
        words.append("problems_per_round=64")
    if not any(
        SEEDS.glob("countdown-*")
    ):  # a seed that takes seconds, where the real one was not brought along
        words += [f"models.{name}.base=seed://countdown?steps=40" for name in recipe.models]
    for stage in recipe.stages:
        keys: dict[str, object] = {}
        if stage.room == "train":
            keys = {"steps": 8, "batch_size": 16, "learning_rate": "1e-3"}
        elif stage.room == "generate":
            keys = {"chunk": 16, **({"iterations": 4} if stage.method == "mcts_star" else {"n": 4})}
        elif stage.method == "prm_quality":
            keys = {"samples": 2, "problems": 16, "chunk": 8, **NO_HEALTH}
        elif stage.room == "evaluate":
            keys = {"chunk": 8, **({"search.iterations": 3} if stage.settings.search else {"samples": 2})}
        words += [f"{stage.section}.{stage.name}.{key}={value}" for key, value in keys.items()]
    return words


def start(place: Path, device: str, *words: str) -> subprocess.Popen[bytes]:
    given = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if device == "cpu":
        given["CUDA_VISIBLE_DEVICES"] = ""
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words], cwd=place, env=given, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def done(place: Path, device: str, *words: str) -> None:
    code = start(place, device, *words).wait(PATIENCE)
    assert code == 0, f"{words}: {code}\n" + (place / "log.txt").read_text()[-3000:]


def rows(folder: Path, kind: str = "") -> list[dict]:
    return [
        row
        for path in sorted(folder.glob(f"{kind}train-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def hashes(folder: Path) -> dict[str, str]:
    """What is committed: manifests' stages, and chunks with their sidecars."""
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        if path.with_suffix(".json").exists() or (path.parent / "manifest.json").exists():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("recipe", "stage"), [("quickstart", "sample"), ("rest_mcts_countdown", "search")])
def test_a_round_killed_and_gone_on_with(recipe: str, stage: str, device: str, tmp_path: Path):
    path = ROOT / "recipes" / f"{recipe}.yaml"
    if SEEDS.is_dir():
        shutil.copytree(SEEDS, tmp_path / "checkpoints" / "seed")
    process = start(tmp_path, device, "run", str(path), *words_of(path))
    data = tmp_path / "data" / recipe
    folder = data / "round-001" / stage
    begun = time.monotonic()
    while not any(folder.glob("train-00001-*.json")):
        assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.json").exists(), "the stage was done before the kill: nothing was tried"
    before = hashes(data)
    done(tmp_path, device, "run", recipe)
    after = hashes(data)
    assert before
    assert {name: after.get(name) for name in before} == before
    done(tmp_path, device, "verify", recipe)

    plan = json.loads((folder / "plan.json").read_text())
    order = [problem for chunk in plan["chunks"] for problem in chunk["ids"]]
    traces = rows(folder)
    assert list(dict.fromkeys(trace["problem_id"] for trace in traces)) == order
    ids = [trace["id"] for trace in traces]
    assert len(set(ids)) == len(ids)
    if stage == "sample":
        assert len(traces) == 4 * len(order)
    label = data / "round-001" / {"sample": "check", "search": "values"}[stage]
    nodes = {node["id"] for node in rows(folder, "nodes/")}
    assert {row["trace_id"] for row in rows(label)} <= {*ids, *nodes}
    kept = data / "round-001" / {"sample": "rows", "search": "traces"}[stage]
    assert {row["trace_id"] for row in rows(kept)} <= set(ids)
    assert (data / "metrics.jsonl").read_text().count("\n") >= 2


SMALL_DEVICE = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(float(sys.argv.pop(1)))
from pipeline.__main__ import main
main()
"""


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_a_loop_whose_device_has_too_little_memory_says_what_to_lower(device: str, tmp_path: Path):
    if device == "cpu":
        pytest.skip("a CPU's memory: tests/faults/test_full_memory.py")
    path = ROOT / "recipes" / "quickstart.yaml"
    if SEEDS.is_dir():
        shutil.copytree(SEEDS, tmp_path / "checkpoints" / "seed")
    share = (60 << 20) / torch.cuda.get_device_properties(0).total_memory
    words = ["run", str(path), *words_of(path), "stages.sample.n=64", "stages.sample.chunk=64", "-q"]
    given = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ended = subprocess.run(
        [sys.executable, "-c", SMALL_DEVICE, f"{share:.8f}", *words], cwd=tmp_path, env=given,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 8, ended.stdout[-1000:] + ended.stderr[-3000:]
    told = json.loads((tmp_path / "data/quickstart/outcome.json").read_text())["message"]
    assert "out of memory (" in told
    assert "models.policy.engine.max_rows=64 window=1" in told
    assert "Traceback" not in ended.stderr
