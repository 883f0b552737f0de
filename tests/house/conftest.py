"""A project folder to work in, the tiny world's recipe in it, and a tiny model that chats."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_world
import pytest
import yaml
from tiny_world import recipe_data

from pipeline.__main__ import main


@pytest.fixture(scope="session")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that chats."""
    return chat_world.make(tmp_path_factory.mktemp("chatting") / "policy")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write_recipe(place: Path, tiny: Path) -> Any:
    """Writes recipe_data, with changes, to a file and returns its path."""

    def write(file: str = "r.yaml", **more: Any) -> Path:
        path = place / file
        path.write_text(yaml.safe_dump(recipe_data(tiny, **more), sort_keys=False))
        return path

    return write


@pytest.fixture
def ratchet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command line in this process: words in, (exit code, what it said) out."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ratchet", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        said = capsys.readouterr()
        return left.value.code, said.err + said.out

    return call
