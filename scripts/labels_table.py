"""Which step labels are right, and whose reward model chooses best? Makes the tables of docs/labels.md.

    make labels                                                  # both tasks, three seeds
    python scripts/labels_table.py --tasks deduction --seeds 0   # less; the other section stays
    python scripts/labels_table.py --ready                       # of the runs that are complete already

For each task and seed there is one run of recipes/labels_TASK.yaml, an ordinary run under data/ by the name
labels_TASK-sSEED: an interrupted start goes on, a complete one is read. In it all labellers label the same
traces, a reward model learns from each in equally many steps, and all of them judge the same samples of the
test problems. What the labels say of the truth comes from the run's own `label_quality`; AUC and votes are
computed here from the rows that its `prm_quality` stage committed, so that reward models are compared on the
same samples. A difference is paired over problems: on each problem the mean over the seeds, resampled over
problems. What stands in docs/labels.md below its mark is written by hand and kept.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import numpy as np  # noqa: E402  the environment comes first
from claims_rows import KEPT  # noqa: E402
from claims_runs import complete_run, is_complete  # noqa: E402
from claims_table import Contrast, Grid  # noqa: E402

from pipeline.evaluate import GOLD  # noqa: E402
from pipeline.evaluate.intervals import pass_at  # noqa: E402
from pipeline.evaluate.pool import Pool  # noqa: E402
from pipeline.evaluate.ranking import Points, Ranking  # noqa: E402
from pipeline.models.registry import RUN_SPEC  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.recipe.shape import Recipe  # noqa: E402
from pipeline.rows import Label, Trace  # noqa: E402
from pipeline.run.run import Run  # noqa: E402
from pipeline.run.status import run_status  # noqa: E402
from pipeline.store.disk import DISK  # noqa: E402
from pipeline.store.workspace import Workspace  # noqa: E402

TASKS = {"deduction": "Deduction", "countdown4": "Countdown with four numbers"}
#: the reward model of a recipe -> whose labels it learned from
LABELLERS = {
    "oracle": "exact oracle (Uesato: until the first error)",
    "outcome": "outcome alone (each step the trace's)",
    "hard": "Math-Shepherd, hard",
    "soft": "Math-Shepherd, soft (MiPS)",
    "omega": "OmegaPRM",
    "progress": "PAV's Q near the first pit",
    "relative": "relative (GenPRM)",
    "match": "DiVeRSe",
    "tree": "tree values of the samples",
    "mcts": "tree values of MCTS* (ReST-MCTS*)",
}
FLOOR, JUDGED, RULES = "outcome", "judged", ("last", "min")
SHARES = ("accuracy", "false_accept", "false_reject")
AUCS = ("steps", "like steps", "in a problem", "first steps", "samples")
#: a way to choose among all samples -> its column
CHOICES = {
    "best/last": "best, last",
    "best/min": "best, min",
    "valid/last": "sound, last",
    "valid/min": "sound, min",
    "weighted/last": "vote, last",
    "weighted/min": "vote, min",
}
GAINS = ("best/last", "best/min", "weighted/last")
HEAD = """# Which step labels are right?

Ten labellers say of the same traces which steps are sound; from each a reward model learns, all of one size,
from one start, in equally many steps, with one loss; all judge the same {samples} samples of each test
problem. Made by `make labels` (`scripts/labels_table.py`), one run of `recipes/labels_TASK.yaml` a task and
seed. Percent, means over the seeds. A difference is paired over problems: the mean of the seeds on each
problem, with a 95 % bootstrap interval over problems, then each seed's own.

A label above 0 calls the prefix up to its step sound; it is sound where the task's exact oracle finds every
step right and the end still in reach. *False accepts* are lost prefixes called sound, of all lost ones.
*Tokens a label* are those charged: what the labeller writes by itself. *In a problem* ranks prefixes of one
depth and problem, which is what a search chooses between. *Best* is the answer of the best scored sample, by
its last step's score or its least; *sound*: and every step of it is; *vote*: weighted by those scores."""


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    data: Path
    checkpoints: Path
    seeds: tuple[int, ...]
    change: tuple[str, ...]  #: key.sub=value of the runs
    ready: bool


