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
#: families of which peft refuses out_proj and conv1d, whose weights a fused kernel reads
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
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


def fitted(config: LoraConfig, model: Any) -> LoraConfig:
    """`all-linear` by one rule for every family: where every linear layer is adapted, so are experts and their
    routers, stacked as they are; what peft cannot adapt is left out (a router that returns more than a product,
    the inner products of a Mamba).
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
        config.rank_pattern = {r".*\.gate_up_proj": 2 * config.r, **config.rank_pattern}
        config.alpha_pattern = {r".*\.gate_up_proj": 2 * config.lora_alpha, **config.alpha_pattern}
    return config


@torch.no_grad()
def unread(model: Any) -> list[str]:
    """Linear layers whose weights are read past their forward (a state's step size, say): an adapter there would
    change the merged model and not the one that trains. Experts may only not be chosen.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "expert" not in name
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
    return [name for name, module in layers.items() if id(module) not in called and module is not _head(model)]


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def require_read(model: Any) -> None:
    """Refuse adapters that the recipe names on layers whose forward is not called.

    Raises:
        RecipeError: with the layers.
    """
    plain = model.get_base_model()
    past = [name for name in unread(plain) if name.endswith(".base_layer")]
    if past:
        raise RecipeError(
            f"lora.target_modules: {past[0].removesuffix('.base_layer')} and {len(past) - 1} more: this family reads "
            "the weights of such layers directly, so an adapter there would not train: leave them out"
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
def takes_positions(model: Any) -> bool:
    """Does the model make the same of a row with its positions given and without? A family that counts its own
    from elsewhere is trained without, as it is sampled.
    """
    ids = [[(3 + 37 * i) % int(model.config.get_text_config().vocab_size) for i in range(12)]]
    was = model.training
    model.eval()
    try:
        given = _logits(model, ids, [[*range(12)]])
        own = model(input_ids=torch.tensor(ids, device=given.device), use_cache=False).logits.float()
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a family whose forward knows no positions
        return False
    finally:
        model.train(was)
    off = float((given - own).abs().max() / own.std(unbiased=False).clamp(min=1e-3))
    return off <= TOLERANCE.get(next(model.parameters()).dtype, 0.1)


@torch.no_grad()
def routes(model: Any) -> bool:
    """Does the model give its router's logits, for TRL's loss that balances experts? A configuration may speak of
    routers that the model has not.
    """
    given = torch.tensor([[3, 5, 7]], device=next(model.parameters()).device)
    try:
        found = getattr(model(input_ids=given, use_cache=False, output_router_logits=True), "router_logits", None)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False
    return bool(found) and all(one is not None for one in found)


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
        aux = logits.new_zeros(()) if aux is None else aux
        return FusedCausalLMOutput(
            loss=loss, log_probs=chosen, entropy=entropy, is_top1=top, label_mask=known, aux_loss=aux
        )

    model.forward = forward
