"""The claims about guided search: from what the runs answered to figures, intervals and tables.

`claims_search.py` brings the answers, `claims_rows.py` has the verdicts, `claims.py` writes the document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from claims_rows import Row
from numpy.typing import NDArray

from pipeline.evaluate.intervals import Ratio, best_at, pass_at, percentile95, resample
from pipeline.evaluate.ranking import Points, Ranking

Grid = NDArray[np.float64]  #: [seeds, problems]

MCTS, SNELL, SHEPHERD, COBBE, CONSISTENCY = (
    "2406.03816",
    "2408.03314",
    "2312.08935",
    "2110.14168",
    "2203.11171",
)
RULES = ("last", "min", "prod")


@dataclass
class Evidence:
    """What was asked and answered, seed by seed: `seeds[s][what][column]` has one entry a problem."""

    sizes: list[int]
    voters: int
    more: int  #: problems of the second ReST-EM run
    seeds: list[dict[str, dict[str, list[Any]]]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  #: policy tokens that each guided run wrote

    def grid(self, what: str, column: str = "right") -> Grid:
        return np.array([answers[what][column] for answers in self.seeds], dtype=np.float64)

    def best(self, numbers: Sequence[float], rule: str = "last") -> Grid:
        """Best of N by the reward model, N a seed; a broken N lies between its neighbours."""
        rows = []
        for answers, number in zip(self.seeds, numbers, strict=True):
            pool = answers["pool"]
            pairs = list(zip(pool[f"score/{rule}"], pool["right"], strict=True))
            low = int(number)
            row = np.array([best_at(scores, right, low) for scores, right in pairs])
            if number > low:
                row += (number - low) * (np.array([best_at(s, r, low + 1) for s, r in pairs]) - row)
            rows.append(row)
        return np.array(rows)

    def solved(self, number: int) -> Grid:
        """pass@N."""
        return np.array(
            [[pass_at(len(r), sum(r), number) for r in answers["pool"]["right"]] for answers in self.seeds]
        )

    def equal(self, what: str) -> list[float]:
        """How many samples cost as many policy tokens as a search did, a seed."""
        spent, sample = self.grid(what, "tokens").sum(1), self.grid("pool", "tokens").sum(1)
        return [float(n) for n in np.clip(spent / sample, 1, self.sizes[-1])]


@dataclass(frozen=True)
class Contrast:
    """One line of the table: `after` is claimed to be above `before`."""

    claim: str
    source: str
    names: tuple[str, str]
    after: Grid
    before: Grid

    @property
    def figures(self) -> tuple[float, float, float]:
        """(difference, low, high): the mean over seeds on each problem, resampled over problems."""
        change = (self.after - self.before).mean(0)
        statistic = Ratio(change, np.ones_like(change))
        low, high = percentile95(statistic.spread(resample(len(change))))
        return statistic.value, low, high

    def kept(self, command: str) -> Row:
        """As `claims_rows.py` keeps it, in points."""
        difference, low, high = (round(100 * value, 4) for value in self.figures)
        return Row(
            paper=self.source,
            says=self.claim,
            names=list(self.names),
            values=[round(100 * float(grid.mean()), 4) for grid in (self.after, self.before)],
            difference=difference,
            low=low,
            high=high,
            by_seed=[round(100 * float(value), 4) for value in (self.after - self.before).mean(1)],
            problems=self.after.shape[1],
            by="search",
            command=command,
        )


def named(found: Evidence, method: str) -> list[str]:
    """The searches of a method, smallest budget first."""
    return [what for what in found.seeds[0] if what.startswith(f"{method} ")]


def against_best(found: Evidence, what: str, name: str, source: str) -> Contrast:
    """A search against best of N by the same reward model, N as many samples as cost the same tokens."""
    numbers = found.equal(what)
    given = what.partition(" ")[2]
    claim = f"{name} ({given}) beats best of N at equal tokens (N = {np.mean(numbers):.1f})"
    return Contrast(claim, source, (name, "best of N"), found.grid(what), found.best(numbers))


def claims(found: Evidence) -> list[Contrast]:
    """Every claim of the list, in its order."""
    em = "ReST-MCTS* beats ReST-EM after as many rounds and generated tokens, "
    guided, names = found.grid("guided"), ("ReST-MCTS*", "ReST-EM")
    rows = [Contrast(em + "same problems", MCTS, names, guided, found.grid("plain"))]
    if "plain/more" in found.seeds[0]:
        more = f"{found.more:,} problems for ReST-EM"
        rows.append(Contrast(em + more, MCTS, names, guided, found.grid("plain/more")))
    rows += [against_best(found, what, "MCTS*", MCTS) for what in named(found, "mcts_star")]
    rows += votes(found)
    rows += [against_best(found, what, "beam", SNELL) for what in named(found, "beam")]
    return rows + rising(found)


def votes(found: Evidence) -> list[Contrast]:
    """Weighted, majority and greedy; the last step's score against the least and the product."""
    k, by_last = found.voters, found.grid("pool", f"weighted/{found.voters}")
    majority = found.grid("pool", f"majority/{k}")
    names = ("weighted", "majority"), ("majority", "greedy")
    rows = [
        Contrast(
            f"a vote weighted by the PRM beats the majority of {k}", SHEPHERD, names[0], by_last, majority
        ),
        Contrast(f"the majority of {k} beats greedy", CONSISTENCY, names[1], majority, found.grid("greedy")),
    ]
    every = [float(k)] * len(found.seeds)
    for rule, word in (("min", "least"), ("prod", "product")):
        claim, pair = f"the last step's score beats the {word}, ", ("last", word)
        other = found.grid("pool", f"weighted/{rule}/{k}")
        rows.append(Contrast(f"{claim}weighted vote of {k}", SNELL, pair, by_last, other))
        rows.append(Contrast(f"{claim}best of {k}", SNELL, pair, found.best(every), found.best(every, rule)))
    return rows


