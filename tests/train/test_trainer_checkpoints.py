"""A killed training that is started again ends with the bytes of one that was never killed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_world import additions, job_of, weights

from pipeline.rows import StepExample
from pipeline.train import TrainReport, implicit, orm, policy_gradient, prm, sft, shared
from pipeline.train._checkpoints import MARKER, mark_complete, newest_complete

HERE = Path(__file__).parent
#: Runs every kind of training in a process of its own, which dies at step 5 as by kill -9 (no handler, no
#: flush), and then once more, resumed, at step 10. The processes are forks of one
#: that has imported everything.
SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_trainer_checkpoints import KINDS, start
for kind in ("lora", "prm", "implicit"):
    start(kind, Path({base!r}), Path({folder!r}) / "warm" / kind)
for kind in KINDS:
    for kill_at in (5, 10):
        def report(values):
            if values["step"] == kill_at: os._exit(9)
        if not (child := os.fork()):
            start(kind, Path({base!r}), Path({folder!r}) / kind, report=report)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9, (kind, kill_at, status)
        assert not list((Path({folder!r}) / kind / "out").iterdir())
"""
#: one process makes what all of them look at
pytestmark = pytest.mark.xdist_group("trainer_checkpoints")
KINDS = (
    "lora",
    "folded",
    "full",
    "packed",
    "accumulated",
    "prm",
    "step_aware",
    "orm",
    "implicit",
    "shared",
    "gradient",
)
#: verifiers: trainer, head, what it sets
VERIFIERS = {
    "prm": (prm, None, {}),
    "step_aware": (prm, "token", {"target": "soft", "step_weight": 0.1, "label_smoothing": 0.1}),
    "orm": (orm, "token", {"lm_weight": 0.5}),
    "implicit": (implicit, "implicit", {"beta": 0.5}),
    "shared": (shared, "shared", {"beta": 0.5, "micro_batch": 4}),
}
STEPS = 12


def steps_rows(num: int, outcome: bool = False) -> list[StepExample]:
    """Rows of two steps; with `outcome` the last one is always labelled."""
    return [
        StepExample(
            problem_id=f"p{i}",
            prompt=f"{i % 10} +",  # the words of its first two tokens
            completions=["", ""],
            labels=[(i % 10) / 10, (i % 2) / 2 if i % 3 or outcome else None],
            token_ids=[3 + i % 10, 23, 4 + i % 7, 25, 5, 6],
            step_ends=[4, 6],
        )
        for i in range(num)
    ]


