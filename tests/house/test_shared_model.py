"""One model with two heads in a recipe: what `check` says of it, and a run in which it searches by itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.check import check
from pipeline.commands.export import export_model
from pipeline.engine.start import start_engine
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.plan import describe
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Trace
from pipeline.run.session import find, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
SAMPLES = {
    "probe": {"generate": "sample", "by": "policy", "n": 4, "temperature": 1.5, "chunk": 16},
    "credit": {"label": "outcome", "from": "probe"},
    "seeds": {"select": "step_values", "from": "credit", "shared": "all"},
}
TRAIN = {"train": "shared", "model": "policy", "steps": 3, "batch_size": 8, "learning_rate": 1e-2}
SEARCH = {
    "generate": "beam",
    "by": "policy",
    "value": "policy",
    "n": 4,
    "width": 4,
    "temperature": 1.5,
    "chunk": 16,
}
EMPTY: dict[str, Any] = {"stages": {}, "finally": {}, "rounds": 1}

FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "trained by another too": (
        {}, {"before": SAMPLES | {"first": TRAIN | {"from": "seeds"}, "kept": {"select": "correct", "from": "credit"},
                                  "other": {"train": "sft", "model": "policy", "from": "kept"}}},
        "before.other: models.policy has head: shared; train: sft trains a policy (no head)",
    ),
    "without its trainer": (
        {}, {"stages": {"search": SEARCH}}, "stages.search.value: policy has no trained head by then",
    ),
    "without the head": (
        {"head": None}, {"before": SAMPLES | {"first": TRAIN | {"from": "seeds"}}},
        "before.first: models.policy has no head; train: shared trains head: shared",
    ),
    "on a server": (
        {"engine": {"server": ["http://localhost:1"]}}, {}, "models.policy: head: shared cannot be served",
    ),
}  # fmt: skip


def models(tiny: Path, **more: Any) -> dict[str, Any]:
    return {"policy": {"base": str(tiny), "head": "shared", "restart_from": "base", "lora": {"r": 4}} | more}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_does_not_fit_is_said_before_anything_runs(
    write_recipe: Callable[..., Path], tiny: Path, kind: str
) -> None:
    model, more, words = FAULTS[kind]
    path = write_recipe(models=models(tiny, **model), **EMPTY | {"before": {}} | more)
    problems, _ = check([path], [])
    assert any(words in line for line in problems), problems


def test_it_writes_values_searches_and_leaves_as_one(write_recipe: Callable[..., Path], tiny: Path) -> None:
    """Round 0 begins without a value head; a round searches by both heads, learns both and passes one gate."""
    measure = {"evaluate": "accuracy", "of": "policy", "split": "dev", "problems": 8}
    stages = {
        "search": SEARCH,
        "ends": {"label": "outcome", "from": "search"},
        "steps": {"select": "step_values", "from": "ends", "shared": "all"},
        "learn": TRAIN | {"from": "steps", "on_empty": "continue"},
        "measure": measure,
    }
    path = write_recipe(
        models=models(tiny, gate={"metric": "measure/accuracy/greedy", "margin": 1.0}),
        before=SAMPLES | {"first": TRAIN | {"from": "seeds"}}, stages=stages, rounds=1,
        **{"finally": {"beam": measure | {"search": SEARCH | {"by": "policy"}, "split": "test"}}},
    )  # fmt: skip
    recipe = load(path)
    assert recipe.policies == ["policy"]
    assert "search" in describe(recipe)
    workspace = Workspace(DATA, CHECKPOINTS)
    with session(find(str(path), [], None, DATA), Console(file=io.StringIO()), Processes(), workspace) as run:
        run_loop(run)
    status = run_status("tiny", workspace)
    assert status["complete"]
    assert verify_run(DATA / "tiny", CHECKPOINTS / "tiny") == []
    assert 0 <= status["final"]["metrics"]["beam/accuracy/search"] <= 1
    gate = json.loads((DATA / "tiny/round-001/gate.json").read_text())
    assert list(gate["standing"]) == ["policy"]  # one model, one verdict
    assert gate["standing"]["policy"]["head"] == "shared"
    # a search's own scores are those of the weights that stood before the round: round 0's
    engine = start_engine(tiny, CHECKPOINTS / "tiny/round-000/policy", head="shared", dtype="float32")
    scored = [t for t in StageFolder(DATA / "tiny/round-001/search").read(Trace) if t.score is not None]
    assert len({round(trace.score, 4) for trace in scored}) > 1
    for trace in scored[:10]:
        prompt = engine.encode(trace.prompt)
        ids = [*prompt, *trace.token_ids]
        [[score]] = engine.score([(ids, [len(ids) - 1])], [(None, len(prompt))])
        assert trace.score == pytest.approx(score, abs=1e-6)
        [said] = engine.logprobs([(ids, len(prompt))])
        assert said == pytest.approx(trace.logprobs, abs=1e-5)
    told = export_model("tiny", 1, "policy", None, workspace)
    assert "AutoModelForCausalLM" in told
