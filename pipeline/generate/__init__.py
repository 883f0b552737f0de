"""Problem -> traces. A method is one file with the hooks of `GenerateMethod`.

It is a generator of asks (`pipeline/asks.py`) and plain code between them. It sees a Question, which holds no
gold, and the problem's rows from the stages that `from` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.asks import Asks
from pipeline.engine.decoding import Decoding, Dola, decoding_of
from pipeline.rows import Group, Problem, Question
from pipeline.settings import Cost, Length, PolicyName, StageSettings, added
from pipeline.tasks import BaseTask
from pipeline.vote import Kind


class GenerateSettings(StageSettings):
    """What every generator takes."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Dropped")
    words: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("num_generations", "num_return_sequences", "num_samples", "samples", "group_size"), "n"
        ),
        **dict.fromkeys(("max_new_tokens", "max_completion_length", "max_length"), "max_tokens"),
        **dict.fromkeys(("model", "policy"), "by"),
    }
    chooses_steps: ClassVar[bool] = False  #: are its traces put together from steps that a search chose?
    shows_hint: ClassVar[bool] = True  #: of a method that sees gold: is the question shown with a hint?

    by: PolicyName = Field("policy", description="the model that writes")
    where: Literal["all", "unsolved"] = Field(
        "all", description="unsolved: problems with no right trace in `from`"
    )
    split: Literal["train", "dev", "test"] = Field(
        "train", description="which problems; test only in `finally`"
    )
    problems: int | None = added(
        None, ge=1, description="so many problems; none: as problems_per_round says in training, or all"
    )
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    repetition_penalty: float = added(
        1.0, gt=0, le=10, description="of tokens that stand in prompt or completion already; 1: off"
    )
    dola: Dola | None = added(
        None, description="DoLa: draw by the last layer against an earlier one; {}: the paper's; none: off"
    )

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        return (*self.needs, "Label") if self.where == "unsolved" else self.needs

    @property
    def on_split(self) -> str:
        return self.split

    @property
    def problems_wanted(self) -> int | None:
        return self.problems

    @property
    def sampling(self) -> dict[str, Any]:
        """How its asks draw, as `Continue` takes it."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}

    def sampling_at(self, temperature: float) -> dict[str, Any]:
        """The same at a temperature of its own; a greedy one cuts nothing off."""
        own = self.sampling if temperature else {"top_p": 1.0, "top_k": 0}
        return own | {"temperature": temperature}

    @property
    def cuts(self) -> bool:
        """Are its traces drawn from a part of the distribution (`Trace.cut`)?"""
        return self.top_p < 1 or self.top_k > 0

    @property
    def draws_alike(self) -> bool:
        return self.temperature == 0

    @property
    def written_by(self) -> str:
        return self.by

    @property
    def drawn_otherwise(self) -> str:
        found = [f"temperature {self.temperature:g}"] if self.temperature != 1 else []
        found += [f"top_p {self.top_p:g}"] if self.top_p < 1 else []
        found += [f"top_k {self.top_k}"] if self.top_k else []
        found += [self.decoding.said] if self.decoding else []
        found += ["a search's choice among steps"] if self.chooses_steps else []
        found += ["a hint in the prompt"] if self.sees_gold and self.shows_hint else []
        return ", ".join(found)

    @property
    def decoding(self) -> Decoding | None:
        return decoding_of(self.repetition_penalty, self.dola)

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    @property
    def score_kind(self) -> Kind:
        """What `Trace.score` is, where it sets one."""
        return "probability"

    def tokens(self, task: Length) -> float:
        """Tokens of a typical completion within its limit."""
        return min(task.typical_tokens, self.max_tokens or task.typical_tokens)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        return Cost(written={self.by: self.tokens(task)}, traces=1)


class GenerateMethod(Protocol):
    """What a file in generate/ has."""

    Settings: type[GenerateSettings]

    def generate(self, question: Question, settings: Any, given: Group | None) -> Asks[list[Any]]:
        """A problem's Trace rows, with Node, Problem and Dropped rows where it makes such.

        given: the problem's rows from `from`; None at a first stage.
        """
        ...


class GoldGenerateMethod(Protocol):
    """What a file in generate/ has that declares `sees_gold`."""

    Settings: type[GenerateSettings]

    def generate(
        self, question: Question, settings: Any, given: Group | None, *, problem: Problem, task: BaseTask
    ) -> Asks[list[Any]]:
        """The same; `question` is rendered with the task's hint, if it `shows_hint`."""
        ...


def contract(module: ModuleType) -> type:
    """Which of the two a module has to keep."""
    settings = getattr(module, "Settings", GenerateSettings)
    return GoldGenerateMethod if getattr(settings, "sees_gold", False) else GenerateMethod
