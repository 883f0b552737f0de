"""The row shapes: if two stages talk, they talk in one of these.

Each row is a frozen dataclass; its Arrow schema is derived from its annotations, so an empty shard has the
same types as a full one. `round` and `stage` are stamped by the stage that writes the row. Token positions
count from the first token of the completion, except in StepExample, where they count from the first token of
the prompt."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pyarrow

#: acts whose completion is another attempt at the question; "" is the first (`pipeline/tasks/_acts.py`)
ATTEMPTS = ("", "revise", "rewrite", "solve", "reflect")
ROUNDING = 1e-9  #: scores and shares are floats: .6 - .4 meets a bound of .2, and 1 - .7 one of .3
SCHEMA_VERSION = 1  #: goes into every fingerprint; a change of a row's meaning raises it


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every row carries."""

    problem_id: str
    round: int = -1  #: stamped at write
    stage: str = ""  #: stamped at write


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with its gold answer. Read by `answers`, gold-seeing labellers, rationalization and
    evaluation only."""

    id: str
    question: str
    answer: str | None  #: None: nobody knows it (imagined problems)
    difficulty: str = ""
    split: str = "train"  #: train, dev or test
    source: str = ""  #: which task it came from
    solution: str = ""  #: a gold rationale where the data set has one
    meta: str = ""  #: JSON text of what the task wants to remember; gold too


def sources_of(row: Any) -> Iterator[str]:
    """The ids of the traces or nodes that a labelled or selected row was made of."""
    for name in ("trace_id", "rejected_id"):
        if found := getattr(row, name, ""):
            yield found


def without_gold(problem: Problem) -> Problem:
    """What a labeller that declares `sees_gold = False` may see of a problem."""
    return dataclasses.replace(problem, answer=None, solution="", meta="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Row):
    """One completion. `token_ids`, `step_ends` and `logprobs` are of the completion alone."""

    id: str
    prompt: str  #: what training shows: no hint, few-shot only where the task says so
    text: str
    token_ids: list[int]  #: with the end token where `finish` is eos
    step_ends: list[int]  #: for each step the offset one past its last token; the last equals len(token_ids)
    steps: list[str]
    answer: str | None = None
    logprobs: list[float] = dataclasses.field(
        default_factory=list
    )  #: at temperature 1 under the prompt that was used
    finish: str = "eos"  #: eos, length, stop or budget
    hinted: bool = False
    few_shot: bool = False
    temperature: float = 1.0
    cut: bool = False  #: drawn with top-p or top-k
    turn: int = 0
    parent: str | None = None
    tokens_charged: int = (
        -1
    )  #: what the method would cost; -1: the stage shares its search's total among its traces
    prompt_hash: str = ""  #: SHA-256 (16 hex digits) of the token ids of the prompt that was used
    model: str = ""  #: the model that wrote it
    score: float | None = None  #: the generator's own score, where it has one
    chosen: bool = False  #: the search's answer to the problem

    @property
    def act(self) -> str:
        """What this turn was asked for: "" for an answer to the question itself, else `critique`, `revise`,
        ... Its id names it: `PROBLEM/critique.1` (`act_id`)."""
        name, _, number = self.id.rpartition("/")[2].partition(".")
        return name if number.isdigit() and name.isidentifier() else ""

    @property
    def has_logprobs(self) -> bool:
        """Is there a log-probability, and a finite one, of each of its tokens?"""
        return len(self.logprobs) == len(self.token_ids) and all(map(math.isfinite, self.logprobs))

    @property
    def is_attempt(self) -> bool:
        """Does it answer the question, whatever turn it is? A critique or a verdict does not."""
        return self.act in ATTEMPTS


def subject_of(trace: Trace, known: Mapping[str, Trace]) -> Trace | None:
    """The attempt that a later turn is about: the nearest one among those that it follows; `known` by id."""
    seen: set[str] = set()
    here = trace
    while here.parent and here.parent in known and here.parent not in seen:
        seen.add(here.parent)
        here = known[here.parent]
        if here.is_attempt:
            return here
    return None


def conversations(traces: Iterable[Trace]) -> list[list[Trace]]:
    """The attempts at a problem as conversations: each last attempt with those that it followed, oldest
    first. Two that go on from one attempt are two; what is no attempt stands in none."""
    known = {trace.id: trace for trace in traces}
    before = {trace.id: subject_of(trace, known) for trace in known.values() if trace.is_attempt}
    followed = {above.id for above in before.values() if above is not None}
    found = []
    for name in before:
        if name in followed:
            continue
        chain, above = [known[name]], before[name]
        while above is not None and above not in chain:
            chain.insert(0, above)
            above = before[above.id]
        found.append(chain)
    return found


def critiques_of(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    """By attempt the critiques of it, in the order of the rows."""
    known = {trace.id: trace for trace in traces}
    found: dict[str, list[Trace]] = {}
    for trace in known.values():
        if trace.act == "critique" and (subject := subject_of(trace, known)) is not None:
            found.setdefault(subject.id, []).append(trace)
    return found


def act_id(problem_id: str, act: str, number: int) -> str:
    """The id of a trace within its problem: `PROBLEM/3`, and `PROBLEM/critique.3` where it is a turn of a
    conversation."""
    return f"{problem_id}/{act}.{number}" if act else f"{problem_id}/{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Row):
    """One node of a search tree. `trace_id` names the trace that ends here, if one does."""

    id: str
    parent: str | None
    step: str
    depth: int
    value: float | None = None
    visits: int = 0
    prior: float | None = None
    terminal: bool = False
    trace_id: str | None = None
    token_ids: list[int] = dataclasses.field(default_factory=list)  #: of this step alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Row):
    """What a labeller says of one trace (or one tree node, where `trace_id` names it)."""

    trace_id: str
    correct: bool | None = None
    step_scores: list[float | None] | None = None  #: one a step; None = unknown
    value: float | None = None
    advantage: list[float | None] | None = None  #: one a step, one a token, or one for the whole trace
    reason: str = ""
    labeller: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Row):
    """One training row of a policy. Loads in TRL as it is."""

    prompt: str
    completion: str
    weight: float = 1.0
    trace_id: str = ""
    prompt_ids: list[int] = dataclasses.field(default_factory=list)
    completion_ids: list[int] = dataclasses.field(default_factory=list)
    advantage: list[float | None] | None = None
    old_logprobs: list[float] | None = None  #: same length as completion_ids
    kl_weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepExample(Row):
    """One training row of a process reward model. `token_ids` holds prompt + completion; `step_ends` count
    from its start."""

    prompt: str
    completions: list[str]
    labels: list[float | None]  #: None = not trained
    token_ids: list[int]
    step_ends: list[int]
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Row):
    """One preference. Loads in TRL as it is.

    Of whole completions, or of two steps (or tokens) after one prefix: the prompt then goes on into the
    completion, and the two are what follows there. The ids are those that were drawn, where they are known.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0  #: how much better the chosen one is, by what ranked them
    confidence: float = 1.0  #: how likely the chosen one is the better one; below 1: a smoothed label
    trace_id: str = ""  #: of the chosen completion, or of the node or trace that the chosen step is of
    rejected_id: str = ""  #: the same of the rejected one
    whole: bool = True  #: completions that end; False: steps, after which more may follow
    prompt_ids: list[int] = dataclasses.field(default_factory=list)
    chosen_ids: list[int] = dataclasses.field(default_factory=list)
    rejected_ids: list[int] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Row):
    """An input row that no output row names, and why."""

    what: str  #: the id of the trace, node or problem
    reason: str


