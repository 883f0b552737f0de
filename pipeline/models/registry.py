"""A recipe's model -> folders on disk: seeds, other runs' weights, local folders, Hub ids; merged copies for
export.

Nothing here loads torch until a seed is built or an adapter is merged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, RecipeError
from pipeline.models.folder import require_whole
from pipeline.models.heads import head_of
from pipeline.store.workspace import Workspace

RUN_SPEC = re.compile(r"run://(?P<run>[\w.-]+)@(?P<round>\d+)/(?P<model>\w+)")


@dataclass(frozen=True)
class Weights:
    """One version of a model: a base folder and, where it was trained with LoRA, an adapter over it.

    `round` is the round that trained it, -1 for the base as it came. `hash` names the whole: base and
    adapter."""

    model: str
    base: Path
    adapter: Path | None
    hash: str
    round: int = -1
    head: str | None = None

    @property
    def fresh_head(self) -> bool:
        """A reward model that was never trained: it has nothing to say yet."""
        return self.head is not None and self.round < 0 and not brings_head(self.base)


def brings_head(folder: Path) -> bool:
    """Does a folder hold a trained reward model: ours (prm.json), or one that classifies tokens?"""
    try:
        kinds = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError):
        kinds = []  # whoever loads it says what is wrong
    return (folder / "prm.json").exists() or any("TokenClassification" in str(kind) for kind in kinds)


def trained_at(own: Path, recorded: str) -> Path:
    """The folder that a record of trained weights names: `round-003/policy` of checkpoints/<run>/ (`own`)."""
    return own / recorded if recorded.startswith("round-") else Path(recorded)


def resolve_base(
    spec: str,
    task: Any,
    workspace: Workspace,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """The folder of a base model.

    Raises:
        RecipeError: it is not there, or the specification is not understood.
        UnsafeFile: it holds pickled weights or code.
    """
    from pipeline.store.model_folder import check_model_folder

    if spec.startswith("seed://"):
        from pipeline.models.seeds import build

        return build(spec, task, workspace.checkpoints, progress=progress)
    if spec.startswith("run://"):
        return _from_run(spec, task, workspace)
    folder = local_folder(spec)
    if folder is None:
        return _from_hub(spec)
    check_model_folder(folder)
    require_whole(folder)
    return folder


def local_folder(spec: str) -> Path | None:
    """The folder that a base names, None where it names a model on the Hub.

    Raises:
        RecipeError: there is no such folder, or it is no kind of base.
    """
    if "://" in spec:
        raise RecipeError(
            f"base: {spec}: unknown kind; use seed://NAME, run://RUN@ROUND/MODEL, a folder or a Hub id"
        )
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise RecipeError(f"base: {spec}: no such folder (a Hub id reads like owner/name)")
    return None


def _from_hub(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    from pipeline.store.model_folder import check_model_folder

    wanted = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(spec, allow_patterns=wanted))
    except RepositoryNotFoundError as problem:
        raise RecipeError(f"base: {spec}: the Hub has no such model, or it is private: {problem}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as problem:
        first = str(problem).split("\n")[0]
        raise RecipeError(
            f"base: {spec}: not in the local cache and the Hub cannot be reached ({first}); "
            "download it where there is a network, and give its folder"
        ) from None
    check_model_folder(folder)
    require_whole(folder)
    return folder


def standing_of(spec: str, workspace: Workspace) -> dict[str, Any]:
    """The record of the model that `run://RUN@ROUND/MODEL` names, as gate.json has it.

    Raises:
        RecipeError: there is no such run, round or model.
    """
    found = RUN_SPEC.fullmatch(spec)
    if not found:
        raise RecipeError(f"base: {spec}: write run://RUN@ROUND/MODEL, for example run://quickstart@3/policy")
    run, number, model = found["run"], int(found["round"]), found["model"]
    gate = workspace.data / run / f"round-{number:03d}" / "gate.json"
    if not gate.is_file():
        there = (workspace.data / run / "recipe.yaml").is_file()
        cure = (
            f"`ratchet run {run}` goes on with it"
            if there
            else f"make it first, as `ratchet run recipes/{run}.yaml`"
        )
        raise RecipeError(f"base: {spec}: run {run} has no finished round {number}; {cure}")
    standing = json.loads(gate.read_text())["standing"].get(model)
    if standing is None:
        raise RecipeError(f"base: {spec}: run {run} has no model {model}")
    return standing


def _from_run(spec: str, task: Any, workspace: Workspace) -> Path:
    standing = standing_of(spec, workspace)
    found = RUN_SPEC.fullmatch(spec)
    assert found is not None
    run, number, model = found["run"], int(found["round"]), found["model"]
    if not standing["adapter"] and standing["round"] >= 0:
        return trained_at(workspace.checkpoints / run, standing["base"])
    base = resolve_base(standing["base"], task, workspace)
    if not standing["adapter"]:
        return base
    target = workspace.checkpoints / "merged" / f"{run}-{number:03d}-{model}-{standing['hash'][:12]}"
    if not (target / "manifest.json").exists():
        adapter = trained_at(workspace.checkpoints / run, standing["adapter"])
        merge(base, adapter, standing["head"], target, {"from": spec})
    return target


def merge(base: Path, adapter: Path | None, head: str | None, target: Path, meta: dict[str, Any]) -> str:
    """An adapter merged into an ordinary Hugging Face folder, committed at `target`. Returns its weights
    hash.

    Raises:
        RecipeError: a model of this head is no single folder. DamagedData: weights that are not finite.
    """
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.models.merged import merged
    from pipeline.models.pause import added_to, grow, pause_of, write_pause
    from pipeline.models.scorer import open_scorer
    from pipeline.models.shared import open_shared
    from pipeline.store.weights import commit_weights

    if not head_of(head).mergeable:
        raise RecipeError(
            f"head: {head} is read against its base, so what was trained is not merged into it: "
            f"{adapter or base} stands beside that base, and a recipe names the run's own model"
        )
    temp = target.parent / f".tmp-{target.name}"
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    if head == "value":
        model, _ = open_scorer(base)
    elif head_of(head).reads == "state":
        model, _ = open_shared(base)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    pause, tokenizer = pause_of(adapter, base), AutoTokenizer.from_pretrained(base)
    if adapter is not None:
        grow(model, pause)
        model = merged(model, adapter)
    if any(not p.isfinite().all() for p in model.parameters()):
        raise DamagedData(f"{adapter or base}: holds values that are not finite")
    model.save_pretrained(temp)
    added_to(tokenizer, pause.copies if pause else 0)
    write_pause(temp, pause)
    tokenizer.save_pretrained(temp)
    if adapter is not None and (adapter / "prm.json").exists():
        shutil.copy(adapter / "prm.json", temp / "prm.json")
    return commit_weights(temp, target, meta)
