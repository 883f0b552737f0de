"""The recipes that come with Ratchet: where they stand, their names, what each is for."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SCHEMA = "recipe.schema.json"  #: beside them, for editors: what `ratchet schema` prints


def folder() -> Path:
    """Where they stand: in a clone recipes/, in an installed package the copy that `setup.py` put there."""
    inside = PACKAGE / "_recipes"
    return inside if inside.is_dir() else PACKAGE.parent / "recipes"


def shipped() -> dict[str, Path]:
    """Name -> file, in order."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def launches() -> dict[str, Path]:
    """`launch/ddp` -> file: accelerate's configurations for `--launch`."""
    return {f"launch/{path.stem}": path for path in sorted((folder() / "launch").glob("*.yaml"))}


def about(path: Path) -> str:
    """What a recipe is, by its first comment, up to the last clause that is whole."""
    first = path.read_text(encoding="utf-8").split("\n")[0].removeprefix("#").strip()
    return first if first.endswith(".") else first.rpartition(": ")[0] or first
