"""docs/recipe.md: every key of a recipe, from the settings' own descriptions.

python scripts/reference.py            # prints it
python scripts/reference.py --write    # writes docs/recipe.md; a test holds it against the code
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.evaluate._rules import GateRule  # noqa: E402
from pipeline.recipe import read as recipes  # noqa: E402
from pipeline.settings import Settings, StageSettings, change_kind  # noqa: E402

HEAD = """# The recipe, key by key

Made by `python scripts/reference.py --write` from the settings' own descriptions. How a recipe
reads as a whole: the files in `recipes/`. *data* keys change rows or weights: a run that exists
refuses a change with a diff.
*extendable* keys may grow on a finished run. *operational* keys are free to change.
"""


#: what a key that names a model takes, by its mark
ACTS = {"any": "model", "writes": "policy", "scores": "reward model", "chooses": "judge"}


def _type(annotation: Any) -> str:
    text = re.sub(r"\b(typing|pipeline\.\w+|collections\.abc)(\.\w+)*\.", "", str(annotation))
    text = re.sub(r"<class '([\w.]+)'>", lambda m: m[1].rsplit(".", 1)[-1], text)
    for does, said in ACTS.items():
        text = re.sub(rf"Annotated\[str, Act\(does='{does}'\)(, <[^>]*>)?\]", said, text)
    text = re.sub(r"Annotated\[int, [^\]]*\]", "int", text)
    text = re.sub(r"Union\[([^\[\]]*)\]", lambda m: m[1].replace(", ", " | "), text)
    return text.replace("NoneType", "none").replace("None", "none").replace("|", "or")


def _default(settings: type[Settings], key: str) -> str:
    field = settings.model_fields[key]
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        return "see below"
    return f"`{value}`" if value not in ("", (), None, {}) else ""


def table(settings: type[Settings], without: set[str]) -> list[str]:
    """The keys of a settings class as a Markdown table, those in `without` left out."""
    lines = ["| key | type | default | change | what |", "|---|---|---|---|---|"]
    for key, field in settings.model_fields.items():
        if key in without:
            continue
        name = field.alias or key
        change = change_kind(settings, key)
        what = (field.description or "").replace("|", "or")
        kind, default = _type(field.annotation), _default(settings, key)
        lines.append(f"| `{name}` | {kind} | {default} | {change} | {what} |")
    return lines if len(lines) > 2 else []


def reference() -> str:
    """The whole page."""
    lines = [HEAD, "## A recipe", "", *table(recipes.Header, set()), ""]
    lines += ["`wandb`:", "", *table(recipes.WandbSettings, set()), ""]
    lines += ["`models.NAME`:", "", *table(recipes.ModelSettings, set()), ""]
    lines += ["`models.NAME.gate` (one or a list):", "", *table(GateRule, set()), ""]
    lines += ["`models.NAME.engine`:", "", *table(recipes.EngineSettings, set()), ""]
    lines += ["## Tasks", "", "Every task:", "", *table(recipes.room_settings("tasks"), set()), ""]
    lines += _room("tasks", set(recipes.room_settings("tasks").model_fields))
    common = set(StageSettings.model_fields)
    lines += ["## Stages", "", "Every stage:", "", *table(StageSettings, set()), ""]
    for room in recipes.ROOMS:
        base = recipes.room_settings(room)
        lines += [f"## {room}", "", "Every method:", "", *table(base, common), ""]
        lines += _room(room, set(base.model_fields))
    return "\n".join(lines).rstrip() + "\n"


def _room(room: str, known: set[str]) -> list[str]:
    lines: list[str] = []
    for name in recipes.methods(room):
        module = recipes.method(room, name)
        said = (ast.get_docstring(ast.parse(Path(module.__file__ or "").read_text())) or "").split("\n\n")[0]
        lines += [f"### {name}", "", said.replace("\n", " "), ""]
        rows = table(module.Settings, known)
        lines += [*rows, ""] if rows else []
    return lines


def main() -> None:
    """Print the page, or write it."""
    if "--write" in sys.argv:
        (ROOT / "docs" / "recipe.md").write_text(reference())
    else:
        print(reference())


if __name__ == "__main__":
    main()
