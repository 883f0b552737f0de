"""Progress labels (PAV, Setlur et al., "Rewarding Progress", arXiv:2410.08146): what a step changes in the
chance of success under a prover.

    A(step) = Q_prover(after it) - Q_prover(before it)

Q is the share of n completions that end right. The prover must not be the base policy itself, for then the
advantage adds nothing to a search by Q; best of K of the base does well (the paper: K = 4), and its Q follows
from the base's own, 1 - (1 - Q)^K, at no cost. That is the default: `by` and `base` the same model, `best_of`
4. With a prover of its own (`by: prover`) set `best_of: 1`.

Each trace's Label carries both: `step_scores` is Q of the base after each step, `advantage` the step's
progress. `select: step_values` makes rows of either (`use: advantage`), and `generate: beam` ranks by
Q + alpha * A (`plus`, `alpha`).

The paper draws most roll-outs around the "first pit", the first prefix where success collapses. Here `scout`
completions after every step look for it: the first step after which at most `collapse` of them are right.
The steps within `around` of it are then valued with all n (the scouts are the first of these), and others
carry null; a trace without a pit is valued whole. How near its samples stand is not said in the paper's text
that was at hand, so `around` is ours. `scout: 0` values every step. The paper's balance of training batches
(Q below and above .5) is left to the trainer's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from pipeline.asks import Asks, prefix_of
from pipeline.label.rollouts import (
    Key,
    RolloutSettings,
    counted,
    key_of,
    step_label,
    step_prefixes,
    usable,
)
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask


class Settings(RolloutSettings):
    """n_mc 20 and best of 4 as in the paper; where the pit is and how near to it are ours."""

    by: PolicyName = Field("policy", description="the prover, or what it is the best of K of")
    base: PolicyName = Field("policy", description="the policy whose Q the steps carry")
    n: int = Field(20, ge=1, description="completions after each prefix that is valued (n_mc)")
    best_of: int = Field(4, ge=1, description="the prover is the best of so many of `by`; 1: `by` itself")
    scout: int = Field(4, ge=0, description="completions that look for the first pit; 0: value every step")
    collapse: float = Field(0.0, ge=0, lt=1, description="a pit: at most this share of the scouts is right")
    around: int = Field(1, ge=0, description="steps valued on each side of the first pit")

    @property
    def completers(self) -> tuple[str, ...]:
        return (self.base, self.by)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """As the others, and the question's own completions; as if no trace had a pit."""
        root = self.n * task.typical_tokens if given else 0.0
        return super().cost(task, given) + Cost(dict.fromkeys(self.completers, root))


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace with Q and advantage a step; a Dropped for each without steps or gold."""
    traces, rows = usable(problem, group)
    prefixes = {trace.id: [prefix_of(trace, 0), *step_prefixes(trace)] for trace in traces}
    wanted = {name: list(range(len(found))) for name, found in prefixes.items()}
    if settings.scout:
        everywhere = [prefix for each in prefixes.values() for prefix in each]
        scouted = yield from counted(everywhere, settings, settings.base, min(settings.scout, settings.n))
        for name, each in prefixes.items():
            shares = [scouted[key_of(prefix)].share for prefix in each]
            wanted[name] = near(first_pit(shares, settings.collapse), len(each), settings.around)
    asked = [prefixes[name][place] for name, places in wanted.items() for place in places]
    values: dict[str, dict[Key, float]] = {}
    for model in dict.fromkeys(settings.completers):
        found = yield from counted(asked, settings, model)
        values[model] = {key: count.share for key, count in found.items()}
    for trace in traces:
        keys = [
            key_of(prefix) if k in wanted[trace.id] else None for k, prefix in enumerate(prefixes[trace.id])
        ]
        scores = [None if key is None else values[settings.base][key] for key in keys]
        prover = [
            None if key is None else best_of(values[settings.by][key], settings.best_of) for key in keys
        ]
        rows.append(step_label(trace, problem, task, "advantage", scores[1:], gains(prover)))
    return rows


Values = list[float | None]


def first_pit(shares: Sequence[float], collapse: float) -> int | None:
    """The first step after which success collapses, of the shares at the question and after each step.

    By hand: .5, .5, 0, .25 -> 2; .5, .5, 1 -> None.
    """
    return next((k for k in range(1, len(shares)) if shares[k] <= collapse), None)


def near(pit: int | None, num_prefixes: int, around: int) -> list[int]:
    """The prefixes to value: those after each step within `around` of the pit, and the one before them.

    By hand, of 6 prefixes (5 steps): pit 3, around 1 -> 1, 2, 3, 4; none -> all.
    """
    if pit is None:
        return list(range(num_prefixes))
    return list(range(max(0, pit - around - 1), min(num_prefixes, pit + around + 1)))


def best_of(share: float, number: int) -> float:
    """Q of the best of K samples, 1 - (1 - Q)^K: .3 of 4 -> .7599 (by hand)."""
    return 1.0 - (1.0 - share) ** number


def gains(values: Values) -> Values:
    """Each step's advantage, of the values at the question and after each step; null where one is unknown.

    By hand: .4, .6, .5 -> .2, -.1. Their sum is the end's value less the question's.
    """
    pairs = zip(values, values[1:], strict=False)
    return [None if old is None or new is None else new - old for old, new in pairs]
