"""Probes: a logistic regression on a language model's hidden states at the end of each step, as a verifier.

Hidden states are read for truthfulness in Azaria & Mitchell (arXiv:2304.13734) and Burns et al.
(arXiv:2212.03827); the labels here are those of an earlier stage, outcomes or shares of right roll-outs. The
model itself does not change: no gradient goes through it, so a probe costs one reading of its rows.

    labels: {label: shepherd, from: samples}
    rows:   {select: step_values, from: labels}
    probe:  {train: probe, model: prm, from: rows, layer: best}     # models.prm: head: probe

scikit-learn fits it: standardised states, L2 penalty, to the optimum of a convex loss in float64 on one
thread, so the same rows give the same bytes. A label between 0 and 1 counts as that much right and the rest
wrong. A share of the problems, chosen by the hash of their ids, is held out of every fit: `auc` and
`auc/layer_K` are measured there, beside what the length of a solution alone says (`auc/length`: its tokens
and steps so far) and the mean embedding of its tokens (`auc/embeddings`). A probe that is no better than
those two has found nothing.

Not done: non-linear probes, unlabelled ones (Burns' contrast pairs). Every process but the main one waits.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.settings import ModelName, StageSettings
from pipeline.train import TrainJob, TrainReport, TrainSettings
from pipeline.train._frame import exactly

if TYPE_CHECKING:
    import numpy as np

ITERATIONS = 1000
AT_ONCE = 64  #: rows between two signs of life


class Settings(TrainSettings):
    """Which layer, and how strongly its weights are held small."""

    needs: ClassVar[tuple[str, ...]] = ("StepExample",)
    heads: ClassVar[tuple[str, ...]] = ("probe",)

    model: ModelName = Field("prm", description="the reward model that learns")
    layer: int | tuple[int, ...] | Literal["best"] = Field(
        "best",
        description="0 the embeddings, k what the k-th layer gives; best, or the best of a list: by AUC on "
        "held-out problems",
    )
    penalty: float = Field(1.0, gt=0, description="of the squared weights, over standardised states")
    hard_above: float = Field(0.5, ge=0, lt=1, description="held out, labels above this are right")
    holdout: float = Field(0.2, gt=0, lt=1, description="the share of problems that no fit sees")

    @field_validator("layer")
    @classmethod
    def _some_layer(cls, layer: Any) -> Any:
        if layer == () or (layer != "best" and min(_listed(layer)) < 0):
            raise ValueError("layers count from 0, the embeddings")
        return layer

    @model_validator(mode="after")
    def _no_steps(self) -> Self:
        """A fit goes to its optimum: what says how gradients descend says nothing here."""
        own = {"model", "max_length"}
        fields = TrainSettings.model_fields
        idle = [key for key in fields if key not in {*StageSettings.model_fields, *own}]
        usual = {key: fields[key].get_default(call_default_factory=True) for key in idle}
        if said := [key for key in idle if getattr(self, key) != usual[key]]:
            raise ValueError(f"{said[0]}: a probe is fitted to its optimum and has no such key: leave it out")
        return self


def _listed(layer: int | tuple[int, ...]) -> tuple[int, ...]:
    return (layer,) if isinstance(layer, int) else layer


@dataclass(frozen=True)
class Steps:
    """All labelled steps: one line each."""

    labels: np.ndarray  #: [N] from 0 to 1
    held_out: np.ndarray  #: [N] is its problem held out?
    lengths: np.ndarray  #: [N, 3] tokens so far, steps so far, tokens of this step
    embeddings: np.ndarray  #: [N, width] the mean over the tokens so far
    states: np.ndarray  #: [N, layers, width]


@dataclass(frozen=True)
class Fit:
    """A logistic regression on features as they are; `settled`: it came to its optimum."""

    weight: np.ndarray
    bias: float
    settled: bool

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds [N]."""
        return (features.astype("float64") * self.weight).sum(-1) + self.bias


def train(job: TrainJob, settings: Settings) -> TrainReport:
    """Fit on `job.rows()` (StepExample); probe.safetensors and prm.json go to `job.out`. Every rank calls it;
    rank 0 works.

    Raises:
        NothingKept: no label, or labels of one kind alone. RecipeError: no such layer, or a label that is no
        probability.
    """
    return exactly(job, settings, _train)


