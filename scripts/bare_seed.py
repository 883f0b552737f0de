"""Why does a policy gradient stick where ReST-EM escapes? Countdown from the bare seed, an arm a line.

    python scripts/bare_seed.py                           # all arms, seed 0: runs data/bare-ARM-sSEED
    python scripts/bare_seed.py --seeds 0 1 --arms fixed fresh
    python scripts/bare_seed.py --ready                   # of the runs that are complete already
    python scripts/bare_seed.py --curve 10 --arms fresh   # what it drew, every ten rounds; unfinished too

Each arm is `recipes/grpo_countdown.yaml` with other stages, no warm-up and no gate: as many gradient steps
(`STEPS`) from the seed policy, on samples drawn anew for each or drawn once and read again, and on right
samples alone (`select: correct`, `train: sft`) or on all by their advantages. A run is an ordinary one: an
interrupted start goes on. Prints a Markdown table: accuracy, and the share of target-blind answers, which add
up all the numbers whatever the target is, of the greedy answers, of samples at temperature 1 and of the right
ones among these; what a training saw of them stands beside. What was found: docs/claims.md,
"Policy gradients".
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

from pipeline.evaluate import GOLD  # noqa: E402  the environment comes first
from pipeline.loop import run_loop  # noqa: E402
from pipeline.processes.group import Processes  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.report.console import Console  # noqa: E402
from pipeline.rows import Label, Trace  # noqa: E402
from pipeline.run.run import Run  # noqa: E402
from pipeline.run.session import open_run, session  # noqa: E402
from pipeline.run.status import run_status  # noqa: E402
from pipeline.store.workspace import Workspace  # noqa: E402

STEPS = 100
MIXED = (
    200  #: rows a step by their advantages, of fixed samples: about as many as 64 x 8 have in mixed groups
)
SIGN = re.compile(r"\d+ ([-+*/]) \d+ = ")
DRAW = "sample: {{generate: sample, by: policy, n: 8{asked}}}, check: {{label: outcome, from: sample}}"
RIGHT = "rows: {{select: correct, from: check, max_per_problem: null, dedupe: false, mix: {mix}}}"
GAIN = (
    "gain: {label: group_advantage, from: check, kind: grpo}, "
    "rows: {select: episodes, from: gain, where: mixed, on_empty: continue}"
)
PLAN = "schedule: linear, warmup_steps: 3, learning_rate: {rate}"
SFT = (
    "learn: {{train: sft, model: policy, from: rows, batch_size: {size}, steps: {steps}, " + PLAN + "{more}}}"
)
GRPO = "learn: {{train: policy_gradient, model: policy, from: rows, " + PLAN + "{more}}}"
CARRIED = ", carry_optimizer: true, schedule_rounds: {rounds}"


@dataclass(frozen=True)
class Arm:
    """What an arm trains on, and how."""

    says: str
    fresh: bool = True  #: samples of each round's own policy; else those of the seed policy, once
    negatives: bool = True
    problems: int = 64  #: drawn a round, or at all
    rate: str = "1e-3"
    mix: str = "this_round"  #: right samples: of which rounds
    steps: int = 1  #: gradient steps on a round's samples
    size: int = 40  #: rows a step, of right samples: about as many as 64 x 8 of the seed policy hold
    more: str = ""  #: further settings of the training

    def overrides(self, steps: int) -> list[str]:
        """As `ratchet run recipes/grpo_countdown.yaml` takes them."""
        rounds = steps // self.steps if self.fresh else 0
        more = self.more + (CARRIED.format(rounds=rounds) if rounds else "")
        asked = f", problems: {self.problems}" if not self.fresh else ""
        draw = DRAW.format(asked=asked)
        if self.negatives:
            rows = GAIN
            count = f", minibatches: {self.steps}" if self.fresh else f", batch_size: {MIXED}, steps: {steps}"
            learn = GRPO.format(rate=self.rate, more=count + more)
        else:
            rows = RIGHT.format(mix=self.mix)
            learn = SFT.format(
                rate=self.rate, size=self.size, steps=self.steps if self.fresh else steps, more=more
            )
        stages = f"{{{draw}, {rows}, {learn}}}" if self.problems else "{}"
        return [
            f"rounds={rounds}",
            f"problems_per_round={self.problems or 1}",
            "models={policy: {base: 'seed://countdown', restart_from: previous, lora: {r: 32, "
            "lora_alpha: 64}}}",
            f"before={'{}' if self.fresh else stages}",
            f"stages={stages if self.fresh else '{}'}",
            "finally={dev: {evaluate: accuracy, of: policy, split: dev, samples: 1}}",
            "task.test=1",
        ]


ARMS = {
    "seed": Arm("the seed policy", fresh=False, problems=0),
    "fresh": Arm("fresh, with negatives (GRPO)"),
    "fixed": Arm("fixed, with negatives (GRPO)", fresh=False, problems=2000),
    "fixed_6e3": Arm("fixed, with negatives (GRPO), 6e-3", fresh=False, problems=2000, rate="6e-3"),
    "fresh_right": Arm("fresh, right ones alone", negatives=False),
    "fixed_right": Arm("fixed, right ones alone", negatives=False, fresh=False, problems=2000),
    "fresh_right_6e3": Arm("fresh, right ones alone, 6e-3", negatives=False, rate="6e-3"),
    "fixed_right_6e3": Arm(
        "fixed, right ones alone, 6e-3", negatives=False, fresh=False, problems=2000, rate="6e-3"
    ),
    "pooled_right_6e3": Arm(
        "fresh, right ones of all rounds, 6e-3", negatives=False, rate="6e-3", mix="all_rounds"
    ),
    "refill": Arm("fresh, groups refilled (192 problems)", problems=192),
    "entropy": Arm("fresh, entropy bonus .05", more=", entropy_bonus: 0.05"),
    "reuse": Arm("ten steps on each 640 problems' samples", problems=640, steps=10),
}  # fmt: skip


def blind(trace: Trace) -> bool:
    """Does it add up all the numbers, whatever the target is?"""
    signs = SIGN.findall(trace.text)
    return bool(signs) and len(signs) == len(trace.steps) and set(signs) == {"+"}


def shares(found: Iterable[tuple[Trace, bool]]) -> tuple[float, float, float]:
    """(right, target-blind, target-blind among the right ones), in percent."""
    rows = [(right, blind(trace)) for trace, right in found]
    among = [sum_ for right, sum_ in rows if right]
    return _percent([r for r, _ in rows]), _percent([b for _, b in rows]), _percent(among)


def _percent(found: list[bool]) -> float:
    return 100 * sum(found) / len(found) if found else math.nan


def drawn(run: Run, number: int) -> list[tuple[Trace, bool]]:
    """What a round drew, with the outcome's word on each; [] where it has none yet."""
    if not any(stage.name == "sample" for stage in run.stages_in(number)):
        return []
    sample, check = (run.stage_folder(run.recipe.stage(name), number) for name in ("sample", "check"))
    if check.manifest() is None:
        return []
    right = {row.trace_id: bool(row.correct) for row in check.read(Label)}
    return [(trace, right[trace.id]) for trace in sample.read(Trace)]


