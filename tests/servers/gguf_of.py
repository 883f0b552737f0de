"""A tiny Llama of `model_world` as a GGUF file, for llama.cpp: `python gguf_of.py FOLDER FILE`. Needs `gguf`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
TOPS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight"}  # fmt: skip


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """float32 tensors of a safetensors file, by the format's own few lines."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        start, end = (8 + size + at for at in entry["data_offsets"])
        found[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return found


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours, transformers halves."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def main(folder: Path, target: Path) -> None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    tokens: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(str(target), "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_dimension_count(config["hidden_size"] // heads)
    out.add_vocab_size(config["vocab_size"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    words = sorted(tokens["model"]["vocab"], key=tokens["model"]["vocab"].get)
    special = {one["content"] for one in tokens["added_tokens"] if one["special"]}
    out.add_token_list(words)
    out.add_token_types([gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words])
    out.add_token_merges(
        [" ".join(pair) if isinstance(pair, list) else pair for pair in tokens["model"]["merges"]]
    )
    out.add_eos_token_id(config["eos_token_id"])
    out.add_pad_token_id(config["pad_token_id"])
    out.add_add_bos_token(False)
    for name, weight in tensors_of(folder / "model.safetensors").items():
        if name in TOPS:
            out.add_tensor(TOPS[name], weight)
            continue
        _, _, layer, *middle, kind = name.split(".")
        inner = ".".join(middle)
        if inner.endswith(("q_proj", "k_proj")):
            weight = turned(weight, heads if inner.endswith("q_proj") else kv)
        out.add_tensor(f"blk.{layer}.{NAMES[inner]}.{kind}", np.ascontiguousarray(weight))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
