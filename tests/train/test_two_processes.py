"""Training under `accelerate launch` on two CPU processes: DDP over gloo, DeepSpeed ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_trainer_checkpoints import same_bytes
from train_world import weights

pytestmark = pytest.mark.full
HERE = Path(__file__).parent
CPU2 = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
use_cpu: true
num_machines: 1
num_processes: 2
mixed_precision: 'no'
main_training_function: main
main_process_port: 0
"""
ZERO = """
deepspeed_config:
  zero_stage: {stage}
  offload_optimizer_device: none
  offload_param_device: none
  zero3_init_flag: false
  zero3_save_16bit_model: true
"""
#: argv: base, folder, what, step at which to die (0: never)
SCRIPT = """
import os, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {root!r}]
import train_two
train_two.main(*sys.argv[1:])
"""


def launch(
    tmp_path: Path, base: Path, folder: Path, what: str, die_at: int = 0, zero: int = 0
) -> subprocess.CompletedProcess[str]:
    """Both ranks run train_two.main."""
    config, script = tmp_path / "two.yaml", tmp_path / "two.py"
    text = CPU2.format(kind="DEEPSPEED" if zero else "MULTI_GPU")
    config.write_text(text + (ZERO.format(stage=zero) if zero else ""))
    script.write_text(SCRIPT.format(here=str(HERE), root=str(HERE.parents[1])))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), str(script)]
    return subprocess.run(
        [*command, str(base), str(folder), what, str(die_at)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=3600,  # an event is tested, not a time: on a busy machine three launches took more than ten minutes
    )


def good(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stderr[-6000:]


def close(one: Path, two: Path, atol: float) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], atol=atol, err_msg=name)


def told(folder: Path) -> list[dict]:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("what", ["sft", "sft-accumulated", "prm", "prm-token", "prm-clipped"])
def test_two_processes_take_the_steps_of_one(base: Path, tmp_path: Path, what: str) -> None:
    import train_two

    train_two.start(what, base, tmp_path / "one")
    good(launch(tmp_path, base, tmp_path / "two", what))
    assert told(tmp_path / "two")[0]["num_processes"] == 2
    assert told(tmp_path / "two")[-1]["loss"] == pytest.approx(told(tmp_path / "one")[-1]["loss"], rel=1e-4)
    close(tmp_path / "one/out", tmp_path / "two/out", atol=1e-5)


@pytest.mark.parametrize("what", ["dpo", "gradient"])
def test_preferences_and_policy_gradients_on_two(base: Path, tmp_path: Path, what: str) -> None:
    """The same rows in each step, and weights to rounding."""
    import train_two

    train_two.start(what, base, tmp_path / "one")
    good(launch(tmp_path, base, tmp_path / "two", what))
    one, two = told(tmp_path / "one"), told(tmp_path / "two")
    assert (one[0]["num_processes"], two[0]["num_processes"]) == (1, 2)
    for key in ("examples", "steps", "trained_positions"):
        assert one[0][key] == two[0][key]
    np.testing.assert_allclose(
        [v["loss"] for v in two[1:]], [v["loss"] for v in one[1:]], rtol=1e-3, atol=1e-5
    )
    close(tmp_path / "one/out", tmp_path / "two/out", atol=2e-4)


def test_killed_and_resumed_on_two_is_never_killed(base: Path, tmp_path: Path) -> None:
    good(launch(tmp_path, base, tmp_path / "straight", "sft"))
    assert launch(tmp_path, base, tmp_path / "killed", "sft", die_at=5).returncode != 0
    assert not list((tmp_path / "killed/out").iterdir())
    good(launch(tmp_path, base, tmp_path / "killed", "sft"))
    assert [v["step"] for v in told(tmp_path / "killed") if v.get("resumed")] == [4]
    same_bytes(tmp_path / "straight/out", tmp_path / "killed/out")


def test_restarted_at_another_number_of_processes_begins_anew_and_says_so(base: Path, tmp_path: Path) -> None:
    import train_two

    assert launch(tmp_path, base, tmp_path / "run", "sft", die_at=5).returncode != 0
    said: list[str] = []
    train_two.start("sft", base, tmp_path / "run", say=said.append)
    assert any("written by 2 processes and now there are 1" in text for text in said)
    train_two.start("sft", base, tmp_path / "one")
    same_bytes(tmp_path / "one/out", tmp_path / "run/out")


def test_nan_on_one_rank_stops_both(base: Path, tmp_path: Path) -> None:
    process = launch(tmp_path, base, tmp_path / "run", "sft-nan")
    assert process.returncode != 0
    assert process.stderr.count("Diverged: step 1: the loss is not finite") == 2  # neither hangs
    assert json.loads((tmp_path / "run/scratch/nan-rows.json").read_text())["rows"]
    assert not list((tmp_path / "run/out").iterdir())


@pytest.mark.parametrize(
    ("what", "zero"), [("sft", 2), ("sft-accumulated", 2), ("prm", 2), ("sft", 3), ("prm", 3)]
)
def test_deepspeed_takes_the_steps_of_one(base: Path, tmp_path: Path, what: str, zero: int) -> None:
    pytest.importorskip("deepspeed")
    import train_two

    train_two.start(what, base, tmp_path / "one")
    good(launch(tmp_path, base, tmp_path / "two", what, zero=zero))
    assert list((tmp_path / "two/scratch").glob("checkpoint-*/global_step*"))  # it was DeepSpeed indeed
    assert told(tmp_path / "two")[-1]["loss"] == pytest.approx(told(tmp_path / "one")[-1]["loss"], rel=1e-3)
    close(tmp_path / "one/out", tmp_path / "two/out", atol=1e-4)


def test_zero_2_killed_and_resumed(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    good(launch(tmp_path, base, tmp_path / "straight", "sft", zero=2))
    assert launch(tmp_path, base, tmp_path / "killed", "sft", die_at=5, zero=2).returncode != 0
    good(launch(tmp_path, base, tmp_path / "killed", "sft", zero=2))
    assert [v["step"] for v in told(tmp_path / "killed") if v.get("resumed")] == [4]
    same_bytes(tmp_path / "straight/out", tmp_path / "killed/out")


def test_a_batch_that_cannot_be_shared_is_refused(base: Path, tmp_path: Path) -> None:
    process = launch(tmp_path, base, tmp_path / "run", "sft-odd")
    assert process.returncode != 0
    assert "batch_size 7 cannot be shared by 2 processes" in process.stderr
