"""Does a recipe's `lora`, packing or loss fit the model's family? Looked at in numbers before the first step, and
refused with one sentence rather than trained otherwise than sampled.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from pipeline.errors import RecipeError

PLAIN = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
TOLERANCE = {torch.float32: 2e-3}  #: of the spread of the logits; 0.1 in half precision


# --- LoRA


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


def with_experts(config: LoraConfig, model: Any) -> LoraConfig:
    """One rule for every family: where every linear layer is adapted, so are the experts and their routers.

    peft does it by itself for the families that it knows from before experts were stacked into one weight.
    """
    from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN as KNOWN

    plain = not (config.lora_dropout or config.use_dora or config.lora_bias or config.target_parameters)
    if config.target_modules != "all-linear" or not plain or config.layers_to_transform is not None:
        return config
    if getattr(model.config, "model_type", "") in KNOWN:
        return config
    names = experts_of(model)
    if not names:
        return config
    config.target_parameters = sorted({".".join(name.split(".")[-3:]) for name in names})
    if any(name.endswith(".gate_up_proj") for name in names):  # two projections in one
        config.rank_pattern = {r".*\.gate_up_proj": 2 * config.r, **config.rank_pattern}
        config.alpha_pattern = {r".*\.gate_up_proj": 2 * config.lora_alpha, **config.alpha_pattern}
    return config


def require_trained(model: Any) -> None:
    """Every adapter gets a gradient from the loss, or the recipe asks for what this training would not do.

    Raises:
        RecipeError: an adapter on the output embedding.
    """
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise RecipeError(
            "lora: an adapter on the head (lm_head, or what target_modules matches of it) gets no gradient from "
            "train: sft, whose loss reads the head's own weights: leave it out, or name the head in "
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
            kind = "experts" if "expert" in place else "embeddings and head" if size and _is_table(place) else "other"
            left[kind] += size
    if not left or not reached:
        return ""
    parts = ", ".join(f"{kind} {size / total:.0%}" for kind, size in left.most_common())
    return f"LoRA reaches {1 - left.total() / total:.0%} of {total:,} weights; without an adapter stay {parts}"


def _is_table(place: str) -> bool:
    return any(word in place for word in ("embed", "wte", "wpe", "lm_head", "word"))


# --- packing


@torch.no_grad()
def packing_fault(model: Any) -> str:
    """Why rows that are laid end to end would see each other; empty where they do not.

    Two short rows, alone and end to end with positions that begin anew: their logits are the same, or the loss
    would not be.
    """
    size = int(model.config.get_text_config().vocab_size)
    first, second = ([(start + 37 * i) % size for i in range(number)] for start, number in ((3, 12), (11, 20)))
    kind = getattr(model.config, "model_type", type(model).__name__)
    was = model.training
    model.eval()
    try:
        apart = [_logits(model, [row], [[*range(len(row))]])[0] for row in (first, second)]
        alone = torch.stack([torch.cat(apart), torch.cat(apart[::-1])])
        places = [[*range(len(one)), *range(len(other))] for one, other in ((first, second), (second, first))]
        packed = _logits(model, [[*first, *second], [*second, *first]], places)
    except (TypeError, ValueError, RuntimeError) as problem:  # a family whose forward knows no positions
        return f"models of type {kind} take no positions ({str(problem).splitlines()[0][:120]})"
    finally:
        model.train(was)
    off = float((alone - packed).abs().max() / alone.std(unbiased=False).clamp(min=1e-3))
    if off <= TOLERANCE.get(next(model.parameters()).dtype, 0.1):
        return ""
    return f"rows that are laid end to end see each other in models of type {kind} (logits differ by {off:.2g} of their spread)"


def _logits(model: Any, ids: list[list[int]], places: list[list[int]]) -> torch.Tensor:
    """float32 logits [lines, T, V], asked as the trainer asks."""
    device = next(model.parameters()).device
    given, positions = torch.tensor(ids, device=device), torch.tensor(places, device=device)
    return model(input_ids=given, position_ids=positions, use_cache=False).logits.float()


# --- the loss


def name_experts(config: Any) -> bool:
    """TRL reads the number of experts as `num_experts`; families call it otherwise. Was the name lent?"""
    text = config.get_text_config()
    if getattr(text, "num_experts", None) is not None:
        return False
    for name in ("num_local_experts", "n_routed_experts", "moe_num_experts"):
        if isinstance(getattr(text, name, None), int):
            text.num_experts = getattr(text, name)
            return True
    return False


@torch.no_grad()
def same_loss(model: Any) -> bool:
    """Is TRL's fused loss, hidden states times the head's weights, the one of the model's own logits? Not where a
    family does more on the way (a projection, a scale or a cap that TRL does not know).
    """
    size = int(model.config.get_text_config().vocab_size)
    given = torch.tensor([[(3 + 37 * i) % size for i in range(12)]], device=next(model.parameters()).device)
    was = model.training
    model.eval()
    try:
        logits = model(input_ids=given, use_cache=False).logits[0, :-1].float()
        own = logits.log_softmax(-1).gather(-1, given[0, 1:, None])[:, 0]
        fused = model(input_ids=given, labels=given, fused_lm_head=True).log_probs[0].float()
    except (AttributeError, TypeError, ValueError, RuntimeError):  # no head that TRL can read, say
        return False
    finally:
        model.train(was)
    off = float((own - fused).abs().max() / logits.std(unbiased=False).clamp(min=1e-3))
    return off <= TOLERANCE.get(next(model.parameters()).dtype, 0.1)


def use_own_loss(model: Any) -> None:
    """Let TRL's trainer take its loss from the model's own logits. model: as TRL patched it, without peft's
    wrapper.
    """
    from trl.trainer.utils import FusedCausalLMOutput

    patched = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **more: Any) -> Any:
        if not fused_lm_head:
            return patched(*args, labels=labels, **more)
        more.pop("num_items_in_batch", None)
        more["use_cache"] = False
        found = patched(*args, **more)
        logits, wanted = found.logits[:, :-1].float(), labels[:, 1:]
        known = wanted != -100
        spread = logits.log_softmax(-1)
        chosen = spread.gather(-1, wanted.clamp(min=0)[..., None])[..., 0].masked_fill(~known, 0)
        entropy = -(spread.exp() * spread).sum(-1).detach().masked_fill(~known, 0)
        top = (logits.argmax(-1) == wanted) & known
        loss = -chosen.sum() / known.sum().clamp(min=1)
        aux = getattr(found, "aux_loss", None)
        return FusedCausalLMOutput(
            loss=loss, log_probs=chosen, entropy=entropy, is_top1=top, label_mask=known, aux_loss=aux
        )

    model.forward = forward
