"""manifest.json: the sidecars of a stage one after another, their totals, and the stage's metrics. Written
last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.rows import KINDS
from pipeline.store.documents import hash_file, unseal
from pipeline.store.parts import kind_name
from pipeline.store.plan import Plan


def build(plan: Plan, sidecars: list[dict[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
    """The document of a manifest. It does not hold the run's name: equal work gives equal manifests."""
    rows: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    for sidecar in sidecars:
        rows.update(sidecar["counts"]["rows"])
        dropped.update(sidecar["counts"]["dropped"])
        counters.update(sidecar["counters"])
    return {
        "round": plan.round,
        "stage": plan.stage,
        "room": plan.room,
        "method": plan.method,
        "main": plan.main,
        "fingerprint": plan.fingerprint,
        "counts": {
            "rows": {kind: rows[kind] for kind in KINDS if kind in rows},
            "dropped": dict(sorted(dropped.items())),
        },
        "counters": dict(sorted(counters.items())),
        "extra": extra,
        "chunks": sidecars,
    }


@dataclass(frozen=True)
class Counts:
    """What a chunk or a stage counted."""

    rows: dict[str, int]  #: by kind
    dropped: dict[str, int]  #: Dropped rows by reason
    counters: dict[str, int]  #: free counters: "read", "named", charged tokens

    @classmethod
    def of(cls, document: dict[str, Any]) -> Counts:
        return cls(document["counts"]["rows"], document["counts"]["dropped"], document["counters"])


@dataclass(frozen=True)
class Sidecar:
    """One chunk that is done."""

    chunk: int
    counts: Counts
    parts: list[dict[str, Any]]  #: {file, kind, rows, bytes, sha256}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Sidecar:
        return cls(document["chunk"], Counts.of(document), document["parts"])


@dataclass(frozen=True)
class Manifest:
    """A committed stage."""

    path: Path
    hash: str  #: SHA-256 of the file; what the next stage's plan remembers
    fingerprint: str
    counts: Counts  #: totals over the chunks
    extra: dict[str, Any]  #: the stage's metrics
    chunks: list[dict[str, Any]]  #: the sidecars' documents, in order

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            DamagedData: it is empty, edited, or not a manifest.
        """
        document = unseal(path)
        try:
            return cls(
                path=path,
                hash=hash_file(path),
                fingerprint=document["fingerprint"],
                counts=Counts.of(document),
                extra=document["extra"],
                chunks=document["chunks"],
            )
        except KeyError as error:
            raise DamagedData(f"{path} is not a manifest: no {error}. Run `verify RUN --repair`.") from error

    def rows(self, kind: type | str) -> int:
        """How many rows of a kind the stage committed."""
        return self.counts.rows.get(kind_name(kind), 0)

    @property
    def kinds(self) -> list[str]:
        """The kinds that have rows."""
        return list(self.counts.rows)
