"""Preference pairs: a better and a worse completion of one problem, or a better and a worse step after one
prefix.

`between: traces` pairs whole completions: right against wrong ones (Iterative RPO, arXiv:2404.19733, section
2), or by score the best against the worst (Self-Rewarding, arXiv:2401.10020, section 2.3). `between:
siblings` pairs the steps that follow one prefix by their values: children of a tree node, or of plain traces
the steps after equal token prefixes. rStar-Math (arXiv:2501.04519, section 3.3) takes the two of highest and
the two of lowest mean Q there, at least 0.5 apart in Q and 20 characters in edit distance, and pairs whole
completions for the last step.

The best ones are paired with the worst ones in turns, so that `max_per_problem` leaves out partners and not
completions. Ties make no pair. A trace that is in none is dropped with the reason; so is one that a limit
cut. Completions of different prompts make no pair: each turn of a conversation answers what stands before it.
The token ids are the traces' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.rows import ROUNDING, Dropped, Example, Group, Label, Node, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.select._rows import normalised
from pipeline.select.step_values import a_step, shares
from pipeline.tasks import BaseTask
from pipeline.vote.aggregate import Aggregate, aggregate


class Settings(SelectSettings):
    """What is compared with what, and which pairs are kept."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Pair", "Dropped")

    between: Literal["traces", "siblings"] = Field(
        "traces", description="whole completions of a problem, or steps that follow the same prefix"
    )
    score: Literal["correct", "value", "search"] = Field(
        "correct",
        description="what ranks them. correct: right 1, wrong 0 (of steps: the share of right traces through "
        "each); value: a labeller's value, or its step scores in one; search: the generator's own",
    )
    aggregate: Aggregate = Field(
        "mean", description="with `score: value`: step scores -> a trace's score, where it has no value"
    )
    verified: bool = Field(
        False, description="chosen ones are right and rejected ones wrong, whatever ranks them"
    )
    top: int | None = Field(None, ge=1, description="how many of the best are chosen; none: all")
    bottom: int | None = Field(None, ge=1, description="how many of the worst are rejected; none: all")
    margin: float = Field(
        0.0, ge=0, description="least difference of a pair's scores; 0: any but a tie (rStar-Math: 0.5)"
    )
    chosen_above: float | None = Field(None, description="least score of a chosen one; none: any")
    rejected_below: float | None = Field(None, description="highest score of a rejected one; none: any")
    min_distance: int = Field(
        0, ge=0, description="least edit distance of a pair, in characters (rStar-Math: 20)"
    )
    max_per_problem: int | None = Field(
        10, ge=1, description="pairs a problem (Iterative RPO: 10), with siblings a prefix; none: all"
    )
    hint_markers: tuple[Annotated[str, Field(min_length=1)], ...] = ("(CORRECT)",)

    @property
    def samples_wanted(self) -> int:
        """Siblings come of a tree too, which one sample may grow into."""
        return 2 if self.between == "traces" and not self.pools_rounds else 0

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        labels = self.score != "search" or self.verified
        tree = self.between == "siblings" and self.score == "search"
        return ("Trace", *(("Label",) if labels else ()), *(("Node",) if tree else ()))

    @model_validator(mode="after")
    def _sensible(self) -> Settings:
        if self.between == "siblings" and self.verified:
            raise ValueError(
                "verified: a step is neither right nor wrong; pair whole completions (between: traces)"
            )
        low, high = self.chosen_above, self.rejected_below
        if low is not None and high is not None and low < high:
            raise ValueError(
                f"chosen_above {low:g} is below rejected_below {high:g}: one completion could be both"
            )
        return self


@dataclass(frozen=True, slots=True)
class Side:
    """One completion or step that may stand in a pair."""

    name: str  #: of the trace, or of the node that ends no trace
    prompt: str
    text: str
    ids: tuple[int, ...]
    score: float
    right: bool | None = None
    prefix: str = ""  #: what of a completion stands before the step
    prefix_ids: tuple[int, ...] = ()


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """The pairs of a problem, and a Dropped for each trace that is in none."""
    reasons: dict[str, str] = {}
    if settings.between == "traces":
        families = by_prompt(completions(group, settings, reasons))
    else:
        families = list(siblings(group, settings, reasons))
    found = [both for family in families for both in pairs_of(family, settings, reasons)]
    if settings.between == "traces" and settings.max_per_problem is not None:
        for both in found[settings.max_per_problem :]:
            reasons |= dict.fromkeys((side.name for side in both), "over_limit")
        found = found[: settings.max_per_problem]
    paired = {side.name for both in found for side in both}
    return [
        *(pair(group.problem_id, *both, settings, encode) for both in found),
        *(
            Dropped(problem_id=group.problem_id, what=trace.id, reason=reasons.get(trace.id) or "no_pair")
            for trace in group.traces
            if trace.id not in paired
        ),
    ]


