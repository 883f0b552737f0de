"""Kill a shipped recipe's own command at random times, go on, and compare with a run that nobody killed.

    python tests/faults/recipe_kills.py recipes/grpo_countdown.yaml --kills 20 --set rounds=60
    python tests/faults/recipe_kills.py recipes/grpo_countdown.yaml --kills 20 --straight data/grpo_countdown

Each kill is a SIGKILL of the process group of `ratchet run`, at a time drawn between the last start and the end that
the straight run's own timings promise; the command is started again after each, as a user would. What is compared is
every file that is promised (`tree_hash`: rows, metrics, weights, optimizers); timings and logs are not. `--straight`
takes a complete run of the same recipe, seed and overrides in place of making one. Ends with 1 where a file differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.store.run_folder import tree_files  # noqa: E402


def promised(place: Path, name: str) -> dict[str, str]:
    """Path -> SHA-256 of all that is promised of a run in the workspace `place`."""
    return {
        f"{root}/{path}": found
        for root in ("data", "checkpoints")
        for path, found in tree_files(place / root / name).items()
    }


def command(recipe: Path, name: str, overrides: list[str]) -> list[str]:
    run = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        str(recipe.resolve()),
        f"name={name}",
        "wandb.mode=disabled",
    ]
    return [*run, *overrides]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def straight(place: Path, recipe: Path, name: str, overrides: list[str]) -> float:
    """A run that nobody kills; its seconds."""
    begun = time.monotonic()
    subprocess.run(command(recipe, name, overrides), cwd=place, env=environment(), check=True)
    return time.monotonic() - begun


def killed(
    place: Path, recipe: Path, name: str, overrides: list[str], kills: int, seconds: float, seed: int
) -> list[str]:
    """The same run, killed so many times; says when each kill fell. Fewer where the run came to its end before."""
    lot, struck, used = random.Random(seed), [], 0.0
    while True:
        left = max(seconds - used, 1.0) / (kills - len(struck)) if len(struck) < kills else None
        wanted = lot.uniform(0, 2 * left) if left else None
        begun = time.monotonic()
        child = subprocess.Popen(
            command(recipe, name, overrides),
            cwd=place,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, error = child.communicate(timeout=wanted)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            used += max(time.monotonic() - begun - 5, 0)  # coming up is no progress
            struck.append(f"{wanted:.1f}")
            continue
        if child.returncode:
            raise SystemExit(f"the run ended with {child.returncode}:\n{error.decode()[-2000:]}")
        return struck


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    parser.add_argument("--straight", type=Path, help="a complete run's folder in data/")
    parser.add_argument("--seeds", type=Path, help="a folder of built seeds to begin with: checkpoints/seed")
    parser.add_argument("--seconds", type=float, help="that the straight run took; with --straight")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        place = Path(scratch)
        if given.straight:
            name, kept, seconds = given.straight.name, given.straight.resolve().parents[1], given.seconds
            if not seconds:
                parser.error("--seconds: say how long the straight run took")
        else:
            name, kept = given.recipe.stem, place / "straight"
            kept.mkdir()
            if given.seeds:
                shutil.copytree(given.seeds, kept / "checkpoints/seed")
            seconds = straight(kept, given.recipe, name, given.set)
        wanted = promised(kept, name)
        killed_in = place / "killed"
        if (seeds := kept / "checkpoints/seed").is_dir():  # else most kills would fall while one is built
            shutil.copytree(seeds, killed_in / "checkpoints/seed")
        struck = killed(killed_in, given.recipe, name, given.set, given.kills, seconds, given.seed)
        found = promised(killed_in, name)
        differ = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
        print(
            f"straight: {len(wanted)} files, {seconds:.0f} s; killed {len(struck)} times, after {', '.join(struck)} s"
        )
        print(f"{len(differ)} files differ" + (f": {', '.join(differ[:5])}" if differ else ""))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
