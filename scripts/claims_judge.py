"""How good must a judge of open steps be for a search to beat best of N? Countdown with four numbers.

    python scripts/claims_judge.py                              # three seeds; what is absent is made first
    python scripts/claims_judge.py --problems 60 --samples 64   # smaller
    python scripts/claims_judge.py --value implicit             # another reward model of judge_countdown4

The policy of a rest_em_countdown4 run searches with four judges: the learned reward model; one that is exact
about open steps (may the target still be reached?) and learned about ends; one that is exact about both; and
ones that know of open steps as much as an AUC within a problem says (a normal variable, its mean apart by the
truth, one draw a prefix) and are learned about ends. Against them stands best of N by the same learned model,
or by an exact one, for as many tokens of the policy. The rows go to claims/measured/judge.json.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import NormalDist
from typing import Any

import numpy as np
from claims_rows import Row, script_arguments, write_rows
from claims_search import ROOT, TEMPERATURE, Asked, Sitting, finished
from claims_table import MCTS, SNELL, Contrast, Evidence, Grid
from labels_table import AUCS, aucs, judged_rows

from pipeline.recipe.read import load
from pipeline.recipe.shape import Recipe
from pipeline.rows import Problem
from pipeline.run.run import Run
from pipeline.stages.work import question_of, template_of
from pipeline.vote.aggregate import weight

POLICY, JUDGE = "rest_em_countdown4", "judge_countdown4"
COMMAND = "python scripts/claims_judge.py"
LEARNED, OPEN, ALL = "learned", "exact about open steps", "exact"
KNOWS = (0.65, 0.75, 0.85)  #: AUCs within a problem of the judges in between
SEARCHES: tuple[tuple[str, str, str, dict[str, int]], ...] = (
    ("beam", "beam", SNELL, {"n": 8, "width": 4}),
    ("beam", "beam", SNELL, {"n": 16, "width": 4}),
    ("dvts", "DVTS", SNELL, {"n": 32, "width": 4}),
    ("mcts_star", "MCTS*", MCTS, {"branch": 16, "iterations": 8}),
)
OPEN_STEP = ", left "  #: stands in a step of the seed's dialect after which something is left to do


@dataclass
class Judge:
    """A reward model of which some answers are the truth's. Everything else is the engine's."""

    engine: Any
    task: Any
    problems: dict[tuple[int, ...], Problem]  #: by the ids of their prompt
    kind: str | float  #: OPEN, ALL, or an AUC

    score_kind = "value"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    @cached_property
    def apart(self) -> float:
        """How far apart two normal variables lie whose AUC is the asked one."""
        return math.sqrt(2) * NormalDist().inv_cdf(float(self.kind))

    def score(self, items: Sequence[Any], memories: Sequence[Any] = ()) -> list[list[float]]:
        """[prefix][step]: scores from 0 to 1."""
        said = self.engine.score(items, memories)
        replies = []
        for (ids, places), (_, num_prompt), row in zip(items, memories, said, strict=True):
            text = self.engine.decode(ids[num_prompt : places[-1] + 1]) if places else ""
            learned = [weight(each, self.engine.score_kind) for each in row]
            replies.append(self.judged(self.problems[tuple(ids[:num_prompt])], text, learned))
        return replies

    def judged(self, problem: Problem, text: str, learned: Sequence[float]) -> list[float]:
        """A score for each step of a completion, given what was learned of them."""
        steps = self.task.steps(text)
        truths = self.task.step_oracle(problem, steps)
        return [
            self._of(truth, OPEN_STEP in step, score, [problem.id, *steps[: number + 1]])
            for number, (step, truth, score) in enumerate(zip(steps, truths, learned, strict=True))
        ]

    def _of(self, truth: bool, is_open: bool, learned: float, prefix: list[str]) -> float:
        if self.kind == ALL:
            return float(truth)
        if not is_open:
            return learned
        if self.kind == OPEN:
            return float(truth)
        draw = int(hashlib.sha256("\n".join(prefix).encode()).hexdigest()[:12], 16) / 16**12
        seen = NormalDist().inv_cdf(min(max(draw, 1e-9), 1 - 1e-9)) + self.apart * (truth - 0.5)
        return 1 / (1 + math.exp(-seen))


@dataclass(frozen=True)
class Judged(Sitting):
    """A sitting in which somebody else may judge."""

    kind: str | float = LEARNED

    def engine(self, name: str) -> Any:
        engine = super().engine(name)
        if name != self.value or self.kind == LEARNED:
            return engine
        run = self.run
        template = template_of(run, run.versions.standing("policy", run.recipe.rounds))
        problems = [run.problems[each] for each in self.ids]
        asked = [(question_of(run.task_of(one), one, template), one) for one in problems]
        prompts = {tuple(engine.encode(question.prompt)): one for question, one in asked if question}
        return Judge(engine, run.task_of(problems[0]), prompts, self.kind)


def judge_run(asked: Asked, seed: int, change: Sequence[str]) -> Run:
    """The run whose reward models are tried, changed so; the policy's run first."""

    def of(name: str, *more: str) -> Recipe:
        overrides = [f"seed={seed}", "wandb.mode=disabled", *more]
        return load(ROOT / "recipes" / f"{name}.yaml", overrides, f"{name}-s{seed}")

    policy = finished(asked, f"{POLICY}-s{seed}", lambda: of(POLICY, *asked.change))
    last = f"run://{policy.name}@{policy.recipe.rounds}/policy"
    lent = [
        name for name, model in load(ROOT / f"recipes/{JUDGE}.yaml").models.items() if POLICY in model.base
    ]
    return finished(
        asked,
        f"{JUDGE}-s{seed}",
        lambda: of(JUDGE, *(f"models.{name}.base={last}" for name in lent), *change),
    )


