"""Small changes of the code, drawn by seed: which share do the nearest tests notice?

    python scripts/mutants.py --sample 60 --seed 0 store label    (every room where none is named)
    python scripts/mutants.py --names pipeline.store.plan.x__leaves__mutmut_3    (these, whatever was drawn)

mutmut (3.8) makes the changes and asks the tests. Each room is run in a copy below `mutants/`, with its own
tests alone, so a run begins with that room's tests and not with all. A change whose function no test of the
room calls *in the tests' own process* is counted apart ("unreached"): it is neither killed nor alive. One
that hangs or ends the process counts as killed. Prints what lives as a diff, and ends with 1 where a room's
share is below `--at-least`.

    python scripts/mutants.py --apply --sample 20 answers

is for code that runs in other processes too, where mutmut's switch does not reach (the jail's workers): each
change is written into the file, and the room's test files are asked, up to the first that fails: those that
import it first, then the cheapest. `-k` leaves dear tests out: what they alone kill counts as alive.
"""

import argparse
import ast
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]
ROOMS = {Path(path).stem: path for path in SETTINGS["source_paths"]}
ALIVE, UNREACHED = (
    0,
    33,
)  # mutmut's exit codes; 1 and 3: a test failed; 24, -24, 152, 255, ...: out of time or dead


def tests_of(room: str) -> str:
    """The folder of the tests that stand nearest to a room."""
    path = Path(ROOMS[room])
    return f"tests/{path.parent.name if path.suffix else path.name}"


