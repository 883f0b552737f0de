"""A chat template is a stranger's program: it ends, it reaches nothing, and a sound one renders as transformers does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from model_world import make_model, word_tokenizer

from pipeline.engine.text import Text
from pipeline.errors import UnsafeFile
from pipeline.models.chat_template import ChatTemplate

SOUND = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is 3 < 4? \u00e9\U0001f600 "},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "{{ 7 * 7 }}"},
]
LOOPS = {
    "nested": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{% for i in range(99999) %}{{ f(1) }}{% endfor %}",
}
FAILS = {
    "memory": "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch /tmp/owned').read() }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "import": "{% import 'os' as os %}{{ os }}",
    "raises": "{{ raise_exception('no \x1b[31msuch role') }}",
    "syntax": "{% for %}",
    "unknown": "{{ messages.nothing.more }}",
}


def template(text: str) -> ChatTemplate:
    return ChatTemplate("policy", text, {"eos_token": "</s>"})


def test_a_sound_template_renders_as_transformers_does(tmp_path: Path) -> None:
    from transformers import AutoConfig

    tokenizer = word_tokenizer()
    tokenizer.chat_template = SOUND
    folder = make_model(tmp_path / "policy", tokenizer)
    text = Text(folder, AutoConfig.from_pretrained(folder), None, "policy")
    for turns in (TURNS, TURNS[1:2], TURNS[:2]):
        wanted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text.render(turns) == wanted
    assert "{{ 7 * 7 }}" in text.render(TURNS)
    plain = make_model(tmp_path / "plain", word_tokenizer())
    assert Text(plain, AutoConfig.from_pretrained(plain), None, "policy").render(TURNS) is None


@pytest.mark.parametrize("name", LOOPS)
def test_a_template_that_loops_is_ended(name: str) -> None:
    """Three seconds of its own process's time, whatever it does; the next one is asked as if nothing had been."""
    chat = template(LOOPS[name])
    began = time.monotonic()
    with pytest.raises(UnsafeFile, match="model policy: its chat template (does not end|fails)") as refused:
        chat.render(TURNS)
    assert refused.value.exit_code == 9
    assert time.monotonic() - began < 120  # its limits are its own; a busy machine may take long
    assert template(SOUND).render(TURNS[1:2]).startswith("<|user|>")


@pytest.mark.parametrize("name", FAILS)
def test_a_template_that_reaches_for_what_is_not_its_own_is_refused(name: str) -> None:
    owned = Path("/tmp/owned")
    assert not owned.exists()
    with pytest.raises(UnsafeFile) as refused:
        print(template(FAILS[name]).render(TURNS))
    said = str(refused.value)
    assert said.isprintable()
    assert "Traceback" not in said
    assert len(said) < 600
    assert not owned.exists()


def test_a_template_that_writes_a_book_is_refused() -> None:
    """No loop, and within its memory; the tokenizer would read all of it for each prompt."""
    with pytest.raises(UnsafeFile, match="writes 30,000,00. characters"):
        template("{{ 'x' * 30000000 }}{{ messages[0].role }}").render([{"role": "user", "content": "?"}])


def test_texts_of_any_kind_go_through(tmp_path: Path) -> None:
    chat = template("{{ messages[0].content }}")
    for content in ("", "a\nb\r\n", "\ud800", "\x00\x1b[2J", "x" * 300_000, json.dumps(TURNS)):
        assert chat.render([{"role": "user", "content": content}]) == content
