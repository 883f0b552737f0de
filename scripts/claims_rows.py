"""What was measured of a claim, its verdict, the files it is kept in, and docs/claims.md.

A row is a difference between two arms: paired over problems (the mean of the seeds on each problem, resampled
over problems), or, of numbers that only a whole run has, one difference a seed. Rows are kept in
`claims/measured/`, so that the document can be written again without a run; `claims.py` makes them.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from pipeline.errors import RecipeError
from pipeline.store.disk import DISK

KEPT = "<!-- what follows is written by hand and kept -->"
ENOUGH = 3  #: seeds that must agree where there is no interval
Wants = Literal["higher", "lower"] | dict[str, float]  #: the first arm against the second; {same: points}
HOLDS, OTHER, DIFFERS, UNTOLD = (
    "holds",
    "does not hold: the other way round",
    "does not hold",
    "not told apart",
)


@dataclass(frozen=True)
class Row:
    """One claim as measured. Figures are in `unit`; `difference` is the first arm less the second."""

    paper: str
    says: str
    names: list[str]
    values: list[float | None]  #: the mean over seeds, an arm each
    difference: float
    wants: Wants = "higher"
    where: str = ""  #: of the paper
    low: float | None = None
    high: float | None = None
    by_seed: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    problems: int | None = None
    unit: str = "points"
    zero: float = 0.0  #: what the difference is held against; 1 where it is a ratio
    by: str = (
        "runs"  #: runs: by claims.py from claims/; search, labels: by those scripts; hand: as noted there
    )
    command: str = ""
    fingerprint: str = ""  #: of the recipes and the arms; "" where nobody can tell
    note: str = ""
    parts: int = 1  #: measurements, of other seeds each, that were joined (`joined`)
    #: by `recipe: stage` of an arm whose rows hold critiques: the share of the right answers that they pass,
    #: of the wrong ones, and how many verdicts that is
    critics: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """What the interval says of the claim; without one, what every seed says. Nothing is told where the
        trainings contradict one another."""
        if self.torn:
            return UNTOLD
        same = self.wants["same"] if isinstance(self.wants, dict) else None
        if self.low is not None and self.high is not None:
            low, high = self.low - self.zero, self.high - self.zero
        elif len(self.by_seed) >= ENOUGH:
            low, high = min(self.by_seed) - self.zero, max(self.by_seed) - self.zero
        else:
            return UNTOLD
        if same is not None:
            within, beyond = -same <= low and high <= same, low > same or high < -same
            return HOLDS if within else DIFFERS if beyond else UNTOLD
        if self.wants == "lower":
            low, high = -high, -low
        return HOLDS if low > 0 else OTHER if high < 0 else UNTOLD

    @property
    def torn(self) -> bool:
        """Do the seeds lie on both sides, and twice as far apart as their problems explain? The interval is
        over problems, and knows nothing of another training."""
        if self.low is None or self.high is None or len(self.by_seed) < 2:
            return False
        own = (self.high - self.low) / (2 * 1.96) * math.sqrt(len(self.by_seed))  # a seed's, of its problems
        return min(self.by_seed) < self.zero < max(self.by_seed) and stdev(self.by_seed) > 2 * own

    def line(self, older: bool = False) -> str:
        """Its line of the table."""
        digits = 1 if self.unit == "points" else 2
        sign = "+" if self.zero == 0 else ""
        share = " %" if self.unit == "points" else ""
        arms = ", ".join(
            f"{name} {value:,.{digits}f}{share}" if value is not None else name
            for name, value in zip(self.names, self.values, strict=True)
        )
        difference = f"{self.difference:{sign},.{digits}f}"
        if self.low is not None and self.high is not None:
            difference += f" ({self.low:{sign},.{digits}f} to {self.high:{sign},.{digits}f})"
        if self.unit != "points":
            difference += f" {self.unit}"
        each = ", ".join(f"{one:{sign},.{digits}f}" for one in self.by_seed)
        seeds = each if len(self.by_seed) > 1 else "1 seed"
        marks = [
            *(["by hand"] if self.by == "hand" else []),
            *([f"in {self.parts} parts"] if self.parts > 1 else []),
            *(["seeds contradict one another"] if self.torn else []),
            *(["an older recipe's"] if older else []),
        ]
        verdict = self.verdict + (f" ({', '.join(marks)})" if marks else "")
        says = self.says + (f" ({self.where})" if self.where else "")
        return f"| {says} | {arms} | {difference} | {seeds} | {verdict} |"


def joined(old: Row, new: Row) -> Row:
    """Two measurements of one claim on other seeds, as one: figures weigh by their seeds. The interval is the
    mean of theirs, so weighed: as wide as if problems moved both alike, which is the widest that it can be.

    Raises:
        ValueError: they share a seed, or are of other recipes, problems or units, and so no one claim's.
    """
    alike = ("paper", "says", "names", "wants", "problems", "unit", "zero", "fingerprint")
    if other := [name for name in alike if getattr(old, name) != getattr(new, name)]:
        raise ValueError(f"{old.says}: two measurements that differ in {', '.join(other)}")
    if shared := sorted(set(old.seeds) & set(new.seeds)):
        raise ValueError(f"{old.says}: both measured seed {', '.join(map(str, shared))}")
    n, m = len(old.seeds), len(new.seeds)

    def mean(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else round((n * a + m * b) / (n + m), 4)

    by_seed = dict(zip((*old.seeds, *new.seeds), (*old.by_seed, *new.by_seed), strict=True))
    critics = {**old.critics, **new.critics}
    for name in set(old.critics) & set(new.critics):
        both = list(zip(old.critics[name], new.critics[name], strict=True))
        critics[name] = [*(round((n * a + m * b) / (n + m), 4) for a, b in both[:2]), sum(both[2])]
    return replace(
        new,
        values=[mean(a, b) for a, b in zip(old.values, new.values, strict=True)],
        difference=round(sum(by_seed.values()) / (n + m), 4),
        low=mean(old.low, new.low),
        high=mean(old.high, new.high),
        by_seed=[by_seed[seed] for seed in sorted(by_seed)],
        seeds=sorted(by_seed),
        parts=old.parts + new.parts,
        critics=critics,
    )


def read_rows(path: Path) -> list[Row]:
    """What a file in claims/measured/ holds; nothing where it is not there.

    Raises:
        RecipeError: it is no list of rows.
    """
    return [row_of(each, str(path)) for each in _plain(path).get("rows", [])]


def read_tables(path: Path) -> list[str]:
    """Markdown beside a file's rows: curves and costs that belong to them."""
    return list(_plain(path).get("tables", []))


