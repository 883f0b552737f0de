"""`recipes`, `recipes copy NAME`: the recipes that come with Ratchet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RecipeError, nearest
from pipeline.recipe.shipped import SCHEMA, about, folder, launches, shipped
from pipeline.store.disk import DISK

OWN = re.compile(rb"\brecipes/([\w-]+\.(?:jsonl|txt))\b")  #: a file that a recipe reads beside itself


def listing() -> str:
    """Every recipe with what it is, then the launch files."""
    found = shipped()
    width = max(map(len, found))
    lines = [f"{name:<{width}}  {about(path)}" for name, path in found.items()]
    lines += ["", f"for --launch: {', '.join(launches())}"]
    return "\n".join([*lines, "Take one: ratchet recipes copy quickstart"])


def copy(name: str, to: Path | None) -> str:
    """Copy a recipe, and beside it the schema that its first lines name to an editor, and the files that it
    reads from its own folder, which the copy then reads where they lie.

    Raises:
        RecipeError: there is no such recipe, or a file is there already.
    """
    known = shipped() | launches()
    wanted = name.removeprefix("recipes/").removesuffix(".yaml")
    if wanted not in known:
        raise RecipeError(f"recipes copy {name}: no such recipe{nearest(wanted, known)}")
    target = to or Path(known[wanted].name)
    if target.is_dir():
        target = target / known[wanted].name
    text = known[wanted].read_bytes()
    read = dict.fromkeys(one.decode() for one in OWN.findall(text) if (folder() / one.decode()).is_file())
    for path in (target, *(target.parent / one for one in read)):
        if path.exists():
            raise RecipeError(f"{path}: is there already; remove it, or choose another file with --to")
    for one in read:
        DISK.write(target.parent / one, (folder() / one).read_bytes())
        text = text.replace(f"recipes/{one}".encode(), (target.parent / one).as_posix().encode())
    DISK.write(target, text)
    beside, schema = target.parent / SCHEMA, folder() / SCHEMA
    if wanted in shipped() and schema.is_file() and not beside.exists():
        DISK.write(beside, schema.read_bytes())
    if wanted in launches():
        return f"{target}: ratchet run RECIPE --launch {target}"
    return f"{target}: change it as you like, then ratchet run {target}"


def command(
    action: Annotated[str | None, typer.Argument(metavar="[copy", help="Without it: list them.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME]", help="A recipe of the list.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="The file or folder to write; ./NAME.yaml by default.")
    ] = None,
) -> None:
    """List the recipes that come with Ratchet, or copy one to change it.

    - `ratchet recipes`
    - `ratchet recipes copy star_gsm8k`
    - `ratchet recipes copy launch/zero2`
    """
    if action is None or action == "list":
        typer.echo(listing())
        return
    if action != "copy":
        raise RecipeError(f"recipes {action}: no such word{nearest(action, ['copy', 'list'])}")
    if name is None:
        raise RecipeError(f"recipes copy: name one of {', '.join(shipped())}")
    typer.echo(copy(name, to))
