"""What labellers by roll-outs share: how often do completions of a step's prefix end right?

Every one of them asks `MonteCarlo`, whose draws name model, prefix and sampling and not who asks. So the
roll-outs that one labeller had written serve the next: `keep_rollouts` commits them in the stage's
`rollouts/`, and `reuse: [that stage]` (which `from` lists too) reads them in place of drawing. The labels are
those that the labeller would give alone, and so are the tokens *charged* (metrics); tokens *spent*
(timing.jsonl) are those really written. n may differ: what is missing is drawn.

    shepherd: {label: shepherd, from: probe}
    gained:   {label: advantage, from: [probe, shepherd], reuse: [shepherd]}

The value of a prefix is asked for after each step. After the last one the trace has ended and its value is
its own verdict, which costs nothing; only of a trace that was abandoned (`finish: budget`) it is drawn.
Prefixes that traces share are asked for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from pipeline.asks import Asks, Counted, MonteCarlo, Prefix, prefix_of
from pipeline.label import Draw, LabelSettings
from pipeline.label.outcome import verdict
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask

Key = tuple[str, tuple[int, ...], bool]


class RolloutSettings(LabelSettings):
    """Who completes, how many completions, how they are drawn, and which stand already."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Trace", "Dropped")
    draws: ClassVar[tuple[str, ...]] = ("n",)

    by: PolicyName = Field("policy", description="the completer: any model of the recipe that writes")
    n: int = Field(8, ge=1, description="completions after each prefix")
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    max_tokens: int = Field(0, ge=0, description="tokens a whole completion may have; 0: as the task says")
    keep_rollouts: bool = Field(True, description="commit what is drawn, for later labellers")
    reuse: tuple[str, ...] = Field(
        (), description="label stages in `from` whose roll-outs are read instead of drawn"
    )

    @field_validator("reuse", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def completers(self) -> tuple[str, ...]:
        """The models that its asks name."""
        return (self.by,)

    @property
    def draws_by(self) -> tuple[Draw, ...]:
        sampling = self.temperature, self.top_p, self.top_k, self.max_tokens
        return tuple(Draw(name, *sampling) for name in dict.fromkeys(self.completers))

    @property
    def keeps_rollouts(self) -> bool:
        return self.keep_rollouts

    @property
    def reused(self) -> tuple[str, ...]:
        return self.reuse

    @property
    def draws_alike(self) -> bool:
        return self.temperature == 0

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """What it costs alone: n completions after each step but the last, of half a completion on average.
        What it reuses is not drawn again.
        """
        prefixes = given * max(task.typical_steps - 1, 0.0)
        tokens = prefixes * self.n * task.typical_tokens / 2
        return Cost(dict.fromkeys(self.completers, tokens), {}, given)

    def asking(self, prefixes: Sequence[Prefix], by: str, n: int | None = None, **more: Any) -> MonteCarlo:
        """An ask with these settings."""
        return MonteCarlo(
            list(prefixes),
            by=by,
            n=n or self.n,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            **more,
        )


def step_prefixes(trace: Trace) -> list[Prefix]:
    """The prefix after each step, from which a completer writes on; the last one closed as the trace ended.

    An abandoned trace has no end, so its last prefix is open too.
    """
    opened = [prefix_of(trace, k) for k in range(1, len(trace.step_ends) + 1)]
    if opened and trace.finish != "budget":
        opened[-1] = prefix_of(trace)
    return opened


def key_of(prefix: Prefix) -> Key:
    """What makes two prefixes one: prompt, tokens, and whether it ended."""
    return prefix.prompt, prefix.token_ids, prefix.done


def unlike(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """The prefixes, equal ones once, in order."""
    found: dict[Key, Prefix] = {}
    for prefix in prefixes:
        found.setdefault(key_of(prefix), prefix)
    return list(found.values())


def counted(
    prefixes: Sequence[Prefix], settings: RolloutSettings, by: str, n: int | None = None
) -> Asks[dict[Key, Counted]]:
    """How often n completions of each prefix end right, by prefix; equal prefixes are asked for once."""
    asked = unlike(prefixes)
    replies = (yield settings.asking(asked, by, n)) if asked else []
    return {key_of(prefix): reply for prefix, reply in zip(asked, replies, strict=True)}


def usable(problem: Problem, group: Group) -> tuple[list[Trace], list[Label | Trace | Dropped]]:
    """The traces whose steps can be valued, and a Dropped for each other one: `no_gold`, `no_step_ends`."""
    if problem.answer is None:
        return [], [Dropped(problem_id=problem.id, what=t.id, reason="no_gold") for t in group.traces]
    without = [trace for trace in group.traces if not trace.step_ends]
    rows = [Dropped(problem_id=problem.id, what=t.id, reason="no_step_ends") for t in without]
    return [trace for trace in group.traces if trace.step_ends], list(rows)


def step_label(
    trace: Trace,
    problem: Problem,
    task: BaseTask,
    labeller: str,
    values: Sequence[float | None],
    advantage: Sequence[float | None] | None = None,
) -> Label:
    """A trace's Label: its verdict by the answer, and what each step is worth."""
    correct, reason = verdict(trace, problem, task)
    return Label(
        problem_id=problem.id,
        trace_id=trace.id,
        correct=correct,
        step_scores=list(values),
        value=values[-1] if values else None,
        advantage=None if advantage is None else list(advantage),
        reason=reason,
        labeller=labeller,
    )