@functools.cache
def imported(path: Path) -> set[Path]:
    """The project's files that a file imports, or starts by name (`_worker.py`)."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            found.add(path.parent / node.value)
        for base in (ROOT / name.replace(".", "/") for name in names):
            found |= {base.with_suffix(".py"), base / "__init__.py"}
    return {one for one in found if one.is_file()}


def reaches(test: Path, changed: Path) -> int:
    """How many imports lead from a test file to a changed file; 0: they do not."""
    steps, seen, here = 0, {test}, {test}
    while here and changed not in seen:
        here = {one for file in here for one in imported(file)} - seen
        seen, steps = seen | here, steps + 1
    return steps if changed in seen else 0


def prepared(room: str, again: bool, apply: bool) -> Path:
    """A copy of the project in which mutmut changes this room and asks its tests.

    again: the copy that stands, with today's tests; the changes in it are those made before. apply: mutmut
    only makes the changes, so it is given a test that asks nothing.
    """
    folder = ROOT / "mutants" / room
    if again and folder.is_dir():
        for tests in (folder / "tests", folder / "mutants/tests"):
            shutil.copytree(ROOT / "tests", tests, dirs_exist_ok=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "mutants").mkdir(parents=True)
    # copied here and not by mutmut, which would copy at every start and then make its changes anew
    for name in SETTINGS["also_copy"]:
        for place in (folder, folder / "mutants"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, place / name)
    text = (folder / "pyproject.toml").read_text("utf-8").split("[tool.mutmut]")[0]
    selection = "pytest_add_cli_args_test_selection"
    asked = tests_of(room)
    if apply:
        asked = "test_nothing.py"
        for place in (folder, folder / "mutants"):
            (place / asked).write_text("def test_nothing() -> None:\n    pass\n", "utf-8")
    mine = {"source_paths": [ROOMS[room]], "also_copy": [], selection: [asked]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (SETTINGS | mine).items()]
    (folder / "pyproject.toml").write_text(f"{text}[tool.mutmut]\n" + "\n".join(lines) + "\n", "utf-8")
    return folder


def mutmut(folder: Path, *arguments: str) -> str:
    """What mutmut says; its exit status tells an unknown name and failing tests not apart."""
    # CI: hypothesis then draws the same examples each time, and has no health check of a busy machine
    env = os.environ | {"OMP_NUM_THREADS": "1", "CI": "true"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    return done.stdout + done.stderr


def codes(folder: Path) -> dict[str, int | None]:
    """Every change's name and the exit code of its tests (None: not asked yet)."""
    found: dict[str, int | None] = {}
    for path in sorted((folder / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    return found


def asked(folder: Path, given: argparse.Namespace, tests: list[str]) -> int:
    """The exit code of these tests, in this order up to the first that fails; 5: there is none."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", SETTINGS["pytest_add_cli_args"][1]]
    options += ["-k", given.k] if given.k else []
    command = [sys.executable, "-m", "pytest", *options, *tests]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, env=env, timeout=1800).returncode
    except subprocess.TimeoutExpired:
        return 24


def timed(room: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """How long each test file of a room takes without a change; one that fails then is told."""
    seconds: dict[str, float] = {}
    files = sorted((folder / tests_of(room)).glob("test_*.py"))
    for test in given.tests or [one.relative_to(folder).as_posix() for one in files]:
        begun = time.monotonic()
        code = asked(folder, given, [test])
        if code not in (0, 5):
            sys.exit(f"{room}: {test} fails without a change")
        if code == 0:
            seconds[test] = time.monotonic() - begun
    return dict(sorted(seconds.items(), key=lambda one: one[1]))


def applied(room: str, folder: Path, name: str, given: argparse.Namespace, costs: dict[str, float]) -> int:
    """The exit code of a room's tests where a change stands in the file, so in what they start too: of those
    that import the file first, then of the cheapest.
    """
    path = Path(name.rpartition(".")[0].replace(".", "/") + ".py")
    shutil.copy2(ROOT / path, folder / path)
    mutmut(folder, "apply", name)
    if (folder / path).read_bytes() == (ROOT / path).read_bytes():
        sys.exit(f"{room}: mutmut did not apply {name}")
    steps = {test: reaches(folder / test.split("::")[0], ROOT / path) for test in costs}
    tests = sorted((test for test in costs if steps[test]), key=lambda test: (steps[test] > 1, costs[test]))
    try:
        return asked(folder, given, tests) if tests else UNREACHED
    finally:
        shutil.copy2(ROOT / path, folder / path)


def measured(room: str, given: argparse.Namespace) -> float:
    """Draw, run and print one room; the share killed of those that a test reaches."""
    folder, run = prepared(room, given.again, given.apply), ("run", "--max-children", str(given.children))
    every = sorted(codes(folder))
    if not every:
        said = mutmut(folder, *run, "nothing-has-this-name")  # writes the changes
        every = sorted(codes(folder))
        if not every or not (given.apply or "nothing matches" in said):
            sys.exit(f"{room}: its tests do not run without a change; mutmut said:\n{said[-3000:]}")
    drawn = [name for name in given.names if name in every] if given.names else every
    if not given.names and 0 < given.sample < len(every):
        drawn = random.Random(f"{given.seed} {room}").sample(every, given.sample)
    if not drawn:
        return 1.0
    if given.apply:
        after: dict[str, int | None] = {}
        costs = timed(room, folder, given)
        print(", ".join(f"{test}: {seconds:.0f} s" for test, seconds in costs.items()), flush=True)
        for name in drawn:
            after[name] = applied(room, folder, name, given, costs)
            print(f"{name}: {'alive' if after[name] == ALIVE else 'killed'}", flush=True)
    else:
        said = mutmut(folder, *run, *drawn)
        after = codes(folder)
        if any(after[name] is None for name in drawn):
            sys.exit(f"{room}: mutmut left changes without an answer and said:\n{said[-3000:]}")
    unreached = [name for name in drawn if after[name] == UNREACHED]
    alive = [name for name in drawn if after[name] == ALIVE]
    for name in alive:
        print(f"alive: {name}\n{mutmut(folder, 'show', name)}")
    asked = len(drawn) - len(unreached)
    share = (asked - len(alive)) / asked if asked else 1.0
    print(
        f"{room}: {asked - len(alive)} of {asked} killed ({share:.1%}); {len(unreached)} more unreached; "
        f"{len(drawn)} drawn of {len(every)}, seed {given.seed}",
        flush=True,
    )
    print("".join(f"  unreached: {name}\n" for name in unreached), end="")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], help="these alone")
    parser.add_argument("--sample", type=int, default=60, help="changes drawn a room (0: every one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--names", nargs="+", default=[], help="these changes, by mutmut's names, and no others"
    )
    parser.add_argument("--again", action="store_true", help="today's tests on the changes made before")
    parser.add_argument(
        "--apply", action="store_true", help="write each change into the file: slow, for workers"
    )
    parser.add_argument("--tests", nargs="+", default=[], help="with --apply: these, in this order")
    parser.add_argument("-k", default="", help="with --apply: pytest's -k, to leave dear tests out")
    parser.add_argument("--children", type=int, default=1, help="tests asked at a time")
    parser.add_argument("--at-least", type=float, default=0.9)
    given = parser.parse_args()
    named_rooms = [room for room in ROOMS if any(f".{room}." in name for name in given.names)]
    rooms = given.rooms or named_rooms or list(ROOMS)
    shares = {room: measured(room, given) for room in rooms}
    low = [room for room, share in shares.items() if share < given.at_least]
    sys.exit(f"below {given.at_least:.0%}: {', '.join(low)}" if low else 0)


if __name__ == "__main__":
    main()
