"""Kill the real loop: at every point of every stage, or at random times. Prints points, mismatches and stuck runs.

    python tests/faults/loop_kills.py sweep [--every N]        # every N-th point; 1 = all of them
    python tests/faults/loop_kills.py full [--every N]         # the disk is full from the k-th write of a stage on
    python tests/faults/loop_kills.py random [--runs 100]      # 1 to 5 SIGKILLs of real processes at random times a run

The sweep: at border i (see loop_world.py) a process is forked for each point of the stage that follows, and SIGKILLs
itself there. What it left is started again by a fresh process, up to border i + 1, where the disk must hold the bytes
that the run which nobody killed has at that border; every `--ends`-th is run to its end instead. Kills that left the
same disk are resumed once. With a full disk the run must end with code 7 and leave nothing half committed; with room
again it goes on. `--part 0/2` takes the even borders, for two at once. Ends with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import loop_world as world

from pipeline.errors import StorageError
from pipeline.store.run_folder import verify_run


@dataclass
class Tally:
    """What a sweep found."""

    points: int = 0
    states: int = 0  #: different disks that kills left
    to_the_end: int = 0
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def line(self) -> str:
        found = f"{len(self.wrong)} mismatches, {len(self.stuck)} stuck"
        return (
            f"{self.points} points, {self.states} different disks, {self.to_the_end} run to the end: {found}"
        )


@dataclass
class Sweep:
    """Kills at points (or a disk that fills), and what came of it. `every`: of the points; `ends`: of the disks."""

    recipe: world.Recipe
    place: Path
    borders: list[tuple[str, dict[str, str]]]
    every: int = 1
    ends: int = 25
    full: bool = False
    part: tuple[int, int] = (0, 1)  #: which of so many takes which borders
    tally: Tally = field(default_factory=Tally)

    def run(self) -> Tally:
        """All borders, in order."""
        if self.part[0] == 0 and not self.full:
            self.killed_at_start(0)
        for border in self.killed_after_borders():
            self.resume_all(border, self.folders(border))
        return self.tally

    def folders(self, border: int) -> list[Path]:
        return sorted(path for path in self.place.glob(f"killed-{border:02d}/*") if path.is_dir())

    # --- kills

    @property
    def wanted(self) -> int:
        """How a process ends at its point."""
        return StorageError.exit_code if self.full else -signal.SIGKILL

    def strike(self, at: int) -> None:
        """In a child: it will end there."""
        world.arm(-1 if self.full else at)
        if self.full:
            world.fill(at)

    def places(self, offset: int) -> Iterator[int]:
        """The points to die at: 1, 1 + every, ..., begun elsewhere at each border where not all are taken."""
        at = 1 + offset * 7 % self.every
        while True:
            yield at
            at += self.every

    def killed_at_start(self, border: int, begun: Path | None = None) -> None:
        """Kills between the start of a process, on an empty folder or one that a kill left, and the border."""
        kept, last = self.place / f"started-{border:02d}", 0
        for at in self.places(border):
            folder = kept / f"{at:05d}"
            world.copy(begun, folder) if begun else folder.mkdir(parents=True)

            def act(at: int = at) -> None:
                self.strike(at)
                world.run(self.recipe, world.leave_at(border))

            code = world.wait(world.fork(folder, act))
            if code == 0:
                shutil.rmtree(folder)
                break
            assert code == self.wanted, world.beside(folder, "error").read_text()
            last = at
        self.tally.points += sum(1 for at in range(1, last + 1, self.every))
        self.resume_all(border - 1, sorted(path for path in kept.iterdir() if path.is_dir()))

    def killed_after_borders(self) -> Iterator[int]:
        """A run under way in a child; at each border it forks those who die, then waits for the resumes."""
        told, tell = os.pipe()
        wait, go = os.pipe()
        straight = self.place / "straight"
        straight.mkdir()
        child = world.fork(straight, lambda: self._live(tell, wait))
        os.close(tell)
        os.close(wait)
        with os.fdopen(told) as lines:
            for line in lines:
                found = json.loads(line)
                self.tally.points += found["points"]
                yield found["border"]
                os.write(go, b"\n")
        os.close(go)
        code = world.wait(child)
        assert code == 0, world.beside(straight, "error").read_text()

    def _live(self, tell: int, wait: int) -> None:
        """In the child: the run, and at each border its victims."""
        dies_here: int | None = None

        def watch(border: int, name: str) -> None:
            nonlocal dies_here
            if dies_here is not None:
                os._exit(0)  # a victim that outlived its stage: there was no such point
            if border == len(self.borders) - 1 or border % self.part[1] != self.part[0]:
                return
            for at in self.places(border):
                folder = world.copy(Path(), self.place / f"killed-{border:02d}" / f"{at:05d}")
                victim = os.fork()
                if victim == 0:
                    os.chdir(folder)
                    dies_here = at
                    self.strike(at)
                    return
                code = world.wait(victim)
                if code == 0:
                    shutil.rmtree(folder)
                    break
                assert code == self.wanted, f"{name}, point {at}: ended with {code}, see {folder}.error"
            points = len(self.folders(border))
            os.write(tell, (json.dumps({"border": border, "points": points}) + "\n").encode())
            os.read(wait, 1)

        world.quiet_disk()
        world.run(self.recipe, watch)

    # --- resumes

    def resume_all(self, border: int, folders: list[Path]) -> None:
        """Starts again on each different disk, and holds what comes of it against the straight run."""
        seen: set[str] = set()
        begun, told = time.monotonic(), len(self.tally.wrong)
        for folder in folders:
            state = world.disk_state(folder)
            if state not in seen:
                seen.add(state)
                self._resume(border, folder)
        name = self.borders[border][0] if border >= 0 else "the start"
        said = f"{name}: {len(folders)} points, {len(seen)} different disks, {time.monotonic() - begun:.0f} s"
        print("\n".join([f"{said}; so far {self.tally.line()}", *self.tally.wrong[told:]]), flush=True)
        shutil.rmtree(folders[0].parent, ignore_errors=True)

    def _resume(self, border: int, folder: Path) -> None:
        self.tally.states += 1
        whole = self.tally.states % self.ends == 0
        until = len(self.borders) - 1 if whole else border + 1
        self.tally.to_the_end += whole
        where = f"border {border} ({self.borders[border][0] if border >= 0 else 'the start'}), {folder.name}"
        if self.full and (torn := verify_run(folder / world.RUN, folder / world.WEIGHTS)):
            self.tally.wrong.append(f"{where}: half committed: {torn[0]}")

        def act() -> None:
            world.quiet_disk()
            world.run(self.recipe, world.leave_at(until))

        code = world.wait(world.fork(folder, act))
        if code is None:
            self.tally.stuck.append(where)
        elif code != 0:
            self.tally.wrong.append(f"{where}: {world.beside(folder, 'error').read_text()}")
        elif said := world.different(world.promised(folder), self.borders[until][1]):
            self.tally.wrong.append(f"{where}: {said}")
        elif left := list(folder.rglob(".tmp-*")):
            self.tally.wrong.append(f"{where}: {left[0]} is left")


# --- random kills


def killed_at_random(
    recipe: world.Recipe, place: Path, seed: int, seconds: float
) -> tuple[list[str], int | None]:
    """One run, started and killed 1 to 5 times at random times (of its processor), then left alone. Returns where each
    kill struck, and how the last start ended."""
    lot, struck = random.Random(seed), []
    kills = lot.randint(1, 5)
    place.mkdir(parents=True)

    def act() -> None:
        world.run(recipe, lambda border, name: world.beside(Path.cwd(), "at").write_text(name) and None)

    while len(struck) < kills:
        wanted = lot.uniform(0, 1.5 * seconds / kills)
        if not world.kill_after(world.fork(place, act), wanted):
            break
        at = world.beside(place, "at")
        struck.append(f"{wanted:.2f} s ({at.read_text() if at.exists() else 'prepare'})")
    return struck, world.wait(world.fork(place, act))


def random_kills(
    recipe: world.Recipe, place: Path, end: dict[str, str], runs: range, seconds: float
) -> Tally:
    """Many such runs; the tally's points are kills."""
    tally, counts = Tally(), Counter[int]()
    for seed in runs:
        folder = place / f"run-{seed:04d}"
        struck, code = killed_at_random(recipe, folder, seed, seconds)
        counts[len(struck)] += 1
        tally.points += len(struck)
        said = "equal"
        if code is None:
            said = "STUCK"
            tally.stuck.append(f"seed {seed}")
        elif code or world.promised(folder) != end:
            error = world.beside(folder, "error")
            said = error.read_text() if code else world.different(world.promised(folder), end)
            tally.wrong.append(f"seed {seed}: {said}")
        print(f"run {seed}: killed {len(struck)} times, after {', '.join(struck)}: {said}", flush=True)
        if said == "equal":
            shutil.rmtree(folder)
    print(f"kills a run: {dict(sorted(counts.items()))}")
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Prints a line a stage or run, and the sum."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sweep", "full", "random"])
    parser.add_argument("--every", type=int, default=1, help="of the points of each stage")
    parser.add_argument(
        "--ends", type=int, default=25, help="every so many-th resume goes on to the end of the run"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--part", default="0/1", help="0/2: the first of two halves")
    parser.add_argument("--brief", action="store_true", help="five stages of ReST-EM in place of all")
    parser.add_argument("--labels", action="store_true", help="labellers that search in place of all")
    parser.add_argument("--gradient", action="store_true", help="rounds of GRPO in place of all")
    parser.add_argument("--base", type=Path, help="the policy's folder, made where it is missing")
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        place = Path(scratch)
        base = world.policy(given.base or place / "policy")
        kinds = {"brief": given.brief, "labels": given.labels, "gradient": given.gradient}
        recipe = world.tiny_recipe(base, given.rounds, **kinds)
        world.warm(recipe, place / "warm")
        borders, seconds = world.golden(recipe, place / "golden")
        print(f"a run that nobody kills: {len(borders) - 1} stages, {seconds:.1f} s of processor", flush=True)
        if given.what != "random":
            first, _, of = given.part.partition("/")
            part, full = (int(first), int(of)), given.what == "full"
            tally = Sweep(recipe, place, borders, given.every, given.ends, full, part).run()
            print(tally.line())
        else:
            runs = range(given.first, given.first + given.runs)
            tally = random_kills(recipe, place, borders[-1][1], runs, seconds)
            print(
                f"{len(runs)} runs, {tally.points} kills: {len(tally.wrong)} mismatches, {len(tally.stuck)} stuck"
            )
    for said in tally.wrong + tally.stuck:
        print(said)
    print(
        f"{time.monotonic() - begun:.0f} s in all, {os.times().user + os.times().children_user:.0f} s of processor"
    )
    return 1 if tally.wrong or tally.stuck else 0


if __name__ == "__main__":
    sys.exit(main())
