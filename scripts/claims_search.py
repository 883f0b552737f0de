"""The papers' claims about guided search, tried on countdown: a part of `make claims`.

    python scripts/claims_search.py                           # three seeds; absent runs are made first
    python scripts/claims_search.py --problems 60 --samples 32 # smaller
    python scripts/claims_search.py --data D --checkpoints C   # runs that stand elsewhere

The policy and the reward model that stand at the end of each rest_mcts_countdown run answer test problems:
one pool of samples a problem, scored once and sub-sampled without bias for every N, and each search at
several budgets. ReST-EM runs learn from as many generated tokens as the run beside them. A difference is
paired over problems: on each problem the mean over the seeds, resampled over problems. What a run answered is
kept in data/claims/, so that an interrupted start goes on; the rows go to claims/measured/search.json.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

from claims_rows import script_arguments, write_rows  # noqa: E402  the environment comes first
from claims_runs import complete_run  # noqa: E402
from claims_table import Evidence, claims, tables  # noqa: E402

from pipeline.commands.budget import tokens_of  # noqa: E402
from pipeline.evaluate import accuracy  # noqa: E402
from pipeline.evaluate.pool import Pool  # noqa: E402
from pipeline.recipe.methods import method  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.recipe.shape import Recipe, dump, fingerprint  # noqa: E402
from pipeline.rows import Label, Trace  # noqa: E402
from pipeline.run.record import by_round, read  # noqa: E402
from pipeline.run.run import Run  # noqa: E402
from pipeline.stages.work import engine_of, make_search, question_of, template_of  # noqa: E402
from pipeline.store.disk import DISK  # noqa: E402

GUIDED, PLAIN = "rest_mcts_countdown", "rest_em_countdown"
COMMAND = "python scripts/claims_search.py"  #: as docs/claims.md names it
VOTERS = 64  #: samples in a vote, where one number is asked for
DRAWS = 16  #: random orders of a pool that the votes are a mean over
RULES = ("last", "min", "prod")
TEMPERATURE = 1.0  #: of samples and searches alike
#: of MCTS*: a tree of two steps is soon grown whole, so its budget is its width; the first ones open a part
#: of their first steps, the last ones all
MCTS = tuple(
    {"branch": b, "iterations": i} for b, i in ((4, 3), (8, 4), (16, 6), (32, 10), (4, 12), (8, 24), (16, 48))
)
BEAMS = tuple({"n": n, "width": 4} for n in (4, 8, 16, 32, 64))
Columns = dict[str, list[Any]]  #: name -> one entry a problem


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    data: Path
    checkpoints: Path
    problems: int
    samples: int
    seeds: tuple[int, ...]
    more: int  #: training problems of the second ReST-EM run
    change: tuple[str, ...]  #: key.sub=value of the ReST-EM runs

    @property
    def sizes(self) -> list[int]:
        """The N of the curve: powers of two up to the pool."""
        return [2**power for power in range(self.samples.bit_length())]

    @property
    def voters(self) -> int:
        return min(VOTERS, self.sizes[-1])


# -- runs


def finished(asked: Asked, name: str, make: Callable[[], Recipe]) -> Run:
    """A run that is complete; one that is absent is made, one that stopped goes on as its own recipe says."""
    own = asked.data / name / "recipe.yaml"
    workspace = Workspace(asked.data, asked.checkpoints)
    return complete_run(workspace, name, lambda: load(own) if own.is_file() else make())


def guided_run(asked: Asked, seed: int) -> Run:
    """The ReST-MCTS* run of a seed, as `ratchet run recipes/rest_mcts_countdown.yaml seed=S` makes it."""
    name = f"{GUIDED}-s{seed}"
    return finished(asked, name, lambda: load(ROOT / f"recipes/{GUIDED}.yaml", [f"seed={seed}"], name))


def plain_run(asked: Asked, guided: Run, problems: int | None) -> Run:
    """The ReST-EM run that learns from as many tokens as a guided run wrote, round 0's probe included.

    problems: None takes the guided run's training problems; else so many, since countdown problems cost
    nothing: the stronger baseline.
    """
    recipe, tokens = guided.recipe, written_tokens(asked, guided)
    task = dump(recipe.tasks[0])
    task["train"] = problems or task["train"]
    share = tokens // recipe.rounds
    samples = (
        math.ceil(share / sample_length(asked, guided) / task["train"]) + 1
    )  # a little more than is paid for
    name = f"rest_em-{task['train']}-s{recipe.seed}-{tokens}"
    overrides = [
        f"task={json.dumps(task)}",
        f"seed={recipe.seed}",
        f"rounds={recipe.rounds}",
        f"tokens_per_round={share}",
        f"stages.sample.n={samples}",
        f"models.policy.base={recipe.models['policy'].base}",
        "wandb.mode=disabled",
        *asked.change,
    ]
    return finished(asked, name, lambda: load(ROOT / f"recipes/{PLAIN}.yaml", overrides, name))


def written_tokens(asked: Asked, run: Run) -> int:
    """Policy tokens that all generate and label stages of a run were charged."""
    rows = read(asked.data / run.name / "metrics.jsonl")
    rounds = by_round(row for row in rows if not row.get("final"))
    return sum(tokens_of(metrics, run.recipe, heads=False) for metrics in rounds.values())


def sample_length(asked: Asked, run: Run) -> float:
    """Tokens of a sample, by round 0's probe."""
    first = by_round(read(asked.data / run.name / "metrics.jsonl"))[0]
    probe = next(stage.name for stage in run.recipe.section("before") if stage.room == "generate")
    return first[f"{probe}/charged/policy"] / first[f"{probe}/traces"]


