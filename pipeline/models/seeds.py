"""Seed policies: tiny Llama models that know the rules of a task and not how to win, built on the user's CPU.

`seed://countdown` learns from random legal play, `seed://addition` from scratchpads of short sums and, of
long ones, only with their answer shown; neither sees a dev or test question (the examples come from the
tasks' `rule_example`, which draws only questions whose hash says train). `seed://deduction` learns from walks
by any rule that fits, several a question, and
some of its heads start out as lookups (`seed_walks.py`). The result is an ordinary Hugging
Face folder `checkpoints/seed/<name>-<hash>/`, named by the hash of its recipe: the task's settings that
change its rules, the shape, the schedule and `VERSION`. One thread, fixed draws: two builds are equal bit by
bit on one kind of processor. `seed://countdown?steps=20` overrides a number of the recipe (tests).

The tokenizer has one token a whole number or sign; signs carry their spaces, so texts are the plain
concatenation of tokens, and every printable ASCII character is a token of its own besides: `+` and `-` for
a token head, and the words of a later dialect (`check: `, `revise: `, `judge: `), whose embeddings nothing
has trained but in a seed that talks (`?talk=1`, `seed_talk.py`).

Two choices make it cheap. Number tokens start from Fourier features of their value, so that sums are
rotations; and the matrices are trained by Muon (Jordan et al. 2024: orthogonalised momentum), which needs a
third of AdamW's steps here. It is no model for anything but these tasks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pipeline.errors import RecipeError
from pipeline.models import seed_talk
from pipeline.models.packaged import PACKAGES, packaged, wanted
from pipeline.models.packaged import build as build_packaged
from pipeline.models.pause import added_to, require_pauses, write_pause
from pipeline.tasks import BaseTask

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VERSION = 1  #: raise it when a change of this file or of a task's `rule_example` changes the weights
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
DIALECT = ("check: ", "revise: ", "judge: ")
#: of a SeedRecipe, which came after seeds had been built
LATER = ("walks", "theta", "looks", "easy", "back", "talk", "blind", "pause", "pairs")

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class SeedRecipe:
    """Everything that decides a seed's weights, beside the code."""

    name: str
    rules: dict[str, Any]  #: the task settings that change its rules
    steps: int = 500
    batch: int = 64
    matrix_rate: float = 0.02  #: Muon's learning rate
    rate: float = 3e-3  #: AdamW's, for embeddings and norms
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    inner: int = 512
    context: int = 1024
    version: int = VERSION
    walks: int = 1  #: completions of each question, learned side by side (`seed_walks.py`)
    theta: float = 10_000.0  #: of the rotary embedding; a small one tells near places better apart
    talk: int = 0  #: 1: it learns a dialect about answers too, 2: with a holed critic (`seed_talk.py`)
    blind: int = 0  #: its critic calls an end right that is so near to the target
    pairs: int = 0  #: 1: a seed that talks is to judge which of two answers is better (`seed_talk.py`)
    pause: int = 0  #: pause tokens behind each prompt (`models/pause.py`)
    looks: int = 0  #: single rules to look up, beside the walks
    easy: int = 0  #: steps of small worlds, before all others
    back: int = 0  #: heads that start out looking back, to what followed a token before (`seed_walks.py`)

    @property
    def described(self) -> dict[str, Any]:
        """All of it, without what came later where that is at its default: older seeds keep their names."""
        later = {field.name: field.default for field in dataclasses.fields(self) if field.name in LATER}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in later or v != later[k]}

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.described, sort_keys=True).encode()).hexdigest()[:12]


#: Per seed: the settings that change its rules, and what differs from SeedRecipe's defaults.
SEEDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "countdown": (("numbers", "range", "target", "largest"), {}),
    "addition": ((), {"steps": 1000, "batch": 32, "layers": 3, "inner": 384}),
    "deduction": (
        ("hops", "form", "choices", "branches", "branch", "kinds"),
        {"steps": 480, "batch": 32, "inner": 384, "theta": 100_000.0, "looks": 8, "easy": 96, "back": 2},
    ),
}


def build(spec: str, task_settings: Any, checkpoints: Path, progress: Progress | None = None) -> Path:
    """The folder of a seed policy; built on the first call, under a lock of its own.

    spec: `seed://countdown` or `seed://addition`, numbers of the recipe overridden like `?steps=20`; or a
    model from a package, `seed://smollm2`.
    task_settings: the recipe's task; a seed of another task than its own takes that task's defaults.
    progress: called with (steps done, steps in all, seconds left).

    Raises:
        RecipeError: no such seed, or an override that is no number of the recipe.
        StorageError: the disk is full; nothing half-made is left.
    """
    from pipeline.store.disk import DISK, sweep_temporaries, temporary_beside
    from pipeline.store.lock import waiting
    from pipeline.store.weights import MANIFEST, commit_weights

    if packaged(spec):
        return build_packaged(spec, checkpoints, progress)
    recipe, task = plan(spec, task_settings)
    folder = checkpoints / "seed" / f"{recipe.name}-{recipe.hash}"
    if (folder / MANIFEST).exists():  # comes last, so the folder is whole
        return folder
    DISK.make_folder(folder.parent)
    with waiting(folder.parent / f".{folder.name}.lock"):
        if (folder / MANIFEST).exists():
            return folder
        sweep_temporaries(folder.parent)
        temporary = temporary_beside(folder)
        with _one_thread(recipe):
            from pipeline.models.seed_training import train

            tokenizer = make_tokenizer(task, recipe.talk)
            pause = added_to(tokenizer, recipe.pause)
            model = train(recipe, task, tokenizer, progress)
        _save(model, temporary)
        write_pause(temporary, pause)
        tokenizer.save_pretrained(temporary)
        commit_weights(temporary, folder, {"seed": recipe.described})
    return folder


