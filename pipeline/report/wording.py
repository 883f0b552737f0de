"""Numbers as people read them: percents, counts, durations, intervals, one fact of a stage. Not
here: where they are printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.run.reporter import Share

SHARES = ("kept", "right", "done")  #: what the loop itself tells of a stage under way, from 0 to 1


def percent(share: float, digits: int = 1) -> str:
    """0.312 -> 31.2 %."""
    return f"{100 * share:.{digits}f} %"


def amount(value: float, share: bool = True) -> str:
    """31.2 % of a share, 0.312 of anything else."""
    return percent(value) if share else f"{value:.3g}"


def points(change: float, share: bool = True) -> str:
    """0.132 -> +13.2, in percentage points; +0.132 where it is no share."""
    return f"{100 * change:+.1f}" if share else f"{change:+.3g}"


def count(number: float) -> str:
    """12,345 up to a hundred thousand, then 1.23M."""
    if abs(number) < 100_000:
        return f"{number:,.0f}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}"


def size(num_bytes: float) -> str:
    """812 B, 14.2 MB, 3.1 GB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def clock(seconds: float) -> str:
    """A duration for a column: 0:07, 4:42, 2:07:00."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def number(name: str, value: Any) -> str:
    """A value as its name asks for it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return count(value)
    if isinstance(value, Share) or name in SHARES:
        return percent(value)
    return count(value) if abs(value) >= 1000 else f"{value:.4g}"


def fact(name: str, value: Any) -> str:
    """One fact of a stage: counts before their name, everything else behind it."""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.startswith("dropped "):
            return f"{count(value)} dropped as {name.removeprefix('dropped ')}"
        return f"{count(value)} {name}"
    return f"{name} {number(name, value)}"


def facts(values: Mapping[str, Any]) -> str:
    """Facts in a row."""
    return ", ".join(fact(name, value) for name, value in values.items())


def within(metrics: Mapping[str, float], name: str, share: bool = True) -> str:
    """A share and its interval: 31.2 % [28.4, 34.1]; 0.312 [0.284, 0.341] where it is none."""
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    if low is None or high is None:
        return amount(metrics[name], share)
    if not share:
        return f"{amount(metrics[name], share)} [{low:.3g}, {high:.3g}]"
    return f"{percent(metrics[name])} [{100 * low:.1f}, {100 * high:.1f}]"


def moved(metrics: Mapping[str, float], name: str, share: bool = True) -> str:
    """A change in points and its interval: +13.2 [+10.1, +16.0]."""
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    if low is None or high is None:
        return points(metrics[name], share)
    return f"{points(metrics[name], share)} [{points(low, share)}, {points(high, share)}]"
