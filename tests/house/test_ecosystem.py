"""What others make of what a run leaves: plain PEFT, plain transformers, TRL's command line, lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import recipe_data

from pipeline.commands.export import export_model
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.methods import method
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.run.session import session
from pipeline.store.workspace import Workspace

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
QUIET = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Path]:
    """A project folder with a finished run `quickstart` of the tiny policy and its export `my-model`."""
    place, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(place)
    try:
        recipe = recipe_data(tiny, name="quickstart", rounds=1, wandb={"mode": "disabled"})
        Path("r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        with session(
            load(Path("r.yaml")), Console(quiet=True), Processes(), Workspace(DATA, CHECKPOINTS)
        ) as run:
            run_loop(run)
        export_model("quickstart", 1, "policy", Path("my-model"), Workspace(DATA, CHECKPOINTS))
        yield place
    finally:
        os.chdir(before)


def problems(project: Path) -> list[dict[str, Any]]:
    """The run's test problems, read as anyone would."""
    from datasets import load_dataset

    rows = load_dataset(
        str(project / "data/quickstart/prepare"), split="train", cache_dir=str(project / "cache")
    )
    return [row for row in rows if row["split"] == "test"]


def written(model: Any, tokenizer: Any, question: str) -> str:
    """A greedy completion by plain transformers."""
    ids = tokenizer(question + "\n", return_tensors="pt")
    out = model.generate(
        input_ids=ids.input_ids, attention_mask=ids.attention_mask, max_new_tokens=40, do_sample=False
    )
    return tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def test_the_export_is_the_adapter_by_plain_peft_over_the_base(project: Path, tiny: Path):
    """Both load with the libraries' own loaders, and write the same."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gate = json.loads((project / "data/quickstart/round-001/gate.json").read_text())
    adapter = gate["decisions"]["policy"]["candidate"]["adapter"]
    base = AutoModelForCausalLM.from_pretrained(tiny)
    tuned = PeftModel.from_pretrained(base, project / "checkpoints/quickstart" / adapter).eval()
    if gate["standing"]["policy"]["adapter"] != adapter:
        pytest.fail("the gate refused the tiny policy: the export is not of this adapter")
    merged = AutoModelForCausalLM.from_pretrained(project / "my-model").eval()
    tokenizer = AutoTokenizer.from_pretrained(project / "my-model")
    ids = tokenizer(problems(project)[0]["question"] + "\n", return_tensors="pt").input_ids
    with torch.no_grad():
        one, other = tuned(input_ids=ids).logits, merged(input_ids=ids).logits
        with tuned.disable_adapter():
            plain = tuned(input_ids=ids).logits
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, plain, atol=1e-3)  # and the adapter is not nothing
    for row in problems(project)[:3]:
        assert written(tuned, tokenizer, row["question"]) == written(merged, tokenizer, row["question"])


def test_kept_rows_train_with_trls_own_command(project: Path, tiny: Path):
    """`trl sft --config`, on the shards as they lie there."""
    config = {
        "model_name_or_path": str(tiny),
        "datasets": [
            {"path": "parquet", "data_files": {"train": "data/quickstart/round-001/rows/train-*.parquet"}}
        ],
        "output_dir": "sft-out",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
    }
    (project / "sft.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).parent / "trl"), "sft", "--config", "sft.yaml"]
    environment = os.environ | QUIET | {"HF_HOME": str(project / "hf"), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((project / "sft-out/checkpoint-2/trainer_state.json").read_text())
    assert state["global_step"] == 2
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_the_task_file_for_the_harness_judges_as_the_task_does(project: Path):
    """Its rules stand alone; they must agree with the task's own on right, wrong and unfinished answers."""
    spec = importlib.util.spec_from_file_location("countdown_rules", ROOT / "docs/lm-eval/countdown.py")
    assert spec is not None
    assert spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    module = method("tasks", "countdown")
    task = module.Task(module.Settings(use="countdown"))
    judged = {True: 0, False: 0}
    for problem in list(task.problems())[:400]:
        gold = task.gold_completion(problem)
        for text in (gold, gold.replace("+", "-"), gold.split("\n")[0], f"{gold}\n1 + 1 = 2", "", "left"):
            right = task.correct(task.extract(text), problem) if text else False
            assert rules.solves(problem.question, text) == right, (problem.question, text)
            judged[right] += 1
    assert min(judged.values()) > 300


def test_lm_evaluation_harness_measures_the_export(project: Path):
    """Opt-in: put `lm_eval` (or `lm-eval`) on the path, of an environment of its own."""
    found = os.environ.get("LM_EVAL") or shutil.which("lm-eval") or shutil.which("lm_eval")
    if not found:
        pytest.skip(
            "lm-evaluation-harness is not installed (see docs/your-own-model.md); LM_EVAL=PATH names it"
        )
    command = [found, "run", "--model", "hf", "--model_args", "pretrained=my-model,dtype=float32"]
    command += ["--tasks", "ratchet_countdown", "--include_path", str(ROOT / "docs/lm-eval")]
    command += ["--device", "cpu", "--batch_size", "4", "--output_path", "harness", "--log_samples"]
    environment = os.environ | QUIET | {"HF_HOME": str(project / "hf")}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = project.glob("harness/**/results_*.json")
    results = json.loads(path.read_text())["results"]["ratchet_countdown"]
    measured = results["solved,none"]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("my-model").eval()
    tokenizer = AutoTokenizer.from_pretrained("my-model")
    module = method("tasks", "countdown")
    task = module.Task(module.Settings(use="countdown"))
    rows = problems(project)
    right = 0
    for row in rows:
        numbers, target = task.parse(row["question"])
        answer = task.extract(written(model, tokenizer, row["question"]))
        right += task.correct(answer, task.problem(numbers, target))
    assert measured == pytest.approx(right / len(rows))
