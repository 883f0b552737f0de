"""What a model folder lacks, seen from its files: nothing is loaded, so `check` can ask before anything runs.

    lacking(folder)     [] or sentences: no config.json, no tokenizer, weights cut short
    modules_of(folder)  the names that `lora.target_modules` may end with
    context_of(folder)  tokens that prompt and completion may have together, None where config.json is silent
    chatting(folder)    does its tokenizer bring a chat template?
    require_readable(folder)  do transformers' own readers take its configuration and tokenizer? (a run asks)

Safety (pickles, code) is `store/model_folder.py`'s; whether the architecture is served is the engine's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, printable
from pipeline.store.tensors import read_header

#: any one of these is a tokenizer that transformers reads
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "tiktoken.model",
)
#: what families call the number of positions that they were made for
CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates", "tekken.json")
INDEX = "model.safetensors.index.json"
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")  #: what families call their number
_MAX_HEADER = 100 << 20


def lacking(folder: Path) -> list[str]:
    """Why a folder cannot be a model, a sentence each."""
    return [*_config(folder), *_tokenizer(folder), *_weights(folder)]


def require_whole(folder: Path) -> None:
    """Refuse a folder that lacks something.

    Raises:
        DamagedData: with each thing that it lacks.
    """
    if problems := lacking(folder):
        raise DamagedData("\n".join(problems))


def require_readable(folder: Path) -> None:
    """Let transformers read what stands beside the weights, before an engine or a trainer is made of it.

    Raises:
        DamagedData: it cannot, or the configuration asks for more layers than there are tensors.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    for name in ("prm.json", "generation_config.json"):
        try:
            said = json.loads((folder / name).read_bytes()) if (folder / name).exists() else {}
        except (OSError, ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise DamagedData(f"{folder}/{name}: not a map of settings: copy the model again")
    config = config_of(folder)
    inner = config.get("text_config")
    asked = [part.get(key) for part in (config, inner if isinstance(inner, dict) else {}) for key in LAYERS]
    held = sum(len(read_header(file)[0]) for file in folder.glob("*.safetensors"))
    for number in asked:
        if isinstance(number, int) and number > held:
            raise DamagedData(
                f"{folder}/config.json: asks for {printable(str(number), 40)} layers, and the weights "
                f"hold {held} tensors: copy the model again"
            )
    readers: list[tuple[str, Any]] = [("config.json", AutoConfig), ("its tokenizer", AutoTokenizer)]
    if (folder / "generation_config.json").exists():
        readers.append(("generation_config.json", GenerationConfig))
    for what, reader in readers:
        try:
            reader.from_pretrained(folder)
        except BaseException as problem:  # the tokenizer's library panics outside of Exception
            if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
                raise
            lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
            said = printable(" ".join(lines[:2])) or type(problem).__name__
            raise DamagedData(
                f"{folder}: {what} cannot be read: {said}: copy the model again, or mend that file"
            ) from problem


def config_of(folder: Path) -> dict[str, Any]:
    """config.json as plain data; empty where it cannot be read."""
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def context_of(folder: Path) -> int | None:
    """Tokens that a model was made for; of a model of several parts, its text part's."""
    config = config_of(folder)
    inner = config.get("text_config")
    for part in (inner if isinstance(inner, dict) else {}, config):
        for key in CONTEXTS:
            if isinstance(part.get(key), int) and part[key] > 0:
                return part[key]
    return None


def chatting(folder: Path) -> bool:
    """Does a tokenizer bring a chat template? In a file, in its configuration, or (Mistral's) in code."""
    if any((folder / name).exists() for name in TEMPLATES):
        return True
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("chat_template"))


def modules_of(folder: Path) -> set[str]:
    """The modules that hold weights (`model.layers.0.self_attn.q_proj`), read off the files' headers."""
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            names = json.loads(stream.read(length))
        found |= {name.rpartition(".")[0] for name in names if name != "__metadata__"}
    return found


def _config(folder: Path) -> list[str]:
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        why = (
            "it holds an adapter alone: name the folder of its base, or `ratchet export` a merged model"
            if adapter
            else "a model folder has one beside its weights"
        )
        return [f"{folder}: no config.json: {why}"]
    if not config_of(folder):
        return [f"{folder}/config.json: not a JSON object: copy the model again"]
    return []


def _tokenizer(folder: Path) -> list[str]:
    if any((folder / name).is_file() for name in TOKENIZERS):
        return []
    others = ", ".join(TOKENIZERS[1:4])
    return [f"{folder}: no tokenizer: copy tokenizer.json (or {others}, ...) beside config.json"]


def _weights(folder: Path) -> list[str]:
    index = folder / INDEX
    if index.is_file():
        try:
            wanted = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            missing = [name for name in wanted if not (folder / str(name)).is_file()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [f"{index}: not an index of weights: copy the model again"]
        if missing:
            return [f"{folder}: {len(missing)} of {len(wanted)} weight files are missing, {missing[0]} first"]
        files = [folder / str(name) for name in wanted]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        return [f"{folder}: no .safetensors file: copy the model's weights there"]
    return [said for file in files if (said := _cut(file))]


def _cut(file: Path) -> str:
    """Is a file of weights shorter or longer than its own header says? Reads the header alone."""
    size = file.stat().st_size
    if size < 200 and file.read_bytes().startswith(b"version https://git-lfs"):
        return f"{file}: a pointer of Git LFS, not the weights: `git lfs pull` fetches them"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        head = stream.read(length) if 0 < length <= min(size, _MAX_HEADER) else b""
    try:
        tensors = json.loads(head)
        ends = [v["data_offsets"][1] for name, v in tensors.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return f"{file}: no safetensors header ({size:,} bytes): copy the file again"
    if size == whole:
        return ""
    return f"{file}: {size:,} bytes, and its header says {whole:,}: cut or changed; copy the file again"