def pair(
    problem_id: str, chosen: Side, rejected: Side, settings: Settings, encode: Callable[[str], list[int]]
) -> Pair:
    """Two sides as a row; what both begin with belongs to the prompt."""
    return Pair(
        problem_id=problem_id,
        prompt=chosen.prompt + chosen.prefix,
        chosen=chosen.text,
        rejected=rejected.text,
        margin=chosen.score - rejected.score,
        trace_id=chosen.name,
        rejected_id=rejected.name,
        whole=settings.between == "traces",
        prompt_ids=[*encode(chosen.prompt), *chosen.prefix_ids],
        chosen_ids=list(chosen.ids),
        rejected_ids=list(rejected.ids),
    )


def pairs_of(family: list[Side], settings: Settings, reasons: dict[str, str]) -> Iterator[tuple[Side, Side]]:
    """(chosen, rejected): the best with the worst in turns, as far as they are far enough apart."""
    best = sorted(family, key=lambda side: -side.score)
    winners = [side for side in best if may_be(side, True, settings)][: settings.top]
    losers = [side for side in reversed(best) if may_be(side, False, settings)][: settings.bottom]
    partial = "no_rejected" if winners else "no_chosen"
    for side in family:
        reasons.setdefault(side.name, "in_between" if winners and losers else partial)
    most = math.inf if settings.max_per_problem is None else settings.max_per_problem
    number = 0
    for turn in range(len(losers)):
        for place, chosen in enumerate(winners):
            rejected = losers[(place + turn) % len(losers)]
            fault = too_close(chosen, rejected, settings) or ("over_limit" if number >= most else "")
            if fault:
                reasons[chosen.name] = reasons[rejected.name] = fault
            else:
                number += 1
                yield chosen, rejected


def may_be(side: Side, chosen: bool, settings: Settings) -> bool:
    """May it be chosen, or rejected?"""
    if (settings.verified or settings.score == "correct") and side.right not in (None, chosen):
        return False
    bound = settings.chosen_above if chosen else settings.rejected_below
    return bound is None or (side.score >= bound - ROUNDING if chosen else side.score <= bound + ROUNDING)


def too_close(chosen: Side, rejected: Side, settings: Settings) -> str:
    """Why two sides make no pair, or ""."""
    difference = chosen.score - rejected.score
    if difference <= 0:
        return "tie"
    if difference < settings.margin - ROUNDING:
        return "below_margin"
    if settings.min_distance and not far_apart(chosen.text, rejected.text, settings.min_distance):
        return "too_alike"
    return ""


def far_apart(one: str, other: str, least: int) -> bool:
    """Is the edit distance (Levenshtein) of two texts at least `least`? Looks no further than that."""
    if abs(len(one) - len(other)) >= least:
        return True
    row = {column: column for column in range(min(len(other), least) + 1)}
    for place, letter in enumerate(one, 1):
        before, row = row, {}
        for column in range(max(0, place - least), min(len(other), place + least) + 1):
            if column == 0:
                row[column] = place
                continue
            row[column] = min(
                before.get(column, least) + 1,
                row.get(column - 1, least) + 1,
                before.get(column - 1, least) + (letter != other[column - 1]),
            )
        if min(row.values()) >= least:
            return True
    return row.get(len(other), least) >= least


# --- what can stand in a pair


def refused(trace: Trace, settings: Settings) -> str:
    """Why a trace may stand in no pair whatever it is worth, or ""."""
    if trace.finish in ("length", "budget"):
        return "truncated"
    if trace.hinted and any(marker in trace.text for marker in settings.hint_markers):
        return "hint_leak"
    return ""


