"""Models -> numbers, and the gate. Evaluation is gold's other reader beside the labellers.

A method is one file with the hooks of `EvaluateMethod`. In the order of their calls: `answer` is what one
model does on one problem, a generator of asks; `grade` holds the rows against gold; both are committed. Then,
from the rows on disk (an incumbent's may be an earlier round's), `outcomes` sums up a problem, `measure`
makes metrics with 95 % intervals of all problems, and `health` says whether such a model may go on.
`metrics` and `panels` declare beforehand what is measured, for the gate, the console and the report, which
know no metric by its name; `remarks` are what it says of its numbers in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, ValidationError

from pipeline.asks import Asks
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, ModelName, NotBuilt, StageSettings, module_of, optional
from pipeline.tasks import BaseTask
from pipeline.vote import Kind

Search = Callable[[Question], Asks[list[Any]]]  #: a generate method, ready to be asked by one model
GOLD = "gold"  #: the labeller of what the task itself says: right or wrong, and the step oracle's verdicts

#: the report's own questions: a panel of one of these sections stands there, any other under "what else"
LEARNING, TROUBLE, TRUST = "Is it getting better?", "Why did it stall?", "Can I trust the PRM?"


class EvaluateSettings(StageSettings):
    """What every evaluation takes."""

    sees_gold: ClassVar[bool] = True
    #: does `answer` act by what the task knows (a sound verifier)? Its metrics must say so
    answers_with_gold: ClassVar[bool] = False
    makes: ClassVar[tuple[str, ...]] = ("Trace", "Label", "Dropped")

    of: ModelName | list[ModelName] = Field(
        "policy", description="the models measured; `policy@0` is the seed"
    )
    split: Literal["train", "dev", "test"] = "dev"
    problems: int | None = Field(None, ge=1, description="at most this many problems of the split; none: all")
    search: dict[str, Any] | None = Field(None, description="act by a generate method: {generate: beam, ...}")

    @property
    def measured(self) -> list[str]:
        """The models that it measures."""
        return [self.of] if isinstance(self.of, str) else list(self.of)

    @property
    def on_split(self) -> str:
        return self.split

    @property
    def takes_scores_as(self) -> Kind | None:
        """What it takes the scores of the traces in `from` to be; None: it adds none up."""
        return None

    @property
    def answers_by_labels(self) -> bool:
        """Do the labels in `from` say what the answer is? Then no label stage there may see gold."""
        return False

    @property
    def asked_acts(self) -> tuple[str, ...]:
        acting = self._acting
        return (*self.acts, *(acting.asked_acts if acting is not None else ()))

    @property
    def _acting(self) -> Any:
        """The same as `acting`, and None where `search` has wrong keys, of which `check` tells."""
        try:
            return self.acting()
        except ValidationError:
            return None

    def acting(self, model: str | None = None) -> Any:
        """The settings of the generate method that a model acts by (the first measured one by default); None
        where there is no `search`, or no such method.

        Raises:
            pydantic.ValidationError: `search` has wrong keys; `check` says which.
        """
        if self.search is None:
            return None
        given = {key: value for key, value in self.search.items() if key != "generate"}
        try:
            kind = module_of("generate", str(self.search.get("generate"))).Settings
        except NotBuilt:
            return None
        return kind.model_validate(given | {"by": model or self.measured[0]})

    @property
    def decoding(self) -> Any:
        """As the generate method draws that it acts by."""
        acting = self._acting
        return None if acting is None else acting.decoding

    def answering(self, model: str, task: Length) -> Cost:
        """What one model's answers to a problem cost; a search's are what its method says."""
        acting = self.acting(model)
        return Cost(written={model: task.typical_tokens}, traces=1) if acting is None else acting.cost(task)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return sum((self.answering(model, task) for model in self.measured), Cost())


@dataclass(frozen=True)
class Health:
    """What a look at a model's metrics found: things to say, and things that must not pass."""

    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric that an evaluation writes, as it may be named before anything has run."""

    name: str  #: as `measure` writes it: accuracy/greedy
    says: str  #: what a reader calls it: greedy accuracy
    less: bool = False  #: less is better
    share: bool = True  #: from 0 to 1, shown in per cent
    headline: bool = False  #: said when the stage ends
    #: judges the models that answer: their curve, best round, verdict, and the change in the round table are
    #: of the first main metric; the labeller "gold" says of such a stage's traces which problems are solved
    main: bool = False
    short: str = ""  #: in tables and lists of its kind: greedy; empty: as it is said
    column: str = ""  #: its heading in the tables of rounds; empty: it is no column
    gain: str = ""  #: the metric that is its paired gain over another version: gain/greedy; empty: none
    #: what a gate's bound takes where a round had nothing to measure it by: infinity for curves that never
    #: cross. None: nobody knows, and the bound refuses
    absent: float | None = None

    @property
    def brief(self) -> str:
        return self.short or self.says


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure that an evaluation offers the report.

    metrics: metric -> what a reader calls it. A name that ends in "/" stands for all metrics that begin so
    (`calibration/`), whose rest is theirs: a bin, a percentage. kind:
    - curve: each metric by round, with its `/low` and `/high` where they are there; stages that declare the
      same section and title share a figure;
    - bars: the newest round's metrics side by side;
    - table: a row a round, a column a metric;
    - lines: the newest round's metrics over the number behind each one's last `@` (`beam@16`: 16), a line for
      each name that a reader calls them by;
    - over: the metrics of a round over the number that each is called by (`pass@8`: 8), a line a round;
    - changes: a metric's paired change in each round, with its interval;
    - bins: what stands behind a prefix (`accuracy/greedy/`: difficulties) by round, as a heat map;
    - calibration: `PREFIX/BIN/score`, `/true`, `/share`;
    - roc: `PREFIX/PERCENT`, the share of true points found where that many per cent of the false ones pass.
    """

    section: str  #: the question that its section of the report answers: Can I trust the PRM?
    title: str
    kind: Literal["curve", "bars", "table", "lines", "over", "changes", "bins", "calibration", "roc"]
    metrics: Mapping[str, str]
    note: str = ""
    share: bool = True  #: in per cent
    zero: bool = True  #: its axis begins at zero
    axis: str = ""  #: what stands beside it
    small: bool = False  #: one of the small figures at the section's end
    picture: str = ""  #: what a monitor calls its picture; empty: it is not sent


