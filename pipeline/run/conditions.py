"""What a run's bits depend on beside its recipe: package versions, threads, and the project's own code.

Every stage's plan.json records them and no fingerprint holds them: an upgrade must not throw a run away. A
resume under others is told once a launch, or refused where the recipe is `strict`. Not recorded: the system's
libraries and the processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.run.run import Run


import hashlib
import importlib.metadata
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.recipe.methods import method
from pipeline.recipe.shape import Recipe

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "pyarrow", "numpy")
HERE = Path(__file__).parents[1]
TELLS = ("report", "commands")  #: packages that only show what stands: no row or weight depends on them


@cache
def installed_versions() -> dict[str, str]:
    """The packages that bits depend on. Every stage asks, and looking them up takes 30 ms."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@cache
def own_code() -> dict[str, str]:
    """Room -> a hash of its source files; those beside the rooms stand under `pipeline`."""
    rooms = sorted(path.parent for path in HERE.glob("*/__init__.py") if path.parent.name not in TELLS)
    return {folder.name: _hash(sorted(folder.glob("*.py"))) for folder in (HERE, *rooms)}


def _hash(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def code_of(recipe: Recipe) -> dict[str, str]:
    """The project's own code, and the file of each method that another package brings (`label/mine`)."""
    found = dict(own_code())
    for stage in recipe.stages:
        file = Path(method(stage.room, stage.method).__file__ or "") if stage.built else HERE
        if not file.is_relative_to(HERE):
            found[f"{stage.room}/{stage.method}"] = _hash([file])
    return found


def conditions(recipe: Recipe) -> dict[str, Any]:
    """What each plan records."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    return {"versions": dict(installed_versions()), "threads": threads, "code": code_of(recipe)}


def changed(was: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(a line for each package or number of threads that differs from what was recorded, the rooms whose code
    does). What was not recorded does not differ."""
    pairs = [(name, old, now["versions"].get(name)) for name, old in was.get("versions", {}).items()]
    pairs += [("threads", was["threads"], now["threads"])] if "threads" in was else []
    lines = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
    code = was.get("code", {})
    return lines, sorted(name for name, old in code.items() if now["code"].get(name) != old)


def same_conditions(run: Run) -> None:
    """Hold package versions, threads and code against those the run began with: other bits may follow.

    Raises:
        RecipeError: they differ, and the recipe is `strict`.
    """
    plan = run.prepare_folder.plan()
    lines, code = changed(plan.recorded if plan else {}, conditions(run.recipe))
    if (lines or code) and run.recipe.header.strict:
        refused = [f"{run.name}: {line}" for line in (*lines, *(f"code of {room} changed" for room in code))]
        raise RecipeError([*refused, "strict: true refuses to go on under these"])
    if lines:
        told = f"not as the run began: {', '.join(lines)}"
        run.console.warn(f"{told}. The same rows are promised, not the same bytes")
    if code:
        told = f"code changed since the run began: {', '.join(code)}"
        run.console.warn(f"{told}. What is committed stays; what follows is the new code's")
