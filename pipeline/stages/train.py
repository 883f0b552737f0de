"""A train stage: rows in, committed weights out.

The trainer writes into a temporary folder; rank 0 brings it into canonical form and commits it
(store/weights); the stage's manifest names it by hash. Trainer checkpoints live in `data/<run>/scratch/`,
outside the promise."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.engine.draws import seed_of
from pipeline.errors import DamagedData, NothingKept, RecipeError
from pipeline.models.heads import head_of
from pipeline.models.registry import Weights
from pipeline.processes.pulse import beat, long
from pipeline.recipe.methods import hook, method
from pipeline.recipe.shape import Stage
from pipeline.rows import KINDS
from pipeline.run.run import Run
from pipeline.settings import FileSource
from pipeline.stages.inputs import Source, inputs_of, training_rows
from pipeline.store.disk import storage_told
from pipeline.store.weights import commit_weights, optimizer_beside, read_weights
from pipeline.train import TrainJob

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "added_tokens.json",
)


def starting_point(run: Run, stage: Stage, number: int) -> Weights:
    """The weights that a training starts from: the base, or the version that stood before the round."""
    name = stage.settings.model
    if run.recipe.models[name].restart_from == "base":
        return run.versions.base_weights(name)
    if stage.section == "before":
        return run.versions.acting(stage, number, name)
    return run.versions.standing(name, number - 1)


def carried_from(run: Run, stage: Stage, start: Weights) -> Path | None:
    """The optimizer's state beside the weights that a training starts from; None where it begins afresh.

    Raises:
        DamagedData: it is gone or damaged.
    """
    known = run.versions.optimizer_of(start) if stage.settings.carry_optimizer else None
    if known is None:
        return None
    folder, wanted = known
    if not (folder / "manifest.json").exists():
        raise DamagedData(
            f"{folder} is gone (`ratchet gc` drops the optimizers that no next round needs), and "
            f"{stage.name} goes on from it: fork the run before that round, or start it anew"
        )
    if (found := read_weights(folder).hash) != wanted:
        raise DamagedData(
            f"{folder}: another optimizer's state stands there: {found[:12]}, not {wanted[:12]}"
        )
    return folder


def sign_of_life(what: str = "") -> None:
    """A sign of life from a training, or a word on what may take long."""
    long(what) if what else beat()


def scratch_of(work: Any) -> Path:
    """Where a training keeps its own checkpoints."""
    return work.run.folder / "scratch" / f"round-{work.round:03d}" / work.stage.name


def input_rows(stage: Stage, sources: list[Source], kind: type, afforded: Afforded) -> Iterator[Any]:
    """The rows of earlier stages that the budget affords, then those of files."""
    yield from (row for row in training_rows(sources, kind) if afforded(row))
    for source in stage.sources:
        if isinstance(source, FileSource) and source.row:
            yield from rows_from_file(Path(source.file), kind)


def train_stage(work: Any) -> Callable[[], dict[str, Any]]:
    """Train, and leave the commit of the stage's manifest to the caller.

    Raises:
        NothingKept: there is no row to train on, only one, or all their targets are one number.
        Diverged: the loss is not finite.
    """
    run, stage = work.run, work.stage
    settings, name = stage.settings, stage.settings.model
    run.engines.clear()
    start = starting_point(run, stage, work.round)
    sources = inputs_of(run, stage, work.round)
    kind = KINDS[settings.needs[0]]
    afforded = Afforded(run, work.round)
    rows = partial(input_rows, stage, sources, kind, afforded)
    require_variety(work, rows(), kind, sources)
    target = run.weights / f"round-{work.round:03d}" / name
    out = target.parent / f".tmp-{name}"
    if run.processes.main:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
    run.processes.barrier()

    long("loading and compiling")
    with storage_told(target), nothing_left(out), run.console.progress(stage.name, None) as bar:
        job = job_of(work, start, rows, out, bar)
        report = method("train", stage.method).train(job, settings)
    run.processes.barrier()

    weights, optimizer = run.processes.together(partial(commit_training, work, start, out, target))

    def extra() -> dict[str, Any]:
        return {
            "weights": run.versions.record(weights),
            **({"optimizer": optimizer} if optimizer else {}),
            "metrics": report.metrics,
            "dropped": report.dropped | ({"budget": len(afforded.dropped)} if afforded.dropped else {}),
            "history": report.history,
            "processes": run.processes.size,
        }

    return extra


def job_of(work: Any, start: Weights, rows: Callable[[], Iterator[Any]], out: Path, bar: Any) -> TrainJob:
    """What the trainer is given."""
    run, stage = work.run, work.stage
    spec = run.recipe.models[stage.settings.model]
    return TrainJob(
        rows=rows,
        base=start.base,
        adapter=start.adapter,
        out=out,
        scratch=scratch_of(work),
        seed=seed_of(run.recipe.seed, work.round, stage.name, "", 0, 0) % 2**31,
        round=work.round,
        lora=None if spec.lora == "none" else spec.lora,
        head=spec.head,
        dtype=spec.dtype,
        save_every=run.recipe.header.save_every,
        carry_optimizer=stage.settings.carry_optimizer,
        optimizer=carried_from(run, stage, start),
        schedule=stage.settings.place_in_schedule(work.round),
        report=lambda values: bar(values.get("step"), _steps(values), **_shown(values)),
        say=run.console.note,
        beat=sign_of_life,
    )


def commit_training(work: Any, start: Weights, out: Path, target: Path) -> tuple[Weights, str]:
    """Move what a training left to its place for good; an adapter stays beside its base, whole weights take
    the base's tokenizer with them. Returns them and the hash of the optimizer's state, "" without one.
    """
    run, stage, name = work.run, work.stage, work.stage.settings.model
    head = run.recipe.models[name].head
    adapter = (out / "adapter_config.json").exists() or not head_of(head).mergeable
    if not adapter:
        for pattern in TOKENIZER_FILES:
            for file in start.base.glob(pattern):
                if not (out / file.name).exists():
                    shutil.copy(file, out / file.name)
    meta = {"round": work.round, "stage": stage.name, "model": name, "base": start.hash}
    # what no manifest names may be of a start at another number of processes
    replace = work.folder.manifest() is None
    optimizer = ""
    if (out / "optimizer").is_dir():
        optimizer = commit_weights(out / "optimizer", optimizer_beside(target), meta, replace=replace)
    digest = commit_weights(out, target, meta, replace=replace)
    shutil.rmtree(scratch_of(work), ignore_errors=True)
    base, own = (start.base, target) if adapter else (target, None)
    return Weights(name, base, own, digest, work.round, head), optimizer


def require_variety(work: Any, rows: Iterator[Any], kind: type, sources: list[Source]) -> None:
    """Two rows at least; where they have labels, two different targets: else a model would learn one text by
    heart, or to give one answer to everything. Reads no further than it has to. `on_empty: continue` on the
    training lets one row or one target through.

    Raises:
        NothingKept: with what its inputs kept and dropped, by reason.
    """
    stage = work.stage
    target_of = hook("train", method("train", stage.method), "target_of")
    number, targets = 0, Counter[float]()
    for row in rows:
        number += 1
        labels = getattr(row, "labels", None)
        targets.update(target_of(label, stage.settings) for label in labels or () if label is not None)
        if number > 1 and (len(targets) > 1 or labels is None):
            return
    if number and stage.settings.on_empty == "continue":
        return
    if number > 1 and not targets:
        return  # no label at all: the method counts why
    if number < 2:
        found = f"its input has {'one' if number else 'no'} {kind.__name__} row to train on"
    else:
        target, labels = next(iter(targets.items()), (0.0, 0))
        found = f"all {labels:,} labels of its {number:,} {kind.__name__} rows have the target {target:g}"
    read = "".join(f"; {source.path.partition('/')[2]}: {kept_of(source)}" for source in sources)
    cure = f", or set stages.{stage.name}.on_empty=continue" if number else ""
    raise NothingKept(
        f"round {work.round}: {stage.name}: {found}{read}. Sample more (n) or loosen what selects them{cure}"
    )


def kept_of(source: Source) -> str:
    """`1 of 120 kept: 100 wrong_answer, 19 too_short`, from a committed stage's counts."""
    counts = source.folder.require().counts
    dropped = Counter(counts.dropped)
    given = counts.counters.get("given", dropped.total() + source.folder.require().rows(source.plan.main))
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
    return f"{given - dropped.total()} of {given} kept" + (f": {reasons}" if reasons else "")