# -- answers


@dataclass(frozen=True)
class Sitting:
    """A run's last models in front of test problems. number: how many; none: all. value: who judges."""

    asked: Asked
    run: Run
    number: int | None = None
    value: str = "prm"

    @property
    def ids(self) -> list[str]:
        return self.run.ids("test")[: self.number]

    def engine(self, name: str) -> Any:
        """A model of the run as it stands at its end."""
        return engine_of(self.run, self.run.versions.standing(name, self.run.recipe.rounds))

    def drive(self, what: str, settings: Any, asks_of: Callable[[Any], Any], window: int) -> Iterator[Any]:
        """(problem, rows, tokens charged by model), as problems end; `what` and problem name the draws."""
        from pipeline.engine.driver import Driver

        run = self.run
        template = template_of(run, run.versions.standing("policy", run.recipe.rounds))

        def searches() -> Iterator[Any]:
            for problem_id in self.ids:
                problem = run.problems[problem_id]
                task = run.task_of(problem)
                question = question_of(task, problem, template)
                yield make_search(task, settings, problem_id, asks_of(question))

        driver = Driver(self.engine, run_seed=run.recipe.seed, round=0, stage=f"claims {what}")
        for done in driver.run(searches(), window):
            yield run.problems[done.problem_id], done.result, done.charged

    def columns(self, found: dict[str, dict[str, float]]) -> Columns:
        """A number for each problem, in one order."""
        return {name: [found[i][name] for i in self.ids] for name in found[self.ids[0]]}

    def greedy(self) -> Columns:
        """Is the greedy answer right?"""
        settings = accuracy.Settings(of="policy")
        found = {}
        for problem, rows, _ in self.drive(
            "greedy", settings, lambda q: accuracy.answer(q, settings, "policy"), 128
        ):
            found[problem.id] = {"right": float(self.run.task_of(problem).correct(rows[0].answer, problem))}
        return self.columns(found)

    def searched(self, name: str, **given: Any) -> Columns:
        """Is the chosen trace of a search right, and what did it write and read?"""
        module = method("generate", name)
        settings = module.Settings(by="policy", value=self.value, temperature=TEMPERATURE, **given)
        found = {}
        what = f"{name} {json.dumps(given, sort_keys=True)}"
        for problem, rows, charged in self.drive(
            what, settings, lambda q: module.generate(q, settings, None), 128
        ):
            chosen = next((row for row in rows or [] if isinstance(row, Trace) and row.chosen), None)
            right = chosen is not None and self.run.task_of(problem).correct(chosen.answer, problem)
            found[problem.id] = {
                "right": float(right),
                "tokens": float(charged.get("policy", 0)),
                "read": float(charged.get(self.value, 0)),
            }
        return self.columns(found)

    def pooled(self) -> Columns:
        """One pool of samples a problem: whether each is right, its score by each rule, and the votes."""
        asked = self.asked
        settings = accuracy.Settings(
            of="policy", samples=asked.samples, value=self.value, temperature=TEMPERATURE
        )
        found: dict[str, dict[str, Any]] = {}
        for problem, rows, _ in self.drive(
            "pool", settings, lambda q: accuracy.answer(q, settings, "policy"), 4
        ):
            task = self.run.task_of(problem)
            traces = [row for row in rows if isinstance(row, Trace)][1:]
            steps = {row.trace_id: row.step_scores or [] for row in rows if isinstance(row, Label)}
            right = [task.correct(trace.answer, problem) for trace in traces]
            pool = Pool(traces, right, [steps[trace.id] for trace in traces], task.same)
            seed = int(fingerprint(["claims", problem.id])[:15], 16)
            both = pool.votes(["majority", "weighted"], asked.sizes, DRAWS, seed)
            found[problem.id] = {"tokens": pool.tokens, "right": right}
            found[problem.id] |= {f"score/{rule}": pool.scores(rule) for rule in RULES}
            found[problem.id] |= {f"{vote}/{n}": chance for (vote, n), chance in both.items()}
            for rule in RULES[1:]:
                [(key, chance)] = pool.votes(["weighted"], [asked.voters], DRAWS, seed, rule).items()
                found[problem.id][f"weighted/{rule}/{key[1]}"] = chance
            found[problem.id] |= first_steps(task, problem, traces, steps)
        return self.columns(found)

    def kept(self, what: str, ask: Callable[[], Columns], *more: Any) -> Columns:
        """What was answered before under the same weights and settings, or is answered now and kept."""
        run, asked = self.run, self.asked
        weights = [run.versions.standing(name, run.recipe.rounds).hash for name in sorted(run.recipe.models)]
        constants = [self.ids, asked.samples, TEMPERATURE, DRAWS, run.recipe.seed, *more]
        place = asked.data / "claims" / f"{what}-{fingerprint([weights, constants])[:16]}.json"
        if not place.exists():
            start = time.monotonic()
            found = ask()
            DISK.write(place, json.dumps(found).encode())
            print(f"  {run.name}: {what}: {time.monotonic() - start:.0f} s", flush=True)
        return json.loads(place.read_text())


