"""A run without models: every kind of thing the store commits, in the order in which the loop does it, and
resumable like it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fault_disks import CrashingDisk, Killed, QuietDisk
from safetensors.numpy import save_file

from pipeline.errors import DamagedData
from pipeline.rows import Dropped, Label, Node, Trace
from pipeline.store.disk import Disk, sweep_temporaries
from pipeline.store.folder import StageFolder
from pipeline.store.plan import ChunkPlan, Plan
from pipeline.store.run_folder import tree_hash
from pipeline.store.weights import commit_weights, read_weights

NUM_CHUNKS = 2


def trace(number: int, sample: int, round_number: int = 1, text: str = "") -> Trace:
    return Trace(
        problem_id=f"p{number}",
        round=round_number,
        stage="sample",
        id=f"p{number}/{sample}",
        prompt="1+1=",
        text=text or f"step {number}\n{sample}",
        token_ids=[number, sample, 2],
        step_ends=[2, 3],
        steps=[f"step {number}\n", str(sample)],
        answer=str(sample),
        logprobs=[-0.5, -1.0 / (number + 1), -0.25],
    )


def plan_for(stage: str, round_number: int, main: str, inputs: dict[str, str], **more: object) -> Plan:
    return Plan.make(
        run="run",
        round=round_number,
        stage=stage,
        room="generate" if main == "Trace" else "label",
        method=stage,
        main=main,
        settings={"n": 2, **more},
        inputs=inputs,
        models={"policy": "0" * 64},
        seed=0,
        chunks=[
            ChunkPlan([f"p{2 * c}", f"p{2 * c + 1}"], {path: [c] for path in inputs})
            for c in range(NUM_CHUNKS)
        ],
    )


def sample(root: Path, round_number: int, disk: Disk) -> StageFolder:
    """A tree generator: traces, nodes and dropped rows."""
    folder = StageFolder(root / f"run/round-{round_number:03d}/sample", disk)
    plan = folder.begin(plan_for("sample", round_number, "Trace", {}))
    if not folder.is_complete():
        done = folder.done()
        for chunk in set(range(NUM_CHUNKS)) - done:
            write_sample(folder, chunk, plan, round_number)
        folder.commit({"distinct": 1.0})
    return folder


def write_sample(folder: StageFolder, chunk: int, plan: Plan, round_number: int) -> None:
    with folder.writing(chunk) as part:
        for problem_id in plan.chunks[chunk].ids:
            number = int(problem_id[1:])
            part.add([trace(number, sample, round_number) for sample in range(2)])
            part.add([Node(problem_id=problem_id, id=f"{problem_id}#0", parent=None, step="step", depth=0)])
        part.add([Dropped(problem_id=problem_id, what="p9/0", reason="empty")])
        part.count("charged/policy", 12)


def label(root: Path, round_number: int, disk: Disk, source: StageFolder) -> StageFolder:
    """A labeller that reads its input's chunks."""
    folder = StageFolder(root / f"run/round-{round_number:03d}/check", disk)
    path = f"run/round-{round_number:03d}/sample"
    folder.begin(plan_for("check", round_number, "Label", {path: source.require().hash}))
    if not folder.is_complete():
        done = folder.done()
        for chunk in set(range(NUM_CHUNKS)) - done:
            with folder.writing(chunk) as part:
                for row in source.read(Trace, [chunk]):
                    part.add([Label(problem_id=row.problem_id, trace_id=row.id, correct=row.answer == "1")])
                    part.count("read")
        folder.commit()
    return folder


def train(root: Path, round_number: int, disk: Disk) -> StageFolder:
    """A training: what a trainer leaves in a temporary folder becomes committed weights, then the stage's
    manifest.
    """
    folder = StageFolder(root / f"run/round-{round_number:03d}/learn", disk)
    plan = plan_for("learn", round_number, "", {})
    folder.begin(Plan.make(**{**_fields(plan), "chunks": [], "room": "train"}))
    dest = root / f"checkpoints/run/round-{round_number:03d}/policy"
    if not (folder.is_complete() and (dest / "manifest.json").exists()):
        out = dest.parent / ".tmp-policy"
        shutil.rmtree(out, ignore_errors=True)
        disk.make_folder(out)
        save_file(
            {"w": np.full((4, 4), round_number, np.float32), "b": np.zeros(3, np.float32)},
            out / "adapter_model.safetensors",
        )
        (out / "adapter_config.json").write_text(
            '{"r": 8, "target_modules": ["v", "q"], "base_model_name_or_path": "/a/b"}'
        )
        (out / "training_args.bin").write_bytes(b"pickle")
        folder.commit({"weights": commit_weights(out, dest, {"round": round_number}, disk=disk)})
    return folder


def _fields(plan: Plan) -> dict[str, object]:
    return {key: value for key, value in vars(plan).items() if key != "fingerprint"}


def run_world(root: Path, disk: Disk, rounds: int = 1) -> None:
    """The whole run, or what is missing of it. A start that holds the locks removes every temporary file."""
    for folder in (root / "run", root / "checkpoints"):
        sweep_temporaries(folder, everything=True, disk=disk)
    lines = []
    for round_number in range(1, rounds + 1):
        source = sample(root, round_number, disk)
        checked = label(root, round_number, disk, source)
        learned = train(root, round_number, disk)
        lines.append(f"{checked.require().hash} {learned.require().hash}\n")
        disk.write(root / "run/metrics.jsonl", "".join(lines).encode())


def world_hash(root: Path) -> str:
    """The oracle, over the run and its weights."""
    return tree_hash(root / "run", root / "checkpoints")


def readable(root: Path) -> None:
    """What a reader may see at any moment: nothing, or something whole. Raises DamagedData otherwise."""
    for path in sorted(root.glob("run/round-*/*")):
        folder = StageFolder(path)
        if folder.plan() is not None and folder.manifest() is not None:
            problems = folder.verify()
            unfinished = [p for p in problems if "in no manifest" not in p]
            if unfinished:
                raise DamagedData("\n".join(unfinished))
            for kind in (Trace, Label, Node):
                list(folder.read(kind))
    for manifest in root.glob("checkpoints/run/round-*/*/manifest.json"):
        if not any(part.startswith(".tmp-") for part in manifest.parts):
            read_weights(manifest.parent)


World = Callable[[Path, Disk], None]


def killed_at(root: Path, world: World, disk: Disk) -> bool:
    """Runs a world on a disk that dies. True: it did."""
    try:
        world(root, disk)
    except Killed:
        return True
    return False


def killed_in_child(root: Path, world: World, at: int) -> bool:
    """The same with a real process that ends without a goodbye."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            world(root, CrashingDisk(at, process=True))
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 137), f"the child ended with {status}"
    return status == 137


def resumed_hash(root: Path, world: World) -> str:
    """Starts again, and once more: nothing may change the second time."""
    world(root, QuietDisk())
    first = world_hash(root)
    left = list(root.rglob(".tmp-*"))
    assert not left, f"temporaries are left: {left}"
    return first
