"""The README's table of faults: every test that it names is there, and runs where the table says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHERE = {"": set(), "*": {"full"}, "°": {"faults"}, "°°": {"long"}}


def marked() -> dict[str, list[set[str]]]:
    """Name of a test -> the marks of each function of that name (its module's too; parameters apart)."""
    found: dict[str, list[set[str]]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        module = " ".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                said = " ".join(
                    ast.unparse(mark)
                    for mark in node.decorator_list
                    if "parametrize" not in ast.unparse(mark)
                )
                marks = set(re.findall(r"pytest\.mark\.(full|faults|long)", f"{module} {said}"))
                found.setdefault(node.name, []).append(marks)
    return found


def test_every_test_of_the_table_is_there_and_runs_where_it_says() -> None:
    text = (ROOT / "README.md").read_text().split("## What is promised")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    known, named = marked(), 0
    assert len(rows) >= 32
    for row in rows:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 4, row
        for name, mark in re.findall(r"`(test_\w+)`(°°|°|\*|)", cells[3]):
            named += 1
            assert name in known, f"README names {name}, which is nowhere in tests/"
            assert WHERE[mark] in known[name], (
                f"{name}: the README says {mark or 'make test'}, it is {known[name]}"
            )
        assert "`test_" in cells[3], row
    assert named > 40
