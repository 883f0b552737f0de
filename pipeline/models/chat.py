"""What a chat template says beside its text: where a turn ends, where an answer begins, and whether it takes
the turns at all. Found by rendering a known conversation. Free of torch.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError

MARK = "Xq7zanswerzq7X"  #: no template writes it


@dataclass(frozen=True)
class Chat:
    """A tokenizer's template. end: the token that closes an answer, None where it has none of its own;
    end_text: what is written there; before: the text between a question and its answer.
    """

    end: int | None = None
    end_text: str = ""
    before: str = ""

    def asks(self, prompt: str) -> bool:
        """Is this prompt rendered by the template?"""
        return bool(self.before.strip()) and prompt.endswith(self.before)


_known: weakref.WeakKeyDictionary[Any, tuple[str, Chat]] = weakref.WeakKeyDictionary()


def chat_of(tokenizer: Any) -> Chat:
    """What a tokenizer's template says; looked at once."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if tokenizer not in _known or _known[tokenizer][0] != template:
        _known[tokenizer] = (template, _look(tokenizer) if template else Chat())
    return _known[tokenizer][1]


def _look(tokenizer: Any) -> Chat:
    asked = _try(tokenizer, [("user", MARK)], True)
    before = asked.rpartition(MARK)[2] if asked else ""
    for turns in (
        [("user", "Hi"), ("assistant", MARK)],
        [("user", "Hi"), ("assistant", MARK), ("user", "Hi")],
    ):
        text = (_try(tokenizer, turns, False) or "").rpartition(MARK)[2].strip()
        if text:
            break
    else:
        return Chat(None, "", before)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return Chat(ids[0] if ids and ids[0] in added else None, text, before)


def _try(tokenizer: Any, turns: Sequence[tuple[str, str]], begins: bool) -> str | None:
    try:
        return render(tokenizer, [{"role": role, "content": text} for role, text in turns], begins=begins)
    except RecipeError:  # whoever needs these turns is told; here it only means that nothing is known
        return None


def render(tokenizer: Any, messages: Sequence[dict[str, str]], name: str = "", begins: bool = True) -> str:
    """Chat turns in a tokenizer's template. begins: ending where the answer begins.

    Raises:
        RecipeError: it has none, or refuses these turns.
    """
    from jinja2 import TemplateError

    who = f"model {name}: " if name else ""
    if not getattr(tokenizer, "chat_template", None):
        raise RecipeError(
            f"{who}task.chat: true, but the tokenizer has no chat template: set task.chat=false"
        )
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begins)
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as problem:
        # a template is a program of the model's folder: what it raises is anything
        roles = [message["role"] for message in messages]
        cure = "set task.chat=false"
        if "system" in roles:
            cure = "empty task.system (put its text into the question's own template), or " + cure
        raise RecipeError(
            f"{who}the chat template refuses turns of {', '.join(dict.fromkeys(roles))} ({problem}): {cure}"
        ) from None


def faults_of(recipe: Any) -> list[str]:
    """What is wrong between a recipe's chatting tasks and the templates of its policies on this disk."""
    chatting = [task for task in recipe.tasks if getattr(task, "chat", False)]
    found: list[str] = []
    for name, model in recipe.models.items() if chatting else ():
        folder = Path(model.base).expanduser()
        if model.head is not None or not (folder / "tokenizer_config.json").is_file():
            continue
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, json.JSONDecodeError):
            continue  # whoever opens the model says what is wrong
        for task in chatting:
            system = [{"role": "system", "content": task.system}] if getattr(task, "system", "") else []
            turns = [*system, {"role": "user", "content": "?"}]
            if task.few_shot:
                turns += [{"role": "assistant", "content": "!"}, {"role": "user", "content": "?"}]
            try:
                render(tokenizer, turns, name)
            except RecipeError as error:
                found += [f"{recipe.path}: {problem}" for problem in error.problems]
    return list(dict.fromkeys(found))
