"""A project folder to work in, and the tiny world's recipe in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import recipe_data


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