@dataclass(frozen=True)
class Seed:
    """One run's figures: what it measured of labels, and columns over the test problems."""

    metrics: dict[str, float]
    tokens: dict[str, float]  #: labeller -> tokens charged a label, its own search included
    auc: dict[str, dict[str, float]]
    chosen: dict[str, dict[str, list[float]]]  #: reward model -> way to choose -> one entry a problem
    samples: int


def finished(asked: Asked, task: str, seed: int) -> Run | None:
    """The complete run of a task and seed; made, or gone on with, unless only ready ones are wanted. What its
    models start from (`run://NAME@...`) is the run of recipes/NAME.yaml, made first: one for all seeds."""
    name, space = f"labels_{task}-s{seed}", Workspace(asked.data, asked.checkpoints)
    if asked.ready and not is_complete(space, name):
        return None

    def recipe() -> Recipe:
        overrides = [f"seed={seed}", "wandb.mode=disabled", *asked.change]
        found = load(ROOT / f"recipes/labels_{task}.yaml", overrides, name)
        for base in sorted({model.base for model in found.models.values()}):
            lender = match["run"] if (match := RUN_SPEC.fullmatch(base)) else ""
            if (path := ROOT / f"recipes/{lender}.yaml").is_file():
                complete_run(space, lender, partial(load, path, ["wandb.mode=disabled"]))
        return found

    return complete_run(space, name, recipe)


# -- from a run to figures


def figures(run: Run) -> Seed:
    """All that the tables say of one run."""
    status = run_status(run.name, run.workspace)
    metrics = {**status["rounds"][0]["metrics"], **status["final"]["metrics"]}
    ids = run.ids("test")
    rows = judged_rows(run, JUDGED, tuple(LABELLERS))
    chosen = {name: choices(run, ids, rows[name]) for name in LABELLERS}
    tokens = {name: metrics[f"truth_{name}/tokens_a_label"] for name in LABELLERS}
    tokens["mcts"] = metrics["search/charged/policy"] / metrics["truth_mcts/prefixes"]
    areas = {name: aucs(rows[name]) for name in LABELLERS}
    return Seed(metrics, tokens, areas, chosen, max(len(samples) for samples in rows[FLOOR]))


Judged = tuple[Trace, list[float | None], list[bool]]  #: a sample, its steps' scores, the truth


def judged_rows(run: Run, stage: str, names: Sequence[str]) -> dict[str, list[list[Judged]]]:
    """By reward model: what a prm_quality stage had it say of each test problem's samples."""
    traces: dict[str, list[Trace]] = {}
    labels: dict[str, dict[str, Label]] = {}
    folder = run.stage_folder(run.recipe.stage(stage), run.recipe.rounds)
    for trace in folder.read(Trace):
        traces.setdefault(trace.problem_id, []).append(trace)
    for label in folder.read(Label):
        labels.setdefault(label.trace_id, {})[label.labeller] = label
    return {name: judgements(name, run.ids("test"), traces, labels) for name in names}


def judgements(
    name: str, ids: Sequence[str], traces: dict[str, list[Trace]], labels: dict[str, dict[str, Label]]
) -> list[list[Judged]]:
    """What one reward model said of each problem's samples, beside the truth."""
    return [
        [
            (
                trace,
                list(labels[trace.id][name].step_scores or []),
                [step == 1 for step in labels[trace.id][GOLD].step_scores or []],
            )
            for trace in traces.get(problem, [])
            if name in labels.get(trace.id, {})
        ]
        for problem in ids
    ]


