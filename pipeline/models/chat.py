"""What a chat template says beside its text: where a turn ends, where an answer begins, and whether it takes
the turns at all. Found by rendering a known conversation. Free of torch.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError, UnsafeFile
from pipeline.models.chat_template import ChatTemplate, TemplateFails

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
_templates: weakref.WeakKeyDictionary[Any, ChatTemplate] = weakref.WeakKeyDictionary()
_shared: weakref.WeakValueDictionary[str, ChatTemplate] = weakref.WeakValueDictionary()


def chat_of(tokenizer: Any) -> Chat:
    """What a tokenizer's template says; looked at once."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if tokenizer not in _known or _known[tokenizer][0] != template:
        _known[tokenizer] = (template, _look(tokenizer) if template else Chat())
    return _known[tokenizer][1]


def _look(tokenizer: Any) -> Chat:
    try:
        return _seen(tokenizer)
    except UnsafeFile:  # whoever renders by it is told; who does not, loses nothing
        return Chat()


def _seen(tokenizer: Any) -> Chat:
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
    """Chat turns in a tokenizer's template, rendered in a process of its own (`chat_template.py`). begins:
    ending where the answer begins.

    Raises:
        RecipeError: it has none, or refuses these turns. UnsafeFile: it does not end, or reaches for what is
        not its own.
    """
    who = f"model {name}: " if name else ""
    if not getattr(tokenizer, "chat_template", None):
        raise RecipeError(
            f"{who}task.chat: true, but the tokenizer has no chat template: set task.chat=false"
        )
    template = _template_of(tokenizer)
    template.name = name or template.name
    try:
        return template.render(messages, begins)
    except TemplateFails as problem:
        roles = [message["role"] for message in messages]
        cure = "set task.chat=false"
        if "system" in roles:
            cure = "empty task.system (put its text into the question's own template), or " + cure
        raise RecipeError(
            f"{who}the chat template refuses turns of {', '.join(dict.fromkeys(roles))} ({problem.said}): "
            f"{cure}"
        ) from None


def _template_of(tokenizer: Any) -> ChatTemplate:
    """A tokenizer's template and its process; tokenizers of one model share them."""
    tokens = {key: str(token) for key, token in tokenizer.special_tokens_map.items()}
    try:
        text = tokenizer.get_chat_template()
    except ValueError as problem:  # several templates, and none is the default
        raise RecipeError(f"the tokenizer's chat template: {problem}: set task.chat=false") from None
    key = json.dumps([text, tokens], sort_keys=True)
    found = _shared.get(key)
    if found is None:
        place = str(getattr(tokenizer, "name_or_path", ""))
        found = _shared[key] = ChatTemplate(Path(place).name or "tokenizer", text, tokens)
    _templates[tokenizer] = found  # it lives as long as a tokenizer that has it
    return found


def faults_of(tokenizer: Any, tasks: Iterable[Any], name: str = "", talks: bool = False) -> list[str]:
    """What a tokenizer's template refuses of the turns that chatting tasks (their settings) will ask for.
    talks: later turns too, after an answer."""
    found: list[str] = []
    for task in tasks:
        if not task.chat:
            continue
        system = [{"role": "system", "content": task.system}] if getattr(task, "system", "") else []
        turns = [*system, {"role": "user", "content": "?"}]
        if task.few_shot or talks:
            turns += [{"role": "assistant", "content": "!"}, {"role": "user", "content": "?"}]
        try:
            render(tokenizer, turns, name)
        except (RecipeError, UnsafeFile) as error:
            found.append(str(error))
    return list(dict.fromkeys(found))
