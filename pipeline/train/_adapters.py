"""Which weights an adapter lies on: one rule for every family, and what of the recipe's `lora` cannot train
is refused before the first step.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from pipeline.errors import RecipeError

PLAIN = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
#: families of which peft refuses out_proj and conv1d, whose weights a fused kernel reads
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")


def experts_of(model: nn.Module) -> list[str]:
    """The names of weights that lie outside linear layers: stacked experts, and the routers beside them."""
    found = []
    for place, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, PLAIN) or not any(word in kind for word in ("Expert", "Router", "Gate")):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.dim() == 3 or (weight.dim() == 2 and name == "weight"):
                found.append(f"{place}.{name}")
    return found


def fitted(config: LoraConfig, model: Any) -> LoraConfig:
    """`all-linear` by one rule for every family: where every linear layer is adapted, so are experts and
    their routers, stacked as they are; what peft cannot adapt is left out (a router that returns more than a
    product, the inner products of a Mamba).
    """
    if config.target_modules != "all-linear":
        return config
    out = [*unread(model), *(name for name, module in model.named_modules() if _odd(module))]
    if getattr(model.config, "model_type", "") in MAMBA:
        out += [name for name, _ in model.named_modules() if name.endswith((".out_proj", ".conv1d"))]
    if out:
        config.exclude_modules = sorted({*(config.exclude_modules or ()), *out})
    plain = not (config.lora_dropout or config.use_dora or config.lora_bias or config.target_parameters)
    names = experts_of(model)
    if not names or not plain or config.layers_to_transform is not None or _peft_knows(model):
        return config
    config.target_parameters = sorted({".".join(name.split(".")[-3:]) for name in names})
    if any(name.endswith(".gate_up_proj") for name in names):  # two projections in one
        config.rank_pattern = {r".*\.gate_up_proj": 2 * config.r, **(config.rank_pattern or {})}
        config.alpha_pattern = {r".*\.gate_up_proj": 2 * config.lora_alpha, **(config.alpha_pattern or {})}
    return config


@torch.no_grad()
def unread(model: Any) -> list[str]:
    """Linear layers whose weights are read past their forward (a state's step size, say): an adapter there
    would change the merged model and not the one that trains. Experts may only not be chosen.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "expert" not in name
    }
    called: set[int] = set()
    hooks = [one.register_forward_hook(lambda module, *_: called.add(id(module))) for one in layers.values()]
    was = model.training
    model.eval()
    try:
        model(input_ids=torch.tensor([[3, 5, 7]], device=model.device), use_cache=False)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # sharded weights, say
        return []
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return [
        name for name, module in layers.items() if id(module) not in called and module is not _head(model)
    ]


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def require_read(model: Any) -> None:
    """Refuse adapters that the recipe names on layers whose forward is not called.

    Raises:
        RecipeError: with the layers.
    """
    plain = model.get_base_model()
    wrapped = [name.removesuffix(".base_layer") for name in unread(plain) if name.endswith(".base_layer")]
    past = [name for name in wrapped if isinstance(plain.get_submodule(name), LoraLayer)]
    if past:
        raise RecipeError(
            f"lora.target_modules: {past[0]} and {len(past) - 1} more: this family reads the weights of such "
            "layers directly, so an adapter there would not train: leave them out"
        )


def _odd(module: nn.Module) -> bool:
    """A linear layer whose forward gives something else."""
    kind = type(module)
    return isinstance(module, nn.Linear) and kind is not nn.Linear and "Router" in kind.__name__


def _peft_knows(model: Any) -> bool:
    """Does peft adapt the experts of this family by itself, as those that it knows from before they were
    stacked?
    """
    from peft.utils import transformers_weight_conversion as peft_rules

    kind = peft_rules._MODEL_TO_CONVERSION_PATTERN.get(getattr(model.config, "model_type", ""))
    return kind in peft_rules._MOE_FUSED_TARGETS


def require_trained(model: Any) -> None:
    """Every adapter gets a gradient from the loss, or the recipe asks for what this training would not do.

    Raises:
        RecipeError: an adapter on the output embedding.
    """
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise RecipeError(
            "lora: an adapter on the head (lm_head, or what target_modules matches of it) gets no gradient "
            "from train: sft, whose loss reads the head's own weights: leave it out, or name the head in "
            "lora.modules_to_save, which trains it whole"
        )


def frozen_share(model: nn.Module) -> str:
    """What of a model no adapter reaches, by kind, as a sentence; empty where all weights train."""
    reached: set[int] = set()
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            reached.update(id(p) for p in module.original_module.parameters())
        elif isinstance(module, BaseTunerLayer):
            name = getattr(module, "parameter_name", "")
            base = module.get_base_layer()
            reached.update(id(p) for n, p in base.named_parameters(recurse=False) if not name or n == name)
    total, left = 0, Counter[str]()
    for place, weight in model.named_parameters():
        if ".lora_" in place or "modules_to_save." in place or "token_adapter." in place:
            continue
        size = weight.numel() or getattr(weight, "ds_numel", 0)
        total += size
        if id(weight) not in reached and not weight.requires_grad:
            kind = (
                "experts"
                if "expert" in place
                else "embeddings and head"
                if size and _is_table(place)
                else "other"
            )
            left[kind] += size
    if not left or not reached:
        return ""
    shown = [f"{kind} {size / total:.0%}" for kind, size in left.most_common() if size >= total / 200]
    if not shown:
        return ""
    parts = ", ".join(shown)
    return (
        f"LoRA reaches {1 - left.total() / total:.0%} of {total:,} weights; without an adapter stay {parts}"
    )


def _is_table(place: str) -> bool:
    return any(word in place for word in ("embed", "wte", "wpe", "lm_head", "word"))
