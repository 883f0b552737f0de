"""What a reward model's numbers come to, in words: does it rank, are its scores probabilities, does it like
length? Reads metrics by name as `prm_quality` writes them. Not here: the numbers themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def in_words(metrics: Mapping[str, float]) -> str:
    """Whether a reader may trust the scores, from the metrics of one round."""
    auc = metrics.get("auc")
    if auc is None:
        return "its AUC is undefined: all scored steps are alike."
    word = "to rank steps, yes" if auc >= 0.8 else "with care" if auc >= 0.65 else "hardly"
    low, high = metrics.get("auc/low"), metrics.get("auc/high")
    span = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    said = f"{word}; sound steps scored above unsound ones with AUC {auc:.3f}{span}."
    if told := calibrated(metrics):
        said += f" {told}"
    if abs(metrics.get("length_correlation", 0.0)) > 0.4:
        said += f" Beware: it follows length (correlation {metrics['length_correlation']:+.2f})."
    return said


def calibrated(metrics: Mapping[str, float]) -> str:
    """Are its scores probabilities where they are used? A search, a vote and best-of-n act on the high ones,
    so the tenths above the share of sound steps count; the mass of low scores can look right alone."""
    fronts = [n.removesuffix("score") for n in metrics if re.fullmatch(r"calibration/\d+/score", n)]
    rows = [{key: metrics.get(f"{n}{key}", 0.0) for key in ("score", "true", "share")} for n in fronts]
    sound = sum(row["share"] * row["true"] for row in rows)
    used = [row for row in rows if int(10 * row["score"]) > int(10 * sound)]
    share = sum(row["share"] for row in used)
    if not rows:
        return ""
    if not share:
        return f"No score is above the share of sound steps ({_percent(sound)}): take their order only."
    promised, true = (sum(row["share"] * row[key] for row in used) / share for key in ("score", "true"))
    far = sum(row["share"] * abs(row["score"] - row["true"]) for row in used) / share
    least = (int(10 * sound) + 1) / 10
    told = (
        f"of its scores above {least:.1f} ({_percent(share)} of all, the ones that choose) "
        f"{_percent(true)} were sound, where {_percent(promised)} are promised"
    )
    if far > 0.15:
        return f"Its scores are no probabilities where they are used: {told}."
    empty = [row for row in used if row["true"] == 0]
    if empty and sum(row["share"] for row in empty) > 0.02 * share:
        least = min(row["score"] for row in empty)
        return f"Beware of its high scores: {told}; those around {least:.2f} were never sound."
    return f"Its scores are near probabilities where they are used: {told}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