class EvaluateMethod(Protocol):
    """What a file in evaluate/ has."""

    Settings: type[EvaluateSettings]

    def answer(
        self, question: Question, settings: Any, model: str, search: Search | None, given: Group | None
    ) -> Asks[list[Any]]:
        """What one model does on one problem: Trace rows (their ids and `model` hold its name), Labels that
        it made, Node and Dropped rows. search: the generate method that it acts by, where the recipe names
        one. given: the problem's rows from `from`; None without.
        """
        ...

    @optional
    def grade(self, problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
        """Labels of a problem's rows by its gold answer; none."""
        return []

    def outcomes(
        self,
        problem: Problem,
        traces: Sequence[Trace],
        labels: Sequence[Label],
        settings: Any,
        model: str,
        task: BaseTask,
    ) -> Any:
        """One model on one problem, compact; rows of other models are to be passed over. All problems'
        outcomes are in memory at once.
        """
        ...

    def measure(self, found: Mapping[str, Sequence[Any]], settings: Any) -> dict[str, float]:
        """Metrics without the stage's name. Keys of `found`: those of `of` in order, `NAME@incumbent`."""
        ...

    def metrics(self, settings: Any) -> list[Metric]:
        """What `measure` will write, as far as it is known beforehand."""
        ...

    @optional
    def panels(self, settings: Any) -> list[Panel]:
        """The figures that the report draws of it; none."""
        return []

    @optional
    def remarks(self, metrics: Mapping[str, float], settings: Any) -> dict[str, str]:
        """A sentence or two by section, what its numbers of one round answer to the section's question;
        none. `metrics` as `measure` gives them."""
        return {}

    @optional
    def health(self, metrics: Mapping[str, float], settings: Any) -> Health:
        """Is the first model of `of` fit to go on? A failure refuses it at the gate; well."""
        return Health()

    @optional
    def spend(
        self, question: Question, settings: Any, model: str, metrics: Mapping[str, float], budget: int
    ) -> Asks[list[Any]]:
        """Answer one question within a budget of samples, by what this evaluation measured (`metrics` as
        `measure` gives them), for `ratchet solve --budget`: Trace rows, one of them `chosen`, and a Label
        whose reason says how. Not every evaluation can.
        """
        raise NotImplementedError
        yield  # pragma: no cover


class GoldEvaluateMethod(EvaluateMethod, Protocol):
    """What a file in evaluate/ has that declares `answers_with_gold`."""

    def answer(  # type: ignore[override]
        self,
        question: Question,
        settings: Any,
        model: str,
        search: Search | None,
        given: Group | None,
        *,
        problem: Problem,
        task: BaseTask,
    ) -> Asks[list[Any]]:
        """The same, with the answer at hand: for upper bounds, told apart in what is measured."""
        ...


def contract(module: ModuleType) -> type:
    """Which of the two a module has to keep."""
    settings = getattr(module, "Settings", EvaluateSettings)
    return GoldEvaluateMethod if getattr(settings, "answers_with_gold", False) else EvaluateMethod
