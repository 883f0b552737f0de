"""A whole guided run whose reward model was made elsewhere: an ordinary folder with two labels, as PRMs on the Hub have."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.local import Engine
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.report.console import Console
from pipeline.rows import Node, Trace
from pipeline.run.session import find, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
SEARCH = {"generate": "mcts_star", "by": "policy", "value": "prm", "iterations": 3, "branch": 2, "chunk": 16}
STAGES = {
    "search": SEARCH,
    "values": {"label": "tree_value", "from": "search"},
    "traces": {"select": "correct", "from": "values", "max_per_problem": 2},
    "learn": {"train": "sft", "model": "policy", "from": "traces", "steps": 2, "batch_size": 8},
    "measure": {
        "evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 2, "value": "prm", "votes": ["weighted"],
    },
}  # fmt: skip
REFINE = {
    "steps": {"select": "step_values", "from": "values"},
    "refine": {
        "train": "prm",
        "model": "prm",
        "target": "soft",
        "from": "steps",
        "steps": 2,
        "batch_size": 8,
    },
}


@pytest.fixture
def ready(tiny: Path, tmp_path: Path) -> Path:
    """The tiny policy's body under a two-label head that nobody here trained."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(5)
    model = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=2)
    model.save_pretrained(tmp_path / "ready")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "ready")
    return tmp_path / "ready"


def run(path: Path) -> dict:
    console = Console(file=io.StringIO())
    with session(
        find(str(path), [], None, DATA), console, Processes(), Workspace(DATA, CHECKPOINTS)
    ) as working:
        run_loop(working)
    return run_status("tiny", Workspace(DATA, CHECKPOINTS))


@pytest.mark.parametrize("refined", [False, True])
def test_a_reward_model_from_elsewhere_guides_a_run(
    write_recipe: Callable[..., Path], tiny: Path, ready: Path, refined: bool
) -> None:
    models = {
        "policy": {"base": str(tiny), "lora": {"r": 4}},
        "prm": {"base": str(ready), "head": "value", "lora": {"r": 4}},
    }
    stages = STAGES | (REFINE if refined else {})
    path = write_recipe(models=models, stages=stages, rounds=1, **{"finally": {}})
    status = run(path)
    assert status["complete"]
    assert 0 <= status["rounds"][1]["metrics"]["measure/accuracy/weighted"] <= 1
    folder = StageFolder(DATA / "tiny/round-001/search")
    nodes = {node.id: node for node in folder.read(Node)}
    assert any(node.value is not None for node in nodes.values())
    # each end's score is what the ready model says at its last step: the share of label 1
    engine, policy = Engine(ready, head="value"), Engine(tiny)
    for trace in list(folder.read(Trace))[:20]:
        prompt = policy.encode(trace.prompt)
        ids = [*prompt, *trace.token_ids]
        [[score]] = engine.score([(ids, [len(prompt) + trace.step_ends[-1] - 1])])
        assert trace.score == pytest.approx(score, abs=1e-6)
        assert 0 <= score <= 1
    made = sorted(p.parent.name for p in (CHECKPOINTS / "tiny").rglob("adapter_config.json"))
    assert made == (["policy", "prm"] if refined else ["policy"])