def unsaid(spec: str, task_settings: Any, act: str) -> bool:
    """Was this seed never taught what stands in front of an act's turn? One that does not talk has tokens
    for some (`check: `), which nothing has trained.

    Raises:
        RecipeError: there is no such seed.
    """
    from pipeline.tasks._acts import LABELS

    recipe, _ = plan(spec, task_settings)
    known = (*DIALECT, *seed_talk.words(recipe.talk)) if recipe.talk else ()
    return (task_settings.acts.get(act) or LABELS.get(act, act)) not in known


def talking(spec: str, task_settings: Any, acts: Iterable[str]) -> str:
    """The same seed in the form that talks; empty where it has none, talks already, or was not taught these
    turns either."""
    recipe, _ = plan(spec, task_settings)
    other = f"{spec}{'&' if '?' in spec else '?'}talk=1"
    if recipe.talk:
        return ""
    try:
        return "" if any(unsaid(other, task_settings, act) for act in acts) else other
    except RecipeError:  # there are no conversations about its task
        return ""


def look(spec: str, task_settings: Any) -> None:
    """Is there such a seed? Builds and fetches nothing.

    Raises:
        RecipeError: there is none, a key of it is not known, or it knows no chat.
    """
    if packaged(spec):
        wanted(spec)
        return
    plan(spec, task_settings)
    if getattr(task_settings, "chat", False):
        raise RecipeError(f"{spec}: an embedded seed has no chat template: set task.chat=false")


def plan(spec: str, task_settings: Any) -> tuple[SeedRecipe, BaseTask]:
    """A seed's recipe and the task whose rules it learns; builds nothing and loads no torch."""
    import importlib

    name, _, query = spec.removeprefix("seed://").partition("?")
    if name not in SEEDS:
        known = [*SEEDS, *PACKAGES]
        near = difflib.get_close_matches(name, known, 1)
        raise RecipeError(
            f"base: {spec}: no such seed ({f'did you mean seed://{near[0]}?' if near else ', '.join(known)})"
        )
    module = importlib.import_module(f"pipeline.tasks.{name}")
    if not isinstance(task_settings, module.Settings):  # a preset of the task has the task's settings
        task_settings = module.Settings(use=name)
    keys, differing = SEEDS[name]
    rules = {key: getattr(task_settings, key) for key in keys}
    asked = parse_qsl(query, keep_blank_values=True)
    recipe = SeedRecipe(name=name, rules=rules, **(differing | seed_talk.shape(asked)))
    for key, text in asked:
        default = getattr(recipe, key, None)
        if key == "version" or not isinstance(default, (int, float)):
            numbers = [f.name for f in dataclasses.fields(recipe) if f.type in ("int", "float")]
            numbers.remove("version")
            raise RecipeError(f"base: {spec}: unknown key {key} (known: {', '.join(numbers)})")
        try:
            changed: dict[str, Any] = {key: type(default)(text)}
            recipe = dataclasses.replace(recipe, **changed)
        except ValueError:
            raise RecipeError(f"base: {spec}: {key} must be a number, not {text!r}") from None
    require_pauses(spec, recipe.pause, max(recipe.walks, 1 + recipe.looks))
    task = module.Task(module.Settings(use=name, **rules))
    seed_talk.look(spec, recipe, task)
    return recipe, task


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    """Without the progress bar that saving draws over the console's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _one_thread(recipe: SeedRecipe) -> Iterator[None]:
    """One thread and draws of its own: the weights depend on the recipe alone, not on the process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(recipe.hash, 16))
            yield
    finally:
        torch.set_num_threads(threads)


def make_tokenizer(task: Any, talk: int = 0) -> PreTrainedTokenizerFast:
    """Whole-number tokens; decoding joins them without spaces, so ASCII text comes back exactly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(code) for code in range(32, 127)]
    more = seed_talk.words(talk)
    words = list(dict.fromkeys([*SPECIAL.values(), *task.vocabulary, *DIALECT, *more, "\n", *characters]))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_pieces(words[len(SPECIAL) :])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=1024, **SPECIAL
    )


def _pieces(words: list[str]) -> str:
    """A pattern that cuts a text into words of the vocabulary, the longest that fits first.

    A flat list of some hundred numbers would be tried one by one; one short pattern finds nearly all.
    """
    numbers = [word for word in words if word.isdecimal()]
    most = max(map(len, numbers), default=0)
    signs = [word for word in words if len(word) > 1 and not word.isdecimal()]
    patterns = [re.escape(word) for word in sorted(signs, key=lambda word: (-len(word), word))]
    if most > 1:  # every number of fewer digits is in the vocabulary
        patterns.append(rf"[1-9]\d{{0,{most - 2}}}(?!\d)")
        patterns += sorted((word for word in numbers if len(word) == most), reverse=True)
    return "|".join([*patterns, r"[\n -~]"])
