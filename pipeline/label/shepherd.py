"""Step labels by completion (Math-Shepherd, Wang et al., arXiv:2312.08935, section 3.3; as soft labels also
MiPS, arXiv:2402.02658).

From the prefix after each step a completer writes n answers. A step is worth the share of them that end right
(`estimate: soft`, the paper's SE), or 1 where any does and else 0 (`hard`, its HE). The last step of a trace
is worth its own verdict. The paper takes n = 8 and a completer of its own, LLemma 7B: any model of the
recipe that writes will do here.

A weak completer undervalues good prefixes (MiPS), and the more completions, the more false `hard` labels:
a wrong step after which any of n is right is called good. `train: prm` with `target: hard` makes hard labels
of soft ones, so `soft` keeps more.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.asks import Asks, Counted
from pipeline.label.rollouts import RolloutSettings, counted, key_of, step_label, step_prefixes, usable
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask


class Settings(RolloutSettings):
    """n 8 as in the paper; its experiments train on hard labels."""

    estimate: Literal["soft", "hard"] = Field(
        "soft", description="soft: the share of right completions; hard: 1 where any is right"
    )


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace with a value a step; a Dropped for each that has no steps or no gold."""
    traces, rows = usable(problem, group)
    prefixes = {trace.id: step_prefixes(trace) for trace in traces}
    found = yield from counted([p for each in prefixes.values() for p in each], settings, settings.by)
    for trace in traces:
        values = [value(found[key_of(prefix)], settings) for prefix in prefixes[trace.id]]
        rows.append(step_label(trace, problem, task, "shepherd", values))
    return rows


def value(count: Counted, settings: Settings) -> float:
    """What a prefix is worth: 3 of 8 right are .375 soft and 1 hard (by hand)."""
    return float(count.num_correct > 0) if settings.estimate == "hard" else count.share
