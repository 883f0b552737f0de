"""Tiny models by family: configurations, not weights. The table that `test_families.py` and docs/models.md go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: what most configurations take; a family's own entry wins
SHAPE: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip
GPT: dict[str, Any] = {
    "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3,
}  # fmt: skip
MOE: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_local_experts": 4,
    "shared_expert_intermediate_size": 48, "decoder_sparse_step": 1,
}  # fmt: skip
MLA: dict[str, Any] = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4,
}  # fmt: skip

LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

#: a family -> what its configuration takes beside SHAPE; `type`: its model type, where that is not its name
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "cohere": {},
    "cohere2": {"sliding_window": 8},
    "diffllama": {},
    "doge": {},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 8},
    "gemma": {"head_dim": 12},
    "gemma2": {"head_dim": 12, "sliding_window": 8},
    "gemma3_text": {"head_dim": 12, "sliding_window": 8},
    "glm": {"head_dim": 12},
    "glm4": {"head_dim": 12},
    "granite": {},
    "helium": {"head_dim": 12},
    "hunyuan_v1_dense": {"head_dim": 12},
    "llama": {},
    "llama_tied": {"type": "llama", "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "mistral_full": {"type": "mistral", "sliding_window": None},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "persimmon": {},
    "phi": {},
    "phi3": {"sliding_window": 8},
    "qwen2": {},
    "qwen2_window": {
        "type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    "qwen3": {"head_dim": 12},
    "seed_oss": {"head_dim": 12},
    "smollm3": {},
    "stablelm": {"partial_rotary_factor": 0.5},
    "starcoder2": {"sliding_window": 8},
    "vaultgemma": {"head_dim": 12, "sliding_window": 8},
    "exaone": {},
    "youtu": MLA,
    "minicpm3": MLA,
    "afmoe": MOE,
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "ernie4_5_moe": MOE | {"moe_num_experts": 4, "moe_k": 2},
    "flex_olmo": MOE,
    "glm4_moe": MLA | {"head_dim": 12},
    "gpt_oss": MOE | {"head_dim": 12, "sliding_window": 8},
    "granitemoe": MOE,
    "granitemoeshared": MOE | {"shared_intermediate_size": 48},
    "hunyuan_v1_moe": MOE | {"head_dim": 12, "moe_topk": 2},
    "jetmoe": MOE | {"kv_channels": 12},
    "minimax_m2": MOE | {"head_dim": 12},
    "mixtral": MOE | {"sliding_window": None},
    "olmoe": MOE,
    "phimoe": MOE,
    "qwen2_moe": MOE,
    "qwen3_moe": MOE | {"head_dim": 12},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gptj": GPT | {"rotary_dim": 8},
    "codegen": GPT | {"rotary_dim": 8},
    "gpt_neo": {
        "num_hidden_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
    },
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "opt_projected": {"type": "opt", "ffn_dim": 96, "word_embed_proj_dim": 32},
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"alibi": False},
    "falcon_alibi": {
        "type": "falcon",
        "alibi": True,
        "new_decoder_architecture": False,
        "parallel_attn": False,
    },
    "falcon_new": {"type": "falcon", "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "biogpt": {},
    "xglm": {"d_model": 48, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4},
    "ctrl": GPT | {"dff": 96},
    "openai-gpt": GPT,
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 24, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 48, "context_length": 256},
    "jamba": MOE | {"mamba_d_state": 8},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_d_state": 8, "mamba_n_groups": 1},
    "recurrent_gemma": {"head_dim": 12},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": MOE | LINEAR | {"head_dim": 12},
    "granitemoehybrid": MOE
    | {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 24,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
    "minimax": MOE | {"head_dim": 12},
    "nemotron_h": {
        "hybrid_override_pattern": "M*",
        "mamba_num_heads": 4,
        "mamba_head_dim": 12,
        "ssm_state_size": 8,
        "n_groups": 1,
    },
    "olmo_hybrid": LINEAR,
    "llama4_text": MOE | {"head_dim": 12, "attention_chunk_size": 8, "intermediate_size_mlp": 96},
    "aria_text": {},
    "mimo_v2_flash": MOE,
    "laguna": MOE,
    "granite_swa": {},
    "deepseek_v32": MLA,
    "qwen3_5_text": LINEAR | {"head_dim": 12},
    "cohere2_moe": MOE,
}


def config_of(name: str, **more: Any) -> Any:
    """The configuration of a family's tiny model."""
    from transformers import AutoConfig

    own = dict(FAMILIES[name])
    kind = own.pop("type", name)
    shape = SHAPE | {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2} | own | more
    return AutoConfig.for_model(kind, **shape)


def tokenizer() -> Any:
    """Bytes, with a start, an end and a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*special, *letters])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make(folder: Path, name: str, seed: int = 7, **more: Any) -> Path:
    """A family's tiny model in a folder, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(name, **more), dtype=torch.float32)
    model.generation_config.pad_token_id = 2
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
