"""What a search may ask of a model, and the prefixes it asks about.

A method is a generator: it yields asks and is sent replies, and never holds a model (docs/design.md, 3).

    def generate(question, settings, given):
        leaves = yield Continue(start(question), n=4, until="step", by=settings.by)  # list[Prefix], grown
        scores = yield Score(leaves, by=settings.value)  # list[list[float]], one list a prefix
        ...

Replies are flat and in order: `Continue` over P prefixes with n samples gives P * n grown prefixes,
prefix-major. The number of an ask is its order of yield within the problem (members of `All` in order), the
number of a sample its place in the flat reply: both name the random draws, so a reply never depends on what
else runs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from pipeline.rows import Question, Trace

T = TypeVar("T")
Asks = Generator["Ask", Any, T]  #: the type of a method: yields asks, returns T


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt and the part of a completion written so far, as token ids. Immutable: continuing makes a new
    one.

    `logprobs` are at temperature 1, one a token. `finish` is "" while more can be written, else eos,
    length, stop or budget.
    """

    prompt: str  #: the prompt that is used (with few-shot or hint), in the acting model's template
    token_ids: tuple[int, ...] = ()
    step_ends: tuple[int, ...] = ()  #: offsets one past each finished step's last token
    steps: tuple[str, ...] = ()
    text: str = ""
    logprobs: tuple[float, ...] = ()
    finish: str = ""
    answer: str | None = None  #: filled by the driver once the text holds an answer
    prompt_hash: str = ""  #: filled by the driver
    model: str = ""  #: who wrote the last step
    act: str = ""  #: what the turn was asked for; its answer is read accordingly (`BaseTask.extract_turn`)

    @property
    def done(self) -> bool:
        """Nothing more can be written."""
        return bool(self.finish)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def said(self) -> str | None:
        """The answer that it votes for; None where it has none, or where a limit may have cut it."""
        return self.answer if self.finish in ("eos", "stop") else None


def start(question: Question) -> Prefix:
    """The empty completion of a question."""
    return Prefix(prompt=question.prompt_used, act=question.act)


def about(problem_id: str, question: str) -> Question:
    """A problem as `Turn` needs it, for a method that is given no Question (a labeller, a selector): it has
    no prompt of its own."""
    from pipeline.rows import Question

    return Question(id=problem_id, question=question, prompt="", prompt_used="")


def to_trace(question: Question, prefix: Prefix, number: int, **more: Any) -> Trace:
    """A finished or abandoned prefix as a Trace row; `number` makes the id unique within the problem and act.

    An unfinished prefix becomes `finish="budget"`. Give `temperature`, `cut`, `tokens_charged`, `chosen`,
    `score`, and the `parent` of a later turn in `more`.
    """
    from pipeline.rows import Trace, act_id

    prefix = closed(prefix)
    return Trace(
        problem_id=question.id,
        id=act_id(question.id, question.act, number),
        prompt=question.prompt,
        text=prefix.text,
        token_ids=list(prefix.token_ids),
        step_ends=list(prefix.step_ends),
        steps=list(prefix.steps),
        answer=prefix.answer,
        logprobs=list(prefix.logprobs),
        finish=prefix.finish or "budget",
        hinted=question.hinted,
        few_shot=question.few_shot,
        prompt_hash=prefix.prompt_hash,
        model=prefix.model,
        turn=question.turn,
        **more,
    )


def prefix_of(trace: Trace, num_steps: int | None = None, prompt: str | None = None) -> Prefix:
    """A trace, or its first steps, as a prefix that can be continued, scored or read.

    The ids are the trace's own, never re-tokenised. A whole trace comes back closed as it ended; its first
    steps are open. prompt: the prompt that was used, where it is not what training shows (a hint, worked
    examples).
    """
    used = trace.prompt if prompt is None else prompt
    if num_steps is None:
        return Prefix(
            prompt=used,
            token_ids=tuple(trace.token_ids),
            step_ends=tuple(trace.step_ends),
            steps=tuple(trace.steps),
            text=trace.text,
            logprobs=tuple(trace.logprobs),
            finish=trace.finish,
            answer=trace.answer,
            prompt_hash=trace.prompt_hash,
            model=trace.model,
            act=trace.act,
        )
    end = trace.step_ends[num_steps - 1] if num_steps else 0
    return Prefix(
        prompt=used,
        token_ids=tuple(trace.token_ids[:end]),
        step_ends=tuple(trace.step_ends[:num_steps]),
        steps=tuple(trace.steps[:num_steps]),
        text="".join(trace.steps[:num_steps]),
        logprobs=tuple(trace.logprobs[:end]),
        act=trace.act,
    )


@dataclass(frozen=True, slots=True)
class Continue:
    """Write on from each prefix, `n` times. Reply: list[Prefix], grown, P * n, prefix-major.

    until: "step" stops after the step separator (or the end); "answer" writes to the end; "tokens" writes
    `max_tokens` tokens. A prefix that is done comes back n times unchanged. temperature 0 is greedy (and n
    > 1 then repeats one row).
    """

    prefixes: Prefix | Sequence[Prefix]
    by: str
    n: int = 1
    until: Literal["step", "answer", "tokens"] = "answer"
    max_tokens: int = 0  #: new tokens a sample; 0: what the recipe's task allows, less what is written
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @property
    def listed(self) -> list[Prefix]:
        return [self.prefixes] if isinstance(self.prefixes, Prefix) else list(self.prefixes)


