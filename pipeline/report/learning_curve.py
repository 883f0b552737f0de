"""Learning curves over data sizes: error = a + b n^-c, fitted in log space, with a bootstrap; and a picture.

An estimate says what more data would bring, and from which size on 95 % of the largest size's result stands.
Three numbers are fitted, so three sizes are the least, and four say whether the form holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError

Floats = NDArray[np.float64]
ENOUGH = 0.95  #: the share of the largest size's result that is looked for
LEAST = 3  #: sizes
FLOOR = 1e-4  #: the least error that has a logarithm here


@dataclass(frozen=True, slots=True)
class Point:
    """One run: its size, its result as a share, and half of its 95 % interval."""

    size: int
    value: float
    half: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """error = a + b n^-c. `enough`: the size with ENOUGH of the largest size's fitted result; intervals are
    the middle 95 % of the bootstrap."""

    a: float
    b: float
    c: float
    enough: float
    interval: Mapping[str, tuple[float, float]]

    def error(self, size: float) -> float:
        return self.a + self.b * size**-self.c


def power_law(sizes: Floats, errors: Floats) -> tuple[float, float, float]:
    """(a, b, c) with a, b >= 0 and c in 0..4, by least squares between the logarithms."""
    from scipy.optimize import least_squares

    logs = np.log(np.maximum(errors, FLOOR))
    middle = math.exp(float(np.log(sizes).mean()))  # b is found at the middle size, where it is well known

    def gap(x: Floats) -> Floats:
        return np.log(np.maximum(x[0] + x[1] * (sizes / middle) ** -x[2], FLOOR)) - logs

    least, best = float(errors.min()), None
    for share in (0.0, 0.5, 0.9):
        for slope in (0.1, 0.5, 1.5):
            begin = [share * least, max(float(errors.mean()) - share * least, FLOOR), slope]
            found = least_squares(gap, begin, bounds=([0, 0, 0], [1, 2, 4]))
            if best is None or found.cost < best.cost:
                best = found
    assert best is not None
    a, b, c = map(float, best.x)
    return a, b * middle**c, c


def size_enough(a: float, b: float, c: float, largest: int) -> float:
    """The size whose result is ENOUGH of the largest size's."""
    goal = 1 - ENOUGH * (1 - (a + b * largest**-c))
    if c <= 0 or b <= 0:
        return math.nan
    return float((b / (goal - a)) ** (1 / c))


def fit(points: Sequence[Point], resamples: int = 200, seed: int = 0) -> Fit:
    """The curve through runs at several sizes; the bootstrap draws a run for each run of a size, and its
    result within its own interval.

    Raises:
        RecipeError: fewer than three sizes.
    """
    sizes = sorted({point.size for point in points})
    if len(sizes) < LEAST:
        raise RecipeError(
            f"curve: {len(sizes)} sizes: three or more say how a curve bends; name more with --sizes"
        )
    at = np.array(sizes, dtype=np.float64)
    runs = [[point for point in points if point.size == size] for size in sizes]
    means = np.array([1 - np.mean([point.value for point in those]) for those in runs])
    a, b, c = power_law(at, means)
    draw = np.random.Generator(np.random.PCG64(seed))
    drawn: dict[str, list[float]] = {"a": [], "c": [], "enough": []}
    for _ in range(resamples):
        errors = []
        for those in runs:
            chosen = [those[i] for i in draw.integers(0, len(those), len(those))]
            noise = [draw.normal(point.value, point.half / 1.96) for point in chosen]
            errors.append(1 - float(np.mean(noise)))
        again = power_law(at, np.clip(np.array(errors), FLOOR, 1.0))
        for name, value in zip(drawn, (again[0], again[2], size_enough(*again, sizes[-1])), strict=True):
            drawn[name].append(value)
    interval = {}
    for name, values in drawn.items():
        kept = [value for value in values if math.isfinite(value)]
        if kept:
            low, high = np.percentile(kept, [2.5, 97.5])
            interval[name] = (float(low), float(high))
    return Fit(a, b, c, size_enough(a, b, c, sizes[-1]), interval)


