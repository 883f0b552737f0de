"""The papers' claims, tried here: `make claims` writes docs/claims.md.

    python scripts/claims.py                     # all; three seeds; runs that are absent are made first
    python scripts/claims.py --only 2312.08935   # a paper's, by its arXiv id or a method's name
    python scripts/claims.py --only search       # those about guided search (claims_search.py); also: labels
    python scripts/claims.py --kept              # make no run: what is complete, and the document again

What is held against what stands in claims/, a file a paper (`claims_files.py`); runs are ordinary ones in
data/, so that claims share them and an interrupted start goes on (`claims_runs.py`). What was measured is
kept in claims/measured/ (`claims_rows.py`): rows of papers not tried this time stay as they were, and rows
whose recipe is another by now say so. What stands in docs/claims.md below its mark is written by hand and
kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import claims_judge  # noqa: E402  the environment comes first
import claims_labels  # noqa: E402
import claims_search  # noqa: E402
from claims_files import Claims, chosen, read_all  # noqa: E402
from claims_rows import Paper, Row, document, joined, read_rows, read_tables, summary, write_rows  # noqa: E402
from claims_runs import Runs, measure_all  # noqa: E402

from pipeline.errors import RatchetError  # noqa: E402
from pipeline.store.disk import DISK  # noqa: E402
from pipeline.store.workspace import Workspace  # noqa: E402

#: claims that have a script of their own
PARTS = {"search": claims_search, "labels": claims_labels, "judge": claims_judge}


def kept_place(claims: Claims) -> Path:
    return claims.path.parent / "measured" / f"{claims.stem}.json"


def to_keep(old: Row | None, row: Row) -> Row:
    """Of two measurements of a claim the one that stands. Seeds that the older one of the same recipe has and
    the newer has not are joined to it, where no seed is in both; else the newer one takes the older's place
    unless that has a seed which it has not."""
    if old is None or old.fingerprint not in ("", row.fingerprint):
        return row
    if old.fingerprint == row.fingerprint and not set(old.seeds) & set(row.seeds):
        return joined(old, row)
    return row if set(old.seeds) <= set(row.seeds) else old


def try_one(runs: Runs, claims: Claims, seeds: Sequence[int]) -> None:
    """Measure a file's claims and keep their rows beside those that were not measured this time."""
    place = kept_place(claims)
    rows = {row.says: row for row in read_rows(place)}
    try:
        for row in measure_all(runs, claims, seeds):
            rows[row.says] = standing = to_keep(rows.get(row.says), row)
            print(standing.line(), flush=True)
    finally:  # what was measured before one that could not be
        if rows:
            write_rows(place, ordered(claims, rows.values()))


def ordered(claims: Claims, rows: Iterable[Row]) -> list[Row]:
    """In the order of the file; what it no longer claims, last."""
    said = [claim.says for claim in claims.file.claims]
    return sorted(rows, key=lambda row: said.index(row.says) if row.says in said else len(said))


def papers(files: Sequence[Claims], folder: Path) -> list[Paper]:
    """What is known of every paper, by its id. A title is its file's, and so is a claim's note."""
    found: dict[str, Paper] = {}
    for claims in files:
        found.setdefault(claims.file.paper, Paper(claims.file.paper, claims.file.title, [], []))
    for row in (row for part in PARTS for row in read_rows(folder / "measured" / f"{part}.json")):
        found.setdefault(row.paper, Paper(row.paper, "", [], [])).rows.append((row, False))
    for claims in files:
        paper, known = found[claims.file.paper], {c.says: claims.fingerprint(c) for c in claims.file.claims}
        notes = {claim.says: claim.note for claim in claims.file.claims}
        measured = [
            replace(row, note=notes.get(row.says) or row.note) for row in read_rows(kept_place(claims))
        ]
        for row in measured:
            current = known.get(row.says)
            paper.rows.append((row, bool(row.fingerprint) and row.fingerprint != current))
        done = {row.says for row in measured}
        paper.waiting.extend(says for says in known if says not in done)
    return [found[paper] for paper in sorted(found)]


def write_document(files: Sequence[Claims], folder: Path, to: Path) -> list[Paper]:
    """docs/claims.md from all that is kept."""
    known = papers(files, folder)
    tables = [text for part in PARTS for text in read_tables(folder / "measured" / f"{part}.json")]
    old = to.read_text(encoding="utf-8") if to.exists() else ""
    DISK.write(to, document(known, tables, old).encode())
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is absent, measure, keep the rows, write the document and print its summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a paper's id, a method's name, search, labels or judge")
    parser.add_argument("--kept", action="store_true", help="make no run; measure those that are complete")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--claims", type=Path, default=ROOT / "claims")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "claims.md")
    given = parser.parse_args(arguments)
    runs = Runs(Workspace(given.data, given.checkpoints), make=not given.kept)
    failed: list[RatchetError] = []
    try:
        files = read_all(given.claims)
        wanted = chosen(files, given.only, tuple(PARTS))
    except RatchetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for claims in wanted:
        try:
            try_one(runs, claims, given.seeds)
        except RatchetError as error:  # a paper's model or data may not be here: the others go on
            failed.append(error)
            print(f"{claims.stem}: {error}", file=sys.stderr, flush=True)
        write_document(files, given.claims, given.to)
    for name, part in PARTS.items():
        if not given.kept and given.only.lower() in ("", name):
            more = ["--data", str(given.data), "--checkpoints", str(given.checkpoints)]
            place = given.claims / "measured" / f"{name}.json"
            part.main([*more, "--seeds", *map(str, given.seeds), "--to", str(place)])
    print(summary(write_document(files, given.claims, given.to)))
    return failed[0].exit_code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