AnyRow = Trace | Node | Label | Example | StepExample | Pair | Dropped | Problem
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Problem, Trace, Node, Label, Example, StepExample, Pair, Dropped)
}
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a generator may see of a problem: no gold."""

    id: str
    question: str
    prompt: str  #: as training shows it, chat template applied
    prompt_used: str  #: with few-shot examples or a hint in front; equal to `prompt` without
    task: str = ""
    messages: str = ""  #: JSON of the chat turns where the task has them, for a model with another template
    few_shot: bool = False
    hinted: bool = False
    stem: str = ""  #: what `prompt_used` shares with other questions of the stage: the examples
    act: str = ""  #: of a later turn: what is asked for (`asks.Turn`)
    turn: int = 0  #: how many turns it has seen


@dataclass(frozen=True, slots=True)
class Group:
    """One problem's rows from the stages that a stage reads."""

    problem_id: str
    traces: list[Trace] = dataclasses.field(default_factory=list)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    labels: dict[str, Label] = dataclasses.field(
        default_factory=dict
    )  #: by trace id; a later labeller's fields win
    dropped: list[Dropped] = dataclasses.field(default_factory=list)
    examples: list[Example | StepExample | Pair] = dataclasses.field(default_factory=list)
    #: what labellers had written and did not label (`parent`: the trace that one begins with)
    rollouts: list[Trace] = dataclasses.field(default_factory=list)
    #: tokens by model that the label stages read were charged for it: its even share of its chunk's
    charged: dict[str, float] = dataclasses.field(default_factory=dict)
    question: str = ""  #: what the problem asks, where a selector is given the group

    def label(self, trace: Trace) -> Label | None:
        """The merged label of a trace."""
        return self.labels.get(trace.id)

    @property
    def solved(self) -> bool:
        """Is some trace known to be right?"""
        return any(label.correct for label in self.labels.values())


def _arrow_type(annotation: Any) -> pyarrow.DataType:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in plain:
        return plain[annotation]
    parts = [part for part in typing.get_args(annotation) if part is not types.NoneType]
    if typing.get_origin(annotation) is list:
        return pa.list_(_arrow_type(parts[0]))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and len(parts) == 1:
        return _arrow_type(parts[0])
    raise TypeError(f"no Arrow type for {annotation}")


@cache
def schema(kind: type) -> pyarrow.Schema:
    """The Arrow schema of a row class."""
    import pyarrow as pa

    hints = typing.get_type_hints(kind)
    return pa.schema([(f.name, _arrow_type(hints[f.name])) for f in dataclasses.fields(kind)])


def to_dict(row: Any) -> dict[str, Any]:
    """A shallow dict of a row, in field order."""
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}


def to_table(kind: type[R], rows: list[R]) -> pyarrow.Table:
    """Rows of one kind as an Arrow table with the kind's schema."""
    import pyarrow as pa

    plain: type = kind
    names = [f.name for f in dataclasses.fields(plain)]
    wanted = schema(plain)
    return pa.table(
        {n: pa.array([getattr(r, n) for r in rows], wanted.field(n).type) for n in names}, schema=wanted
    )
