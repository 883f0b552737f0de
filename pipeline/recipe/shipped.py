"""The recipes that come with Ratchet: where they stand, their names, what each is for."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]  #: of a clone; beside an installed package there is only the package


def folder() -> Path:
    """Where the recipes stand: in a clone its recipes/, in an installed package a copy of it."""
    inside = Path(__file__).parents[1] / "_recipes"
    return inside if inside.is_dir() else ROOT / "recipes"


def shipped() -> dict[str, Path]:
    """Name -> file, in order."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def about(path: Path) -> str:
    """What a recipe is, by its first comment."""
    first = path.read_text(encoding="utf-8").split("\n")[0]
    return first.removeprefix("#").strip()
