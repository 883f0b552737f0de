"""`ratchet new ROOM NAME`: a method that runs as it stands, with its recipe, test and row in the docs.

Inside a checkout of this repository the files go where the room is. `--package DIR` makes a package of your
own instead (or adds to it), whose entry point is all that the loop needs to find it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from pipeline.errors import RecipeError, nearest
from pipeline.recipe.methods import BASES, NAME, methods

TEMPLATES = Path(__file__).parent / "templates"

PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1"
description = "Methods for ratchet"
requires-python = ">=3.11"
dependencies = ["ratchet-lm"]

[tool.setuptools]
packages = ["{package}"]
"""


@dataclass(frozen=True)
class Target:
    """Where a method's files go. `package`: what its test imports it from."""

    root: Path
    method: Path
    recipe: Path
    test: Path
    package: str


def new(room: str, name: str, package: Path | None, here: Path) -> str:
    """Write the files; returns what was written and what to do next.

    Raises:
        RecipeError: no such room, a name that is taken or is none, or no place to write to.
    """
    room = {"task": "tasks"}.get(room, room)
    if room not in BASES:
        raise RecipeError(f"new {room}: no such room{nearest(room, BASES)}")
    if not NAME.fullmatch(name):
        raise RecipeError(f"new {room} {name}: a method's name is lower-case letters, digits and _")
    if name in methods(room):
        raise RecipeError(f"new {room} {name}: {room} has a method of this name; choose another")
    place = _of_package(package, name) if package else _of_checkout(here, room, name)
    if there := [path for path in (place.method, place.recipe, place.test) if path.exists()]:
        raise RecipeError(f"new {room} {name}: {there[0]} is there already; nothing was written")
    row = _row(room, name, place)
    for path, kind in ((place.method, "py"), (place.recipe, "recipe"), (place.test, "test")):
        _write(path, _filled(room, kind, name, place))
    if package:
        _into_project(place, room, name)
        page = place.root / "README.md"
        _write(page, _page(page, row))
    else:
        page = place.root / "docs" / "methods.md"
        lines = page.read_text(encoding="utf-8").rstrip("\n").split("\n")
        last = max((n for n, line in enumerate(lines) if line.startswith("|")), default=len(lines) - 1)
        _write(page, "\n".join([*lines[: last + 1], row, *lines[last + 1 :]]) + "\n")
    return _said(place, page, bool(package))


def _filled(room: str, kind: str, name: str, place: Target) -> str:
    template = Template((TEMPLATES / f"{room}.{kind}.txt").read_text(encoding="utf-8"))
    words = {"name": name, "title": name.replace("_", " ").capitalize(), "recipe": place.recipe.stem}
    text = template.substitute(words, package=place.package)
    return _ordered(text, f"from {place.package} import {name}")


def _ordered(text: str, own: str) -> str:
    """A test's import of the method where a formatter would put it: among those of `pipeline`, or after."""
    lines = text.split("\n")
    block = [i for i, line in enumerate(lines) if line.startswith("from pipeline") or line == own]
    if own not in lines or not block:
        return text
    found = [line for line in lines[block[0] : block[-1] + 1] if line != own]
    front, _, name = own.rpartition(" ")
    if not own.startswith("from pipeline."):
        found += ["", own] if found else [own]
    elif beside := [i for i, line in enumerate(found) if line.startswith(f"{front} ")]:
        found[beside[0]] += f", {name}"
    else:
        found = sorted([*found, own], key=lambda line: line.split()[1])
    return "\n".join([*lines[: block[0]], *found, *lines[block[-1] + 1 :]])


def _of_checkout(here: Path, room: str, name: str) -> Target:
    """The places in the checkout that `here` lies in.

    Raises:
        RecipeError: it lies in none.
    """
    for root in (here, *here.parents):
        if (root / "pipeline" / room / "__init__.py").is_file() and (root / "recipes").is_dir():
            return Target(
                root,
                root / "pipeline" / room / f"{name}.py",
                root / "recipes" / f"{name}.yaml",
                root / "tests" / room / f"test_{room}_{name}.py",
                f"pipeline.{room}",
            )
    raise RecipeError(
        f"{here}: no checkout of ratchet; go to one, or say --package DIR to make a package of your own"
    )


def _of_package(folder: Path, name: str) -> Target:
    package = re.sub(r"\W+", "_", folder.resolve().name.lower()).strip("_")
    if not NAME.fullmatch(package):
        raise RecipeError(
            f"--package {folder}: the folder's name gives no name of a package: begin with a letter"
        )
    return Target(
        folder,
        folder / package / f"{name}.py",
        folder / "recipes" / f"{name}.yaml",
        folder / "tests" / f"test_{name}.py",
        package,
    )


def _into_project(place: Target, room: str, name: str) -> None:
    """The package's pyproject.toml, with the method's entry point.

    Raises:
        RecipeError: it is there and no TOML.
    """
    path, init = place.root / "pyproject.toml", place.method.parent / "__init__.py"
    project = PROJECT.format(name=place.package.replace("_", "-"), package=place.package)
    text = path.read_text(encoding="utf-8") if path.exists() else project
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise RecipeError(f"{path}: not valid TOML: {problem}") from None
    head, line = f'[project.entry-points."ratchet.{room}"]\n', f'{name} = "{place.package}.{name}"\n'
    text = text.replace(head, head + line) if head in text else f"{text.rstrip()}\n\n{head}{line}"
    _write(path, text)
    if not init.exists():
        _write(init, f'"""Methods for ratchet: {place.package}."""\n')


def _row(room: str, name: str, place: Target) -> str:
    return f"| {name.replace('_', ' ')} | {room}/{name} | | {place.recipe.stem} |"


def _page(page: Path, row: str) -> str:
    if page.exists():
        return f"{page.read_text(encoding='utf-8').rstrip()}\n{row}\n"
    head = "| method | room / file | paper | recipe |\n|---|---|---|---|"
    return f"# Methods for ratchet\n\n{head}\n{row}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _said(place: Target, page: Path, package: bool) -> str:
    written = [
        place.method,
        place.recipe,
        place.test,
        page,
        *([place.root / "pyproject.toml"] if package else []),
    ]
    lines = ["written:", *(f"  {path}" for path in written), "next:"]
    if package:
        lines.append(f"  pip install -e {place.root}")
    lines += [f"  ratchet check {place.recipe}", f"  ratchet run {place.recipe}", f"  pytest {place.test}"]
    if not package:
        lines.append("  python scripts/reference.py --write   # docs/recipe.md: its keys")
        lines.append("  git add -A && python scripts/tree.py --write   # the README's tree")
    return "\n".join([*lines, "then write your method in its place: CONTRIBUTING.md, docs/methods-api.md"])


def command(
    room: Annotated[str, typer.Argument(help="generate, label, select, train, vote, evaluate or task.")],
    name: Annotated[str, typer.Argument(help="The method's name, as recipes will say it.")],
    package: Annotated[
        Path | None, typer.Option("--package", help="Make (or add to) a package of your own there.")
    ] = None,
) -> None:
    """Begin a method: its file, a recipe, a test and its row in the docs, all runnable as they stand.

    `ratchet new label agreement`"""

    typer.echo(new(room, name, package, Path.cwd()))