@contextlib.contextmanager
def nothing_left(out: Path) -> Iterator[None]:
    """A training that stops leaves no half-written weights; its checkpoints stay for the next start."""
    try:
        yield
    except BaseException:  # whatever ended it, Ctrl-C too; it goes on from here
        shutil.rmtree(out, ignore_errors=True)
        raise


def _steps(values: dict[str, float]) -> int | None:
    return int(values["steps"]) if "steps" in values else None


def _shown(values: dict[str, float]) -> dict[str, float]:
    """What the progress line says of a training beside its steps."""
    return {key: values[key] for key in ("loss",) if key in values}


class Afforded:
    """Which rows a budget of tokens a round pays for: its chunks in order until they are spent
    (`compare`)."""

    def __init__(self, run: Run, number: int) -> None:
        self.paid: dict[int, set[str]] | None = None
        self.dropped: set[tuple[str, str]] = set()
        if run.recipe.header.tokens_per_round is not None:
            over = run.kept.afforded  # rounds that are over; more may be written yet in this one
            for n in range(1, number):
                over[n] = over[n] if n in over else self._chunks(run, n)
            self.paid = {n: over[n] for n in range(1, number)} | {number: self._chunks(run, number)}

    @staticmethod
    def _chunks(run: Run, number: int) -> set[str]:
        """The problems whose chunks the budget of a round pays for, over all its generate stages."""
        spent: Counter[str] = Counter()
        order: dict[str, None] = {}
        for stage in run.stages_in(number):
            folder = run.stage_folder(stage, number)
            if stage.room != "generate" or (plan := folder.plan()) is None or folder.manifest() is None:
                continue
            for sidecar, chunk in zip(folder.sidecars(), plan.chunks, strict=True):
                tokens = sum(
                    n
                    for key, n in sidecar.counts.counters.items()
                    if key.startswith("charged/") and key.removeprefix("charged/") in run.recipe.policies
                )
                order.update(dict.fromkeys(chunk.ids))
                spent.update({i: tokens / len(chunk.ids) for i in chunk.ids})
        paid, left = set(), float(run.recipe.header.tokens_per_round or 0)
        for problem_id in order:
            left -= spent[problem_id]
            if left < 0:
                break
            paid.add(problem_id)
        return paid

    def __call__(self, row: Any) -> bool:
        if self.paid is None:
            return True
        found = re.search(r"\.(\d+)/[^/]*$", getattr(row, "trace_id", ""))
        number = int(found[1]) if found else row.round
        if number < 1 or row.problem_id in self.paid.get(number, set()):
            return True
        self.dropped.add((row.problem_id, getattr(row, "trace_id", "")))
        return False


def rows_from_file(path: Path, kind: type) -> Iterator[Any]:
    """Rows of one kind from a parquet or JSON-lines file of outside.

    Raises:
        RecipeError: no such file.
        DamagedData: it does not hold such rows.
    """
    import dataclasses
    import json

    import pyarrow.parquet as pq

    if not path.is_file():
        raise RecipeError(f"from: {path}: no such file")
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        if path.suffix == ".parquet":
            found = iter(pq.read_table(path).to_pylist())
        else:
            found = (
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
            )
        for number, values in enumerate(found, 1):
            values.setdefault("problem_id", f"{path.stem}-{number}")
            yield kind(**{key: value for key, value in values.items() if key in names})
    except (TypeError, ValueError, OSError) as problem:
        raise DamagedData(f"{path}: does not hold {kind.__name__} rows: {problem}") from None