@dataclass(frozen=True, slots=True)
class Score:
    """Step values of each prefix by whatever answers (a PRM). Reply: list[list[float]], per prefix one score
    for each of its finished steps.

    A score is a number from 0 to 1 whatever the head: a value (trained on numbers) clamped, a probability as
    it is, log-odds through the logistic. Only a model trained on advantages gives signed numbers. A prefix
    with no step gives the empty list.
    """

    prefixes: Prefix | Sequence[Prefix]
    by: str

    @property
    def listed(self) -> list[Prefix]:
        return [self.prefixes] if isinstance(self.prefixes, Prefix) else list(self.prefixes)


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probabilities of each prefix's tokens under a model at temperature 1. Reply: list[list[float]],
    one float a token.

    of: "certainty" gives in their place how far the model was from undecided before each token,
    KL(uniform || p), in nats; a server does not tell it.
    """

    prefixes: Prefix | Sequence[Prefix]
    by: str
    of: Literal["token", "certainty"] = "token"

    @property
    def listed(self) -> list[Prefix]:
        return [self.prefixes] if isinstance(self.prefixes, Prefix) else list(self.prefixes)


@dataclass(frozen=True, slots=True)
class Choose:
    """Probabilities of given answers after a prefix (judges, pairwise). Reply: list[list[float]]; each sums
    to 1 over `options`.
    """

    prefixes: Prefix | Sequence[Prefix]
    options: tuple[str, ...]
    by: str

    @property
    def listed(self) -> list[Prefix]:
        return [self.prefixes] if isinstance(self.prefixes, Prefix) else list(self.prefixes)


@dataclass(frozen=True, slots=True)
class Counted:
    """The reply to MonteCarlo for one prefix: n roll-outs, how many end right, and the roll-outs where
    asked for.
    """

    n: int
    num_correct: int
    rollouts: tuple[Prefix, ...] = ()
    correct: tuple[bool, ...] = ()

    @property
    def share(self) -> float:
        return self.num_correct / self.n


@dataclass(frozen=True, slots=True)
class MonteCarlo:
    """How often do n completions of each prefix end right? Reply: list[Counted]. Sees gold through the
    driver: labellers only.
    """

    prefixes: Prefix | Sequence[Prefix]
    by: str
    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    keep: bool = False  #: return the roll-outs too

    @property
    def listed(self) -> list[Prefix]:
        return [self.prefixes] if isinstance(self.prefixes, Prefix) else list(self.prefixes)


@dataclass(frozen=True, slots=True)
class Cut:
    """The first tokens of a completion, wherever they end. Reply: list[Prefix], one for each place of `at`,
    open, and the completion itself for its whole length.

    Nothing is written or read: a place inside a step has no text until a tokenizer says it, and `by` names
    whose. Its ids must read as the completion's text: another tokenizer's traces are refused.
    """

    prefix: Prefix
    at: Sequence[int]  #: numbers of tokens, from 0 to all
    by: str


@dataclass(frozen=True, slots=True)
class Same:
    """Which answers mean the same, so that they vote together? Reply: list[str | None], for each answer the
    first of those that mean what it means; None stays None.

    The task says it, of answers alone: no gold is looked at, nothing is written or read.
    """

    answers: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Said:
    """A turn that was taken: what was written, and the act that it was asked for ("": the question)."""

    text: str
    act: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """The next turn of a conversation about a question. Reply: a Question, as that turn shows it: `start`
    begins its completion, `to_trace` stores it, and training shows the same prompt and learns the turn's own
    tokens alone.

    The task words the act and what it sees, the driver renders it in `by`'s chat template, or as the task's
    plain text. Nothing is written, read or charged.

    act: critique, revise, rewrite, judge, grade, compare, reflect or propose, or what else the task has words
    for (`pipeline/tasks/_acts.py`); "": the question alone, as a first turn without worked examples shows it,
    for one that was imagined. history: the turns that it sees, oldest first; for `judge` and `compare` the
    answers in question, for `propose` questions. words: the whole of what is asked, where a method
    and not the task words it: a chat's one message, or the plain prompt as it stands; no history is shown
    then.
    """

    question: Question
    act: str
    history: Sequence[Said]
    by: str
    words: str = ""


@dataclass(frozen=True, slots=True, init=False)
class All:
    """Several asks at once. Reply: the list of their replies, in order."""

    asks: tuple[Ask, ...] = field(default=())

    def __init__(self, *asks: Ask) -> None:
        object.__setattr__(self, "asks", asks)


Ask = Continue | Score | Logprob | Choose | MonteCarlo | Cut | Same | Turn | All


def abandoned(prefix: Prefix) -> Prefix:
    """The prefix, closed because a budget ran out."""
    return prefix if prefix.done else replace(prefix, finish="budget")


def closed(prefix: Prefix) -> Prefix:
    """The prefix with the tokens after its last step end counted as a step, so that the last step ends at
    the last token.

    A last step without its separator, or cut by a limit, still is a step. An end token alone is none: it
    belongs to the step before it.
    """
    rest = prefix.text[sum(map(len, prefix.steps)) :]
    ends, steps = closing(prefix.step_ends, prefix.steps, rest, prefix.num_tokens)
    return prefix if ends == prefix.step_ends else replace(prefix, step_ends=ends, steps=steps)


def closing(
    step_ends: tuple[int, ...], steps: tuple[str, ...], rest: str, num_tokens: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Step ends and steps of a closed prefix; `rest` is the text after the last step end."""
    if num_tokens == (step_ends[-1] if step_ends else 0):
        return step_ends, steps
    if steps and not rest:
        return (*step_ends[:-1], num_tokens), steps
    return (*step_ends, num_tokens), (*steps, rest)
