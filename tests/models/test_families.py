"""Families of transformers in small: what is written, trained and scored is what transformers and peft make of it,
or is refused with a sentence. docs/models.md holds a line for each.
"""

from __future__ import annotations

import functools

import families
import family_matrix
import pytest

NUM_FAMILIES = 60
QUICK = ("gpt_neo", "qwen2_moe", "opt", "llama_tied")  #: one of each kind; the others in `make test-full`


@functools.cache
def documented() -> dict[str, list[str]]:
    """Family to the cells of its line."""
    lines = [
        line for line in family_matrix.DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {one[0]: one[1:] for one in cells if set(one[0]) - {"-", ":", " "}}


def test_every_family_has_its_line():
    assert list(documented()) == list(families.FAMILIES)
    assert len(documented()) >= NUM_FAMILIES
    assert sum(cells[0] == "batch" for cells in documented().values()) >= 40


def holds(name: str) -> None:
    line = family_matrix.look(name)
    engine, _, *rest = documented()[name]
    assert [line.engine, line.prm, line.lora, line.packing] == [engine, *rest]


@pytest.mark.parametrize("name", QUICK)
def test_a_family_does_as_documented(name):
    holds(name)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in families.FAMILIES if name not in QUICK])
def test_every_family_does_as_documented(name):
    holds(name)
