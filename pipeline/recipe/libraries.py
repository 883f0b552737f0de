"""What the libraries' own settings are called, read off their source: `check` names a misspelt key of `lora`
or `args` without the seconds that importing them takes.

    fields("LoraConfig")  ->  {"r": "int", "target_modules": "Optional[Union[list[str], str]]", ...}

A test holds it against the installed classes. Where a library keeps a class elsewhere nothing is known, and
the library itself says what it does not take, when it trains.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import nearest

#: where each class stands: package, file
CLASSES = {
    "LoraConfig": ("peft", "tuners/lora/config.py"),
    "PeftConfig": ("peft", "config.py"),
    "PeftConfigMixin": ("peft", "config.py"),
    "SFTConfig": ("trl", "trainer/sft_config.py"),
    "_BaseConfig": ("trl", "trainer/base_config.py"),
    "TrainingArguments": ("transformers", "training_args.py"),
    "SchedulerType": ("transformers", "trainer_utils.py"),
}
#: what people write -> what the library calls it; by letters alone `rank` is nearest to `rank_pattern`
WORDS = {
    "rank": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "dim": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target": "target_modules",
    "targets": "target_modules",
    "modules": "target_modules",
    "layers": "layers_to_transform",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "grad_clip": "max_grad_norm",
    "max_seq_length": "max_length",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "checkpointing": "gradient_checkpointing",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "betas": "adam_beta1",
    "eps": "adam_epsilon",
}
PLAIN = {"int", "float", "bool", "str", "None", "list", "dict", "set", "tuple", "Literal"}


@lru_cache
def _class(name: str) -> ast.ClassDef | None:
    """A class's source, None where it is not at its place."""
    # a trainer may name any of TRL's: DPOConfig stands in trainer/dpo_config.py
    package, file = CLASSES.get(name, ("trl", f"trainer/{name.removesuffix('Config').lower()}_config.py"))
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    try:
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    return next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)


@lru_cache
def fields(name: str) -> Mapping[str, str]:
    """The fields of a dataclass with their annotations, inherited ones too; empty where it is not found."""
    found: dict[str, str] = {}
    source = _class(name)
    if source is None:
        return found
    for base in source.bases:
        if isinstance(base, ast.Name) and base.id in CLASSES:
            inherited = fields(base.id)
            if not inherited and _class(base.id) is None:
                return {}  # half of the fields would refuse what the library takes
            found |= inherited
    for node in source.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            if "ClassVar" not in kind and not _is_set_later(node.value):
                found[node.target.id] = kind
    return found


def _is_set_later(value: ast.expr | None) -> bool:
    """`field(init=False)`: nobody gives it."""
    words = value.keywords if isinstance(value, ast.Call) else []
    return any(word.arg == "init" and ast.unparse(word.value) == "False" for word in words)


@lru_cache
def schedules() -> tuple[str, ...]:
    """The names of transformers' learning-rate schedules."""
    source = _class("SchedulerType")
    values = (node.value for node in source.body if isinstance(node, ast.Assign)) if source else ()
    return tuple(str(v.value) for v in values if isinstance(v, ast.Constant))


def near_key(key: str, known: Mapping[str, str]) -> str:
    """` (did you mean r?)`: by meaning first, then by letters."""
    meant = WORDS.get(key.lower(), "")
    return f" (did you mean {meant}?)" if meant in known else nearest(key, known)


def wrong_values(name: str, given: Mapping[str, Any], path: str, owned: Mapping[str, str]) -> Iterator[str]:
    """What a class does not take of the keys and values that a recipe passes through to it.

    owned: keys that a recipe gives elsewhere -> where.
    """
    known = fields(name)
    for key, value in given.items() if known else ():
        if key in owned:
            yield f"{path}.{key}: not here; it is set by {owned[key]}"
        elif key not in known:
            meant = WORDS.get(key.lower(), "")
            said = f" (it is set by {owned[meant]})" if meant in owned else near_key(key, known)
            yield f"{path}: unknown key {key}{said}"
        elif said := _misfit(known[key], value):
            yield f"{path}.{key}: {said}"


def _misfit(annotation: str, value: Any) -> str:
    """Why a plain value does not fit an annotation; empty where it does, or where that cannot be told."""
    kinds, words = _kinds(ast.parse(annotation, mode="eval").body)
    if not kinds <= PLAIN:
        return ""
    names = {type(value).__name__} if value is not None else {"None"}
    if isinstance(value, int) and not isinstance(value, bool):
        names.add("float")
    if isinstance(value, list):
        names |= {"tuple", "set"}
    if names & kinds or ("Literal" in kinds and value in words):
        return ""
    if "Literal" in kinds and isinstance(value, str):
        return f"{value!r} is none of {', '.join(map(str, words))}{nearest(value, map(str, words))}"
    wanted = " or ".join(sorted(kinds - {"Literal", "None"}))
    if isinstance(value, str) and _is_number(value) and kinds & {"int", "float"}:
        mantissa, sign, power = value.partition("e")
        cure = f"{mantissa}.0e{power}" if sign and "." not in mantissa else "the number without quotes"
        return f"{wanted} is wanted, got the text {value!r}: YAML reads {value} as text; write {cure}"
    return f"{wanted} is wanted, got {value!r}"


def _kinds(node: ast.expr) -> tuple[set[str], list[Any]]:
    """The names of a union's members, and the values of its literals."""
    if isinstance(node, ast.BinOp):
        left, right = _kinds(node.left), _kinds(node.right)
        return left[0] | right[0], left[1] + right[1]
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _kinds(ast.parse(node.value, mode="eval").body)
        return {"None"}, []
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).rpartition(".")[2]
        inside = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer in ("Optional", "Union"):
            parts = [_kinds(part) for part in inside]
            names = set().union(*(part[0] for part in parts)) | ({"None"} if outer == "Optional" else set())
            return names, [word for part in parts for word in part[1]]
        if outer == "Literal":
            return {"Literal"}, [part.value for part in inside if isinstance(part, ast.Constant)]
        return {outer.lower() if outer in ("List", "Dict", "Set", "Tuple") else outer}, []
    return {ast.unparse(node)}, []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