def aucs(rows: Sequence[Sequence[Judged]]) -> dict[str, float]:
    """Sound prefixes against others: all of them, those of one depth, those of one depth and problem (each
    prefix once), first steps of one problem; and right samples against wrong ones by the last step."""
    points: list[tuple[float, bool, int, int, int]] = []  # (score, truth, place, place, problem)
    wholes: list[tuple[float, bool, int, int, int]] = []
    for problem, samples in enumerate(rows):
        seen: set[tuple[int, ...]] = set()
        for trace, scores, truth in samples:
            if scores and truth and scores[-1] is not None and trace.finish in ("eos", "stop"):
                wholes.append((scores[-1], all(truth), 0, 0, problem))
            for place, (score, sound, end) in enumerate(zip(scores, truth, trace.step_ends, strict=False)):
                if score is None or (key := tuple(trace.token_ids[:end])) in seen:
                    continue
                seen.add(key)
                points.append((score, sound, place, place, problem))
    steps, ends = Points.of(points), Points.of(wholes)
    apart = steps.problem * 1000 + steps.step
    first = Points.of([point for point in points if point[2] == 0])
    return {
        "steps": Ranking(steps, np.zeros_like(steps.step)).value,
        "like steps": Ranking(steps, steps.step).value,
        "in a problem": Ranking(steps, apart).value,
        "first steps": Ranking(first, first.problem).value,
        "samples": Ranking(ends, ends.step).value,
    }


def choices(run: Run, ids: Sequence[str], rows: Sequence[Sequence[Judged]]) -> dict[str, list[float]]:
    """By problem: is what is chosen of all samples right, and is each of its steps?"""
    found: dict[str, list[float]] = {}
    for problem_id, samples in zip(ids, rows, strict=True):
        problem = run.problems[problem_id]
        task = run.task_of(problem)
        traces = [trace for trace, _, _ in samples]
        right = [task.correct(t.answer, problem) and t.finish in ("eos", "stop") for t in traces]
        sound = [ok and all(truth) for ok, (_, _, truth) in zip(right, samples, strict=True)]
        steps = [scores for _, scores, _ in samples]
        pool, strict = Pool(traces, right, steps, task.same), Pool(traces, sound, steps, task.same)
        size = len(traces)
        here = {
            "any": pass_at(size, sum(right), size),
            "one": sum(right) / size,
            "valid/one": sum(sound) / size,
        }
        for rule in RULES:
            here[f"best/{rule}"] = pool.best_at(size, rule)
            here[f"valid/{rule}"] = strict.best_at(size, rule)
            voted = pool.votes(["majority", "weighted"], [size], 1, 0, rule)
            here |= {f"weighted/{rule}": voted["weighted", size], "majority": voted["majority", size]}
        for name, value in here.items():
            found.setdefault(name, []).append(value)
    return found


# -- tables


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def mean(seeds: Sequence[Seed], of: Callable[[Seed], float], form: str = "{:.1f}", scale: float = 100) -> str:
    """The mean over seeds as a cell."""
    value = float(np.mean([of(seed) for seed in seeds]))
    return "-" if math.isnan(value) else form.format(scale * value)


def of_labels(seeds: Sequence[Seed]) -> str:
    """What each labeller says of the truth, and what it costs."""
    lines = []
    for name, says in LABELLERS.items():
        quality = [
            mean(seeds, lambda s, m=f"truth_{name}/{share}": s.metrics.get(m, math.nan)) for share in SHARES
        ]
        area = mean(seeds, lambda s, m=f"truth_{name}/auc": s.metrics.get(m, math.nan), "{:.3f}", 1)
        there = mean(seeds, lambda s, m=f"truth_{name}/prefixes": s.metrics[m], "{:,.0f}", 1)
        lines.append([says, mean(seeds, lambda s, m=name: s.tokens[m], "{:.0f}", 1), there, *quality, area])
    head = [
        "labeller",
        "tokens a label",
        "labels",
        "accuracy",
        "false accept",
        "false reject",
        "AUC of the label",
    ]
    return table(head, lines)


