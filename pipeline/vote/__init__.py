"""Candidates -> answer. A method is one file with the hooks of `VoteMethod`; `aggregate.py` turns step scores
into one score.

Candidates without an answer never win. Answers that mean the same share a `key` (`keys` finds it by the
task's equality; the text itself where none is given). Gold is not here: a vote cannot see it.

    votes: [majority, weighted, {use: weighted, aggregate: min}]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol

from pydantic import Field, ValidationError

from pipeline.errors import nearest
from pipeline.settings import NotBuilt, Settings, module_of
from pipeline.vote.aggregate import Aggregate, Kind, weight

__all__ = ["Aggregate", "Ballot", "Candidate", "Kind", "Rule", "VoteMethod", "VoteSettings", "ballots"]
__all__ += ["ScoredSettings", "contract", "keys", "rule", "usable", "weight"]


class VoteSettings(Settings):
    """What every vote takes."""

    scored: ClassVar[bool] = False  #: does it need a reward model's scores?

    @property
    def step_rule(self) -> Aggregate | None:
        """How it makes one score of step scores, where it differs from the evaluation's own way."""
        return None


class ScoredSettings(VoteSettings):
    """What every vote by scores takes."""

    scored: ClassVar[bool] = True

    aggregate: Aggregate | None = Field(
        None, description="step scores -> one score a trace; none: as the evaluation says"
    )

    @property
    def step_rule(self) -> Aggregate | None:
        return self.aggregate


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer, with the PRM's aggregated score and the summed log-probability of its trace where they
    are known. `kind` says what the score is; its source knows.
    """

    answer: str | None
    score: float | None = None
    logprob: float | None = None
    key: str = ""  #: the canonical form of the answer; "": the answer itself
    kind: Kind = "probability"
    num_tokens: int = 0  #: of its trace, which the log-probability is over

    @property
    def weight(self) -> float | None:
        """The score as what may be added up; None where it is unknown or no number."""
        score = usable(self.score)
        return None if score is None else weight(score, self.kind)


@dataclass(frozen=True, slots=True)
class Ballot:
    """What stands for one answer."""

    answer: str  #: as the first of its candidates wrote it
    votes: int
    score: float  #: sum of the known scores
    best: float  #: highest score; -inf where none is known
    logprob: float  #: sum over its candidates; an unknown one counts as -inf


def keys(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> list[str | None]:
    """For each answer the first of those that mean the same (`task.same`); None stays None."""
    first: dict[str, str] = {}
    leaders: list[str] = []
    for answer in answers:
        if answer is None or answer in first:
            continue
        first[answer] = next((leader for leader in leaders if same(answer, leader)), answer)
        if first[answer] == answer:
            leaders.append(answer)
    return [None if answer is None else first[answer] for answer in answers]


def usable(score: float | None) -> float | None:
    """A score that may count: NaN and infinity say nothing."""
    return score if score is not None and math.isfinite(score) else None


def ballots(candidates: Sequence[Candidate]) -> list[Ballot]:
    """One Ballot an answer, in order of first appearance."""
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        if one.answer is not None:
            groups.setdefault(one.key or one.answer, []).append(one)
    found = []
    for members in groups.values():
        scores = [score for one in members if (score := usable(one.score)) is not None]
        found.append(
            Ballot(
                answer=str(members[0].answer),
                votes=len(members),
                score=math.fsum(scores),
                best=max(scores, default=-math.inf),
                logprob=math.fsum(-math.inf if one.logprob is None else one.logprob for one in members),
            )
        )
    return found


class VoteMethod(Protocol):
    """What a file in vote/ has."""

    Settings: type[VoteSettings]

    def vote(self, candidates: Sequence[Candidate], settings: Any) -> str | None:
        """The winning answer; None where no candidate has one. Ties: the same for the same order."""
        ...


def contract(module: ModuleType) -> type:
    """The Protocol that a module has to keep."""
    return VoteMethod


@dataclass(frozen=True)
class Rule:
    """A vote with its settings, ready to be asked. `label` names it in metrics: weighted, weighted-min."""

    label: str
    settings: VoteSettings
    module: ModuleType

    def __call__(self, candidates: Sequence[Candidate]) -> str | None:
        return self.module.vote(candidates, self.settings)


def rule(spec: str | Mapping[str, Any], known: Sequence[str] = ()) -> Rule:
    """A vote from a recipe: its name, or {use: NAME, ...its settings}.

    Raises:
        ValueError: there is none of this name (the nearest of `known` is said), or a setting is wrong.
    """
    given = {"use": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("use", None)
    if not isinstance(name, str):
        raise ValueError("say which vote: majority, or {use: weighted, aggregate: min}")
    try:
        module = module_of("vote", name)
    except NotBuilt:
        raise ValueError(f"no vote {name!r}{nearest(name, known or built_in())}") from None
    try:
        settings = module.Settings.model_validate(given)
    except ValidationError as found:
        fields = list(module.Settings.model_fields)
        raise ValueError("; ".join(_said(name, error, fields) for error in found.errors())) from None
    changed = [str(value) for key in given if (value := getattr(settings, key)) is not None]
    return Rule("-".join([name, *changed]), settings, module)


def built_in() -> list[str]:
    """The votes of this room, by name."""
    from pathlib import Path

    return sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem != "aggregate")


def _said(name: str, error: Any, fields: list[str]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"vote {name}: unknown key {key}{nearest(key, fields)}"
    return f"vote {name}: {key}: {error['msg'][0].lower()}{error['msg'][1:]}"