def _train(job: TrainJob, settings: Settings) -> TrainReport:
    from accelerate import PartialState

    state = PartialState()
    report = _fitted(job, settings) if state.is_main_process else TrainReport({})
    state.wait_for_everyone()
    return report


def _fitted(job: TrainJob, settings: Settings) -> TrainReport:
    from pipeline.engine.probe import num_layers
    from pipeline.engine.start import start_engine

    dropped: Counter[str] = Counter()
    rows = read(job, settings, dropped)
    engine = start_engine(job.base, None, dtype=job.dtype, check=True)
    last = num_layers(engine)
    layers = tuple(range(last + 1)) if settings.layer == "best" else _listed(settings.layer)
    if max(layers) > last:
        raise RecipeError(f"layer {max(layers)}: {job.base.name} has layers 0 (the embeddings) to {last}")
    job.say(f"reading the hidden states of {len(rows):,} rows in {len(layers)} layers")
    steps = gathered(job, engine, rows, layers, settings.holdout)
    _require_kinds(steps, settings, len(layers) > 1)
    metrics = measured(job, steps, layers, settings)
    chosen = max(layers, key=lambda k: metrics.get(f"auc/layer_{k}", 0.0))  # of equal ones the lowest
    inside = ~steps.held_out  # what is measured is what is kept
    fit = fitted(steps.states[inside, layers.index(chosen)], steps.labels[inside], settings.penalty)
    _write(job, fit, chosen, settings)
    auc = {"auc": metrics[f"auc/layer_{chosen}"]} if f"auc/layer_{chosen}" in metrics else {}
    counts = {"examples": len(rows), "trained_positions": len(steps.labels), "layer": chosen}
    found = {**metrics, **auc, **{key: float(value) for key, value in counts.items()}}
    job.report({"step": 0.0, **found})
    return TrainReport(found, dict(dropped))


def read(job: TrainJob, settings: Settings, dropped: Counter[str]) -> list[tuple[StepExample, int]]:
    """(row, where its completion begins) of each row that can be fitted on; the others counted by reason.

    Raises:
        NothingKept: there is none. RecipeError: a label that is no probability.
    """
    from pipeline.engine.tokens import encoder
    from pipeline.train.prm import fault_of

    encode = encoder(job.base)
    found = []
    for row in job.rows():
        fault = fault_of(row, settings.max_length)
        prompt_ids = encode(row.prompt) if row.prompt else []
        if not fault and row.token_ids[: len(prompt_ids)] != prompt_ids:
            fault = "bad_prompt"
        if fault:
            dropped[fault] += 1
            continue
        known = [label for label in row.labels if label is not None]
        if not 0 <= min(known) <= max(known) <= 1:
            raise RecipeError(
                f"row {row.trace_id or row.problem_id}: labels from {min(known):g} to {max(known):g} are no "
                "probabilities, which a logistic regression is fitted on: use train: prm with target value"
            )
        found.append((row, len(prompt_ids)))
    if not found:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common()) or "no row arrived"
        raise NothingKept(
            f"no labelled step to fit a probe on: {reasons}. For no_label name a label stage under `from` of "
            f"the rows; for too_long raise max_length ({settings.max_length})"
        )
    return found


def held_out(problem_ids: list[str], share: float) -> set[str]:
    """The problems that no fit sees: the first by the hash of their ids, at least one of two."""
    order = sorted(set(problem_ids), key=lambda one: hashlib.sha256(one.encode()).digest())
    return set(order[: min(len(order) - 1, max(1, round(share * len(order))))])


def gathered(
    job: TrainJob, engine: Any, rows: list[tuple[StepExample, int]], layers: tuple[int, ...], share: float
) -> Steps:
    """Labels, lengths and states of each labelled step."""
    import numpy as np
    import torch

    from pipeline.engine.probe import hidden_states

    table = engine.model.get_input_embeddings()
    out = held_out([row.problem_id for row, _ in rows], share)
    labels, outside, lengths, embeddings, states = [], [], [], [], []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        known = [[k for k, label in enumerate(row.labels) if label is not None] for row, _ in part]
        items = [
            (row.token_ids, [row.step_ends[k] - 1 for k in at])
            for (row, _), at in zip(part, known, strict=True)
        ]
        states += hidden_states(engine, items, layers)
        for (row, begin), at in zip(part, known, strict=True):
            ends = [begin, *row.step_ends]
            with torch.inference_mode():
                ids = torch.tensor(row.token_ids[begin:], device=engine.device)
                sums = table(ids).double().cumsum(0).cpu().numpy()
            for k in at:
                tokens = ends[k + 1] - begin
                labels.append(row.labels[k])
                outside.append(row.problem_id in out)
                lengths.append((tokens, k + 1, ends[k + 1] - ends[k]))
                embeddings.append(sums[tokens - 1] / tokens)
        job.beat("")
    return Steps(
        np.array(labels, np.float64),
        np.array(outside, bool),
        np.array(lengths, np.float64),
        np.array(embeddings, np.float64),
        np.concatenate(states),
    )