def rising(found: Evidence) -> list[Contrast]:
    """Best of N at the whole pool against one sample, and against a quarter of the pool."""
    top, rows = found.sizes[-1], []
    for few in (1, max(1, top // 4)):
        claim = f"best of N by the PRM rises with N, from {few} to {top}"
        many, one = ([float(n)] * len(found.seeds) for n in (top, few))
        rows.append(Contrast(claim, COBBE, (f"of {top}", f"of {few}"), found.best(many), found.best(one)))
    return rows


def curve(found: Evidence) -> list[str]:
    """Accuracy against N, a line a way to choose: means over seeds."""
    lines = ["| N | " + " | ".join(map(str, found.sizes)) + " |", "|---" * (len(found.sizes) + 1) + "|"]

    def line(name: str, of: Callable[[int], Grid]) -> None:
        lines.append(f"| {name} | " + " | ".join(f"{100 * of(n).mean():.1f}" for n in found.sizes) + " |")

    for rule in RULES:
        line(f"best of N by the PRM, {rule}", lambda n, rule=rule: found.best([n] * len(found.seeds), rule))
    line("weighted vote, last", lambda n: found.grid("pool", f"weighted/{n}"))
    line("majority", lambda n: found.grid("pool", f"majority/{n}"))
    line("any of N is right", found.solved)
    return lines


def costs(found: Evidence) -> list[str]:
    """What each search wrote and read for a problem, means over seeds and problems."""
    lines = [
        "| search | accuracy | tokens written | tokens read by the PRM | as many samples |",
        "|---|---|---|---|---|",
    ]
    for what in [*named(found, "mcts_star"), *named(found, "beam")]:
        right, written, seen = (found.grid(what, column).mean() for column in ("right", "tokens", "read"))
        samples = np.mean(found.equal(what))
        lines.append(f"| {what} | {100 * right:.1f} | {written:.0f} | {seen:.0f} | {samples:.1f} |")
    return lines


def judge(found: Evidence) -> list[str]:
    """What the models know, by seed. AUC of the PRM: first steps by the oracle, whole samples by outcome; and
    among those of one problem, which is what a search chooses between.
    """
    lines = [
        "| seed | greedy | sampled | AUC, first step | in one problem | AUC, whole sample | in one problem |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, answers in enumerate(found.seeds):
        pool = answers["pool"]
        known = [
            f"{auc(pool[scores], pool[truth], apart):.3f}"
            for scores, truth in (("first/score", "first/true"), ("score/last", "right"))
            for apart in (False, True)
        ]
        plain, sampled = np.mean(answers["greedy"]["right"]), np.mean([np.mean(r) for r in pool["right"]])
        lines.append(f"| {seed} | {100 * plain:.1f} | {100 * sampled:.1f} | {' | '.join(known)} |")
    return lines


def auc(scores: Sequence[Sequence[float]], truths: Sequence[Sequence[bool]], apart: bool) -> float:
    """Among what has a score; over all problems together, or over pairs within a problem."""
    found = [
        (score, bool(true), problem)
        for problem, (row, truth) in enumerate(zip(scores, truths, strict=True))
        for score, true in zip(row, truth, strict=True)
        if np.isfinite(score)
    ]
    score = np.array([point[0] for point in found], dtype=np.float64)
    true = np.array([point[1] for point in found], dtype=bool)
    where = np.array([point[2] for point in found], dtype=np.int64)
    points = Points(score, true, np.zeros_like(where), score, where)
    return Ranking(points, where if apart else np.zeros_like(where)).value


def tables(found: Evidence, settings: str) -> list[str]:
    """What stands beside the claims about search in the document."""
    return [
        f"## Guided search on countdown: accuracy against N\n\n{settings}\n\n" + "\n".join(curve(found)),
        "## What the searches cost a problem\n\n" + "\n".join(costs(found)),
        "## What the models know\n\n" + "\n".join(judge(found)),
        "Policy tokens that each ReST-MCTS* run wrote, and so the budget of the ReST-EM run beside it: "
        + ", ".join(f"{tokens:,}" for tokens in found.tokens) + ".",
    ]  # fmt: skip
