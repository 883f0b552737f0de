"""Claims held against a store of texts: each sentence of a trace is looked up by BM25 (Robertson & Zaragoza,
The Probabilistic Relevance Framework, 2009), and a model says whether what was found supports or contradicts
it.

A claim's label is the strongest voice among its `k` passages: supported 1, contradicted 0, and nothing found
where no passage says either with `sure`. A step's score is the least over its claims that have one, a trace's
value the least over its steps; without any both are null (`unknown` gives a number to choose by). A null is
no verdict: **coverage**, the share of claims with one, stands in front of each label's `reason`, with the
passages that decided, and a value is to be read beside it.

    checked: {label: evidence, from: samples, by: policy, store: facts.txt, unknown: 0.5}
    answers: {evaluate: accuracy, of: policy, from: checked, choose: label}

The store is a text that the user brings (`store/passages.py`), or with `store: train` the solutions of the
task's training problems, the problem's own left out. No dev or test problem may stand in it: the stage looks
before it begins. For knowledge tasks; arithmetic has nothing to look up. Needs `ratchet-lm[evidence]`.

Not done: claims rewritten to stand alone (a pronoun keeps its sentence's words), classifiers of entailment
that are no language models, a revision of what was contradicted.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.asks import Asks, Choose, Prefix
from pipeline.errors import DamagedData, RecipeError
from pipeline.label import LabelSettings
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.settings import Cost, JudgeName, Length
from pipeline.store.passages import Passage, read_passages, words_of
from pipeline.tasks import BaseTask

PROMPT = (
    "Text: {passage}\nClaim: {claim}\nDoes the text support the claim, contradict it, or say nothing of it?\n"
    "Answer:"
)
OPTIONS = (" support", " contradict", " nothing")
PASSAGE_TOKENS = 80.0  #: of a typical passage with the question around it, for `plan`


class Settings(LabelSettings):
    """Whose claims, where they are looked up, and who judges."""

    sees_gold: ClassVar[bool] = False

    by: JudgeName = Field("policy", description="the model that reads passage and claim")
    store: str = Field(description="a .txt or .jsonl file, or train: the task's own training solutions")
    k: int = Field(4, ge=1, description="passages that are read for a claim")
    claims: Literal["sentence", "step"] = "sentence"
    sure: float = Field(0.5, gt=0, lt=1, description="the probability that a verdict takes")
    least_words: int = Field(3, ge=1, description="shorter claims are not looked up")
    prompt: str = Field(PROMPT, description="what the model reads, with {passage} and {claim}")
    options: tuple[str, str, str] = Field(OPTIONS, description="its answers: supports, contradicts, neither")
    unknown: float | None = Field(
        None, ge=0, le=1, description="the value of a trace without a verdict; none: it has no value"
    )

    @field_validator("prompt")
    @classmethod
    def _has_places(cls, prompt: str) -> str:
        if missing := next((place for place in ("{passage}", "{claim}") if place not in prompt), ""):
            raise ValueError(f"has no {missing}")
        return prompt

    @property
    def texts(self) -> tuple[str, ...]:
        return () if self.store == "train" else (self.store,)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A passage and a claim for each of the k, three answers each."""
        claims = given * task.typical_steps
        return Cost({}, {self.by: claims * self.k * PASSAGE_TOKENS}, given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[list[Label | Dropped]]:
    """A Label for each trace with steps, a Dropped for each other.

    Raises:
        RecipeError: bm25s is not installed. DamagedData: the store is empty.
    """
    rows: list[Label | Dropped] = []
    index = index_of(settings.store, task)
    for trace in group.traces:
        if not trace.steps or not trace.is_attempt:
            reason = "no_steps" if trace.is_attempt else "other_turn"
            rows.append(Dropped(problem_id=problem.id, what=trace.id, reason=reason))
            continue
        steps = [claims_of(step, settings) for step in trace.steps]
        found = [index.find(claim, settings.k, problem.id) for claims in steps for claim in claims]
        claims = [claim for claims in steps for claim in claims]
        asked = [
            Prefix(prompt=settings.prompt.replace("{passage}", one.text).replace("{claim}", claim))
            for claim, passages in zip(claims, found, strict=True)
            for one in passages
        ]
        said = (yield Choose(asked, options=settings.options, by=settings.by)) if asked else []
        rows.append(_labelled(trace, steps, found, said, settings))
    return rows


def claims_of(step: str, settings: Settings) -> list[str]:
    """The claims of a step that have words enough to be looked up."""
    parts = [step] if settings.claims == "step" else re.split(r"(?<=[.!?])\s+", step)
    return [part.strip() for part in parts if len(words_of(part)) >= settings.least_words]


def verdict(said: list[tuple[float, float]], sure: float) -> float | None:
    """1, 0 or None of (supports, contradicts) by passage: the strongest voice, where it is sure.

    By hand, sure .5: (.6, .1), (.2, .7) is 0; (.6, .1) alone 1; (.4, .3) nothing; a draw supports.
    """
    supports = max((one for one, _ in said), default=0.0)
    against = max((other for _, other in said), default=0.0)
    if max(supports, against) < sure:
        return None
    return 1.0 if supports >= against else 0.0


def least(scores: list[float | None]) -> float | None:
    """The least of those that are known."""
    return min((score for score in scores if score is not None), default=None)


def _labelled(
    trace: Trace,
    steps: list[list[str]],
    found: list[list[Passage]],
    said: list[list[float]],
    settings: Settings,
) -> Label:
    voices = iter(said)
    verdicts: list[float | None] = []
    read: list[str] = []
    for passages in found:
        pairs = [(yes, no) for yes, no, _ in (next(voices) for _ in passages)]
        verdicts.append(verdict(pairs, settings.sure))
        if verdicts[-1] is not None:
            side = 0 if verdicts[-1] else 1
            read.append(max(zip(pairs, passages, strict=True), key=lambda both: both[0][side])[1].id)
    scores, start = [], 0
    for claims in steps:
        scores.append(least(verdicts[start : start + len(claims)]))
        start += len(claims)
    known = [one for one in verdicts if one is not None]
    coverage = len(known) / len(verdicts) if verdicts else 0.0
    reason = f"coverage {coverage:.2f}: {known.count(1.0)} supported, {known.count(0.0)} contradicted, "
    reason += f"{len(verdicts) - len(known)} not found"
    if read:
        reason += f"; passages {', '.join(dict.fromkeys(read))}"
    return Label(
        problem_id=trace.problem_id,
        trace_id=trace.id,
        step_scores=scores,
        value=settings.unknown if least(scores) is None else least(scores),
        reason=reason,
        labeller="evidence",
    )


# --- looking up


class Index:
    """Passages, found by their words."""

    def __init__(self, passages: tuple[Passage, ...], where: str) -> None:
        try:
            import bm25s
        except ImportError:
            raise RecipeError(
                "label: evidence: needs the package bm25s: pip install 'ratchet-lm[evidence]'"
            ) from None
        if not passages:
            raise DamagedData(f"store: {where}: holds no passage")
        self.passages = passages
        held = [words_of(one.text) for one in passages]
        self._known = {word for words in held for word in words}
        self._index: Any = bm25s.BM25()
        self._index.index(held, show_progress=False)

    def find(self, claim: str, k: int, but: str = "") -> list[Passage]:
        """The k passages nearest to a claim, nearest first; only those that share a word with it. but: the id
        of a passage that may not be read.
        """
        words = [word for word in words_of(claim) if word in self._known]
        if not words:
            return []
        scores = self._index.get_scores(words).tolist()
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        near = (self.passages[place] for place in order if scores[place] > 0)
        return [one for one, _ in zip((one for one in near if one.id != but), range(k), strict=False)]


def index_of(store: str, task: BaseTask) -> Index:
    """The index of a file, or of a task's training solutions; made once."""
    if store != "train":
        return _index(read_passages(Path(store).expanduser()), store)
    held = getattr(task, "_evidence_index", None)
    if held is None:
        found = (problem for problem in task.problems() if problem.split == "train" and problem.solution)
        passages = tuple(Passage(problem.id, problem.solution) for problem in found)
        if not passages:
            raise RecipeError(
                f"label: evidence: store: train: no training problem of {task.name} has a solution: give "
                "a file"
            )
        held = task._evidence_index = _index(passages, "train")  # type: ignore[attr-defined]
    return held


@functools.lru_cache(maxsize=4)
def _index(passages: tuple[Passage, ...], where: str) -> Index:
    return Index(passages, where)
