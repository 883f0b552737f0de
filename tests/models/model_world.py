"""Tiny models made on the spot: random Llamas over a tokenizer of whole words, and over a BPE in which
line ends fuse.
"""

from __future__ import annotations

from pathlib import Path

WORDS = ["<pad>", "</s>", "\n", " ", "+", "-", "*", "=", "numbers", *[str(n) for n in range(50)]]
CORPUS = [
    "one step.\n\nAnother step here.\n\n",
    "x = 1.\n\ny = 2\n\n\nz\n",
    "so the answer is 7\n",
    "# 3 + 4 = 7.\n\n",
] * 20


def word_tokenizer(words: list[str] = WORDS):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|[a-z]+|[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")


def bpe_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")


def make_model(folder: Path, tokenizer, *, kind: str = "LlamaForCausalLM", seed: int = 0, **shape) -> Path:
    """An ordinary Hugging Face folder with random weights."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    family = kind.split("For")[0]
    given = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.12,
    } | shape  # fmt: skip
    config = getattr(transformers, family + "Config")(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1, pad_token_id=0, **given
    )
    torch.manual_seed(seed)
    getattr(transformers, kind)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class LineTask:
    """Steps are lines; the answer is the last one."""

    def __init__(self, separator: str = "\n", stop: tuple[str, ...] = ()) -> None:
        self.step_separator, self.stop = separator, stop

    def extract(self, text: str) -> str | None:
        return text.strip().split("\n")[-1] or None
