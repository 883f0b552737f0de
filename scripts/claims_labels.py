"""A claim about step labels, tried on countdown: OmegaPRM finds the first error in O(log M).

    python scripts/claims_labels.py                       # three seeds; what is absent is made first
    python scripts/claims_labels.py --traces 20           # smaller

One wrong completion of each problem that the policy sometimes solves is cut into M pieces of equal length
and searched for its first error twice: by OmegaPRM's binary search (`label/omega`), and by brute force, which
asks for roll-outs of every border. Draws are named by prefix, so both see the same roll-outs, and where the
values along a completion fall to 0 once, both find the same place. Tokens are those charged: all that the way
has to write by itself. Intervals are a bootstrap over completions. What a seed measured is kept in
data/claims/, so that an interrupted start goes on; the rows go to claims/measured/labels.json.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

from claims_rows import Row, script_arguments, write_rows  # noqa: E402  the environment comes first

from pipeline.asks import Asks, Cut, MonteCarlo, Prefix, prefix_of  # noqa: E402
from pipeline.evaluate.intervals import percentile95, resample  # noqa: E402
from pipeline.label import omega  # noqa: E402
from pipeline.label._prefixes import ValuedPrefix, ValuedPrefixes  # noqa: E402
from pipeline.label.outcome import verdict  # noqa: E402
from pipeline.loop import run_loop  # noqa: E402
from pipeline.processes.group import Processes  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.recipe.shape import fingerprint  # noqa: E402
from pipeline.report.console import Console  # noqa: E402
from pipeline.rows import Trace  # noqa: E402
from pipeline.run.run import Run  # noqa: E402
from pipeline.run.session import session  # noqa: E402
from pipeline.stages.work import engine_of, make_search  # noqa: E402
from pipeline.store.disk import DISK  # noqa: E402
from pipeline.store.workspace import Workspace  # noqa: E402

RECIPE = "omega_countdown"
PIECES = (4, 8, 16)
WAYS = ("search", "brute")


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    data: Path
    checkpoints: Path
    traces: int
    n: int
    seeds: tuple[int, ...]
    change: tuple[str, ...]  #: key.sub=value of the runs that write the completions


@dataclass(frozen=True)
class Found:
    """One completion searched one way: the tokens charged, and the first border whose value is 0 (the number
    of pieces where only the end is)."""

    tokens: int
    first: int


def searched(whole: Prefix, pieces: int, n: int) -> Asks[int]:
    """The binary search's first border without a right roll-out."""
    settings = omega.Settings(n=n, pieces=pieces, split="tokens")
    places = ValuedPrefixes()
    start = ValuedPrefix(Prefix(prompt=whole.prompt), 0.5)
    yield from omega.search(omega.RolloutCandidate(start, whole), places, settings)
    lost = {place.num_tokens for place in places if place.value == 0}
    borders = omega.borders(whole, 0, settings)
    return next((k for k, border in enumerate(borders) if border in lost), len(borders))


def brute(whole: Prefix, pieces: int, n: int) -> Asks[int]:
    """The same by roll-outs of every border; -1 where a border after the first lost one is not lost."""
    settings = omega.Settings(n=n, pieces=pieces, split="tokens")
    borders = omega.borders(whole, 0, settings)
    prefixes = yield Cut(whole, at=borders, by="policy")
    counts = yield MonteCarlo(prefixes, by="policy", n=n)
    sound = [count.num_correct > 0 for count in counts]
    first = sound.index(False) if False in sound else len(borders)
    return -1 if any(sound[first:]) else first


def completions(run: Run, number: int, n: int) -> list[Trace]:
    """The first wrong completion of each problem that is sometimes solved, at most so many: by the traces of
    the run's own sample stage, and n roll-outs of the question."""
    stage = run.recipe.stage("sample")
    wrong: dict[str, Trace] = {}
    for trace in run.stage_folder(stage, 0).read(Trace):
        problem = run.problems[trace.problem_id]
        right, why = verdict(trace, problem, run.task_of(problem))
        if not right and why != "truncated" and len(trace.token_ids) > max(PIECES):
            wrong.setdefault(trace.problem_id, trace)

    def share(trace: Trace) -> Asks[float]:
        [found] = yield MonteCarlo(Prefix(prompt=trace.prompt), by="policy", n=n)
        return found.share

    kept = {name for name, found, _ in drive(run, wrong, share) if 0 < found < 1}
    return [trace for name, trace in wrong.items() if name in kept][:number]


def drive(
    run: Run, traces: dict[str, Trace], asks_of: Callable[[Trace], Any]
) -> Iterator[tuple[str, Any, int]]:
    """(problem id, what came of it, tokens charged) for each completion."""
    from pipeline.engine.driver import Driver

    weights = run.versions.base_weights("policy")

    def is_right(problem_id: str, prefix: Prefix) -> bool:
        problem = run.problems[problem_id]
        return run.task_of(problem).correct(prefix.answer, problem)

    driver = Driver(
        lambda name: engine_of(run, weights),
        run_seed=run.recipe.seed,
        round=0,
        stage="claims",
        is_right=is_right,
    )
    searches = (
        make_search(run.task_of(run.problems[name]), None, name, asks_of(trace))
        for name, trace in traces.items()
    )
    for done in driver.run(searches):
        yield done.problem_id, done.result, done.charged.get("policy", 0)


