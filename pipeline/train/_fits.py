"""Does a family take what training gives it: packed rows, positions, TRL's loss? Looked at in numbers on
short rows before the first step, so that nothing is trained otherwise than it is sampled.
"""

from __future__ import annotations

from typing import Any

import torch

TOLERANCE = {torch.float32: 2e-3}  #: of the spread of the logits; 0.1 in half precision


@torch.no_grad()
def packing_fault(model: Any) -> str:
    """Why rows that are laid end to end would see each other; empty where they do not.

    Two short rows, alone and end to end with positions that begin anew: their logits are the same, or the
    loss would not be.
    """
    size = int(model.config.get_text_config().vocab_size)
    first, second = (
        [(start + 37 * i) % size for i in range(number)] for start, number in ((3, 12), (11, 20))
    )
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
    seen = f"logits differ by {off:.2g} of their spread"
    return f"rows that are laid end to end see each other in models of type {kind} ({seen})"


def _logits(model: Any, ids: list[list[int]], places: list[list[int]]) -> torch.Tensor:
    """float32 logits [lines, T, V], asked as the trainer asks."""
    device = next(model.parameters()).device
    given, positions = torch.tensor(ids, device=device), torch.tensor(places, device=device)
    return model(input_ids=given, position_ids=positions, use_cache=False).logits.float()


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
    """Does the model make the same of a row with its positions given and without? A family that counts its
    own from elsewhere is trained without, as it is sampled.
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
    """Does the model give its router's logits, for TRL's loss that balances experts? A configuration may
    speak of routers that the model has not.
    """
    given = torch.tensor([[3, 5, 7]], device=next(model.parameters()).device)
    try:
        found = getattr(
            model(input_ids=given, use_cache=False, output_router_logits=True), "router_logits", None
        )
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return False
    return bool(found) and all(one is not None for one in found or ())


@torch.no_grad()
def same_loss(model: Any) -> bool:
    """Is TRL's fused loss, hidden states times the head's weights, the one of the model's own logits? Not
    where a family does more on the way (a projection, a scale or a cap that TRL does not know).
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


def use_own_loss(model: Any, train_entropy: bool = False) -> None:
    """Let TRL's trainer take its loss from the model's own logits. model: as TRL patched it, without peft's
    wrapper. train_entropy: the entropy has a gradient, too.
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
        mixed = spread if train_entropy else spread.detach()
        entropy = -(mixed.exp() * mixed).sum(-1).masked_fill(~known, 0)
        top = (logits.argmax(-1) == wanted) & known
        mean = logits.detach().mean(-1).masked_fill(~known, 0)
        loss = -chosen.sum() / known.sum().clamp(min=1)
        aux = getattr(found, "aux_loss", None)
        aux = logits.new_zeros(()) if aux is None else aux
        return FusedCausalLMOutput(
            loss=loss, log_probs=chosen, entropy=entropy, mean_logits=mean, is_top1=top, label_mask=known,
            aux_loss=aux,
        )  # fmt: skip

    model.forward = forward