def _plain(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON: {error}; remove it and measure again") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{path}: a map with `rows`, this is {type(found).__name__}")
    return found


def row_of(given: Mapping[str, Any], where: str) -> Row:
    """A row from plain data.

    Raises:
        RecipeError: a key is missing or unknown.
    """
    known = {one.name for one in fields(Row)}
    if unknown := sorted(set(given) - known):
        raise RecipeError(f"{where}: {given.get('says', '?')}: unknown key {', '.join(unknown)}")
    try:
        return Row(**given)
    except TypeError as error:
        raise RecipeError(f"{where}: {given.get('says', '?')}: {error}") from None


def write_rows(path: Path, rows: Sequence[Row], tables: Sequence[str] = ()) -> None:
    """The file, a row a line, keys at their default left out."""
    defaults = {one.name: one.default for one in fields(Row)}
    plain = [
        {key: value for key, value in asdict(row).items() if value != defaults[key] and value not in ([], {})}
        for row in rows
    ]
    parts = {"rows": plain} | ({"tables": list(tables)} if tables else {})
    lines = (
        f'"{name}": [\n' + ",\n".join(json.dumps(one, ensure_ascii=False) for one in found) + "\n]"
        for name, found in parts.items()
    )
    DISK.write(path, ("{" + ",\n".join(lines) + "}\n").encode())


def script_arguments(doc: str | None, kept: Path) -> ArgumentParser:
    """What a script that measures claims of its own takes: where runs and rows lie, which seeds."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--set", nargs="+", default=(), help="key.sub=value for the runs that are made")
    parser.add_argument("--to", type=Path, default=kept)
    return parser


# -- the document

HEAD = """# Claims

