"""A seed that talks: `seed://countdown?talk=1` learns, beside the rules, to check an answer, to try again, to
judge and to propose a question, from conversations that rules make (`BaseTask.conversation`).

What a row shows before the turn is what `Turn` shows a policy; the turn is learned, and the answer before
it too where the rules alone drew it. `talk=2` is the holed critic, which believes every step; `blind=10`
calls an end within 10 of the target right. `pairs=1` makes a judge of two answers, which `talk=1` alone is
not: of two answers of the same numbers it takes steps from the wrong one. More of its turns are comparisons,
in a form of their own (`tasks/_dialect.py`), and two heads start out looking up what follows (`back`). Each
is other weights under another name.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerFast

#: what differs from the defaults of a seed: a layer more, or it takes no step apart
SHAPE: dict[str, Any] = {"layers": 3, "inner": 384, "steps": 750}
PAIR_SHAPE: dict[str, Any] = {"back": 2}  #: what a judge of two has besides
FIRST = 0.25  #: share of the steps that are plain play alone: who cannot count yet learns to copy in a check
PLAIN = 0.2  #: share of plain play among the examples after that
SOUND, HOLED = 1, 2  #: of `talk`


def look(spec: str, recipe: Any, task: Any) -> None:
    """Is there such a dialect?

    Raises:
        RecipeError: the task makes no conversations, or there is no such critic.
    """
    if recipe.talk not in (0, SOUND, HOLED) or recipe.blind < 0:
        raise RecipeError(f"base: {spec}: talk is 0, 1 or 2 (the holed critic), blind a number from 0")
    if recipe.talk and recipe.pause:
        raise RecipeError(f"base: {spec}: a seed that talks learns no pauses: leave one of the two out")
    if recipe.blind and not recipe.talk:
        raise RecipeError(f"base: {spec}: blind makes a critic worse, and without talk=1 there is none")
    if recipe.pairs not in (0, 1):
        raise RecipeError(f"base: {spec}: pairs is 0 or 1 (a judge of two answers)")
    if recipe.pairs and not recipe.talk:
        raise RecipeError(
            f"base: {spec}: pairs makes a judge of two answers, and without talk=1 there is none"
        )
    if recipe.talk and task.conversation(random.Random(0)) is None:
        raise RecipeError(f"base: {spec}: there are no conversations about {recipe.name}: leave talk out")


def shape(asked: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What a seed's keys say of its shape: nothing where it does not talk."""
    given = {key for key, text in asked if text.strip() != "0"}
    if "talk" not in given:
        return {}
    return SHAPE | PAIR_SHAPE if "pairs" in given else SHAPE


def words(talk: int) -> tuple[str, ...]:
    """What the tokenizer of a seed that talks has besides; others keep the one they have."""
    if not talk:
        return ()
    from pipeline.tasks._dialect import VOCABULARY

    return VOCABULARY


def row(
    recipe: Any, task: Any, tokenizer: PreTrainedTokenizerFast, draw: random.Random
) -> tuple[list[int], list[int]]:
    """Ids and labels of one example, -1 where nothing is learned."""
    if draw.random() < PLAIN:
        question, pieces = task.rule_example(draw)
        prompt, said = task.prompt(question), "".join(text for text, _ in pieces)
        first: tuple[str, str] | None = None
    else:
        turn = task.conversation(
            draw, holed=recipe.talk == HOLED, within=recipe.blind, **({"pairs": True} if recipe.pairs else {})
        )
        prompt, said = task.turn_prompt(turn.question, turn.act, turn.history), turn.said
        first = (task.prompt(turn.question), turn.history[0].text) if turn.fair else None
    ids, learned = tokenizer([prompt, said])["input_ids"]
    labels = [-1] * len(ids)
    if first:
        before, answer = tokenizer(list(first))["input_ids"]
        labels[len(before) : len(before) + len(answer)] = answer
    end: int = tokenizer.eos_token_id
    return [*ids, *learned, end], [*labels, *learned, end]
