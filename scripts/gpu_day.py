"""A day on a GPU in a quarter of an hour: every GPU path run once and measured.

    python scripts/gpu_day.py --pack .gpu                     # here: what a machine without network lacks
    python scripts/gpu_day.py --run first --out results       # there: one part, a file of JSON a part
    python scripts/gpu_day.py --run all --out results --tiny  # here, on the CPU: does every part run?

A part takes at most four minutes of an H100, writes its figures as it goes and goes on after a failure, so
that a run that is cut leaves what it found. `docs/gpu.md` holds the figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from pipeline.models import environment  # noqa: E402

environment.prepare()

#: what a machine with torch, transformers and accelerate lacks; versions as they are installed here
WHEELS = (
    "trl", "peft", "datasets", "dill", "multiprocess", "math-verify", "latex2sympy2-extended",
    "antlr4-python3-runtime", "pydantic", "pydantic-core", "annotated-types", "typing-inspection",
    "typing-extensions", "rich", "typer",
)  # fmt: skip
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
COUNTDOWN = {"use": "countdown", "largest": 100, "train": 9000, "dev": 300, "test": 1000, "max_tokens": 48}


def pack(folder: Path, python: str) -> None:
    """Wheels into folder/wheels, the countdown seed into folder/checkpoints."""
    from importlib.metadata import version

    from pipeline.models.seeds import build
    from pipeline.tasks import countdown

    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
        "--python-version", python, "--implementation", "cp", *platforms,
        "-d", str(folder / "wheels"), *wanted,
    ]  # fmt: skip
    subprocess.run(command, check=True)  # noqa: S603  our own words
    seed = build("seed://countdown", countdown.Settings(**COUNTDOWN), folder / "checkpoints")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB, {len(list((folder / 'wheels').iterdir()))} wheels, {seed.name}")


def tests(record: Any, out: Path, tiny: bool, seconds: float) -> None:
    """The tests that need a GPU, in several processes; on a CPU those of the same files that do not."""
    which = ["-m", "not gpu"] if tiny else ["-m", "gpu", "-n", "6"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        *which,
        "-v",
        "-rfEs",
        "--tb=short",
        "--durations=8",
    ]
    with (out / "pytest.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            record.note("exit_code", process.wait(timeout=seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            record.note("exit_code", f"none in {seconds:.0f} s")
    lines = (out / "pytest.txt").read_text().splitlines()
    record.note("failed", [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))])
    print("\n".join(lines[-60:]), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack, or run a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, metavar="DIR", help="gather here what a bare machine lacks")
    parser.add_argument("--python", default="3.12", help="the Python there")
    parser.add_argument("--run", metavar="PART", help="comma-separated; all: every part")
    parser.add_argument("--out", type=Path, default=Path("gpu-day"), help="where figures go")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, for a CPU")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "checkpoints", help="where seeds stand")
    parser.add_argument("--seconds", type=float, default=600, help="begin no part after this")
    parser.add_argument("--for-tests", type=float, default=200, help="seconds that the tests may take")
    given = parser.parse_args(arguments)
    if given.pack:
        pack(given.pack, given.python)
        return 0
    if not given.run:
        parser.error("--pack DIR or --run PART")
    return run(given)


def run(given: argparse.Namespace) -> int:
    """The parts asked for."""
    begun = time.monotonic()
    import torch
    from gpu_decode import WAYS, against, ceilings, decode
    from gpu_read import score, search, train
    from gpu_world import Record, quiet

    from pipeline.models.seeds import build
    from pipeline.tasks import countdown

    device = "cuda" if torch.cuda.is_available() and not given.tiny else "cpu"
    small, large = ("tiny", "tiny") if given.tiny else ("0.5b", "1.5b")
    rows = (3, 5) if given.tiny else (64, 256)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, quiet():
        scratch = Path(place)

        def seed() -> Path:
            return build(
                "seed://countdown" + "?steps=2" * given.tiny,
                countdown.Settings(**COUNTDOWN),
                given.checkpoints,
            )

        parts: dict[str, Callable[[Record], None]] = {
            "tests": lambda record: tests(record, given.out, given.tiny, given.for_tests),
            "decode": lambda record: decode(record, scratch, device, large, WAYS, given.tiny, rows),
            "decode_small": lambda record: decode(
                record, scratch, device, small, WAYS[:1], given.tiny, rows[:1]
            ),
            "against": lambda record: against(record, scratch, device, large, given.tiny, rows),
            "score": lambda record: score(record, scratch, device, large, given.tiny),
            "search": lambda record: search(record, seed(), scratch, device, given.tiny),
            "train": lambda record: train(record, scratch, device, small, given.tiny),
        }
        for name in parts if given.run == "all" else given.run.split(","):
            record = Record(given.out / f"{name}.json")
            if time.monotonic() - begun > given.seconds:
                record.note("left_out", f"{time.monotonic() - begun:.0f} s had passed")
                continue
            if name in ("decode", "score"):
                record.attempt("ceilings", ceilings, record, device, given.tiny)
            record.attempt(name, parts[name], record)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
