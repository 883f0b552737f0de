"""`schema`: a recipe's JSON schema, for editors."""

from __future__ import annotations

import json

import typer


def text() -> str:
    """The schema as a file holds it."""
    from pipeline.recipe.schema import schema

    return json.dumps(schema(), indent=1, ensure_ascii=False)


def command() -> None:
    """Print the JSON schema of recipes: editors complete keys by it and underline what is wrong.

    `ratchet schema > recipe.schema.json`

    A recipe names it in a comment: `# yaml-language-server: $schema=recipe.schema.json`
    """
    typer.echo(text())
