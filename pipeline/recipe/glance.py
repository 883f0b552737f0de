"""What a line of `ls` needs of a recipe, without reading the rest of it.

A run has stored its recipe resolved, in block style, a key a line, and it was checked as a whole then: so the
text is cut at its keys, and only the header and the evaluations are parsed, each text once.
"""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

from pipeline.errors import RecipeError
from pipeline.recipe.read import BODY, parse_yaml, stage_of
from pipeline.recipe.shape import Header, Stage
from pipeline.recipe.validate import validate


def glance(path: Path) -> tuple[Header, tuple[Stage, ...], tuple[str, ...]] | None:
    """(header, evaluations, names of the stages of `finally`); None where they cannot be made out, and `load`
    says why."""
    with contextlib.suppress(RecipeError, OSError, UnicodeDecodeError):
        parts = re.split(r"^(?=\w)", path.read_text(encoding="utf-8"), flags=re.M)
        blocks = {part.partition(":")[0]: part for part in parts}
        plain = parse_yaml("".join(text for key, text in blocks.items() if key not in BODY), str(path))
        problems: list[str] = []
        header = validate(Header, plain, "", "", problems, BODY)
        ends = _evaluations("finally", blocks.get("finally", ""))
        stages = _evaluations("stages", blocks.get("stages", ""))[0]
        if header is not None and not problems:
            return header, (*stages, *ends[0]), ends[1]
    return None


@functools.lru_cache(maxsize=64)
def _evaluations(section: str, text: str) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    """The evaluate stages of a section's text, and the names of all of its stages.

    Raises:
        RecipeError: one of them is not what a stored recipe has.
    """
    stages, names, problems = [], [], list[str]()
    for part in re.split(r"^(?=  \w)", text, flags=re.M)[1:]:
        names.append(part.partition(":")[0].strip())
        if re.search(r"^    evaluate: ", part, flags=re.M):
            raw = parse_yaml(part, section)[names[-1]]
            stages.append(stage_of(names[-1], section, raw, "", problems, []))
    if problems:
        raise RecipeError(problems)
    return tuple(one for one in stages if one), tuple(names)
