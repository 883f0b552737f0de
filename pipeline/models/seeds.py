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
import itertools
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pipeline.errors import RecipeError
from pipeline.models import seed_talk
from pipeline.models.packaged import PACKAGES, packaged, wanted
from pipeline.models.packaged import build as build_packaged
from pipeline.models.pause import added_to, paused, require_pauses, write_pause
from pipeline.tasks import BaseTask

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VERSION = 1  #: raise it when a change of this file or of a task's `rule_example` changes the weights
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
DIALECT = ("check: ", "revise: ", "judge: ")
#: of numbers
PERIODS = (2, 3, 4, 5, 7, 9, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 400)
RATES = (0.5, 1, 2, 3, 4, 6, 8, 11, 15, 20)  #: turns of the logarithm up to 1000, for products
POOL = 16  #: batches drawn at once and cut by length, so that little is padded

#: of a SeedRecipe, which came after seeds had been built
LATER = ("walks", "theta", "looks", "easy", "back", "talk", "blind", "pause")

Progress = Callable[[int, int, float], None]
Example = tuple[list[int], list[int]]  #: ids of prompt and completion; labels, -1 where nothing is learned


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
        {"steps": 200, "batch": 32, "inner": 384, "walks": 4, "theta": 100_000.0, "looks": 8}
        | {"easy": 32, "back": 2},
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
            tokenizer = make_tokenizer(task, recipe.talk)
            pause = added_to(tokenizer, recipe.pause)
            model = train(recipe, task, tokenizer, progress)
        _save(model, temporary)
        write_pause(temporary, pause)
        tokenizer.save_pretrained(temporary)
        commit_weights(temporary, folder, {"seed": recipe.described})
    return folder


def unsaid(spec: str, task_settings: Any, act: str) -> bool:
    """Does this seed have no word for what stands in front of an act's turn?

    Raises:
        RecipeError: there is no such seed.
    """
    from pipeline.tasks._acts import LABELS

    recipe, _ = plan(spec, task_settings)
    known = (*DIALECT, *seed_talk.words(recipe.talk))
    return (task_settings.acts.get(act) or LABELS.get(act, act)) not in known


def look(spec: str, task_settings: Any) -> None:
    """Is there such a seed? Builds and fetches nothing.

    Raises:
        RecipeError: there is none, or a key of it is not known.
    """
    if packaged(spec):
        wanted(spec)
    else:
        plan(spec, task_settings)


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
    talks = any(key == "talk" and text.strip() != "0" for key, text in asked)
    recipe = SeedRecipe(name=name, rules=rules, **(differing | (seed_talk.SHAPE if talks else {})))
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
    require_pauses(spec, recipe.pause, recipe.walks)
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


def examples(recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Example]]:
    """Endless batches of rule examples, each of nearly equal lengths."""
    draw = random.Random(recipe.hash)
    pause = added_to(tokenizer, recipe.pause)
    for pool in itertools.count():
        rows: list[Example] = []
        if talks := recipe.talk and pool * POOL >= seed_talk.FIRST * recipe.steps:
            rows = [seed_talk.row(recipe, task, tokenizer, draw) for _ in range(POOL * recipe.batch)]
        plain = 0 if talks else POOL * recipe.batch
        for question, pieces in (task.rule_example(draw) for _ in range(plain)):
            texts = tokenizer([task.prompt(question), *(text for text, _ in pieces)])["input_ids"]
            ids, labels = list(texts[0]), [-1] * len(texts[0])
            for piece, (_, learned) in zip(texts[1:], pieces, strict=True):
                ids += piece
                labels += piece if learned else [-1] * len(piece)
            row = [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]
            rows.append(paused(row, len(texts[0]), pause, draw) if pause else row)
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[start : start + recipe.batch] for start in range(0, len(rows), recipe.batch)]
        draw.shuffle(batches)
        yield from batches