def label(name: str, given: dict[str, int], kind: str | float) -> str:
    """How answers are filed: search, budget, judge."""
    return f"{name} {', '.join(f'{key} {value}' for key, value in given.items())}; {kind}"


def evidence(asked: Asked, value: str, change: Sequence[str]) -> tuple[Evidence, list[Run]]:
    """What each search answered with each judge, and one pool of samples, a seed; and the runs."""
    found, runs = Evidence(asked.sizes, asked.voters, 0), []
    for seed in asked.seeds:
        runs.append(run := judge_run(asked, seed, change))
        plain = Judged(asked, run, asked.problems, value)
        answers = {"pool": plain.kept("judge-pool", plain.pooled, value)}
        for kind in (LEARNED, OPEN, ALL, *KNOWS):
            sitting = Judged(asked, run, asked.problems, value, kind)
            for name, _, _, given in SEARCHES:
                search = partial(sitting.searched, name, **given)
                answers[label(name, given, kind)] = sitting.kept(f"judge-{name}", search, given, value, kind)
        run.engines.clear()
        found.seeds.append(answers)
    return found, runs


def against(found: Evidence, what: str, kind: str | float) -> tuple[Grid, Grid]:
    """A search's answers, and those of best of N for as many tokens of the policy: by the learned judge of
    ends, or by an exact one."""
    numbers = found.equal(what)
    if kind != ALL:
        return found.grid(what), found.best(numbers)
    any_right = [found.solved(int(number))[seed] for seed, number in enumerate(numbers)]
    return found.grid(what), np.array(any_right)


def rows(found: Evidence, seeds: Sequence[int]) -> list[Row]:
    """The claims: each search against best of N, by judge."""
    made = []
    for kind, words in (
        (LEARNED, "a learned judge"),
        (OPEN, "an exact judge of open steps"),
        (ALL, "an exact judge"),
    ):
        for name, said, paper, given in SEARCHES:
            budget = ", ".join(f"{key} {value}" for key, value in given.items())
            claim = f"four numbers, {words}: {said} ({budget}) beats best of N at equal tokens"
            after, before = against(found, label(name, given, kind), kind)
            made.append(Contrast(claim, paper, (said, "best of N"), after, before).kept(COMMAND))
    return [replace(row, by="judge", seeds=list(seeds)) for row in made]


def threshold(found: Evidence) -> list[str]:
    """Points above best of N by the AUC of the judge of open steps, ends learned."""
    kinds = (LEARNED, *KNOWS, OPEN)
    heads = ["learned", *(f"AUC {kind:.2f}" for kind in KNOWS), "exact"]
    lines = ["| search | best of N | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for name, said, paper, given in SEARCHES:
        pairs = [against(found, label(name, given, kind), kind) for kind in kinds]
        figures = [Contrast("", paper, ("", ""), *pair).figures for pair in pairs]
        cells = [f"{100 * d:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for d, low, high in figures]
        budget = ", ".join(f"{key} {value}" for key, value in given.items())
        lines.append(f"| {said}, {budget} | {100 * pairs[0][1].mean():.1f} | " + " | ".join(cells) + " |")
    return lines


def learned(runs: Sequence[Run]) -> list[str]:
    """What each reward model of the judge runs knows: means over seeds, and in a problem each seed's own."""
    lines = ["| reward model | " + " | ".join(f"AUC, {kind}" for kind in AUCS) + " | by seed |"]
    lines.append("|---" * (len(AUCS) + 2) + "|")
    names = [name for name, model in runs[0].recipe.models.items() if model.head]
    areas = [{name: aucs(rows) for name, rows in judged_rows(run, "quality", names).items()} for run in runs]
    for name in names:
        means = [sum(one[name][kind] for one in areas) / len(areas) for kind in AUCS]
        each = ", ".join(f"{one[name]['in a problem']:.3f}" for one in areas)
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in means) + f" | {each} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is absent, measure, print the rows and keep them."""
    parser = script_arguments(__doc__, ROOT / "claims" / "measured" / "judge.json")
    parser.add_argument("--problems", type=int, default=300, help="test problems")
    parser.add_argument("--samples", type=int, default=128, help="in the pool of a problem")
    parser.add_argument("--value", default="prm", help="the reward model of judge_countdown4 that is tried")
    parser.add_argument("--set-judge", nargs="+", default=(), help="key.sub=value for the judge runs")
    given = parser.parse_args(arguments)
    asked = Asked(
        given.data, given.checkpoints, given.problems, given.samples, tuple(given.seeds), 0, tuple(given.set)
    )
    found, runs = evidence(asked, given.value, given.set_judge)
    kept = rows(found, given.seeds)
    for row in kept:
        print(row.line())
    said = (
        f"{asked.problems} problems of countdown with four numbers, temperature {TEMPERATURE:g}; "
        f"searches with `{given.value}`. Points above best of N for as many tokens of the policy, by what "
        "the judge knows of open steps (an AUC within a problem); ends are judged as learned."
    )
    tables = [
        f"## How good must a judge of steps be?\n\n{said}\n\n" + "\n".join(threshold(found)),
        f"What was learned (`recipes/{JUDGE}.yaml`):\n\n" + "\n".join(learned(runs)),
    ]
    print("\n\n".join(tables))
    write_rows(given.to, kept, tables)


if __name__ == "__main__":
    main()
