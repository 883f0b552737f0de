"""A scalar head on any causal family: transformers' own token classifier where it has one whose head is
`score`, and the same made of its parts where it has none or names the head otherwise (GPT-2, OPT, OLMo).

A folder that brings a token classifier of its own (a ready-made PRM) is opened as it is, whatever its head is
called. What is exported of a family that transformers has no such class for opens here, and not in
transformers by itself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

NAMES = ("score", "classifier")


def is_ready(config: Any) -> bool:
    """Does a configuration say that its folder holds a token classifier?"""
    return any("TokenClassification" in str(name) for name in getattr(config, "architectures", None) or [])


def scoring_head(model: Any) -> Any:
    """The module that makes scores of the last hidden state; None without one."""
    return next((getattr(model, name) for name in NAMES if hasattr(model, name)), None)


def head_name(model_or_keys: Any) -> str:
    """What the head is called in a model, or in the names of its weights."""
    if isinstance(model_or_keys, list):
        return next(
            (name for name in NAMES if any(key.startswith(f"{name}.") for key in model_or_keys)), NAMES[0]
        )
    return next((name for name in NAMES if hasattr(model_or_keys, name)), NAMES[0])


def scorer_class(config: Any) -> Any:
    """The class that opens a folder of this configuration with a head.

    Raises:
        ValueError: it is no causal model of transformers.
    """
    from transformers import AutoModelForTokenClassification
    from transformers.modeling_layers import GenericForTokenClassification

    known: Any = AutoModelForTokenClassification._model_mapping
    if is_ready(config) and type(config) in known:
        return known[type(config)]
    own = known.get(type(config), None)
    if own is not None and issubclass(own, GenericForTokenClassification):
        return own
    kind: Any = type(config)
    return _made(kind, _body_name(config))


def _body_name(config: Any) -> str:
    """What the causal model of this configuration calls its body: a base's weights are named by it."""
    import torch
    from transformers import AutoModelForCausalLM

    known: Any = AutoModelForCausalLM._model_mapping
    causal = known.get(type(config), None)
    if causal is None:
        return ""
    with torch.device("meta"):
        parts = dict(causal(config).named_children())
    if causal.base_model_prefix in parts:
        return causal.base_model_prefix
    return next((name for name, part in parts.items() if hasattr(part, "get_input_embeddings")), "")


@functools.cache
def _made(kind: Any, body: str) -> Any:
    from torch import nn
    from transformers import AutoModelForCausalLM, PreTrainedModel
    from transformers.modeling_layers import GenericForTokenClassification
    from transformers.modeling_outputs import TokenClassifierOutput

    if not body:
        raise ValueError(f"{kind.__name__} is no causal language model of transformers")
    causals: Any = AutoModelForCausalLM._model_mapping
    causal = causals[kind]
    family = next(
        one
        for one in causal.__mro__
        if issubclass(one, PreTrainedModel) and "PreTrainedModel" in one.__name__
    )

    def begin(self: Any, config: Any) -> None:
        GenericForTokenClassification.__init__(self, config)
        width = getattr(config, "word_embed_proj_dim", None)  # OPT projects its last hidden states
        if width and width != self.score.in_features:
            self.score = nn.Linear(width, config.num_labels)
        if hasattr(self.base_model, "pooler"):  # BERT's, which a base of language models does not bring
            self.base_model.pooler = None

    def forward(self: Any, input_ids: Any = None, **given: Any) -> Any:
        hidden = self.base_model(input_ids, **given).last_hidden_state
        return TokenClassifierOutput(logits=self.score(self.dropout(hidden)))

    stem = kind.__name__.removesuffix("Config").removesuffix("Text")
    name = f"{stem}ForTokenClassification"
    parts = {"base_model_prefix": body, "__init__": begin, "forward": forward}
    # transformers reads a module's source to see what a class can do
    return type(name, (GenericForTokenClassification, family), parts | {"__module__": causal.__module__})


def open_scorer(folder: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    """A folder's model with its head and what transformers says of the loading. A base without a head gets a
    fresh one of one label.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    if not is_ready(config):
        config.num_labels = 1
    config.classifier_dropout = 0.0  # no key of every architecture, so it cannot be passed
    return scorer_class(config).from_pretrained(folder, config=config, output_loading_info=True, **more)
