"""An optimizer's state that goes on from round to round: safetensors and JSON, named by weights.

It lies in `optimizer/` of what a training leaves, and is committed beside the weights, in a folder of its
own. A state under ZeRO or FSDP lies in pieces on the ranks and is refused. The learning rate is the
schedule's and not part of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import RecipeError
from pipeline.store.disk import DISK

FOLDER, TENSORS, FACTS = "optimizer", "optimizer.safetensors", "optimizer.json"


def _named(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.nn.Parameter]]:
    """The optimizer's parameters with their names in the model, in the optimizer's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(p)], p) for group in optimizer.param_groups for p in group["params"]]


def save(model: torch.nn.Module, optimizer: Any, out: Path) -> None:
    """The state of each weight, into `out/optimizer/`. For rank 0.

    Raises:
        RecipeError: the optimizer keeps something that is neither a tensor nor a number.
    """
    from safetensors.torch import save_file

    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in _named(model, optimizer):
        for key, value in sorted(optimizer.state[parameter].items()):
            if value is None:
                continue
            if not torch.is_tensor(value) and not isinstance(value, (int, float)):
                raise RecipeError(
                    f"carry_optimizer: {type(optimizer).__name__} keeps a {type(value).__name__} as {key}, "
                    "which cannot be laid on disk; use args: {optim: adamw_torch}, or carry_optimizer: false"
                )
            kept = value if torch.is_tensor(value) else torch.tensor(value)
            tensors[f"{name}:{key}"] = kept.detach().cpu().contiguous()
    folder = out / FOLDER
    folder.mkdir()
    save_file(tensors, str(folder / TENSORS))
    facts = {"optimizer": type(optimizer).__name__, "weights": len(_named(model, optimizer))}
    DISK.write(folder / FACTS, (json.dumps(facts, sort_keys=True) + "\n").encode())


def load(model: torch.nn.Module, optimizer: Any, folder: Path) -> None:
    """The state that an earlier round left, into an optimizer that took no step yet.

    Raises:
        RecipeError: it is of another optimizer, or of other weights.
    """
    from safetensors.torch import load_file

    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    kind = type(optimizer).__name__
    if facts["optimizer"] != kind:
        raise RecipeError(
            f"carry_optimizer: {folder} holds the state of {facts['optimizer']}, and now {kind} trains; keep "
            "args.optim, or set carry_optimizer=false"
        )
    tensors = load_file(str(folder / TENSORS))
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition(":")
        state.setdefault(name, {})[what] = value
    for name, parameter in _named(model, optimizer):
        found = state.pop(name, None)
        if found is None or any(v.dim() and v.shape != parameter.shape for v in found.values()):
            raise RecipeError(
                f"carry_optimizer: {folder} has no state that fits {name}: the model's lora changed; keep "
                "it, or set carry_optimizer=false"
            )
        optimizer.state[parameter] = {
            what: value if value.dim() == 0 else value.to(parameter.device) for what, value in found.items()
        }
    if state:
        raise RecipeError(
            f"carry_optimizer: {folder} has the state of {len(state)} weights that do not train now, "
            f"{next(iter(state))} among them; keep lora as it was, or set carry_optimizer=false"
        )
