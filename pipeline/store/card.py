"""README.md of a stage's folder: a header that lets `datasets.load_dataset(folder)` open it, and a few
lines for a reader.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.rows import KINDS
from pipeline.store.parts import FOLDERS
from pipeline.store.plan import Plan


def card(plan: Plan, kinds: Sequence[str] | None = None) -> str:
    """The card. kinds: those that have rows (at commit); None while nobody knows, and then all that may
    come are named.
    """
    possible = [
        kind
        for kind in KINDS
        if kind == plan.main or kinds is not None or kind in ("Trace", "Node", "Label", "Dropped")
    ]
    named = [kind for kind in possible if kinds is None or kind in kinds]
    lines = ["---", "configs:" if named else "configs: []"]
    for kind in sorted(named, key=lambda kind: kind != plan.main):
        main = kind == plan.main
        lines += [
            f"- config_name: {'default' if main else FOLDERS[kind]}",
            *(["  default: true"] if main else []),
        ]
        lines += [
            "  data_files:",
            "  - split: train",
            f'    path: "{"" if main else FOLDERS[kind] + "/"}train-*.parquet"',
        ]
    load = []
    for kind in named:
        config = "" if kind == plan.main else f', "{FOLDERS[kind]}"'
        load.append(f"    load_dataset(FOLDER{config})   # {kind} rows")
    return "\n".join(
        [
            *lines,
            "---",
            f"# {plan.run}, round {plan.round}: {plan.stage}",
            "",
            f"Made by `{plan.room}: {plan.method}` in {len(plan.chunks)} chunks. "
            "Settings, inputs and seeds: `plan.json`. Hashes and counts: `manifest.json` (written last; "
            "without it the stage is not finished).",
            "",
            *(load or ["No rows."]),
            "",
        ]
    )
