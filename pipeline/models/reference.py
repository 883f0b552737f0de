"""What a served model must agree with: the log-probabilities of a fixed row by PEFT's own forward in this
process, and an adapter of zeros, to learn at once whether a server will load the real ones.

The forward is in float32 on the CPU, whatever the server computes in, and is left out where the weights would
not fit beside what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError

#: read by every model; spoken, counted and fenced off, so that an adapter of any kind moves some of it
TEXT = "Question: 12 + 7 = ?\nAnswer: 12 and 7 make 19. So the answer is 19.\n\nnumbers 3 4 5 = 12\n"
NUM_TOKENS = 48


def fixed_row(encode: Any, num_tokens: int) -> list[int]:
    """Some token ids of the model's own, at least 4: `TEXT`, or ids in order where the tokenizer knows none
    of it."""
    ids = encode(TEXT)[:NUM_TOKENS]
    return ids if len(set(ids)) >= 4 else [i % num_tokens for i in range(3, 3 + 16)]


def fits(*folders: Path | None) -> bool:
    """Is there memory for these weights in float32, half of it left to others?"""
    import psutil

    held = sum(path.stat().st_size for folder in folders if folder for path in folder.glob("*.safetensors"))
    return 2 * held <= psutil.virtual_memory().available / 2


def local_logprobs(base: Path, adapter: Path | None, ids: Sequence[int]) -> list[float]:
    """The log-probability of each of ids[1:], given all before it."""
    import torch

    from pipeline.models.load import load

    with torch.inference_mode():
        model = load(base, adapter, None, torch.float32, torch.device("cpu"))
        row = torch.tensor([list(ids)])
        read = model(input_ids=row, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        return read.gather(1, row[0, 1:, None])[:, 0].tolist()


def zero_adapter(base: Path, lora: dict[str, Any], folder: Path) -> Path:
    """An adapter that changes nothing, of the recipe's own rank and modules, at `folder`. The model is only
    laid out, not loaded.

    Raises:
        RecipeError: peft refuses the recipe's `lora`.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **lora})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
            laid_out = get_peft_model(model, config, low_cpu_mem_usage=True)
    except (ValueError, TypeError) as problem:
        raise RecipeError(f"lora: peft refuses it: {problem}") from problem
    shapes = get_peft_model_state_dict(laid_out)
    config.base_model_name_or_path, config.inference_mode = str(base), True
    config.save_pretrained(folder)
    target = folder / "adapter_model.safetensors"
    save_file({name: torch.zeros(held.shape) for name, held in shapes.items()}, target)
    target.chmod(0o644)  # the library writes 0600, and a server of another user must be able to read it
    return folder
