"""The pages of docs/ and the README say what is so: commands and options exist, recipes load, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from pipeline.__main__ import app
from pipeline.recipe.read import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GROUP = get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}  # type: ignore[attr-defined]


def ratchets(text: str) -> list[list[str]]:
    """The words of each `ratchet COMMAND ...` of a page, up to a comment or the end of the code."""
    found = re.findall(r"ratchet ([a-z]+(?:[^`\n#]*))", text)
    return [words.split() for words in found]


def test_there_are_pages_and_commands() -> None:
    names = {path.name for path in PAGES}
    wanted = {"first-run", "your-own-task", "your-own-model", "reading-a-run", "wandb", "recipe", "methods"}
    assert {f"{name}.md" for name in wanted} <= names
    assert sum(len(ratchets(page.read_text())) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    for words in ratchets(page.read_text()):
        assert words[0] in COMMANDS, words
        known = {name for each in COMMANDS[words[0]].params for name in (*each.opts, *each.secondary_opts)}
        for word in words[1:]:
            option = word.strip("().,;:").split("=")[0]
            if option.startswith("--"):
                assert option in known, (words[0], option)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_recipes_of_the_pages_load(tmp_path: Path) -> None:
    num = 0
    for page in PAGES:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S):
            if "stages" in (yaml.safe_load(text) or {}):
                path = tmp_path / f"{page.stem}-{num}.yaml"
                path.write_text(text)
                assert load(path).not_built == ()
                num += 1
    assert num >= 2
