"""What the trainers of verifiers share: a model with its head, its raw scores, the losses, and `prm.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError
from pipeline.train import TrainJob, TrainReport

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.train._batches import Batch, Corpus

Reading = dict[str, Any]
Collate = Callable[["Corpus", int, bool], "Callable[[list[int]], Batch]"]


def fit(
    job: TrainJob,
    settings: Any,
    corpus: Corpus,
    loss: Callable[[tuple[int, int] | None], Callable[..., torch.Tensor]],
    reading: Reading,
    dropped: Any,
    collate: Collate | None = None,
    starting: bool = False,
) -> TrainReport:
    """Train a model with head value or token on a corpus; weights and `prm.json` go to `job.out`.

    loss: of the ids of '+' and '-' (None: head value), the loss over outputs and labels. collate: from
    corpus, pad and "only columns with labels" to batches; the steps' own where None. starting: labels also
    hold what the weights that training starts from say (head value).
    """
    from transformers import AutoTokenizer, TrainingArguments

    from pipeline.engine.endings import sign_tokens
    from pipeline.train import _batches, _setup, _trainers

    token = job.head == "token"
    steps = _setup.num_steps(settings, job.round, len(corpus))
    arguments = _setup.trainer_arguments(TrainingArguments, job, settings, int(corpus.lengths.max()), steps)
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    signs = sign_tokens(tokenizer, job.base.name) if token else None
    model = load(job, reading["activation"] != "sigmoid", token)
    use_cache = getattr(model.config, "use_cache", True)
    pad = _setup.padding(model, tokenizer, corpus, job.base.name)
    trainer = _trainers.StepTrainer(model, arguments, compute_loss_func=loss(signs))
    trainer.model_accepts_loss_kwargs = False  # the count of labels goes to the loss, not to the model
    order = _batches.Order(corpus, settings.batch_size, steps, job.seed)
    if starting:
        corpus = dataclasses.replace(corpus, starting=starting_scores(trainer, corpus, pad))
    batches = (collate or _batches.step_batches)(corpus, pad, token)
    report = carried_out(job, settings, trainer, corpus, order, batches, reading, use_cache)
    return _setup.finish(trainer, report, dropped)


def carried_out(
    job: TrainJob,
    settings: Any,
    trainer: Any,
    corpus: Corpus,
    order: Any,
    batches: Callable[[list[int]], Batch],
    reading: Reading,
    use_cache: bool,
) -> dict[str, float]:
    """All steps of a training whose model gives scores; weights and `prm.json` go to `job.out`. Returns the
    metrics that are known before the first step.

    use_cache: what the model's configuration said of it before the trainer was made.
    """
    from pipeline.train import _setup

    fingerprint = _setup.fingerprint(job, settings, corpus, order.steps)
    trainer.prepare(job, order, batches, corpus.names, fingerprint, settings.log_every)
    report = _setup.announce(job, trainer, corpus, order)
    trainer.run()
    trainer.model.config.use_cache = use_cache
    trainer.save_weights(job.out)
    if trainer.is_world_process_zero():
        write_reading(job, reading)
    trainer.accelerator.wait_for_everyone()
    return report


def starting_scores(trainer: Any, corpus: Corpus, pad: int) -> np.ndarray:
    """What a model with head value says at each target before its first step. Each process reads all rows:
    what it says must not depend on how many there are.
    """
    import numpy as np
    import torch

    from pipeline.train import _batches, _setup

    found = np.zeros(len(corpus.target_values), np.float32)
    collate = _batches.step_batches(corpus, pad, keep_columns=False)
    ordered = np.argsort(corpus.lengths, kind="stable")
    size = max(1, _setup.TOKENS_AT_ONCE // int(corpus.lengths.max()))
    was = trainer.model.training
    trainer.model.eval()
    for start in range(0, len(ordered), size):
        picked = ordered[start : start + size].tolist()
        inputs = trainer._prepare_inputs(collate(picked))
        given = {key: inputs[key] for key in ("input_ids", "position_ids")}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            scores = raw_scores(trainer.model(**given).logits, None).cpu().numpy()
        for place, row in enumerate(picked):
            piece = slice(corpus.target_offsets[row], corpus.target_offsets[row + 1])
            found[piece] = scores[place, corpus.target_columns[piece]]
    trainer.model.train(was)
    return found


def load(job: TrainJob, on_numbers: bool, token: bool) -> Any:
    """The model with its head: a fresh one on a language model, or the head that the base brings.

    on_numbers: trained by squared error on the raw output, which two labels have not.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.models.scorer import NAMES, is_ready, scorer_class
    from pipeline.train import _setup

    if token:
        return _setup.load_model(job, AutoModelForCausalLM, "CAUSAL_LM")
    config = AutoConfig.from_pretrained(str(job.base))
    ready = is_ready(config)
    num_labels = config.num_labels if ready else 1
    if num_labels > 2 or (num_labels == 2 and on_numbers):
        raise RecipeError(
            f"{job.base.name} scores with {num_labels} labels: one label serves every target, two (wrong, "
            "right) serve cross-entropy alone (target soft or hard; an outcome's loss: bce)"
        )
    config.num_labels, config.classifier_dropout = num_labels, 0.0  # the library's default is 0.1
    try:
        kind = scorer_class(config)
    except ValueError as problem:
        raise RecipeError(f"{job.base.name}: head: value: {problem}; use another base") from None
    head = "classifier" if ready and not hasattr(_empty(kind, config), "score") else "score"
    return _setup.load_model(
        job,
        kind,
        "TOKEN_CLS",
        # the head trains whole and is saved with the adapter; peft would wrap it in LoRA as well
        {"exclude_modules": [head], "modules_to_save": [head]},
        fresh=() if ready else tuple(f"{name}." for name in NAMES),
        config=config,
    )


def _empty(kind: Any, config: Any) -> Any:
    """A model without memory for its weights, to look at its parts."""
    import torch

    with torch.device("meta"):
        return kind(config)


def raw_scores(logits: torch.Tensor, signs: tuple[int, int] | None) -> torch.Tensor:
    """[..., labels or vocabulary] to [...]: the scalar, the log-odds of the second of two labels, or of '+'
    against '-'.
    """
    logits = logits.float()
    if signs:
        return logits[..., signs[0]] - logits[..., signs[1]]
    return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits.squeeze(-1)


def smoothed(label: Any, share: float) -> Any:
    """A label of which `share` are taken to be wrong: y (1 - share) + (1 - y) share (Secrets of RLHF, part
    II, arXiv:2401.06080). By hand: 1 at 0.1 is 0.9.
    """
    return label * (1 - share) + (1 - label) * share if share else label


def summed(scores: torch.Tensor, labels: torch.Tensor, how: str, weights: Any = None) -> torch.Tensor:
    """The loss over labelled positions, added up: `mse` on raw scores, `brier` on their logistic, `bce`."""
    import torch
    from torch.nn import functional

    reduction = "sum" if weights is None else "none"
    if how == "bce":
        found = functional.binary_cross_entropy_with_logits(scores, labels, reduction=reduction)
    else:
        shown = scores.sigmoid() if how == "brier" else scores
        found = functional.mse_loss(shown, labels, reduction=reduction)
    return found if weights is None else torch.sum(found * weights)


def write_reading(job: TrainJob, reading: Reading) -> None:
    """How a score is read from these weights."""
    from pipeline.store.disk import DISK

    said = {"head": job.head or "value", **reading}
    DISK.write(job.out / "prm.json", (json.dumps(said, sort_keys=True) + "\n").encode())
