"""An adapter merged into its base, as peft would run it unmerged.

Merging writes into the base's weights, so a base that ties its embeddings would change its head with them:
the head gets weights of its own first. One short row is then compared with peft's own forward, on every load:
what is sampled from is what was trained, or nothing is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import DamagedData

NUM_TOKENS = 12
#: float32: the largest difference, as a share of the logits' spread
OFF = 1e-3
#: half precision rounds every merged weight once more, whatever the adapter: the root mean square that this
#: makes, as a share of the spread (0.03 in bfloat16 at 135 M weights; bfloat16 itself is 0.05 from float32)
ROUNDING = {torch.bfloat16: 0.06, torch.float16: 0.01}


def merged(model: Any, adapter: Path) -> Any:
    """The model with the adapter's weights in its own.

    Raises:
        DamagedData: the adapter does not fit, or the merged model is not the one that was trained.
    """
    tied = _are_tied(model)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    ids = _row(model, settings)
    with torch.inference_mode():
        before = model(input_ids=ids, use_cache=False).logits.float()
    try:
        wrapped = with_adapter(model, adapter).eval()
    except (
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
    ) as problem:  # peft's way to say that it does not fit
        if "DefaultCPUAllocator" in str(problem):
            raise
        first = (str(problem).splitlines() or [""])[0]
        raise DamagedData(
            f"{adapter}: peft cannot put it on {type(model).__name__}: {first[:200]}"
        ) from problem
    with torch.inference_mode():
        trained = wrapped(input_ids=ids, use_cache=False).logits.float()
    _untie(wrapped.get_base_model())
    # Unmerged decoding is 1.45 times slower.
    whole = wrapped.merge_and_unload()
    if tied:
        _tie_again(whole)
    with torch.inference_mode():
        found = whole(input_ids=ids, use_cache=False).logits.float()
    if off := is_off(before, trained, found, whole.dtype):
        raise DamagedData(
            f"{adapter}: merged into its base it is not the model that peft runs (logits differ by {off:.2g} "
            "of their spread); its lora settings cannot be used here: leave out what adapts embeddings, heads"
        )
    return whole


def is_off(before: torch.Tensor, trained: torch.Tensor, found: torch.Tensor, dtype: torch.dtype) -> float:
    """By how much of the logits' spread the merged model's differ from peft's, 0 where they are one model's.

    In half precision a difference is told from rounding by what the adapter did: it may be half of that.
    What is not finite is 0 here: it is told with its own sentence.

    Args:
        before, trained, found: logits of one row [1, T, V], float32: of the base, by peft, merged.
    """
    spread = trained.std(unbiased=False).clamp(min=1e-3)
    if dtype not in ROUNDING:
        off = float((found - trained).abs().max() / spread)
        return off if off > OFF else 0.0
    off, moved = (float((one - trained).pow(2).mean().sqrt() / spread) for one in (found, before))
    return off if off > max(ROUNDING[dtype], moved / 2) else 0.0


def with_adapter(model: Any, adapter: Path, **more: Any) -> Any:
    """The model wrapped by peft, with every weight of the adapter in its place.

    peft renames weights as transformers renames those of a base; for a few families that loses some of an
    adapter's, which then stay at their start without a word. Those whose names are the model's own are put
    there.

    Raises:
        DamagedData: weights that have no place in the model: they would never be used.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    wrapped = PeftModel.from_pretrained(model, adapter, **more)
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        return wrapped  # peft said what it thinks of that
    held = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    with safe_open(path, "pt") as file, torch.no_grad():
        stored = [name for name in file.keys() if "lora_" in name]  # noqa: SIM118  no mapping
        left = sorted(name for name in stored if name not in held)
        if left:
            raise DamagedData(
                f"{adapter}: {len(left)} of its {len(stored)} weights have no place in the base, {left[0]} "
                "among them: they would never be used. It belongs to another base, or another version of peft"
            )
        for name in stored:
            if (weight := file.get_tensor(name)).shape == held[name].shape:
                held[name].copy_(weight)
    return wrapped


def _row(model: Any, settings: dict[str, Any]) -> torch.Tensor:
    """A short row of ids [1, T], with those that an adapter trains one by one."""
    size = model.get_input_embeddings().weight.shape[0]
    picked = settings.get("trainable_token_indices") or []
    picked = [i for part in picked.values() for i in part] if isinstance(picked, dict) else list(picked)
    plain = [1 + (37 * i) % max(1, size - 1) for i in range(NUM_TOKENS)]
    return torch.tensor([[i % size for i in [*plain, *picked[:NUM_TOKENS]]]], device=model.device)


def _ends(model: Any) -> tuple[Any, Any]:
    """The modules that hold the weights of the input and the output embedding, adapters taken off."""
    found = []
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        while module is not None:
            names = ("token_adapter", "base_layer", "original_module")
            inner = next((part for name in names if (part := getattr(module, name, None)) is not None), None)
            if inner is None:
                break
            module = inner
        found.append(module)
    return found[0], found[1]


def _are_tied(model: Any) -> bool:
    words, head = _ends(model)
    return getattr(head, "weight", None) is not None and head.weight is getattr(words, "weight", None)


def _untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embedding's and an adapter is on either."""
    words, head = _ends(model)
    plain = words is model.get_input_embeddings() and head is model.get_output_embeddings()
    if not plain and _are_tied(model):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _tie_again(model: Any) -> None:
    """Share the weights again where they are equal, and let the configuration say what is."""
    words, head = _ends(model)
    equal = torch.equal(words.weight, head.weight)
    if equal:
        head.weight = words.weight
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = equal