What the papers claim, tried here by `make claims`; `make claims ONLY=2312.08935`, or a method's name, tries
one paper's. What is held against what, and by which recipe, stands in `claims/`. A difference is paired over
problems: the mean of the seeds on each problem, with a 95 % bootstrap interval over problems, then each
seed's own. A claim *holds* where the interval lies on its side of 0, or, where no difference is claimed,
within the bound. Where there is no interval, three seeds must agree; where seeds lie on both sides, twice as
far apart as their problems explain, nothing is told. *1 seed*: one training, of which the
interval over problems says nothing about another. Behind a claim stands its place in the paper, where known;
some are controls of ours.
*By hand*: measured by the command under the table in an earlier session; *in 2 parts*: some seeds later than
others, when the first ones' runs were gone. The interval of both is the mean of the parts' own, which is the
wider one.

"""
TABLE = "| claim | here | difference (95 %) | by seed | verdict |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Paper:
    """What the document says of a paper. waiting: its claims that were never measured."""

    id: str
    title: str
    rows: list[tuple[Row, bool]]  #: and whether the recipe is another by now
    waiting: list[str]

    @property
    def link(self) -> str:
        return f"[{self.id}](https://arxiv.org/abs/{self.id})"

    def count(self, *verdicts: str) -> int:
        return sum(row.verdict in verdicts for row, _ in self.rows)


def summary(papers: Sequence[Paper]) -> str:
    """How many claims of how many papers were tested, and what came of them; then a line a paper."""
    tested = [paper for paper in papers if paper.rows]
    rows = [row for paper in papers for row, _ in paper.rows]
    kinds = ((HOLDS,), (OTHER, DIFFERS), (UNTOLD,))
    hold, do_not, untold = (sum(paper.count(*kind) for paper in papers) for kind in kinds)
    waiting = sum(len(paper.waiting) for paper in papers)
    few = sum(len(row.seeds or row.by_seed) < ENOUGH for row in rows)
    said = (
        f"**{len(rows)} claims of {len(tested)} papers were tested: {hold} hold, {do_not} do not, {untold} "
        f"are not told apart.** {len(rows) - few} rest on three seeds or more, {few} on fewer. {waiting} "
        "more are described in `claims/` and not measured yet."
    )
    lines = ["| paper | tested | hold | do not | not told apart | waiting |", "|---|---|---|---|---|---|"]
    for paper in papers:
        numbers = [len(paper.rows), *(paper.count(*kind) for kind in kinds), len(paper.waiting)]
        cells = " | ".join(str(number) if number else "" for number in numbers)
        lines.append(f"| {paper.link} {paper.title} | {cells} |")
    return said + "\n\n" + "\n".join(lines)


def section(paper: Paper) -> str:
    """A paper's table, the commands that measured it, and what waits."""
    parts = [f"### {paper.title} ({paper.link})"]
    if paper.rows:
        parts.append("\n".join([TABLE, *(row.line(older) for row, older in paper.rows)]))
        parts += [f"{row.says}: {row.note}" for row, _ in paper.rows if row.note]
        parts += critics_line([row for row, _ in paper.rows])
        commands = dict.fromkeys(row.command for row, _ in paper.rows if row.command)
        parts.append("Measured by " + "; ".join(f"`{command}`" for command in commands) + ".")
    if paper.waiting:
        parts.append("Not measured yet: " + "; ".join(paper.waiting) + ".")
    return "\n\n".join(parts)


def critics_line(rows: Sequence[Row]) -> list[str]:
    """How true the critics were whose word these rows' arms went by, on the answers that they saw there."""
    found = {(name, tuple(figures)) for row in rows for name, figures in row.critics.items()}
    said = [
        f"`{name}` {(recall + 1 - false) / 2:.2f} ({100 * recall:.0f}, {100 * false:.0f} %; {verdicts:,.0f})"
        for name, (recall, false, verdicts) in sorted(found)
    ]
    if not said:
        return []
    return [
        "The critics' balanced accuracy in these arms (right answers that pass, wrong ones that do; "
        f"verdicts): {', '.join(said)}."
    ]


def document(papers: Sequence[Paper], tables: Iterable[str], old: str) -> str:
    """docs/claims.md; what stands below the mark in the old one is kept."""
    parts = [
        HEAD.rstrip(),
        summary(papers),
        "## By paper",
        *(section(paper) for paper in papers),
        *tables,
        KEPT + (old.partition(KEPT)[2] if KEPT in old else "\n"),
    ]
    return "\n\n".join(parts).rstrip() + "\n"