def by_prompt(sides: Iterable[Side]) -> list[list[Side]]:
    """Completions that answer the same prompt: the others are no alternatives to one another."""
    found: dict[str, list[Side]] = {}
    for side in sides:
        found.setdefault(side.prompt, []).append(side)
    return list(found.values())


def completions(group: Group, settings: Settings, reasons: dict[str, str]) -> Iterator[Side]:
    """The traces that have a score; of those that say the same to a prompt the first."""
    seen: set[tuple[str, ...]] = set()
    for trace in group.traces:
        label, says = group.label(trace), (trace.prompt, *normalised(trace))
        right = label.correct if label is not None else None
        score = score_of(trace, label, settings)
        reason = refused(trace, settings)
        if not reason and (score is None or (settings.verified and right is None)):
            reason = "unlabelled" if label is None else "unscored"
        if not reason and says in seen:
            reason = "duplicate"
        if reason or score is None:
            reasons[trace.id] = reason
        else:
            seen.add(says)
            yield Side(trace.id, trace.prompt, trace.text, tuple(trace.token_ids), score, right)


def score_of(trace: Trace, label: Label | None, settings: Settings) -> float | None:
    """What a trace is ranked by; None where nobody said it."""
    score = trace.score if settings.score == "search" else None
    if label is not None and settings.score == "correct":
        score = None if label.correct is None else float(label.correct)
    elif label is not None and settings.score == "value":
        known = [one for one in label.step_scores or [] if one is not None]
        score = label.value
        if score is None and known:
            score = aggregate(known, settings.aggregate)
    return score if score is not None and math.isfinite(score) else None


def siblings(group: Group, settings: Settings, reasons: dict[str, str]) -> Iterator[list[Side]]:
    """The valued steps after each prefix; of equal steps the first."""
    tree = settings.score != "correct" and any(
        settings.score == "search" or node.id in group.labels for node in group.nodes
    )
    families: dict[tuple[str, tuple[int, ...]], dict[tuple[int, ...], Side]] = {}
    for side in node_steps(group, settings) if tree else trace_steps(group, settings, reasons):
        families.setdefault((side.prompt, side.prefix_ids), {}).setdefault(side.ids, side)
    for family in families.values():
        if len(family) > 1:
            yield list(family.values())


def node_steps(group: Group, settings: Settings) -> Iterator[Side]:
    """A tree's nodes that have a value; a node that adds no token is no step."""
    prompt = next((trace.prompt for trace in group.traces), None)
    cut = {trace.id for trace in group.traces if refused(trace, settings) and trace.finish != "budget"}
    by_id = {node.id: node for node in group.nodes}
    for node in group.nodes:
        label = group.labels.get(node.id)
        value = node.value if settings.score == "search" else label.value if label else None
        if prompt is None or node.parent is None or value is None or not math.isfinite(value):
            continue
        above: list[Node] = []
        here = by_id.get(node.parent)
        while here is not None and here.parent is not None:
            above.insert(0, here)
            here = by_id.get(here.parent)
        if node.token_ids and node.trace_id not in cut:
            prefix = tuple(token for one in above for token in one.token_ids)
            text = "".join(one.step for one in above)
            yield Side(
                node.trace_id or node.id, prompt, node.step, tuple(node.token_ids), value, None, text, prefix
            )


def trace_steps(group: Group, settings: Settings, reasons: dict[str, str]) -> Iterator[Side]:
    """The steps of plain traces that have a value."""
    usable: list[tuple[Trace, Label]] = []
    for trace in group.traces:
        label = group.label(trace)
        if reason := refused(trace, settings) or ("unlabelled" if label is None else ""):
            reasons[trace.id] = reason
        elif label is not None:
            usable.append((trace, label))
    if settings.score == "correct":
        values = shares(
            [(trace, bool(label.correct)) for trace, label in usable if label.correct is not None]
        )
    else:
        values = {trace.id: a_step(label.step_scores, trace) for trace, label in usable if label.step_scores}
    for trace, _ in usable:
        ids, start, before = tuple(trace.token_ids), 0, ""
        for end, step, value in zip(trace.step_ends, trace.steps, values.get(trace.id, []), strict=False):
            if value is not None and math.isfinite(value):
                yield Side(trace.id, trace.prompt, step, ids[start:end], value, None, before, ids[:start])
            start, before = end, before + step
