"""scripts/slurm: what would be submitted, and what each node would start. No Slurm here: its commands are not run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.recipe.read import load
from pipeline.run.session import settle_recipe

SLURM = Path(__file__).parents[2] / "scripts" / "slurm"
BASH = ["bash", str(SLURM / "chain.sh")]


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BASH, *words],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def begun(place: Path) -> list[str]:
    """A run that has its recipe and nothing else; the stages that it will do."""
    import yaml
    from tiny_world import recipe_data

    (place / "base").mkdir()
    (place / "r.yaml").write_text(yaml.safe_dump(recipe_data("./base"), sort_keys=False))
    (place / "data/tiny").mkdir(parents=True)
    settle_recipe(load(place / "r.yaml"), place / "data/tiny")
    inner = ["sample", "check", "rows", "learn", "measure"]
    return ["0 measure", *(f"{n} {name}" for n in (1, 2) for name in inner), "2 final"]


@pytest.mark.parametrize("script", ["chain.sh", "stage.sbatch"])
def test_the_scripts_parse(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(SLURM / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_stage_waits_for_the_one_before(begun: list[str]) -> None:
    done = call("tiny", "--nodes", "2", "--gpus", "8", "--sbatch", "--partition gpu", "--dry-run")
    assert done.returncode == 0, done.stderr
    jobs = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [" ".join(job[-2:-4:-1]) for job in jobs] == begun  # ... RUN STAGE ROUND GPUS
    before = ""
    for job, stage in zip(jobs, begun, strict=True):
        assert job[0] == "sbatch"
        assert (job[job.index("--nodes") + 1], job[job.index("--gpus-per-node") + 1]) == ("2", "8")
        assert job[job.index("--partition") + 1] == "gpu"
        waits = job[job.index("--dependency") + 1] if "--dependency" in job else ""
        assert waits == (f"afterok:{before}" if before else "")
        before = f"JOB_OF_{stage.replace(' ', '_')}"
    assert not Path("data/tiny/logs").exists()


def test_ids_of_submitted_jobs_are_chained(begun: list[str], tmp_path: Path) -> None:
    """A stand-in for sbatch, which is Slurm's and not ours, counts its calls."""
    path = tmp_path / "bin"
    path.mkdir()
    (path / "sbatch").write_text(
        '#!/bin/bash\necho "$@" >> calls\nn=$(wc -l < calls)\necho "$((100 + n));cluster"\n'
    )
    (path / "sbatch").chmod(0o755)
    done = call("tiny", PATH=f"{path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["round 0, measure: job 101", "round 1, sample: job 102"]
    calls = Path("calls").read_text().splitlines()
    assert len(calls) == len(begun)
    assert "--dependency" not in calls[0]
    assert "--dependency afterok:101 " in calls[1]


def test_mistakes_are_one_sentence(begun: list[str]) -> None:
    cases: dict[Callable[[], subprocess.CompletedProcess[str]], str] = {
        lambda: call("nobody", "--dry-run"): "no run 'nobody'",
        lambda: call("tiny", "--nodes", "two"): "not numbers",
        lambda: call("tiny", "--launch", "x.yaml"): "no such file",
        lambda: call("tiny", "--frobnicate", "1"): "unknown option",
        lambda: call("tiny", "--nodes"): "needs a value",
    }
    for ask, words in cases.items():
        done = ask()
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("gpus", "launch", "wanted"),
    [
        ("8", [], ["--multi_gpu", "--num_machines 2", "--num_processes 16", "--main_process_ip node-a"]),
        ("0", [], ["--multi_gpu", "--num_processes 2"]),
        ("8", ["zero3.yaml"], ["--config_file zero3.yaml", "--num_processes 16"]),
    ],
)
def test_what_a_node_starts(tmp_path: Path, gpus: str, launch: list[str], wanted: list[str]) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node-a\necho node-b\n")
    (tmp_path / "scontrol").chmod(0o755)
    environment = {
        "RATCHET_DRY_RUN": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "7",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(SLURM / "stage.sbatch"), "tiny", "learn", "1", gpus, *launch],
        env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.replace("'", "")
    assert said.startswith("srun --kill-on-bad-exit=1 bash -c exec python -m accelerate.commands.launch ")
    for words in wanted:
        assert words in said
    assert "-m pipeline stage tiny learn --round 1" in said
    assert '--machine_rank "$SLURM_NODEID"' in said
