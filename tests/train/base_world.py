"""A 2-layer Llama and a word tokenizer made on the spot, for the training tests."""

from __future__ import annotations

from pathlib import Path

WORDS = ["<pad>", "<s>", "</s>", *[str(n) for n in range(20)], "+", "-", "=", "?", "so", "then", ";"]


def make_base(folder: Path, hidden: int = 32, layers: int = 2, words: tuple[str, ...] = ()) -> Path:
    """An ordinary Hugging Face folder: a random Llama and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = [*WORDS, *words]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="?"
    )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,  # a frozen head of 0.02 can hardly be moved by an adapter
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder
