"""A whole run of ReST-MCTS* without models: rows written by a rule, everything else (labels, filters, metrics,
gates) by the real code through the store. Its policy gets better by the round, and some of its text is hostile.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import GeneratorType
from typing import Any

import yaml

from pipeline.evaluate import accuracy, gate, prm_quality
from pipeline.label import outcome, tree_value
from pipeline.recipe import read as recipes
from pipeline.recipe.shape import Recipe, Stage, data_settings
from pipeline.report.console import Console
from pipeline.rows import SCHEMA_VERSION, Label, Node, Problem, Row, Trace
from pipeline.run.run import Run
from pipeline.select import correct, step_values
from pipeline.stages.inputs import ChunkReader, inputs_of, slices
from pipeline.store.disk import Disk
from pipeline.store.plan import Plan
from pipeline.store.workspace import Workspace
from pipeline.tasks import countdown, prepare

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=2><!--"
SKILL = (0.45, 0.62, 0.78, 0.84)  #: chance of a right step, by round
CHUNK = 8


def recipe_data(name: str, rounds: int, num: int) -> dict[str, Any]:
    lora, rule = {"r": 4}, {"metric": "measure/accuracy/greedy", "margin": 0.02}
    mcts = {"generate": "mcts_star", "by": "policy", "value": "prm", "iterations": 8, "chunk": CHUNK}
    measure = {"evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 4, "value": "prm"}
    return {
        "name": name,
        "about": "A run </pre><script>window.owned=3</script> for tests",
        "task": {"use": "countdown", "train": num, "dev": num, "test": num, "max_tokens": 60},
        "models": {
            "policy": {"base": "seed://countdown", "restart_from": "base", "lora": lora, "gate": rule},
            "prm": {"base": "seed://countdown", "head": "value", "lora": lora, "gate": {"metric": "quality/auc", "margin": 0.02}},
        },
        "rounds": rounds,
        "before": {
            "probe": {"generate": "sample", "by": "policy", "n": 3, "chunk": CHUNK},
            "credit": {"label": "outcome", "from": "probe"},
            "seeds": {"select": "step_values", "from": "credit"},
            "first": {"train": "prm", "model": "prm", "from": "seeds"},
        },
        "stages": {
            "search": mcts,
            "values": {"label": "tree_value", "from": "search"},
            "traces": {"select": "correct", "from": "values", "max_per_problem": 2},
            "steps": {"select": "step_values", "from": "values"},
            "learn": {"train": "sft", "model": "policy", "from": "traces"},
            "refine": {"train": "prm", "model": "prm", "from": "steps"},
            "measure": measure | {"votes": ["majority", "weighted"]},
            "quality": {"evaluate": "prm_quality", "of": "prm", "samples": 3},
        },
        "finally": {
            "final": {"evaluate": "accuracy", "of": ["policy", "policy@0"], "split": "test", "samples": 4},
        },
    }  # fmt: skip


class HastyDisk(Disk):
    """Waits for no platter: nothing here is about power cuts."""

    def sync(self, *given: Any) -> None:
        pass

    def sync_folder(self, *given: Any) -> None:
        pass


class World:
    """Writes one run. `until`: (round, stage) that is left unfinished, with half of its chunks done."""

    def __init__(
        self, data: Path, name: str = "world", rounds: int = 3, num: int = 24, seed: int = 0
    ) -> None:
        path = data / name / "recipe.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(recipe_data(name, rounds, num), sort_keys=False))
        self.recipe: Recipe = recipes.load(path)
        path.write_text(yaml.safe_dump(self.recipe.resolved(), sort_keys=False))
        self.workspace = Workspace(data, data.parent / "checkpoints")
        self.run = Run(self.recipe, Console(quiet=True), self.workspace, disk=HastyDisk())
        self.task = countdown.Task(self.recipe.tasks[0])
        self.num, self.seed, self.data = num, seed, data
        self.until: tuple[int, str] | None = None
        self.metrics: dict[int, dict[str, float]] = {}
        self.standing: dict[str, Any] = {}

    def write(self, until: tuple[int, str] | None = None) -> World:
        self.until = until
        self._prepare()
        for number in range(self.recipe.rounds + 1):
            for stage in self.run.stages_in(number):
                if not self._stage(stage, number):
                    return self
            self._gate(number)
        for stage in self.recipe.section("finally"):
            self._stage(stage, self.recipe.rounds)
        return self

    # --- the store

    def _prepare(self) -> None:
        found = prepare.gather([self.task]).problems
        plan = self._plan(None, -1, [p.id for p in found], main="Problem")
        folder = self.run.prepare_folder
        folder.begin(plan)
        rows = {problem.id: problem for problem in found}
        for number, chunk in enumerate(plan.chunks):
            with folder.writing(number) as part:
                part.add([rows[i] for i in chunk.ids])
        folder.commit({})

    def _plan(self, stage: Stage | None, number: int, ids: list[str], main: str) -> Plan:
        sources = inputs_of(self.run, stage, number) if stage else []
        chunks = slices(ids, CHUNK)
        if len(sources) == 1:
            [one] = sources
            chunks = [replace(c, reads={one.path: [i]}) for i, c in enumerate(one.plan.chunks)]
        return Plan.make(
            run=self.run.name, round=number, stage=stage.name if stage else "prepare",
            room=stage.room if stage else "prepare", method=stage.method if stage else "gather", main=main,
            settings=data_settings(stage.settings) if stage else {}, inputs={s.path: s.folder.require().hash for s in sources},
            models={}, schema=SCHEMA_VERSION, seed=self.seed, chunks=chunks,
            recorded={"versions": {"torch": "2.13.0"}, "threads": "1"},
        )  # fmt: skip

    def _stage(self, stage: Stage, number: int) -> bool:
        """False where the run ends in the middle of it."""
        main = {"generate": "Trace", "label": "Label", "evaluate": "Trace", "train": ""}.get(stage.room)
        main = next(iter(stage.settings.makes)) if main is None else main
        ids = [] if stage.room == "train" else self.run.ids(getattr(stage.settings, "split", "train"))
        plan = self._plan(stage, number, ids, main)
        plan = replace(plan, chunks=[]) if stage.room == "train" else plan
        plan = replace(plan, fingerprint=plan.compute_fingerprint())
        folder, reader, rows = self.run.stage_folder(stage, number), ChunkReader(self.data), []
        folder.begin(plan)
        cut = self.until == (number, stage.name)
        for place, chunk in enumerate(plan.chunks[: len(plan.chunks) // 2 if cut else None]):
            groups = reader.groups(chunk) if chunk.reads else {}
            whole = [
                row
                for i in chunk.ids
                for row in self._rows(stage, number, self.run.problems[i], groups.get(i))
            ]
            whole = [replace(r, round=number, stage=stage.name) if isinstance(r, Row) else r for r in whole]
            with folder.writing(place) as part:
                part.add(whole)
                part.count("given", sum(len(g.traces) for g in groups.values()) or len(chunk.ids))
                if right := sum(bool(r.correct) for r in whole if isinstance(r, Label)):
                    part.count("right", right)
                if stage.room in ("generate", "evaluate"):
                    part.count("charged/policy", sum(len(r.token_ids) for r in whole if isinstance(r, Trace)))
            rows += whole
        if cut:
            return False
        folder.commit(self._extra(stage, number, rows))
        line = {"round": number, "stage": stage.name, "seconds": 1.5 + len(rows) / 100, "spent": {}}
        with (self.run.folder / "timing.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return True

    # --- rows

    def _rows(self, stage: Stage, number: int, problem: Problem, group: Any) -> list[Any]:
        rng = random.Random(f"{self.seed} {stage.name} {number} {problem.id}")
        if stage.method in ("outcome", "tree_value"):
            module = outcome if stage.method == "outcome" else tree_value
            return finished(module.label(problem, group, stage.settings, self.task))
        if stage.method in ("correct", "step_values"):
            module = correct if stage.method == "correct" else step_values
            return module.select(group, stage.settings, self.task, lambda text: [1, 2])
        if stage.method == "mcts_star":
            return self._tree(rng, number, problem)
        if stage.method == "sample":
            return [self._trace(rng, number, problem, f"{problem.id}/probe.0/{n}") for n in range(3)]
        return self._answers(rng, stage, number, problem)

    def _answers(self, rng: random.Random, stage: Stage, number: int, problem: Problem) -> list[Any]:
        models = ["prm"] if stage.method == "prm_quality" else ["policy"]
        models += ["policy@0"] if stage.section == "finally" else []
        rows: list[Any] = []
        for model in models:
            skill = 0 if model.endswith("@0") else number
            # paired: what a problem's greedy answer needs does not change between rounds
            own = random.Random(f"{self.seed} greedy {problem.id}")
            for n in range(stage.settings.samples + (model != "prm")):
                greedy = n == 0 and model != "prm"
                trace = self._trace(own if greedy else rng, skill, problem, f"{problem.id}/{model}/{n}")
                trace = replace(
                    trace, model="policy" if model == "prm" else model, temperature=0.0 if greedy else 1.0
                )
                rows.append(trace)
                if not greedy:
                    verdicts = self.task.step_oracle(problem, trace.steps) or [True] * len(trace.steps)
                    scores = [
                        min(max(rng.gauss(0.75 if ok else 0.3, 0.22 - 0.03 * number), 0), 1)
                        for ok in verdicts
                    ]
                    rows[-1] = replace(trace, score=scores[-1])
                    rows.append(
                        Label(problem_id=problem.id, trace_id=trace.id, step_scores=scores, labeller="prm")
                    )
        module = prm_quality if stage.method == "prm_quality" else accuracy
        return rows + module.grade(problem, rows, self.task)

    def _steps(self, rng: random.Random, number: int, problem: Problem) -> list[str]:
        gold = (self.task.gold_completion(problem) or "?").splitlines(keepends=True)
        luck = [rng.random() for _ in gold]
        return [
            step
            if chance < SKILL[min(number, 3)] + 0.1
            else step.replace("=", f"= {HOSTILE if luck[0] > 0.97 else ''}1", 1)
            for step, chance in zip(gold, luck, strict=True)
        ]

    def _trace(self, rng: random.Random, number: int, problem: Problem, name: str) -> Trace:
        return self._whole(problem, name, self._steps(rng, number, problem))

    def _whole(self, problem: Problem, name: str, steps: list[str], **more: Any) -> Trace:
        ids = [hash_of(word) for step in steps for word in step.split()]
        ends, at = [], 0
        for step in steps:
            at += len(step.split())
            ends.append(at)
        text = "".join(steps)
        return Trace(
            problem_id=problem.id, id=name, prompt=self.task.prompt(problem.question), text=text, token_ids=ids,
            step_ends=ends, steps=steps, answer=self.task.extract(text), model="policy", **more,
        )  # fmt: skip

    def _tree(self, rng: random.Random, number: int, problem: Problem) -> list[Any]:
        front = f"{problem.id}/search.{number}"
        nodes = [
            Node(problem_id=problem.id, id=f"{front}/n0", parent=None, step="", depth=0, value=0.4, visits=14)
        ]
        traces: list[Trace] = []
        open_ends: list[tuple[Node, list[str]]] = [(nodes[0], [])]
        most = len((self.task.gold_completion(problem) or "?").splitlines())
        while open_ends:
            parent, before = open_ends.pop(0)
            steps = {self._steps(rng, number, problem)[len(before)] for _ in range(3)}
            for step in sorted(steps):
                done = len(before) + 1 == most
                name = f"{front}/{len(traces)}" if done else None
                node = Node(
                    problem_id=problem.id, id=f"{front}/n{len(nodes)}", parent=parent.id, step=step, depth=parent.depth + 1,
                    value=round(rng.uniform(0.05, 0.98), 3), visits=max(1, parent.visits // 2 - rng.randint(0, 2)),
                    terminal=done, trace_id=name, token_ids=[hash_of(word) for word in step.split()],
                )  # fmt: skip
                nodes.append(node)
                if done:
                    traces.append(
                        self._whole(problem, name or "", [*before, step], score=node.value, temperature=0.7)
                    )
                else:
                    open_ends.append((node, [*before, step]))
        best = max(traces, key=lambda trace: trace.score or 0)
        return [*nodes, *(replace(trace, chosen=trace is best) for trace in traces)]

    # --- numbers

    def _extra(self, stage: Stage, number: int, rows: list[Any]) -> dict[str, Any]:
        if stage.room == "train":
            history = [{"step": s, "loss": 2.0 / (1 + s / 10) + 0.1 * number} for s in range(10, 60, 10)]
            record = self._record(stage.settings.model, number)
            return {
                "weights": record,
                "metrics": {"loss": 0.4, "steps": 50},
                "dropped": {},
                "history": history,
            }
        if stage.room != "evaluate":
            return {}
        module: Any = prm_quality if stage.method == "prm_quality" else accuracy
        names = [stage.settings.of] if isinstance(stage.settings.of, str) else list(stage.settings.of)
        found = {name: self._outcomes(stage, number, name, rows, module) for name in names}
        stood = self.standing.get(names[0])
        if stage.section == "stages" and number > 0 and stood:
            earlier = list(self.run.stage_folder(stage, max(stood["round"], 0)).read("Trace"))
            earlier += list(self.run.stage_folder(stage, max(stood["round"], 0)).read("Label"))
            found[f"{names[0]}@incumbent"] = self._outcomes(stage, number, names[0], earlier, module)
        metrics = module.measure(found, stage.settings)
        self.metrics.setdefault(number, {}).update(
            {f"{stage.name}/{key}": value for key, value in metrics.items()}
        )
        return {"metrics": metrics, "reused": {}, "warnings": [], "failures": []}

    def _outcomes(self, stage: Stage, number: int, name: str, rows: list[Any], module: Any) -> list[Any]:
        found = []
        for problem_id in self.run.ids(stage.settings.split):
            traces = [r for r in rows if isinstance(r, Trace) and r.problem_id == problem_id]
            labels = [r for r in rows if isinstance(r, Label) and r.problem_id == problem_id]
            problem = self.run.problems[problem_id]
            task = self.run.task_of(problem)
            found.append(module.outcomes(problem, traces, labels, stage.settings, name, task))
        return found

    def _record(self, model: str, number: int) -> dict[str, Any]:
        head = self.recipe.models[model].head
        return {
            "model": model,
            "base": "seed://countdown",
            "adapter": f"checkpoints/{model}",
            "hash": f"{number}" * 64,
            "round": number,
            "head": head,
        }

    def _gate(self, number: int) -> None:
        decisions = {}
        trained = [s.settings.model for s in self.run.stages_in(number) if s.room == "train"]
        for model, spec in self.recipe.models.items():
            old = self.standing.get(model)
            if model not in trained:
                self.standing[model] = old or self._record(model, -1)
                continue
            decision = gate.decide(list(spec.gate), self.metrics[number], first=old is None)
            decisions[model] = decision.as_dict() | {"trial": False, "candidate": self._record(model, number)}
            self.standing[model] = self._record(model, number) if decision.promote or old is None else old
        document = {"round": number, "decisions": decisions, "standing": self.standing}
        self.run.gate_file(number).write_text(json.dumps(document))


def hash_of(word: str) -> int:
    """A token id that does not depend on the process."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(word)) % 5000


def finished(asks: Any) -> list[Any]:
    """What a method that asks nothing returns."""
    assert isinstance(asks, GeneratorType)
    try:
        next(asks)
    except StopIteration as end:
        return end.value
    raise AssertionError("it asked a model")
