"""Pages that are made from the code are what the code says today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_recipe_reference_is_as_the_settings_say() -> None:
    """Run `python scripts/reference.py --write` after changing a setting."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py")], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == (ROOT / "docs" / "recipe.md").read_text().strip()


def test_every_shipped_recipe_stands_in_the_methods_table() -> None:
    said = (ROOT / "docs" / "methods.md").read_text()
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert len(recipes) > 7
    for path in recipes:
        assert path.stem in said, path
