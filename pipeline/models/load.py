"""Weights from a folder into memory: the base, its adapter merged, its head. Remote code is never run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import DamagedData, RecipeError
from pipeline.models.environment import processor_flags
from pipeline.models.heads import head_of
from pipeline.models.merged import merged
from pipeline.models.pause import grow, pause_of
from pipeline.models.scorer import head_name, open_scorer, scoring_head
from pipeline.models.shared import HEAD, open_shared

LARGE = 200_000_000  #: bytes of a model's files from which bfloat16 is 1.5 to 3 times as fast on a CPU


def device_of(wanted: str) -> torch.device:
    """auto: the GPU where there is one.

    Raises:
        RecipeError: torch cannot use it on this machine.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        if device.type != "cpu":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:  # no such device, or no driver
        first = str(problem).strip().split("\n")[0][:120]
        raise RecipeError(
            f"engine.device: {wanted}: torch cannot use it here ({first}): set device: auto, or cpu"
        ) from None
    return device


def dtype_of(wanted: str, device: torch.device, folder: Path | None = None) -> torch.dtype:
    """auto: bfloat16 on a GPU, and on a CPU that multiplies it by itself for a model large enough to gain by
    it; else float32. Decided by the processor and the size of the model's files, so that a resume decides the
    same. (`start_engine` goes back to float32 where bfloat16 turns out not to be exact.)
    """
    if wanted == "auto":
        on_cpu = device.type == "cpu"
        return torch.float32 if on_cpu and not gains_by_bfloat16(folder) else torch.bfloat16
    dtype = getattr(torch, wanted, None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"dtype: {wanted}: unknown; use auto, float32, bfloat16 or float16")
    return dtype


def gains_by_bfloat16(folder: Path | None) -> bool:
    """Is a model in bfloat16 faster on this CPU? Small ones gain little and lose digits."""
    if folder is None or not processor_flags() & {"amx_bf16", "avx512_bf16"}:
        return False
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) >= LARGE


def hash_weights(folder: Path, adapter: Path | None) -> str:
    """SHA-256 over the weights and their configuration, for engines made without a committed hash."""
    digest = hashlib.sha256()
    for place in (folder, adapter):
        names = sorted(place.glob("*.safetensors")) + sorted(place.glob("*config.json")) if place else []
        for path in names:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def load(
    folder: Path, adapter: Path | None, head: str | None, dtype: torch.dtype, device: torch.device
) -> Any:
    """The model, merged, in evaluation mode on its device.

    Raises:
        RecipeError: the folder holds no such model, or a value head that was never trained.
    """
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # A ZeRO-3 training before this one leaves its mark: weights would be shared out among the ranks as they
    # load, and a rank with nothing to generate never comes to take its share. The next training sets it anew.
    unset_hf_deepspeed_config()
    try:
        if head == "value":
            model, info = open_scorer(folder, dtype=dtype)
            fresh = any(key.startswith(f"{head_name(model)}.") for key in info["missing_keys"])
            if fresh and not _trains_head(adapter, head_name(model)):
                raise RecipeError(
                    f"{folder}: head: value has no trained head; train it first, or name a PRM folder"
                )
        elif head_of(head).reads == "state":
            model = _with_both(folder, adapter, dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError) as problem:
        raise RecipeError(f"{folder}: no model can be read here: {str(problem).splitlines()[0]}") from problem
    if adapter is not None:
        model = _merged(model, adapter)
    if any(not bool(tensor.isfinite().all()) for tensor in model.parameters()):
        raise DamagedData(f"{adapter or folder}: holds values that are not finite")
    return model.to(device).requires_grad_(False).eval()


def _with_both(folder: Path, adapter: Path | None, dtype: torch.dtype) -> Any:
    """A policy with its value head; None in its place where nobody has trained it."""
    model, info = open_shared(folder, dtype=dtype)
    if any(key.startswith(f"{HEAD}.") for key in info["missing_keys"]) and not _trains_head(adapter, HEAD):
        setattr(model, HEAD, None)
    return model


def _trains_head(adapter: Path | None, name: str) -> bool:
    if adapter is None:
        return False
    path = adapter / "adapter_config.json"
    return not path.exists() or name in (json.loads(path.read_text()).get("modules_to_save") or [])


def _merged(model: Any, adapter: Path) -> Any:
    if (adapter / "adapter_config.json").exists():
        grow(model, pause_of(adapter))
        return merged(model, adapter)
    return type(model).from_pretrained(adapter, dtype=model.dtype)  # `lora: none` trains all weights


@torch.inference_mode()
def plain_head(model: Any, head: str | None, num_tokens: int) -> Any:
    """The module that makes logits of the last hidden state, if nothing comes after it (scale, soft cap)."""
    top = scoring_head(model) if head == "value" else model.get_output_embeddings()
    if top is None:
        return None
    ids = torch.arange(min(8, num_tokens), device=model.device)[None]
    plain = top(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    whole = model(input_ids=ids, use_cache=False).logits
    return top if torch.allclose(plain, whole, rtol=1e-3, atol=1e-4) else None
