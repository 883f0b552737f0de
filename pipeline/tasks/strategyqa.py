"""StrategyQA: yes or no, by facts that the question does not name (Geva et al. 2021, arXiv:2101.02235).

Rows in the authors' form (`qid`, `question`, `answer` as true or false, `facts`), which the Hub's copy keeps
with a split of its own. The facts are the gold rationale. A bare yes or no is right half of the time by
chance: pass@k says nothing here, and of a kept trace only the answer is known to be right.

    task: {use: strategyqa, path: strategyqa_train.json, few_shot: 4}
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from pipeline.answers import extract
from pipeline.answers.compare import Kind
from pipeline.rows import Problem
from pipeline.tasks import _presets as presets
from pipeline.tasks import _sources as sources

SAID = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
CLAIM = re.compile(r"\banswer(?: is|:)\s*['\"*(]{0,3}(yes|no)\b", re.IGNORECASE)
FIRST = re.compile(r"\s*['\"*(]{0,3}(yes|no)\b", re.IGNORECASE)


class Settings(presets.Settings):
    """StrategyQA's settings."""

    hub: str = Field("ChilleD/StrategyQA", description="its name on the Hub")
    compare: Kind = Field("exact", description="when two answers are the same")
    max_tokens: int = Field(128, ge=1, description="tokens a completion may have")


class Task(presets.Task):
    """Questions of yes or no."""

    settings: Settings
    licence = "MIT"
    instruction = (
        "Give a short reason. Then end with the words: So the answer is yes. Or: So the answer is no."
    )
    hub_splits = {"train": "train", "test": "test"}
    forms = (presets.Form("question", "answer", "qid", solution="facts"),)

    def worded(self, row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
        given = plain["answer"]
        said = {True: "yes", False: "no"}[given] if isinstance(given, bool) else str(given).strip().lower()
        said = {"true": "yes", "false": "no"}.get(said, said)
        if said not in ("yes", "no"):
            raise sources.BadRow(f"'answer' is {given!r}: true or false is wanted"[:120])
        facts = plain.get("solution", "")
        if isinstance(facts, list):
            facts = " ".join(sources.text({"facts": each}, "facts").strip() for each in facts)
        return {**plain, "answer": said, "solution": facts}

    def extract(self, text: str) -> str | None:
        """What is claimed last, else a yes or no that the text begins with, else the only one it holds."""
        tail = text[-extract.MAX_TEXT :]
        if claims := CLAIM.findall(tail):
            return str(claims[-1]).lower()
        if first := FIRST.match(tail):
            return first[1].lower()
        said = {each.lower() for each in SAID.findall(tail)}
        return said.pop() if len(said) == 1 else None

    def gold_completion(self, problem: Problem) -> str | None:
        return self.completion(f"{problem.solution} So the answer is {problem.answer}.".strip())

    built_in = (
        (
            "Could a giraffe look into a window on the first floor above the ground?",
            "A giraffe is more than 4 meters tall. A window on the first floor begins about 4 meters up."
            " So the answer is yes.",
            "yes",
        ),
        (
            "Would a diver in the Dead Sea need to fear sharks?",
            "The Dead Sea is far too salty for fish. Sharks are fish. So the answer is no.",
            "no",
        ),
        (
            "Could Johann Sebastian Bach have listened to a phonograph?",
            "Bach died in 1750. The phonograph was invented in 1877. So the answer is no.",
            "no",
        ),
        (
            "Does a football team on the pitch have enough players for two basketball teams?",
            "A football team has 11 players on the pitch. Two basketball teams have 5 players each."
            " So the answer is yes.",
            "yes",
        ),
    )
