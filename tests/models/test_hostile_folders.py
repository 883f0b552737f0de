"""Configurations and tokenizers that mean harm: transformers' own readers fail on them, and a run says so in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from model_world import make_model, word_tokenizer

from pipeline.errors import DamagedData
from pipeline.models.folder import require_readable


def told(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a thousand million layers": (told("config.json", num_hidden_layers=10**9), "1000000000 layers"),
    "a negative width": (told("config.json", hidden_size=-5), "config.json cannot be read"),
    "a width of text": (told("config.json", hidden_size="wide"), "config.json cannot be read"),
    "a family with escapes": (told("config.json", model_type="\x1b[2Jevil"), "config.json cannot be read"),
    "a family that is a list": (told("config.json", model_type=["llama"]), "config.json cannot be read"),
    "a tokenizer deep as a well": (written("tokenizer.json", b"[" * 100_000 + b"]" * 100_000), "its tokenizer"),
    "a tokenizer cut short": (written("tokenizer.json", b'{"version": "1.0", "model": {"type"'), "its tokenizer"),
    "a tokenizer of 10,000 digits": (written("tokenizer.json", b'{"version": ' + b"9" * 10_000 + b"}"), "its tokenizer"),
    "a tokenizer of no UTF-8": (written("tokenizer.json", b"\xff\xfe\x00"), "its tokenizer"),
    "a reading that is a list": (written("prm.json", b"[1]"), "prm.json: not a map"),
    "writing settings cut short": (written("generation_config.json", b'{"eos_token_id"'), "generation_config.json"),
    "writing settings deep as a well": (written("generation_config.json", b"[" * 100_000), "generation_config.json"),
    "writing settings that mean nothing": (written("generation_config.json", b'{"early_stopping": 7}'), "generation_config.json cannot be read"),
    "settings that are a list": (written("tokenizer_config.json", b"[]"), "its tokenizer"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("sound") / "base", word_tokenizer())
    require_readable(folder)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_what_transformers_cannot_read_is_a_sentence(name: str, sound: Path, tmp_path: Path) -> None:
    import shutil

    change, words = FOLDERS[name]
    folder = Path(shutil.copytree(sound, tmp_path / "base"))
    change(folder)
    with pytest.raises(DamagedData) as caught:
        require_readable(folder)
    said = str(caught.value)
    assert words in said
    assert said.isprintable()
    assert len(said) < 800
