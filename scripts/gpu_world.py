"""What the parts of a day on a GPU share: shapes, models made on the spot, the clock, and a record that is
written after every figure."""

from __future__ import annotations

import fcntl
import json
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

WORDS_A_ROW = 57  #: one token in so many ends a row of random weights
SHAPES: dict[str, dict[str, int]] = {
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 300,
    },
}  # fmt: skip


class Record:
    """The figures of one part: written to its file after each, so that a run that is cut leaves them."""

    def __init__(self, path: Path, turn: Path | None = None) -> None:
        self.path, self.turn = path, turn
        self.started = time.monotonic()
        self.found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
        if torch.cuda.is_available():
            self.found["device"] = torch.cuda.get_device_name()

    def ready(self) -> None:
        """All is set up: what is timed waits until it is this part's turn."""
        if self.turn and not self.turn.exists():
            self.note("ready_after", time.monotonic() - self.started)
            while not self.turn.exists():
                time.sleep(0.02)
        self.started = time.monotonic()

    def note(self, name: str, value: Any) -> Any:
        """Keep and show a figure."""
        self.found[name] = round(value, 4) if isinstance(value, float) else value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)[:300]
        print(f"[{time.monotonic() - self.started:6.1f}s] {self.path.stem} {name} = {shown}", flush=True)
        return value

    def attempt(self, name: str, measure: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """Measure; what fails is written down and the rest goes on."""
        begun = time.monotonic()
        try:
            value = measure(*given, **more)
        except Exception as problem:
            self.note(f"{name}/failed", f"{type(problem).__name__}: {problem}"[:600])
            self.note(f"{name}/traceback", traceback.format_exc()[-3000:])
            value = None
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.note(f"{name}/took", time.monotonic() - begun)
        return value


def sync(device: str) -> float:
    """The clock, after all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def median_seconds(run: Callable[[], Any], device: str, times: int = 10, warm: int = 3) -> float:
    """The median time of `run`."""
    for _ in range(warm):
        run()
    found = []
    for _ in range(times):
        begun = sync(device)
        run()
        found.append(sync(device) - begun)
    return sorted(found)[len(found) // 2]


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, no warnings of libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield


def word_tokenizer(size: int) -> Any:
    """A tokenizer of `size` words, t0 t1 ..., of which t57 ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="t0", eos_token="t57")


def make(folder: Path, shape: str, device: str, head: bool = False, words: Any = None) -> Path:
    """A Qwen2 (with `words` Llama) folder of this shape with random weights, made on the device, by one
    process at a time: nearly uniform next tokens, one in 57 ends. head: a reward model with a scalar head.
    words: another tokenizer, of whose few tokens one ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder if (folder / "done").exists() else _made(folder, shape, device, head, words)


def _made(folder: Path, shape: str, device: str, head: bool, words: Any) -> Path:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForTokenClassification,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen2ForTokenClassification,
    )

    like = dict(SHAPES[shape])
    if words is not None:
        like["vocab_size"] = len(words)
    size = like["vocab_size"]
    ends = list(range(WORDS_A_ROW, size, WORDS_A_ROW)) if words is None else [words.eos_token_id]
    (words or word_tokenizer(size)).save_pretrained(folder)
    # a library reads any tokenizer of a Qwen2 folder as Qwen2's
    kind: Any = Qwen2Config if words is None else LlamaConfig
    config = kind(
        **like, max_position_embeddings=2048, bos_token_id=None, pad_token_id=0, initializer_range=0.005,
        tie_word_embeddings=True, eos_token_id=ends, **({"num_labels": 1} if head else {}),
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            if words is None:
                model = (Qwen2ForTokenClassification if head else Qwen2ForCausalLM)(config)
            else:
                model = (LlamaForTokenClassification if head else LlamaForCausalLM)(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    (folder / "done").touch()
    return folder


def bytes_of(folder: Path, itemsize: int, tokens: int) -> tuple[float, float]:
    """(bytes of the weights that a step reads, bytes of the cache of `tokens` tokens)."""
    like = json.loads((folder / "config.json").read_text())
    width, inner, layers = like["hidden_size"], like["intermediate_size"], like["num_hidden_layers"]
    size = like.get("head_dim") or width // like["num_attention_heads"]
    asks = (like["num_attention_heads"] + 2 * like["num_key_value_heads"]) * size
    each = width * asks + like["num_attention_heads"] * size * width + 3 * width * inner
    weights = layers * each + like["vocab_size"] * width
    return weights * itemsize, 2 * layers * like["num_key_value_heads"] * size * itemsize * tokens