def start(kind: str, base: Path, folder: Path, **more: object) -> TrainReport:
    """One of the trainings that must be exact."""
    common = {"steps": STEPS, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32, "log_every": 1}
    # without dropout the layers are folded (_folded.py)
    lora = None if kind == "full" else {"r": 4} if kind == "folded" else {"r": 4, "lora_dropout": 0.2}
    if kind in VERIFIERS:
        module, head, own = VERIFIERS[kind]
        rows = steps_rows(20, outcome=module is not prm)
        if module is shared:  # that some row ends right
            rows = [dataclasses.replace(row, labels=[row.labels[0], 2 * row.labels[1]]) for row in rows]
        job = job_of(base, folder, rows, lora=lora, save_every=3, head=head, **more)
        return module.train(job, module.Settings(**common | own))
    rows = additions(20)
    job = job_of(base, folder, rows, lora=lora, save_every=3, **more)
    if kind == "gradient":
        rows = [
            dataclasses.replace(row, advantage=[i % 3 - 1.0], old_logprobs=[-1.0] * len(row.completion_ids))
            for i, row in enumerate(rows)
        ]
        job = dataclasses.replace(job, rows=lambda: iter(rows), carry_optimizer=True, schedule=(1, 3))
        kl = {"coefficient": 0.1, "reference": "start"}
        return policy_gradient.train(job, policy_gradient.Settings(**common | {"batch_size": 7, "kl": kl}))
    extra = {"packed": {"packing": True}, "accumulated": {"micro_batch": 2, "warmup_steps": 5}}.get(kind, {})
    return sft.train(job, sft.Settings(**common | extra))


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind of training, killed twice."""
    folder = tmp_path_factory.mktemp("killed")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(here=str(HERE), base=str(base), folder=str(folder))],
        cwd=HERE.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr
    return folder


def same_bytes(one: Path, two: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    if "optimizer" in names:
        same_bytes(one / "optimizer", two / "optimizer")
    assert any(name.endswith(".safetensors") for name in names)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_and_resumed_is_never_killed(
    base: Path, tmp_path: Path, killed: Path, kind: str
) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the killed ones: thread counts change bits
    try:
        straight = start(kind, base, tmp_path)
        told: list[dict[str, float]] = []
        resumed = start(kind, base, killed / kind, report=told.append)
    finally:
        torch.set_num_threads(threads)
    assert [v["step"] for v in told if v.get("resumed")] == [9]
    assert [v["step"] for v in told if "loss" in v] == [10, 11, 12]
    same_bytes(tmp_path / "out", killed / kind / "out")
    assert resumed == straight  # metrics and history too


def checkpoint(scratch: Path, step: int, marked: bool = True) -> Path:
    folder = scratch / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    for name in ("optimizer.pt", "inner/state.json"):
        (folder / name).write_text(f"{name} {step}")
    if marked:
        mark_complete(folder, step, num_processes=1, fingerprint="job")
    return folder


def test_newest_complete_and_rotation(tmp_path: Path) -> None:
    assert newest_complete(tmp_path, 1, "job") is None
    for step in (3, 6, 9, 12):
        checkpoint(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-9"]
    assert newest_complete(tmp_path, 1, "job") == tmp_path / "checkpoint-12"


def flip(folder: Path) -> None:
    path = folder / "optimizer.pt"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "never finished": lambda folder: (folder / MARKER).unlink(),
    "damaged: optimizer.pt": flip,
    "files are missing or extra: inner/state.json": lambda folder: (folder / "inner/state.json").unlink(),
    "files are missing or extra: new": lambda folder: (folder / "new").write_text(""),
    "marker is damaged": lambda folder: (folder / MARKER).write_text("{"),
}


@pytest.mark.parametrize("sentence", DAMAGE)
def test_damaged_checkpoint_is_ignored_and_removed(tmp_path: Path, sentence: str) -> None:
    said: list[str] = []
    checkpoint(tmp_path, 3)
    DAMAGE[sentence](checkpoint(tmp_path, 6))
    assert newest_complete(tmp_path, 1, "job", said.append) == tmp_path / "checkpoint-3"
    assert len(said) == 1
    assert sentence in said[0]
    assert not (tmp_path / "checkpoint-6").exists()


def test_other_number_of_processes_or_job_begins_anew(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoint(tmp_path, 3)
    assert newest_complete(tmp_path, 2, "job", said.append) is None
    checkpoint(tmp_path, 3)
    assert newest_complete(tmp_path, 1, "another", said.append) is None
    assert "written by 1 processes and now there are 2" in said[0]
    assert "belongs to another job" in said[1]


def test_damaged_checkpoint_costs_steps_not_bytes(base: Path, tmp_path: Path) -> None:
    """Through train(): the newest checkpoint is torn, the one before it is used, the result is the same."""
    start("lora", base, tmp_path / "straight")
    start("lora", base, tmp_path / "torn")
    flip(tmp_path / "torn/scratch/checkpoint-12")
    for path in (tmp_path / "torn/out").iterdir():
        path.unlink()
    said: list[str] = []
    steps: list[dict[str, float]] = []
    start("lora", base, tmp_path / "torn", say=said.append, report=steps.append)
    assert any("checkpoint-12 is not used" in text for text in said)
    assert [v["step"] for v in steps if v.get("resumed")] == [9]
    same_bytes(tmp_path / "straight/out", tmp_path / "torn/out")


def test_changed_rows_or_settings_begin_anew(base: Path, tmp_path: Path) -> None:
    start("lora", base, tmp_path)
    said: list[str] = []
    job = job_of(base, tmp_path, additions(21), lora={"r": 4, "lora_dropout": 0.2}, say=said.append)
    sft.train(job, sft.Settings(steps=2, batch_size=8))
    assert any("belongs to another job" in text for text in said)


def test_marker_names_processes_and_every_file(base: Path, tmp_path: Path) -> None:
    start("lora", base, tmp_path)
    folder = tmp_path / "scratch/checkpoint-12"
    marker = json.loads((folder / MARKER).read_text())
    assert marker["num_processes"] == 1
    assert marker["files"].keys() == {p.name for p in folder.iterdir()} - {MARKER}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= marker["files"].keys()


def test_a_planted_pickle_is_never_read(base: Path, tmp_path: Path) -> None:
    """Optimizer states are pickles: none is opened that this run did not write and hash. One stands in a newer folder
    without a marker, one in the place of a file that a marker names."""
    start("lora", base, tmp_path)
    mark = tmp_path / "it-ran"
    bomb = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    scratch = tmp_path / "scratch"
    (scratch / "checkpoint-12/optimizer.pt").write_bytes(bomb)
    (scratch / "checkpoint-99").mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (scratch / "checkpoint-99" / name).write_bytes(bomb)
    (scratch / "checkpoint-99/trainer_state.json").write_bytes(
        (scratch / "checkpoint-9/trainer_state.json").read_bytes()
    )
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    said: list[str] = []
    start("lora", base, tmp_path, say=said.append)
    assert not mark.exists()
    assert any("checkpoint-99 is not used and was removed: it was never finished" in text for text in said)
    assert any("checkpoint-12 is not used and was removed: damaged: optimizer.pt" in text for text in said)
