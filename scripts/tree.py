"""The README's tree: every file of the project with the first sentence of its docstring.

python scripts/tree.py            # prints it
python scripts/tree.py --write    # puts it into README.md, between its two marks
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"
LIMIT = 110  #: characters of a phrase; a longer one ends with its first clause that stands alone


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, or a recipe's first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
    else:
        said = text.split("\n")[0].removeprefix("#").strip()
    said = re.split(r"(?<=[a-z0-9)`*])(?<!et al)(?<!e\.g)\.(?: |$)", said)[0].rstrip(".")
    while len(said) > LIMIT and (clause := re.match(r"(.{24,})[,;:] ", said)) and whole(clause[1]):
        said = clause[1]
    return said


def whole(said: str) -> bool:
    """No bracket and no backquote is left open."""
    return said.count("(") == said.count(")") and said.count("`") % 2 == 0


def tree() -> str:
    """The whole tree as text."""
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = found.stdout.split()
    lines: list[str] = []
    for folder in ("recipes", "pipeline", "scripts"):
        files = [Path(f) for f in listed if f.startswith(folder + "/") and f.endswith((".py", ".yaml"))]
        files = [f for f in files if f.name != "__init__.py" or f.parent.name == "pipeline"]
        files = [f for f in files if "launch" not in f.parts]
        rooms = sorted({f.parent for f in files}, key=lambda p: (len(p.parts), str(p)))
        for room in rooms:
            about = ROOT / room / "__init__.py"
            said = f"  {phrase(about)}" if about.exists() else ""
            lines.append(f"{room}/{said}")
            for file in sorted(f for f in files if f.parent == room and f.name != "__init__.py"):
                lines.append(f"    {file.name:<24} {phrase(ROOT / file)}")
    return "\n".join(lines)


def main() -> None:
    """Print the tree, or write it into the README."""
    if "--write" not in sys.argv:
        print(tree())
        return
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n```\n{tree()}\n```\n{END}{after}")


if __name__ == "__main__":
    main()
