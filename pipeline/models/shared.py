"""`head: shared`: a causal language model with a value head beside its own, on one body: what writes and what
scores are one set of weights (AlphaMath, arXiv:2405.03553, section 3.3).

The head is one linear layer over the last hidden states and a part of the model like any other: adapters,
checkpoints and exported folders hold it, and transformers opens such a folder as the policy that it is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

HEAD = "value_head"  #: its name in the model and in the names of weights


def shared_class(config: Any) -> Any:
    """The class that opens a folder of this configuration with both heads.

    Raises:
        ValueError: it is no causal model of transformers.
    """
    from transformers import AutoModelForCausalLM

    known: Any = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        raise ValueError(f"{type(config).__name__} is no causal language model of transformers")
    return _made(known[type(config)])


@functools.cache
def _made(causal: Any) -> Any:
    from torch import nn

    def begin(self: Any, config: Any, *given: Any, **more: Any) -> None:
        causal.__init__(self, config, *given, **more)
        setattr(self, HEAD, nn.Linear(config.get_text_config().hidden_size, 1))

    # a folder of its weights names the causal class; transformers reads a module's source
    return type(causal.__name__, (causal,), {"__init__": begin, "__module__": causal.__module__})


def open_shared(folder: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    """A folder's model with both heads and what transformers says of the loading. A base without a value head
    gets a fresh one.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    return shared_class(config).from_pretrained(folder, config=config, output_loading_info=True, **more)


def plain_of(model: Any) -> Any:
    """The model inside what trains: the value head is found there."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