def new_model(recipe: SeedRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Untrained; number tokens start from Fourier features of their value and its logarithm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.models.seed_walks import start_looking_up

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.inner,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.theta},
        attention_bias=recipe.back > 0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    if recipe.back:
        start_looking_up(model, recipe.back)
    embedding: torch.Tensor = model.lm_head.weight  # tied to the input embeddings
    with torch.no_grad():
        for word, number in tokenizer.get_vocab().items():
            if re.fullmatch(r" ?\d+", word):
                value = int(word)
                turns = [2 * math.pi * value / period for period in PERIODS]
                turns += [2 * math.pi * rate * math.log(max(value, 0.5)) / math.log(1000) for rate in RATES]
                waves = torch.tensor([wave(turn) for turn in turns for wave in (math.cos, math.sin)])
                waves = waves[: recipe.hidden * 5 // 8]  # the rest stays free to say other things
                embedding[number, : len(waves)] = 0.05 * waves
    return model


def train(
    recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast, progress: Progress | None = None
) -> LlamaForCausalLM:
    """A model trained on the rules: cross-entropy of completions, cosine schedule down to 5 %."""
    import torch
    from torch.nn.functional import cross_entropy

    model = new_model(recipe, tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    momenta = [torch.zeros_like(p) for p in matrices]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)
    began = time.monotonic()
    for step, (ids, labels, more) in zip(
        range(recipe.steps), _batches(recipe, task, tokenizer), strict=False
    ):
        schedule = min(1.0, (step + 1) / 20) * (0.525 + 0.475 * math.cos(math.pi * step / recipe.steps))
        hidden = model.model(ids, use_cache=False, **more).last_hidden_state[:, :-1]
        learned = labels[:, 1:] >= 0
        loss = cross_entropy(model.lm_head(hidden[learned]), labels[:, 1:][learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon_step(matrices, momenta, recipe.matrix_rate * schedule)
        for group in adam.param_groups:
            group["lr"] = recipe.rate * schedule
        adam.step()
        model.zero_grad()
        if progress is not None:
            done = step + 1
            progress(done, recipe.steps, (time.monotonic() - began) / done * (recipe.steps - done))
    return model.eval()


def _batches(
    recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Ids, labels and what else the model is given: nothing, as padding stands on the right and all is
    causal; with several walks a question, their places and mask."""
    if recipe.walks > 1:
        from pipeline.models.seed_walks import batches

        yield from batches(recipe, task, tokenizer)
        return
    for rows in examples(recipe, task, tokenizer):
        yield (*_tensors(rows, tokenizer.pad_token_id), {})


def _tensors(rows: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [rows, longest]; a label is -1 at padding too."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    all_ids, all_labels = torch.full((len(rows), longest), pad), torch.full((len(rows), longest), -1)
    for row, (ids, labels) in enumerate(rows):
        all_ids[row, : len(ids)] = torch.tensor(ids)
        all_labels[row, : len(ids)] = torch.tensor(labels)
    return all_ids, all_labels


def muon_step(matrices: list[torch.nn.Parameter], momenta: list[torch.Tensor], rate: float) -> None:
    """One step of Muon, in fp32 (torch.optim.Muon works in bf16, which older processors emulate slowly).

    Matrices of one shape are orthogonalised together, by its Newton-Schulz iteration and coefficients.
    """
    import torch

    shapes, slopes = {p.shape for p in matrices}, {p: p.grad for p in matrices if p.grad is not None}
    with torch.no_grad():
        for shape in sorted(shapes):
            chosen = [(p, m) for p, m in zip(matrices, momenta, strict=True) if p.shape == shape]
            for parameter, momentum in chosen:
                momentum.lerp_(slopes[parameter], 0.05)
            update = torch.stack([slopes[p].lerp(m, 0.95) for p, m in chosen])
            tall = shape[0] > shape[1]
            x = update.mT if tall else update
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            update = x.mT if tall else x
            for (parameter, _), change in zip(chosen, update, strict=True):
                parameter.add_(change, alpha=-rate * max(1.0, shape[0] / shape[1]) ** 0.5)
