"""Relative step labels (GenPRM, Zhao et al., arXiv:2504.00891), and the completer-aware denoising of SCAN
(arXiv:2509.16548).

A step is good (1) where the share of right completions after it is at least `ratio` of the share before it,
else bad (0): from .5 to .45 is 1, to .3 is 0. After a share of 0 every later step is 0. The share before the
first step is that of the question. Labels say whether a step lost ground, where Math-Shepherd's say how much
is left, so a hard problem's right steps are not marked down.

SCAN's finding: most errors of such labels come of the completer, and its own accuracy on the question says
which to trust. As settings here, all off at their defaults: `denoise` judges the share after a step by the
share of the question (where the completer solves little of it, few right completions mean no error), and
problems outside `between` are dropped, since a completer that never, or always, solves one says nothing of
its steps. How SCAN's own thresholds are set was not at hand: these are ours, and its figures are not claimed.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipeline.asks import Asks, prefix_of
from pipeline.label.rollouts import RolloutSettings, counted, key_of, step_label, step_prefixes, usable
from pipeline.rows import ROUNDING, Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask


class Settings(RolloutSettings):
    """GenPRM's ratio; n as Math-Shepherd's."""

    ratio: float = Field(0.8, gt=0, le=1, description="of the share before a step that must be left after it")
    denoise: bool = Field(
        False, description="hold a share against the question's where that is less than the step's before it"
    )
    between: tuple[float, float] = Field(
        (0.0, 1.0), description="problems whose share of right completions is outside are dropped"
    )

    @model_validator(mode="after")
    def _a_band(self) -> Self:
        low, high = self.between
        if not 0 <= low <= high <= 1:
            raise ValueError(f"between: [{low:g}, {high:g}] must be two shares, 0 <= low <= high <= 1")
        return self

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """As the others, and the question's own completions."""
        root = self.n * task.typical_tokens if given else 0.0
        return super().cost(task, given) + Cost({self.by: root})


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace; a Dropped for each without steps or gold, or of a problem out of the band."""
    traces, rows = usable(problem, group)
    roots = {trace.id: prefix_of(trace, 0) for trace in traces}
    prefixes = {trace.id: step_prefixes(trace) for trace in traces}
    asked = [*roots.values(), *(prefix for each in prefixes.values() for prefix in each)]
    found = yield from counted(asked, settings, settings.by)
    low, high = settings.between
    for trace in traces:
        before = found[key_of(roots[trace.id])].share
        if not low <= before <= high:
            rows.append(Dropped(problem_id=problem.id, what=trace.id, reason="completer_out_of_band"))
            continue
        shares = [found[key_of(prefix)].share for prefix in prefixes[trace.id]]
        values = good_steps(before, shares, settings.ratio, settings.denoise)
        rows.append(step_label(trace, problem, task, "relative", values))
    return rows


def good_steps(question: float, shares: list[float], ratio: float, denoise: bool = False) -> list[float]:
    """1 or 0 for each step, of the question's share and those after each step.

    By hand, ratio .8: .5, [.45, .3, .3] -> 1, 0, 1; .5, [.5, 0, .25] -> 1, 0, 0; 15 of 20 before and 12 after
    are just enough, whatever .8 * .75 comes to in floating point. With `denoise` the share
    before counts as no more than the question's: .25, [.75, .5] -> 1, 1 in place of 1, 0.
    """
    before, lost, values = question, False, []
    for after in shares:
        bar = min(before, question) if denoise else before
        lost = lost or after == 0
        values.append(0.0 if lost or after < ratio * bar - ROUNDING else 1.0)
        before = after
    return values
