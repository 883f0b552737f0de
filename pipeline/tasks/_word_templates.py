"""The sentences of `tasks/words`, from `word_templates.txt` beside this file; each has its equation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Template(NamedTuple):
    """A word problem without its names and numbers. {a} and {b} are people, {things} what they have, {boxes}
    and {box} what it is kept in; x, y and z are the numbers that count.
    """

    name: str
    equation: str
    story: str
    asked: str

    @property
    def num_steps(self) -> int:
        return sum(sign in "+-*/" for sign in self.equation)


def _read(path: Path) -> tuple[Template, ...]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return tuple(Template(*line.split(" | ")) for line in lines if not line.startswith("#"))


TEMPLATES = _read(Path(__file__).with_name("word_templates.txt"))
_NAMES = (
    "Ada Ben Clara David Emma Felix Grace Hugo Ivy Jonas Kim Leo Mia Nils Olga Paul Rosa Sam Tina "
    "Umar Vera Will Yara Zoe"
)
_THINGS = (
    "apples marbles stickers cards pencils shells coins stamps balloons buttons beads crayons flowers "
    "eggs candies nuts pears stones pins plums"
)
NAMES, THINGS = _NAMES.split(), _THINGS.split()
BOXES = ("boxes box", "bags bag", "baskets basket", "jars jar", "trays tray", "crates crate")
#: Sentences with a number too many, as SVAMP has them: {who} is a person, {others} are things, d the number.
EXTRAS = (
    "{who} also has {d} {others}.",
    "There are {d} {others} on the table as well.",
    "{who} is {d} years old.",
    "It took {d} minutes.",
    "{d} {others} were in another room.",
    "Yesterday {who} saw {d} {others}.",
)
