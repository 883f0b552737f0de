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
import signal
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


PARTS = ("tests", "tune", "decode", "decode_slow", "against", "score", "search", "train", "decode_small")
#: seconds from a part's turn on
LONGEST = {
    "tests": 118.0, "tune": 70.0, "decode": 55.0, "decode_slow": 45.0, "against": 50.0, "score": 30.0,
    "search": 70.0, "train": 60.0, "decode_small": 20.0,
}  # fmt: skip


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


TESTING = "GPU_DAY_TESTS"  #: set for all that the tests start, so that nothing of theirs outlives them


def end_tests() -> None:
    """End what the tests left running: it would share the device with what is timed."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{TESTING}=".encode() in (place / "environ").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:  # it has ended, or is another's
            continue


def tests(record: Any, out: Path, tiny: bool, seconds: float) -> None:
    """The tests that need a GPU, in several processes; on a CPU those of the same files that do not. Rounds
    that are killed and gone on with run beside the others.
    """
    which = ["-m", "not gpu"] if tiny else ["-m", "gpu", "-n"]
    running = {}
    for name, more in (("others", ["7", "-k", "not loop"]), ("loop", ["3", "-k", "loop"])):
        words = [*which, *(more[1:] if tiny else more), "-vv", "-rfEs", "--tb=short", "--durations=8"]
        with (out / f"pytest-{name}.txt").open("w") as log:
            running[name] = subprocess.Popen(  # noqa: S603  our own words
                [sys.executable, "-m", "pytest", "tests/gpu", *words], cwd=ROOT, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, TESTING: "1"},
            )  # fmt: skip
    end = time.monotonic() + seconds
    for name, process in running.items():
        try:
            record.note(f"{name}/exit_code", process.wait(timeout=max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            record.note(f"{name}/exit_code", f"none in {seconds:.0f} s")
        lines = (out / f"pytest-{name}.txt").read_text().splitlines()
        passed = [line for line in lines if " PASSED " in line]
        record.note(f"{name}/passed", len(passed))
        record.note(f"{name}/failed", [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))])
        record.note(f"{name}/last", lines[-1][:200] if lines else "")
    end_tests()


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
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)  # a process of its own waits for it
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # where such processes share models
    given = parser.parse_args(arguments)
    if given.pack:
        pack(given.pack, given.python)
        return 0
    if not given.run:
        parser.error("--pack DIR or --run PART")
    names = list(PARTS if given.run == "all" else given.run.split(","))
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if given.tiny or len(names) == 1:
        return run(given, names)
    return in_turns(given, names)


def in_turns(given: argparse.Namespace, names: list[str]) -> int:
    """Each part in a process of its own, one at a time; all set up at once, while the tests run."""
    begun = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    same = [
        "--out",
        str(given.out),
        "--checkpoints",
        str(given.checkpoints),
        "--for-tests",
        str(given.for_tests),
        *["--tiny"] * given.tiny,
    ]
    with tempfile.TemporaryDirectory() as place:
        turns = [Path(place) / name for name in names]
        waiting: list[subprocess.Popen[bytes]] = []
        for turn, name in zip(turns, names, strict=True):
            words = [sys.executable, __file__, "--run", name, "--turn", str(turn), "--scratch", place, *same]
            waiting.append(subprocess.Popen(words))  # noqa: S603  our own words
        for i, name in enumerate(names):
            left = given.seconds - (time.monotonic() - begun)
            try:
                if left > 0:
                    turns[i].touch()
                waiting[i].wait(timeout=max(0.0, min(left, LONGEST.get(name, 240.0))))
            except subprocess.TimeoutExpired:
                print(f"{name}: cut", flush=True)
                waiting[i].kill()
                waiting[i].wait()
            print(f"{name}: over after {time.monotonic() - begun:.0f} s in all", flush=True)
    return 0


def run(given: argparse.Namespace, names: list[str]) -> int:
    """The parts asked for."""
    begun = time.monotonic()
    import torch
    from gpu_decode import SLOW, WAYS, against, ceilings, decode
    from gpu_read import score, search, train
    from gpu_tune import processes, tune, use_best
    from gpu_world import Record, quiet

    from pipeline.models.seeds import build
    from pipeline.tasks import countdown

    device = "cuda" if torch.cuda.is_available() and not given.tiny else "cpu"
    small, large = ("tiny", "tiny") if given.tiny else ("0.5b", "1.5b")
    rows = (3, 5) if given.tiny else (64, 256)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.tiny:
        use_best(given.out / "tune.json", large)
    with tempfile.TemporaryDirectory() as place, quiet():
        scratch = given.scratch or Path(place)

        def seed() -> Path:
            return build(
                "seed://countdown" + "?steps=2" * given.tiny,
                countdown.Settings(**COUNTDOWN),
                given.checkpoints,
            )

        parts: dict[str, Callable[[Record], None]] = {
            "tune": lambda record: None if given.tiny else tune(record, large, rows[0], processes()),
            "tests": lambda record: tests(record, given.out, given.tiny, given.for_tests),
            "decode": lambda record: decode(record, scratch, device, large, WAYS, given.tiny, rows),
            "decode_slow": lambda record: decode(record, scratch, device, large, SLOW, given.tiny, rows),
            "decode_small": lambda record: decode(
                record, scratch, device, small, WAYS[:1], given.tiny, rows[:1]
            ),
            "against": lambda record: against(record, scratch, device, large, given.tiny, rows),
            "score": lambda record: score(record, scratch, device, large, given.tiny),
            "search": lambda record: search(record, seed(), scratch, device, given.tiny),
            "train": lambda record: train(record, scratch, device, small, given.tiny),
        }
        for name in names:
            record = Record(given.out / f"{name}.json", given.turn if name != "tests" else None)
            if time.monotonic() - begun > given.seconds:
                record.note("left_out", f"{time.monotonic() - begun:.0f} s had passed")
                continue
            if name in ("decode", "decode_small", "decode_slow", "score"):
                record.attempt("ceilings", ceilings, record, device, given.tiny)
            record.attempt(name, parts[name], record)
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