def first_steps(task: Any, problem: Any, traces: list[Trace], steps: dict[str, Any]) -> dict[str, Any]:
    """The different first steps of a pool: scores, and whether the oracle still sees a way to the end."""
    seen = {t.steps[0]: steps[t.id][0] for t in traces if len(t.steps) > 1 and steps[t.id]}
    known = {step: score for step, score in seen.items() if score is not None}
    verdicts = {step: task.step_oracle(problem, [step]) or [] for step in known}
    return {
        "first/score": [score for step, score in known.items() if verdicts[step]],
        "first/true": [verdicts[step][0] for step in known if verdicts[step]],
    }


def evidence(asked: Asked) -> Evidence:
    """All that the claims rest on: seeds in order, each a map of what was asked to what came."""
    found = Evidence(asked.sizes, asked.voters, asked.more)
    for seed in asked.seeds:
        guided = guided_run(asked, seed)
        tokens = written_tokens(asked, guided)
        print(f"{guided.name}: {tokens:,} policy tokens", flush=True)
        answers = {"guided": (whole := Sitting(asked, guided)).kept("greedy", whole.greedy)}
        baselines: dict[str, int | None] = {"plain": None}
        if asked.more != guided.recipe.tasks[0].train:
            baselines["plain/more"] = asked.more
        for key, problems in baselines.items():
            sitting = Sitting(asked, plain_run(asked, guided, problems))
            answers[key] = sitting.kept("greedy", sitting.greedy)
        few = Sitting(asked, guided, asked.problems)
        answers["greedy"] = few.kept("greedy", few.greedy)
        answers["pool"] = few.kept("pool", few.pooled)
        for name, budgets in (("mcts_star", MCTS), ("beam", BEAMS)):
            for given in budgets:
                what = f"{name} " + ", ".join(f"{key} {value}" for key, value in given.items())
                answers[what] = few.kept(name, partial(few.searched, name, **given), given)
        guided.engines.clear()
        found.seeds.append(answers)
        found.tokens.append(tokens)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is absent, measure, print the rows and keep them."""
    parser = script_arguments(__doc__, ROOT / "claims" / "measured" / "search.json")
    parser.add_argument("--problems", type=int, default=300, help="test problems of the searches")
    parser.add_argument("--samples", type=int, default=256, help="in the pool of a problem")
    parser.add_argument(
        "--more",
        type=int,
        default=9000,
        help="problems of a stronger ReST-EM baseline, where the run has fewer",
    )
    given = parser.parse_args(arguments)
    asked = Asked(
        given.data,
        given.checkpoints,
        given.problems,
        given.samples,
        tuple(given.seeds),
        given.more,
        tuple(given.set),
    )
    said = (
        f"{asked.problems} test problems and {asked.samples} samples of each for searches, votes and best "
        f"of N, all at temperature {TEMPERATURE:g}; all test problems against ReST-EM. Equal tokens are "
        "tokens that the policy wrote, roll-outs and looks ahead included; what the reward model (PRM) "
        "reads is not among them."
    )
    found = evidence(asked)
    rows = [replace(row.kept(COMMAND), seeds=list(asked.seeds)) for row in claims(found)]
    for row in rows:
        print(row.line())
    write_rows(given.to, rows, tables(found, said))


if __name__ == "__main__":
    main()
