"""`push RUN --to USER/NAME`: a run's rows and card to the Hub, by huggingface_hub's own upload.

What goes: rows, plans, manifests, gates, metrics, recipe and card; not logs, locks, caches or wandb. Every
hash is checked first. Weights go with `--weights`, below `weights/`. Not here: an exported model (`ratchet
export`, then `hf upload`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import HERE, RunName
from pipeline.errors import DamagedData, RecipeError, RunInUse
from pipeline.report.card import run_card
from pipeline.report.leaving import Private, leave
from pipeline.report.wording import size
from pipeline.run.record import metrics_rows
from pipeline.run.run import Run
from pipeline.run.session import open_run
from pipeline.store.lock import is_held
from pipeline.store.run_folder import OUTSIDE, verify_run
from pipeline.store.workspace import Workspace

#: what stays at home, as huggingface_hub understands it
IGNORED = [*OUTSIDE, *(f"{name}/**" for name in OUTSIDE), "*.tmp", "**/.tmp-*", ".tmp-*", "**/.tmp-*/**"]


def files(folder: Path) -> list[str]:
    """What of a folder would be uploaded, by huggingface_hub's own filter."""
    from huggingface_hub.utils import filter_repo_objects

    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return list(filter_repo_objects(found, ignore_patterns=IGNORED))


def push(
    name: str, to: str, dry_run: bool, weights: bool, private: bool, workspace: Workspace
) -> Iterator[str]:
    """Upload a run as a data set; yields what there is to say.

    Raises:
        RecipeError: no such run, no finished round, a bad repository name, or the Hub refuses.
        RunInUse: somebody works on it.
        DamagedData: a hash is wrong; nothing is uploaded.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    run = open_run(name, workspace)
    try:
        validate_repo_id(to)
    except HFValidationError as problem:
        raise RecipeError(f"--to {to}: {problem}") from None
    if is_held(run.folder):
        raise RunInUse(f"{run.folder}: somebody works on this run; push it when it stands still")
    if run.gate(0) is None:
        raise RecipeError(f"run {name}: no round is finished yet, so there is nothing to show")
    if problems := verify_run(run.folder, workspace.checkpoints / name):
        raise DamagedData(
            f"{name}: not pushed: {problems[0]} ({len(problems)} in all: ratchet verify {name})"
        )
    private_names = Private(run.recipe)
    card = run_card(run, metrics_rows(run)).encode("utf-8", "replace")
    if not dry_run:
        run.disk.write(run.folder / "README.md", card)
    places = [(run.folder, "")] + ([(workspace.checkpoints / name, "weights")] if weights else [])
    for folder, inside in places:
        named = sorted({*files(folder), *([] if inside else ["README.md"])})
        total = sum((folder / each).stat().st_size for each in named if (folder / each).exists())
        yield f"{folder} -> {to}{'/' if inside else ''}{inside}: {len(named):,} files, {size(total)}"
        if dry_run:
            yield from (f"  {inside}/{each}" if inside else f"  {each}" for each in named)
    if dry_run:
        yield f"README.md:\n{private_names.without(card.decode())}"
        return
    scratch = run.folder / "scratch" / "push"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        told = 0
        for folder, inside in places:
            told += leave(folder, files(folder), scratch / (inside or "data"), private_names)
        if told:
            yield f"{told:,} records leave without local paths, hosts and users"
        leaving = [(scratch / (inside or "data"), inside) for _, inside in places]
        yield _upload(run, leaving, to, private)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _upload(run: Run, places: list[tuple[Path, str]], to: str, private: bool) -> str:
    """The library's own upload.

    Raises:
        RecipeError: nobody is logged in, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        made = api.create_repo(to, repo_type="dataset", private=private or None, exist_ok=True)
        for folder, inside in places:
            api.upload_folder(
                repo_id=to,
                repo_type="dataset",
                folder_path=folder,
                path_in_repo=inside or None,
                ignore_patterns=IGNORED,
                commit_message=f"{run.name}, {len(list(run.folder.glob('round-*')))} rounds",
            )
    except LocalTokenNotFoundError as problem:
        raise RecipeError(
            f"--to {to}: nobody is logged in: `hf auth login`, or set HF_TOKEN ({problem})"
        ) from None
    except (
        Exception
    ) as problem:  # the HTTP client's errors; its package moved between versions of the library
        ours = (HfHubHTTPError, OSError)
        if not isinstance(problem, ours) and not type(problem).__module__.startswith("httpx"):
            raise
        first = str(problem).split("\n")[0]
        raise RecipeError(f"--to {to}: the Hub refused or cannot be reached: {first}") from None
    return f"pushed to {made}"


def command(
    name: RunName,
    to: Annotated[str, typer.Option(help="The data set on the Hub: USER/NAME.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, show the card.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Its adapters too, below weights/.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Upload a run to the Hugging Face Hub as a data set with its card: rows, manifests, metrics, recipe.

    - `ratchet push quickstart --to me/quickstart --dry-run`
    - `ratchet push quickstart --to me/quickstart --weights`
    """

    for line in push(name, to, dry_run, weights, private, HERE):
        typer.echo(line)
