"""Questions in. One file a task, with the two classes of `TaskMethod`: `Settings` and `Task`.

A task gives problems, prompts, hints, step boundaries, extraction, comparison, difficulty and, where it can,
a step oracle. Nothing here loads torch. The split of a question is its SHA-256 modulo 10 (0 test, 1 dev, the
rest train and seeds), before counts are taken; a data set's own test split stays test.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from pipeline.rows import ATTEMPTS, Dropped, Problem
from pipeline.settings import Settings, added, operational
from pipeline.tasks import _acts, _sound, _tags

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from pipeline.asks import Said

Message = dict[str, str]


class FewShot(Settings):
    """Worked examples for some versions of a model: trained ones need none, and pay for each token."""

    examples: int = Field(4, ge=0, description="worked examples in front of each question")
    rounds: tuple[int, int | None] = Field(
        (0, None),
        description="[first, last]: for versions that begin to write in these rounds: the base in 0, what "
        "round 1 trains in 2; [0, 1] is the base alone",
    )


class TaskSettings(Settings):
    """What every task takes."""

    use: str
    train: int | None = Field(None, ge=1, description="training problems; none: all")
    dev: int | None = Field(None, ge=0, description="problems that feed the gate")
    test: int | None = Field(None, ge=0, description="problems read once, in `finally`")
    max_tokens: int = Field(256, ge=1, description="tokens a completion may have")
    few_shot: Annotated[int, Field(ge=0)] | FewShot = Field(
        0, description="worked examples in front of each question while sampling; or {examples, rounds}"
    )
    train_few_shot: bool = Field(False, description="keep the worked examples in the training prompt too")
    chat: bool = Field(False, description="use the tokenizer's chat template")
    system: str = Field("", description="system prompt, with `chat`")
    acts: dict[str, str] = added(
        {},
        description="words of later turns, by act (critique, revise, rewrite, judge, compare, propose): "
        "the instruction of a chat, what stands in front of the turn in a plain text",
    )
    critique: Literal["neutral", "fault"] = added(
        "neutral",
        description="how a chat asks for a critique; fault: as if there were one, as Self-Refine does",
    )
    cache: str = operational("", description="where downloaded data sets are kept")

    @model_validator(mode="after")
    def _fault_is_said(self) -> TaskSettings:
        if self.critique == "fault" and not self.chat:
            raise ValueError(
                "critique: fault is how a chat is asked, and this task does not chat: set chat: true, or say "
                "what stands before a critique in acts: {critique: ...}"
            )
        if self.critique == "fault" and self.acts.get("critique"):
            raise ValueError("critique: fault, and acts.critique words it too: leave one of them out")
        return self

    def shots(self, trained: int | None = None) -> int:
        """How many worked examples a version of a model is shown; `trained`: the round that trained it, -1
        for a base; None: the most that any version is shown.
        """
        if isinstance(self.few_shot, int):
            return self.few_shot
        first, last = self.few_shot.rounds
        begins = None if trained is None else trained + 1
        shown = begins is None or (first <= begins and (last is None or begins <= last))
        return self.few_shot.examples if shown else 0

    @property
    def typical_tokens(self) -> float:
        """Tokens of a typical completion, for `plan`: half of what one may have, where the task knows no
        better.
        """
        return 0.5 * self.max_tokens

    @property
    def typical_steps(self) -> float:
        """Steps of a typical completion, for `plan`."""
        return 6.0

    @property
    def countable(self) -> bool:
        """May `plan` count the problems by reading them, quickly and without a network?"""
        return False


class BaseTask:
    """One task, made from its settings. Subclasses override what differs."""

    step_separator: str = "\n"  #: a step ends with this
    stop: tuple[str, ...] = ()  #: texts that end a completion, beside the end token
    example_separator: str = "\n\n"  #: stands between worked examples in a plain prompt
    REQUIRED: ClassVar[tuple[str, ...]] = ("problems", "extract", "correct")  #: what a task must bring
    licence: ClassVar[str] = ""  #: of its data, for the list of tasks; "": nobody says
    origin: ClassVar[str] = ""  #: where its data come from, for the list of tasks; "": it makes them itself

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.name: str = settings.use

    def problems(self) -> Iterator[Problem]:
        """Every problem of every split, in a fixed order, with ids unique within the task.

        Raises:
            DamagedData: the source cannot be read. A bad line is yielded by `rejected` instead where the
                source is a file.
        """
        raise NotImplementedError

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """Bad input rows met by the last `problems()`: {"file", "line", "reason"}."""
        return []

    @property
    def dropped(self) -> list[Dropped]:
        """Good input rows that the last `problems()` left out, each with its reason (a question met
        twice).
        """
        return []

    def source_bytes(self) -> int | None:
        """Bytes of the files that its problems are read from; None where it has none."""
        return None

    def first(self) -> list[Problem]:
        """Some of its problems, where that costs next to nothing; neither split nor id need be set."""
        return []

    def look(self) -> list[str]:
        """What a first look at its source finds wrong, a sentence each; reads little, downloads nothing."""
        return []

    def prompt(self, question: str) -> str:
        """The plain prompt of a question, ending where the completion begins."""
        return question

    def messages(self, question: str) -> list[Message]:
        """The chat turns of a question; used with `chat: true`."""
        system = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        return [*system, {"role": "user", "content": question}]

    def turn_messages(self, question: str, act: str, history: Sequence[Said]) -> list[Message]:
        """The chat turns that ask for an act after what was said (`_acts.py`); used with `chat: true`."""
        return _acts.messages(self, question, act, history)

    def turn_prompt(self, question: str, act: str, history: Sequence[Said]) -> str:
        """The same as plain text, ending where the turn begins."""
        return _acts.plain(self, question, act, history)

    def extract_turn(self, act: str, text: str) -> str | None:
        """What the completion of a later turn answers, or None: an attempt's answer, a critique's `right` or
        `wrong`, a judge's points, which of two is better, a proposed question.
        """
        if act == "reflect":
            said = _tags.output(text)
            return None if said is None else self.extract(said)
        if act == "propose":
            found = self.proposed(text)
            return found.question if found else None
        answers = act in ATTEMPTS or act == "subanswer"
        return self.extract(text) if answers else _acts.read(act, text)

    def extract_cut(self, act: str, text: str) -> str | None:
        """The same of a turn that the limit cut: what a critique says of a step on its way, over and over
        where it loops, is no verdict on the answer, so one counts only where it is stated (`Verdict: right`).
        """
        return None if act == "critique" and not _acts.stated(text) else self.extract_turn(act, text)

    def step_verdicts(self, text: str, num: int) -> list[bool | None]:
        """What a critique says of each of the answer's `num` steps: is it true? None where it does not say.
        Its verdict on the whole is `extract_turn`'s.
        """
        return _acts.step_verdicts(text, num)

    def feedback(self, problem: Problem, text: str, detail: Literal["verdict", "first", "all"]) -> str:
        """What a checker that knows the truth says of an answer, as a critique is worded: its verdict alone,
        the first fault, or all of them. It sees gold: for evaluations alone.
        """
        return _sound.feedback(self, problem, text, detail)

    def proposed(self, question: str) -> Problem | None:
        """A question that a model proposed, as a Problem without an answer; None where it is none of this
        task's.
        """
        if not normalise(question):
            return None
        name = hashlib.sha256(normalise(question).encode()).hexdigest()[:12]
        text = question.strip()
        return Problem(id=f"{self.name}-proposed-{name}", question=text, answer=None, source=self.name)

    def legal(self, question: str, steps: list[str]) -> list[bool] | None:
        """For each step: do the rules allow it after those before, and is what it states true? Not whether an
        answer can still be reached, and without gold. None where the task has no such rules.
        """
        return None

    def conversation(
        self, draw: random.Random, holed: bool = False, within: int = 0, pairs: bool = False
    ) -> _acts.Conversation | None:
        """A turn made by rules, for a model to learn from: an answer, right or spoiled, and what a critic, a
        second try or a judge says then. Never about a dev or test question. None: the task makes none.

        holed: the critic believes every step and looks at the end alone; within: an end so near is right;
        pairs: as for a model that is to judge which of two answers is better.
        """
        return None

    def examples(self, problem: Problem) -> list[tuple[str, str]]:
        """(question, completion) worked examples shown before a problem; their number is
        `settings.shots()`.
        """
        return []

    def shown(self) -> list[str]:
        """Questions of worked examples that may stand in a split too: they are never evaluated there. Tasks
        that draw their examples from the training questions have none.
        """
        return []

    def hinted(self, problem: Problem) -> str | None:
        """The question text with its answer as a hint (rationalization), or None where the task has none."""
        return None

    def hinted_examples(self, problem: Problem) -> list[tuple[str, str]]:
        """`examples` with hints in their questions, where the task can: shown before a hinted problem."""
        return self.examples(problem)

    def leaks(self, problem: Problem, text: str) -> str | None:
        """Why a completion written under a hint may not be trained on (it mentions the hint), or None."""
        return None

    def steps(self, text: str) -> list[str]:
        """A completion cut into steps; their concatenation is the text."""
        return [part for part in re.split(f"(?<={re.escape(self.step_separator)})", text) if part]

    def extract(self, text: str) -> str | None:
        """The final answer of a completion, or None."""
        raise NotImplementedError

    def why_no_answer(self, text: str) -> str:
        """Why `extract` finds no answer in a completion that ended by itself, in a few words for the report;
        "" where there is no more to say than that."""
        return ""

    def correct(self, answer: str | None, problem: Problem) -> bool:
        """Is the answer right? May ask the answer jail; never evaluates text here."""
        raise NotImplementedError

    def same(self, one: str, other: str) -> bool:
        """Do two answers mean the same, so that they vote together? Asked of answers alone, never of gold."""
        return one == other

    def gold_completion(self, problem: Problem) -> str | None:
        """A right completion in the task's own format, where the task knows one (seeds, gold prefixes of a
        first PRM, doctor).
        """
        return None

    def step_oracle(self, problem: Problem, steps: list[str]) -> list[bool] | None:
        """For each step: is a right end still reachable and everything so far true? None where the task
        cannot tell.
        """
        return None

    def step_result(self, step: str) -> str | None:
        """The intermediate result that a step states, in one spelling, so that steps of two completions can
        be held against one another; None where it states none. Here: the number after the last `=`, a
        calculator note's own (`<<48/2=24>>`), or what stands after `####`.
        """
        from pipeline.answers import extract

        noted = re.findall(r"<<[^<>]*=([^<>=]+)>>", step)
        _, mark, after = step.rpartition("=")
        found = noted[-1] if noted else after if mark else extract.after_hashes(step)
        value = extract.first_number(found) if found else None
        return None if value is None else extract.spell(value)

    def difficulty(self, problem: Problem) -> str:
        """A short bin name for tables, in an order that sorts."""
        return problem.difficulty


class TaskMethod(Protocol):
    """What a file in tasks/ has."""

    Settings: type[TaskSettings]
    Task: type[BaseTask]


def contract(module: ModuleType) -> type:
    """The Protocol that a module has to keep."""
    return TaskMethod


def normalise(question: str) -> str:
    """A question as the overlap check sees it: NFKC, lower case, letters and digits only, single spaces."""
    plain = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(re.findall(r"\w+|[+\-*/=<>^.%]", plain))


def split_of(question: str) -> str:
    """train, dev or test by the question's hash (docs/design.md, 4)."""
    bucket = int.from_bytes(hashlib.sha256(normalise(question).encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")