def sentence(arm: str, points: Sequence[Point], found: Fit) -> str:
    """What a fit says, in words."""
    ends = {name: f" [{low:.3g}, {high:.3g}]" for name, (low, high) in found.interval.items()}
    said = (
        f"{arm}: error = {found.a:.3g}{ends.get('a', '')} + {found.b:.3g} n^-{found.c:.3g}{ends.get('c', '')}"
    )
    if math.isfinite(found.enough):
        largest = max(point.size for point in points)
        said += f"; {100 * ENOUGH:.0f} % of the result at {largest:,} stands at {found.enough:,.0f}"
        said += ends.get("enough", "")
    return said


COLOURS = ("#1f5fa8", "#b3541e", "#2f7d4f", "#6b4fa0")
WIDE, HIGH, EDGE = 640, 360, 56
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}svg{width:100%;font-size:12px}td,th{padding:.2rem .8rem;text-align:left}"
)


def page(title: str, measure: str, arms: Mapping[str, Sequence[Point]], fits: Mapping[str, Fit]) -> str:
    """A page of its own with the curves: every run a dot, the fit a line, both arms in one picture."""
    points = [point for those in arms.values() for point in those]
    logs = [math.log(point.size) for point in points]
    left, right = min(logs), max(logs)
    top = max(min(1.0, max(p.value + p.half for p in points) * 1.1), 0.05)

    def x(size: float) -> float:
        return EDGE + (WIDE - 2 * EDGE) * (math.log(size) - left) / max(right - left, 1e-9)

    def y(value: float) -> float:
        return HIGH - EDGE - (HIGH - 2 * EDGE) * min(max(value, 0.0), top) / top

    marks = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = y(share * top)
        marks.append(f'<line x1="{EDGE}" x2="{WIDE - EDGE}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        marks.append(
            f'<text x="{EDGE - 6}" y="{at + 4:.1f}" text-anchor="end">{100 * share * top:.1f} %</text>'
        )
    for size in sorted({point.size for point in points}):
        marks.append(f'<text x="{x(size):.1f}" y="{HIGH - EDGE + 18}" text-anchor="middle">{size:,}</text>')
    for number, (arm, those) in enumerate(arms.items()):
        colour = COLOURS[number % len(COLOURS)]
        marks.append(f'<text x="{EDGE + 150 * number}" y="24" fill="{colour}">{escape(arm)}</text>')
        if arm in fits:
            steps = [math.exp(left + (right - left) * i / 60) for i in range(61)]
            way = " ".join(f"{x(size):.1f},{y(1 - fits[arm].error(size)):.1f}" for size in steps)
            marks.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in those:
            low, high = y(point.value - point.half), y(point.value + point.half)
            at = x(point.size) + 3 * (number - 0.5)
            marks.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
            )
            marks.append(f'<circle cx="{at:.1f}" cy="{y(point.value):.1f}" r="3.5" fill="{colour}"/>')
    said = "".join(f"<p>{escape(sentence(arm, arms[arm], found))}</p>" for arm, found in fits.items())
    rows = "".join(
        f"<tr><td>{escape(arm)}</td><td>{p.size:,}</td><td>{100 * p.value:.1f} %</td>"
        f"<td>{100 * p.half:.1f}</td></tr>"
        for arm, those in arms.items()
        for p in those
    )
    picture = f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(measure)} by size">'
    heads = "".join(f"<th>{head}</th>" for head in ("arm", "problems", "result", "half of the interval"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(measure)} over the number of "
        f"training problems, on a logarithmic axis; bars are 95 % intervals.</p>{said}"
        f"{picture}{''.join(marks)}</svg><table><tr>{heads}</tr>{rows}</table></body></html>\n"
    )
