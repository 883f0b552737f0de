"""Tables for docs/results.md from finished runs: several seeds of one recipe side by side.

    python scripts/results.py accuracy/greedy quickstart-s0 quickstart-s1 quickstart-s2
    python scripts/results.py 'accuracy/greedy/*' star_addition-s0 star_addition-s1      # by difficulty bin

Reads metrics.jsonl in data/<run>/ and prints Markdown: a line a round, a column a seed, their mean; then the
test split.
"""

from __future__ import annotations

import fnmatch
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.run.record import by_round, read  # noqa: E402

DATA = Path("data")


def rounds_of(run: str) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """(metrics by round, metrics of the newest `finally`) of a run."""
    rows = read(DATA / run / "metrics.jsonl")
    final = by_round(row for row in rows if row.get("final"))
    return by_round(row for row in rows if not row.get("final")), final[max(final)] if final else {}


def _find(metrics: dict[str, float], pattern: str) -> list[str]:
    return [k for k in metrics if fnmatch.fnmatch(k.partition("/")[2], pattern) and "@" not in k]


def table(pattern: str, runs: list[str]) -> list[str]:
    """One table a metric that fits the pattern: rounds down, runs across."""
    found = {run: rounds_of(run) for run in runs}
    names = sorted({k for rounds, _ in found.values() for m in rounds.values() for k in _find(m, pattern)})
    names = [n for n in names if not n.endswith(("/low", "/high", "/change"))]
    lines = []
    for name in names:
        lines += [f"`{name}`", "", f"| round | {' | '.join(runs)} | mean |", "|---" * (len(runs) + 2) + "|"]
        for number in sorted({n for rounds, _ in found.values() for n in rounds}):
            values = [found[run][0].get(number, {}).get(name) for run in runs]
            known = [v for v in values if v is not None]
            if known:
                cells = " | ".join("" if v is None else f"{100 * v:.1f}" for v in values)
                lines.append(f"| {number} | {cells} | {100 * statistics.mean(known):.1f} |")
        lines.append("")
    return lines


def finals(runs: list[str]) -> list[str]:
    """The test split: start, end, gain with its interval."""
    lines = ["| run | seed policy | final | gain, points (95 %) |", "|---|---|---|---|"]
    for run in runs:
        metrics = rounds_of(run)[1]
        gain = next((k for k in metrics if k.endswith("/gain/greedy")), None)
        if gain is None:
            continue
        stage = gain.split("/")[0]
        start, end = metrics[f"{stage}/accuracy/greedy@0"], metrics[f"{stage}/accuracy/greedy"]
        low, high = metrics[f"{gain}/low"], metrics[f"{gain}/high"]
        lines.append(
            f"| {run} | {100 * start:.1f} % | {100 * end:.1f} % | "
            f"{100 * metrics[gain]:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
        )
    return lines


if __name__ == "__main__":
    pattern, *runs = sys.argv[1:]
    print("\n".join([*table(pattern, runs), *finals(runs)]))