def measured(asked: Asked, seed: int) -> dict[str, list[dict[str, int]]]:
    """`search/8`, `brute/8`, ... -> the completions' figures, in one order."""
    name = f"claims_labels-s{seed}"
    recipe = load(
        ROOT / f"recipes/{RECIPE}.yaml", [f"seed={seed}", "wandb.mode=disabled", *asked.change], name
    )
    key = fingerprint([recipe.resolved()["task"], seed, asked.traces, asked.n, PIECES, list(asked.change)])
    place = asked.data / "claims" / f"labels-{key[:16]}.json"
    if not place.exists():
        start = time.monotonic()
        with session(recipe, Console(), Processes(), Workspace(asked.data, asked.checkpoints)) as run:
            run_loop(run, "sample")
            traces = {trace.problem_id: trace for trace in completions(run, asked.traces, 32)}
            found: dict[str, list[dict[str, int]]] = {}
            for way, act in zip(WAYS, (searched, brute), strict=True):
                for pieces in PIECES:
                    ends = {
                        name: {"tokens": tokens, "first": first}
                        for name, first, tokens in drive(
                            run, traces, lambda trace, act=act, m=pieces: act(prefix_of(trace), m, asked.n)
                        )
                    }
                    found[f"{way}/{pieces}"] = [ends[name] for name in traces]
        DISK.write(place, json.dumps(found).encode())
        print(f"  seed {seed}: {len(traces)} completions, {time.monotonic() - start:.0f} s", flush=True)
    return json.loads(place.read_text())


def table(seeds: Sequence[dict[str, list[dict[str, int]]]], n: int) -> str:
    """Markdown: a row for each M."""
    import numpy as np

    lines = [
        "| pieces M | log2 M | tokens, search | tokens, every border | ratio [95 %] | (M - 1) / log2 M | "
        "values fall once | same place then |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pieces in PIECES:
        search = [one for found in seeds for one in found[f"search/{pieces}"]]
        every = [one for found in seeds for one in found[f"brute/{pieces}"]]
        cheap, dear = (np.array([one["tokens"] for one in column], dtype=float) for column in (search, every))
        weights, less = resample(len(cheap)), (pieces - 1) / math.log2(pieces)
        low, high = percentile95((weights @ dear) / (weights @ cheap))
        once = [one["first"] >= 0 for one in every]
        same = [a["first"] == b["first"] for a, b in zip(search, every, strict=True) if b["first"] >= 0]
        agree = f"{sum(same)} of {len(same)}"
        lines.append(
            f"| {pieces} | {math.log2(pieces):.0f} | {cheap.mean():,.0f} | {dear.mean():,.0f} | "
            f"{dear.sum() / cheap.sum():.2f} [{low:.2f}, {high:.2f}] | {less:.2f} | "
            f"{sum(once) / len(once):.0%} | {agree} |"
        )
    return "\n".join(
        [f"{len(search)} wrong completions over {len(seeds)} seeds, {n} roll-outs a border.", "", *lines, ""]
    )


def rows(seeds: Sequence[dict[str, list[dict[str, int]]]], numbers: Sequence[int], command: str) -> list[Row]:
    """The claim for each M: how many times the tokens every border takes, over completions of all seeds."""
    import numpy as np

    found = []
    for pieces in PIECES:
        each = [
            [np.array([one["tokens"] for one in seed[f"{way}/{pieces}"]], dtype=float) for way in WAYS]
            for seed in seeds
        ]
        cheap, dear = (np.concatenate([pair[side] for pair in each]) for side in (0, 1))
        weights = resample(len(cheap))
        low, high = percentile95((weights @ dear) / (weights @ cheap))
        found.append(
            Row(
                paper="2406.06592",
                says=f"valuing every border takes more tokens than the binary search, M = {pieces}",
                where="O(log M)",
                names=["every border", "search"],
                values=[round(float(dear.mean()), 2), round(float(cheap.mean()), 2)],
                difference=round(float(dear.sum() / cheap.sum()), 4),
                low=round(low, 4),
                high=round(high, 4),
                by_seed=[round(float(pair[1].sum() / pair[0].sum()), 4) for pair in each],
                seeds=list(numbers),
                unit="times",
                zero=1.0,
                by="labels",
                command=command,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is absent and print the table."""
    parser = script_arguments(__doc__, ROOT / "claims" / "measured" / "labels.json")
    parser.add_argument("--traces", type=int, default=60, help="wrong completions a seed, at most")
    parser.add_argument("--n", type=int, default=8, help="roll-outs a border")
    given = parser.parse_args(arguments)
    asked = Asked(given.data, given.checkpoints, given.traces, given.n, tuple(given.seeds), tuple(given.set))
    seeds = [measured(asked, seed) for seed in asked.seeds]
    said = table(seeds, asked.n)
    print(said)
    command = f"python scripts/claims_labels.py --traces {asked.traces} --n {asked.n}"
    more = f" --set {' '.join(asked.change)}" if asked.change else ""
    write_rows(
        given.to,
        rows(seeds, asked.seeds, command + more),
        [f"## OmegaPRM's binary search against every border\n\n{said.strip()}"],
    )


if __name__ == "__main__":
    main()