def _require_kinds(steps: Steps, settings: Settings, choosing: bool) -> None:
    """Both kinds of labels to fit on; held out too where a layer is chosen by them."""
    inside = steps.labels[~steps.held_out]
    if inside.min() == 1 or inside.max() == 0:
        kind = "right" if inside.min() == 1 else "wrong"
        raise NothingKept(
            f"all {len(inside):,} labelled steps to fit on are {kind}: a probe tells two kinds apart. Sample "
            "more (n), or label harder problems"
        )
    above = steps.labels[steps.held_out] > settings.hard_above
    if choosing and (not len(above) or above.all() or not above.any()):
        raise NothingKept(
            f"the {len(above):,} held-out steps are all {'right' if len(above) and above.all() else 'wrong'} "
            f"(labels above {settings.hard_above:g}), so no layer can be chosen by them: raise holdout "
            f"({settings.holdout:g}), sample more, or name one layer"
        )


def measured(job: TrainJob, steps: Steps, layers: tuple[int, ...], settings: Settings) -> dict[str, float]:
    """AUC on held-out problems of each layer, of lengths and of embeddings; none where only one kind is."""
    above = steps.labels[steps.held_out] > settings.hard_above
    if above.all() or not above.any():
        job.say("probe: the held-out steps are of one kind, so there is no AUC to tell")
        return {}
    features = {f"auc/layer_{k}": steps.states[:, place] for place, k in enumerate(layers)}
    features |= {"auc/length": steps.lengths, "auc/embeddings": steps.embeddings}
    found = {}
    for name, one in features.items():
        fit = fitted(one[~steps.held_out], steps.labels[~steps.held_out], settings.penalty)
        if not fit.settled:
            job.say(f"probe: {name}: {ITERATIONS} iterations did not settle it: raise penalty")
        found[name] = auc(above, fit.scores(one[steps.held_out]))
        job.beat("")
    return found


def auc(right: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a right step scores above a wrong one, ties half. By hand: right 1, 0, 1 with scores
    3, 2, 1 is one of two pairs, 0.5.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(right, scores))


def fitted(features: np.ndarray, labels: np.ndarray, penalty: float) -> Fit:
    """The logistic regression of labels [N] from 0 to 1 on features [N, D], standardised for the penalty."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    features = features.astype(np.float64)
    mean, spread = features.mean(0), features.std(0)
    spread[spread < 1e-12] = 1.0  # says the same of every step
    scaled = (features - mean) / spread
    rows = np.concatenate([scaled, scaled])
    kinds = np.repeat([1, 0], len(labels))
    shares = np.concatenate([labels, 1 - labels])
    some = shares > 0
    with threadpool_limits(1):  # sums of several threads differ in their last bits
        model = LogisticRegression(C=1 / penalty, max_iter=ITERATIONS, tol=1e-8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says of its iterations is told by `settled`
            model.fit(rows[some], kinds[some], sample_weight=shares[some])
    weight = model.coef_[0] / spread
    return Fit(weight, float(model.intercept_[0] - (weight * mean).sum()), int(model.n_iter_[0]) < ITERATIONS)


def _write(job: TrainJob, fit: Fit, layer: int, settings: Settings) -> None:
    """The weights, and how a score is read from them."""
    import numpy as np
    from safetensors.numpy import save

    from pipeline.engine.probe import FILE
    from pipeline.store.disk import DISK
    from pipeline.train._verifier import write_reading

    bias = np.array([fit.bias], np.float32)
    DISK.write(job.out / FILE, save({"weight": fit.weight.astype(np.float32), "bias": bias}))
    write_reading(
        job, {"target": "soft", "activation": "sigmoid", "layer": layer, "penalty": settings.penalty}
    )
