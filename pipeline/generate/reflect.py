"""Answers in the format of models that look at their own thoughts: `<thinking> ... <reflection> ...
</reflection> ... </thinking><output> ... </output>`, of which the output alone is the answer (the tags of
Reflection-70B's model card; the idea of rewriting by reflection is Reflection-tuning's, arXiv:2310.11716).

- `n` completions are written under the act `reflect`, whose words tell the format. The task reads the
  answer in the output alone (`tasks/_tags.py`). One that is not in the format is counted: `open_tag`,
  `tag_order`, `no_output`, `no_tags`, `cut` where the limit ended it; with `keep_untidy` it stays, without
  an answer.
- `spliced: true` makes each conversation of `from` (an attempt, a critique, another attempt, as `mctsr`,
  `check_context` and others leave them) one completion in the format, which no model wrote as it stands:
  attempts are thoughts, critiques reflections, the last attempt the output too. A conversation without a
  critique, or that ends with one which finds a fault, is passed over; token ids are left to the trainer
  (`min_tokens: 0`).

What it does not do: mask the mistakes within the thinking (training shows and learns a completion as a
whole, its prompt masked), or know whether the last attempt is right (a labeller does).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Continue, Turn, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace, act_id
from pipeline.settings import Cost, Length
from pipeline.tasks import _tags

Rows = list[Trace | Node | Dropped]


class Settings(GenerateSettings):
    """How many are written, or from what they are made."""

    draws: ClassVar[tuple[str, ...]] = ("n",)
    acts: ClassVar[tuple[str, ...]] = ("reflect",)

    n: int = Field(1, ge=1, description="completions a problem; spliced: at most")
    spliced: bool = Field(False, description="made of the conversations in `from`; false: written")
    keep_untidy: bool = Field(False, description="what is not in the format stays, as a trace without answer")

    @property
    def asked_acts(self) -> tuple[str, ...]:
        return () if self.spliced else self.acts  # its words are shown, and nobody answers

    @property
    def kinds_needed(self) -> tuple[str, ...]:
        return (*super().kinds_needed, *(("Trace",) if self.spliced else ()))

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A first attempt, a look at it and another one; nothing where they are spliced."""
        return Cost({} if self.spliced else {self.by: 3 * self.n * self.tokens(task)}, {}, self.n)


def generate(question: Question, settings: Settings, given: Group | None) -> Asks[Rows]:
    """The completions, and a Dropped for each that is none."""
    turn = yield Turn(question, "reflect", [], by=settings.by)
    if settings.spliced:
        return spliced(turn, given or Group(question.id), settings)
    written = yield Continue(
        start(turn),
        by=settings.by,
        n=settings.n,
        max_tokens=settings.max_tokens,
        **settings.sampling,
    )
    rows: Rows = []
    for number, prefix in enumerate(written):
        trace = to_trace(
            turn,
            prefix,
            number,
            temperature=settings.temperature,
            cut=settings.cuts,
            tokens_charged=prefix.num_tokens,
            chosen=number == 0,
        )
        reason = "cut" if prefix.finish == "length" else _tags.fault(prefix.text)
        if reason and not settings.keep_untidy:
            rows.append(Dropped(problem_id=question.id, what=trace.id, reason=reason))
        else:
            rows.append(trace)
    return named(rows, question)


def named(rows: Rows, question: Question) -> Rows:
    """With a Dropped for the problem itself where no trace names it."""
    if any(isinstance(row, Trace) for row in rows):
        return rows
    return [*rows, Dropped(problem_id=question.id, what=question.id, reason="no_trace")]


def conversations(given: Group) -> list[list[Trace]]:
    """The turns of each conversation, oldest first, from each end up to the first attempt. It ends with an
    attempt, or with a critique that finds it right; a verdict that scores or compares stands beside it."""
    by_id = {trace.id: trace for trace in given.traces}
    spoken = [trace for trace in given.traces if trace.is_attempt or trace.act == "critique"]
    followed = {trace.parent for trace in spoken}
    found = []
    for last in (trace for trace in spoken if trace.id not in followed):
        if not last.is_attempt and last.answer != "right":
            continue
        chain = [last]
        while (above := by_id.get(chain[-1].parent or "")) is not None:
            chain.append(above)
        found.append(chain[::-1])
    return found


def spliced(turn: Question, given: Group, settings: Settings) -> Rows:
    """A completion in the format for each conversation with a critique in it, up to `n`."""
    rows: Rows = []
    for chain in conversations(given):
        number = sum(isinstance(row, Trace) for row in rows)
        if number >= settings.n:
            break
        last = [trace for trace in chain if trace.is_attempt][-1]
        if not any(trace.act == "critique" for trace in chain) or last.answer is None:
            continue
        thoughts = [(trace.text, trace.act == "critique") for trace in chain]
        if any(_tags.fault(text) != "no_tags" for text, _ in thoughts):
            continue  # model text with tags of its own would break the format
        text = _tags.tagged(thoughts, last.text)
        rows.append(
            Trace(
                problem_id=turn.id,
                id=act_id(turn.id, turn.act, number),
                prompt=turn.prompt,
                text=text,
                token_ids=[],
                step_ends=[],
                steps=text.splitlines(keepends=True),  # two conversations are told apart by them
                answer=last.answer,
                finish="eos",
                parent=last.id,
                tokens_charged=0,
                model=last.model,
                chosen=number == 0,
            )
        )
    if rows:
        return rows
    return [Dropped(problem_id=turn.id, what=turn.id, reason="no_conversation")]