def curve(arm: Arm, seed: int, run: Run, every: int) -> list[str]:
    """What the run drew, a line each `every` rounds: right, target-blind, of the right ones, nats a token."""
    lines = []
    for number in range(0, run.recipe.rounds + 1):
        found = drawn(run, number) if number <= 1 or number % every == 0 else []
        if found:
            nats = -sum(sum(t.logprobs) for t, _ in found) / sum(len(t.logprobs) for t, _ in found)
            right, sums, among = shares(found)
            lines.append(
                f"| {arm.says} | {seed} | {number} | {right:.1f} | {sums:.0f} | {among:.0f} | {nats:.3f} |"
            )
    return lines


def line(arm: Arm, seed: int, run: Run) -> str:
    """An arm's line of the table."""
    folder = run.stage_folder(run.recipe.stage("dev"), run.recipe.rounds)
    right = {row.trace_id: bool(row.correct) for row in folder.read(Label) if row.labeller == GOLD}
    traces = [(trace, right[trace.id]) for trace in folder.read(Trace) if trace.id in right]
    greedy = shares(one for one in traces if one[0].temperature == 0)
    sampled = shares(one for one in traces if one[0].temperature != 0)
    numbers = (1, run.recipe.rounds) if run.recipe.rounds else (0,)
    shown = " -> ".join(f"{shares(found)[2]:.0f}" for number in numbers if (found := drawn(run, number)))
    cells = [
        f"{greedy[0]:.1f}",
        f"{greedy[1]:.0f}",
        f"{sampled[0]:.1f}",
        *(f"{one:.0f}" for one in sampled[1:]),
    ]
    return f"| {arm.says} | {seed} | {' | '.join(cells)} | {shown} |"


HEAD = (
    "| arm | seed | greedy | target-blind | sampled | target-blind | of the right ones "
    "| of the right ones shown |"
)


DRAWN = "| arm | seed | round | right | target-blind | of the right ones | nats a token |"


def finished(name: str, arm: Arm, seed: int, space: Workspace, asked: argparse.Namespace) -> Run | None:
    """The complete run of an arm; made, or gone on with, unless only ready ones are wanted."""
    there = (space.data / name / "recipe.yaml").is_file()
    if not there or not run_status(name, space)["complete"]:
        if asked.ready:
            return None
        changes = [*arm.overrides(asked.steps), f"seed={seed}", "wandb.mode=disabled"]
        with session(
            load(ROOT / "recipes/grpo_countdown.yaml", changes, name), Console(), Processes(), space
        ) as run:
            run_loop(run)
    return open_run(name, space)


def main() -> None:
    """Make what is absent, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="gradient steps of each arm")
    parser.add_argument("--curve", type=int, metavar="ROUNDS", help="what runs drew, every so many rounds")
    parser.add_argument("--ready", action="store_true", help="of the runs that are complete already")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    asked = parser.parse_args()
    space = Workspace(asked.data, asked.checkpoints)
    head = DRAWN if asked.curve else HEAD
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for seed in asked.seeds:
        for name in asked.arms:
            called = f"bare-{name}-s{seed}"
            if asked.curve:
                if (space.data / called / "recipe.yaml").is_file():
                    lines += curve(ARMS[name], seed, open_run(called, space), asked.curve)
            elif (run := finished(called, ARMS[name], seed, space, asked)) is not None:
                lines.append(line(ARMS[name], seed, run))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