def of_models(seeds: Sequence[Seed]) -> str:
    """How well each reward model ranks: the mean, and in a problem each seed's own."""
    lines = []
    for name, says in LABELLERS.items():
        cells = [mean(seeds, lambda s, m=name, k=kind: s.auc[m][k], "{:.3f}", 1) for kind in AUCS]
        each = ", ".join(f"{s.auc[name]['in a problem']:.3f}" for s in seeds)
        lines.append([says, *cells, each])
    return table(["trained on", *(f"AUC, {kind}" for kind in AUCS), "in a problem, by seed"], lines)


def grid(seeds: Sequence[Seed], name: str, way: str) -> Grid:
    return np.array([seed.chosen[name][way] for seed in seeds], dtype=np.float64)


def gain(seeds: Sequence[Seed], name: str, way: str) -> str:
    """A reward model less the floor, with its interval and each seed's own."""
    row = Contrast("", "", ("", ""), grid(seeds, name, way), grid(seeds, FLOOR, way))
    difference, low, high = (100 * value for value in row.figures)
    each = ", ".join(f"{100 * value:+.1f}" for value in (row.after - row.before).mean(1))
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f}); {each}"


def of_choices(seeds: Sequence[Seed]) -> str:
    """What each reward model chooses, and how much more of it is right than by the floor's."""
    lines = []
    for name, says in LABELLERS.items():
        cells = [mean(seeds, lambda s, m=name, w=way: float(np.mean(s.chosen[m][w]))) for way in CHOICES]
        lines.append([says, *cells, *(gain(seeds, name, way) if name != FLOOR else "" for way in GAINS)])
    more = (f"{CHOICES[way]}, less the floor (95 %); by seed" for way in GAINS)
    return table(["reward model", *CHOICES.values(), *more], lines)


def section(task: str, numbers: Sequence[int], seeds: Sequence[Seed]) -> str:
    """All that is said of one task."""
    plain = {
        key: mean(seeds, lambda s, k=key: float(np.mean(s.chosen[FLOOR][k])))
        for key in ("one", "valid/one", "majority", "any")
    }
    wrote = ", ".join(map(str, numbers))
    said = (
        f"Seeds {wrote}. Of the {len(seeds[0].chosen[FLOOR]['any'])} test problems one sample solves "
        f"{plain['one']} % ({plain['valid/one']} % by sound steps), the majority of {seeds[0].samples} "
        f"{plain['majority']} %, any of them {plain['any']} %."
    )
    parts = [f"## {TASKS[task]}", said, of_labels(seeds), of_models(seeds), of_choices(seeds)]
    return "\n\n".join(parts)


def sections(text: str) -> dict[str, str]:
    """Title -> what a document says of a task, above the mark of what is written by hand."""
    made = text.partition(KEPT)[0].split("\n## ")[1:]
    return {part.partition("\n")[0]: f"## {part}".rstrip() for part in made}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is absent, print the tables and write the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=tuple(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--set", nargs="+", default=(), help="key.sub=value for the runs")
    parser.add_argument("--ready", action="store_true", help="start nothing: of the runs that are complete")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "labels.md")
    given = parser.parse_args(arguments)
    asked = Asked(given.data, given.checkpoints, tuple(given.seeds), tuple(given.set), given.ready)
    old = given.to.read_text(encoding="utf-8") if given.to.exists() else ""
    said, samples = sections(old), 0
    for task in given.tasks:
        runs = {seed: run for seed in asked.seeds if (run := finished(asked, task, seed)) is not None}
        if not runs:
            continue
        found: list[Any] = [figures(run) for run in runs.values()]
        said[TASKS[task]] = section(task, list(runs), found)
        samples = found[0].samples
    if not samples:
        parser.error(f"no run of {', '.join(given.tasks)} is complete in {given.data}: leave --ready out")
    parts = [said[title] for title in TASKS.values() if title in said]
    kept = KEPT + (old.partition(KEPT)[2] if KEPT in old else "\n")
    text = "\n\n".join([HEAD.format(samples=samples), *parts, kept]).rstrip() + "\n"
    print(text)
    DISK.write(given.to, text.encode())


if __name__ == "__main__":
    main()
