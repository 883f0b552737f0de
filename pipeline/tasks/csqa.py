"""CommonsenseQA (arXiv:1811.00937): a question and five options; the answer is an option's letter.

A rationale is a short text that ends with the option and its letter, `... the answer is library (b).` The
hint is ` (CORRECT)` after the right option, as in STaR (arXiv:2203.14465). The data set's test answers are
secret, so its dev split is the test split here, as in the paper, and dev comes from the training rows.

    task: {use: csqa, path: commonsenseqa/, few_shot: 7}    # a folder with train.jsonl and dev.jsonl, or
    the Hub
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.rows import Problem
from pipeline.tasks import _sources as sources
from pipeline.tasks._files import FileSettings, FileTask

LETTERS = extract.LETTERS


class Settings(FileSettings):
    """CommonsenseQA's settings."""

    hub: str = Field("tau/commonsense_qa", description="its name on the Hub")
    max_tokens: int = Field(128, ge=1, description="tokens a completion may have")


def question_of(stem: str, options: list[str]) -> str:
    """The question with its options, one a line."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([stem, "Answer choices:", *lines])


class Task(FileTask):
    """Multiple choice."""

    settings: Settings
    licence = "MIT"
    own_splits = {"dev": "test"}
    instruction = (
        "Give a short reason. Then end with the words: the answer is, the chosen option, and its letter in "
        "brackets."
    )

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.stop = () if settings.chat else ("\n\n",)

    def hub_rows(self) -> Iterator[sources.Found]:
        splits = {"train": "train", "validation": "dev"}
        return sources.hub(self.settings.hub, None, splits, self.settings.revision, self.settings.cache)

    def read(self, row: dict[str, Any]) -> Problem:
        nested = isinstance(row.get("question"), dict)  # the authors' files; the Hub's rows are flat
        stem = sources.text(row, "question.stem" if nested else "question").strip()
        labels, options = self._options(sources.field(row, "question.choices" if nested else "choices"))
        key = sources.text(row, "answerKey").strip()
        if key not in labels:
            raise sources.BadRow(f"'answerKey' is {key[:20]!r}, not one of {', '.join(labels)}")
        return Problem(
            id=sources.text(row, "id"),
            question=question_of(stem, options),
            answer=LETTERS[labels.index(key)],
            split="",
            meta=json.dumps({"option": options[labels.index(key)]}, ensure_ascii=False),
        )

    @staticmethod
    def _options(choices: Any) -> tuple[list[str], list[str]]:
        if isinstance(choices, dict):
            texts, names = choices.get("text"), choices.get("label")
            pairs = (
                list(zip(names, texts, strict=False))
                if isinstance(texts, list) and isinstance(names, list)
                else []
            )
            choices = [{"label": label, "text": text} for label, text in pairs]
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            raise sources.BadRow(f"'choices' must be a list of 2 to {len(LETTERS)} options")
        if not all(isinstance(choice, dict) for choice in choices):
            raise sources.BadRow("'choices' must hold objects with label and text")
        labels = [sources.text(choice, "label").strip() for choice in choices]
        options = [" ".join(sources.text(choice, "text").split()) for choice in choices]
        if len(set(labels)) < len(labels):
            raise sources.BadRow("'choices' has a label twice")
        return labels, options

    def extract(self, text: str) -> str | None:
        return extract.choice(text, LETTERS)

    def correct(self, answer: str | None, problem: Problem) -> bool:
        return answer is not None and answer == problem.answer

    def gold_completion(self, problem: Problem) -> str | None:
        option = json.loads(problem.meta).get("option", "")
        return self.completion(f"The answer is {option} ({problem.answer}).")

    def with_hint(self, question: str, answer: str) -> str:
        return re.sub(rf"(?m)^(\({re.escape(answer)}\) .*)$", r"\1 (CORRECT)", question, count=1)

    def hint_marker(self, answer: str) -> str:
        return r"\(correct\)"

    built_in = (
        (
            question_of(
                "Where would you keep milk so that it stays fresh for a week?",
                ["cupboard", "refrigerator", "window sill", "barn", "glass"],
            ),
            "The place must be cold, because milk spoils when it is warm. Of these only a"
            " refrigerator is kept cold"
            " all week. Therefore, the answer is refrigerator (b).",
            "b",
        ),
        (
            question_of(
                "What does a gardener want when the soil has turned to dust?",
                ["rain", "wind", "seeds", "gloves", "shade"],
            ),
            "Soil that is dust has lost its water. A gardener wants water for it, and rain brings"
            " water. Therefore,"
            " the answer is rain (a).",
            "a",
        ),
        (
            question_of(
                "The musician could not be heard at the back of the hall, so what did she ask for?",
                ["a chair", "applause", "sheet music", "a microphone", "a ticket"],
            ),
            "What was missing is loudness. A microphone makes a quiet sound loud. Therefore, the answer is a"
            " microphone (d).",
            "d",
        ),
        (
            question_of(
                "A traveller has crossed the border; what was he asked to show?",
                ["suitcase", "map", "passport", "camera", "hotel"],
            ),
            "At a border officers check who a person is and whether he may enter. A passport proves"
            " that. Therefore,"
            " the answer is passport (c).",
            "c",
        ),
        (
            question_of(
                "Why would somebody whisper in the evening at home?",
                ["to be polite to guests", "to save money", "to get warm", "to sing", "a child is asleep"],
            ),
            "People whisper so as not to make noise. In the evening at home noise would wake a"
            " sleeping child."
            " Therefore, the answer is a child is asleep (e).",
            "e",
        ),
        (
            question_of(
                "What is likely to happen to a metal fence near the sea?",
                ["melt", "rust", "float", "grow", "freeze"],
            ),
            "Near the sea the air is damp and salty. Salt and water make metal rust. Therefore, the"
            " answer is rust"
            " (b).",
            "b",
        ),
        (
            question_of(
                "Which thing would a hiker climb onto to see over the trees?",
                ["tent", "backpack", "boots", "lookout tower", "river"],
            ),
            "To see over trees one has to be higher than they are. A lookout tower is built taller"
            " than the trees."
            " Therefore, the answer is lookout tower (d).",
            "d",
        ),
    )
