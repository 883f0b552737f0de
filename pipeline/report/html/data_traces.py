"""The traces that go into the report: about 20,000 over all runs, sampled evenly by problem, dev and test
first, with labels, fate and change.

A problem is in or out as a whole, by the SHA-256 of its id, the same problems in every round and stage, so
that what changed between rounds can be seen. Which problems an evaluation newly solved or lost is counted
over all of its rows, and of each the answers before and now are there, sampled or not. Committed chunks of an
unfinished stage count too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.evaluate import GOLD
from pipeline.recipe.measures import main_of
from pipeline.recipe.shape import Stage, measured
from pipeline.report.html.data import RunData
from pipeline.rows import Dropped, Example, Label, Pair, Problem, StepExample, Trace, sources_of
from pipeline.stages.evaluate import INCUMBENT
from pipeline.stages.files import problems_of
from pipeline.store.folder import StageFolder
from pipeline.store.parts import read_part

MOST_TRACES = 20_000  #: over all runs of a report
MOST_TEXT = 16_000_000  #: characters of steps, over all runs; keeps the file at a few MB
LONGEST = 6_000  #: characters shown of one trace
SHARES = {"dev": 0.5, "test": 0.15}  #: of the traces that a split may take before the others have theirs
KEPT = "kept"


@dataclass
class Place:
    """One stage in one round that wrote traces, and what was said of them."""

    stage: Stage
    round: int
    final: bool
    folder: StageFolder
    split: str
    total: int = 0  #: traces written, candidates only
    traces: dict[str, Trace] = field(default_factory=dict)  #: sampled, by id
    labels: dict[str, list[Label]] = field(default_factory=dict)  #: by trace id
    called: dict[str, bool] = field(default_factory=dict)  #: by trace id: right or wrong, by who sees no gold
    fate: dict[str, str] = field(default_factory=dict)  #: trace id -> kept, or why not
    solved: dict[str, bool] = field(default_factory=dict)  #: by problem; an evaluation's main answer
    main: dict[str, str] = field(default_factory=dict)  #: by problem: that answer's trace
    answers: dict[str, Trace] = field(default_factory=dict)  #: by problem: the same as a row
    verdicts: dict[str, list[Label]] = field(default_factory=dict)  #: by problem: what was said of it
    unanswered: Counter[str] = field(default_factory=Counter)  #: why traces have no answer
    listed: set[str] = field(default_factory=set)  #: problems newly solved or lost here, or next


@dataclass
class Traces:
    """What one run gives to the trace browser."""

    places: list[Place]
    problems: dict[str, Problem]
    total: int
    order: list[str]  #: the sampled problems, in the order in which they are taken

    @property
    def shown(self) -> int:
        return sum(len(place.traces) for place in self.places)

    def list_changes(self, found: RunData) -> None:
        """Every problem that an evaluation newly solved or lost gets its answers before and now."""
        for place in self.places:
            if place.stage.room == "evaluate" and (old := before(found, self.places, place)) is not None:
                changed = {problem_id for ids in flips(found, self.places, place) for problem_id in ids}
                for each in (old, place):
                    each.listed |= changed
        for place in self.places:
            for problem_id in sorted(place.listed):
                trace = place.answers[problem_id]
                if trace.id not in place.traces:
                    place.traces[trace.id] = trace
                    place.labels[trace.id] = place.verdicts[problem_id]

    def keep(self, most: int, most_text: int) -> None:
        """Problems are dropped from the end until no more than this many traces and characters are left."""
        counts: dict[str, list[int]] = {problem_id: [0, 0] for problem_id in self.order}
        for trace in (trace for place in self.places for trace in place.traces.values()):
            if trace.problem_id in counts:
                counts[trace.problem_id][0] += 1
                counts[trace.problem_id][1] += len(trace.text)
        num, text, kept = 0, 0, 0
        for traces, letters in counts.values():
            num, text = num + traces, text + letters
            if num > most or text > most_text:
                break
            kept += 1
        self.order = self.order[:kept]
        wanted = set(self.order)
        for place in self.places:
            mains = {place.main[problem_id] for problem_id in place.listed}
            place.traces = {k: t for k, t in place.traces.items() if t.problem_id in wanted or k in mains}


def read_rows(folder: StageFolder, kinds: tuple[str, ...], chunks: set[int] | None = None) -> Iterator[Any]:
    """The rows of these kinds in every chunk that is done, whether or not the stage is.

    Raises:
        DamagedData: a part is not what its sidecar says.
    """
    if folder.plan() is None:
        return
    for sidecar in folder.sidecars():
        for entry in sidecar.parts:
            if entry["kind"] in kinds and (chunks is None or sidecar.chunk in chunks):
                yield from read_part(folder.path, entry)


def chunks_with(folder: StageFolder, ids: Iterable[str]) -> set[int]:
    """The chunks that hold the rows of these problems."""
    plan, wanted = folder.plan(), set(ids)
    return {n for n, chunk in enumerate(plan.chunks) if not wanted.isdisjoint(chunk.ids)} if plan else set()


def find_places(found: RunData) -> list[Place]:
    """Every stage that wrote traces, in the order of the run."""
    run, places = found.run, []
    for number in range(max([*found.metrics, run.recipe.rounds, 0]) + 1):
        for stage in run.stages_in(number):
            if stage.room in ("generate", "evaluate"):
                folder = run.stage_folder(stage, number)
                if folder.plan() is not None:
                    split = str(getattr(stage.settings, "split", "train"))
                    places.append(Place(stage, number, False, folder, split))
    for row in found.finals():
        stage = run.recipe.stage(row["stage"])
        if stage.room in ("generate", "evaluate"):
            folder = run.stage_folder(stage, row["round"])
            places.append(
                Place(stage, row["round"], True, folder, str(getattr(stage.settings, "split", "test")))
            )
    return places


def _rank(problem_id: str) -> str:
    return hashlib.sha256(problem_id.encode()).hexdigest()


def choose(places: list[Place], most: int) -> list[str]:
    """The problems to show: as many, in hash order, as should fill the budget; dev's first, then test's, each
    with its share, then the others'. Reads no rows."""
    expected: dict[str, dict[str, float]] = {split: {} for split in SHARES}
    for place in places:
        plan = place.folder.plan()
        assert plan is not None
        kind = expected.setdefault(place.split if place.split in SHARES else "", {})
        for sidecar in place.folder.sidecars():
            ids = plan.chunks[sidecar.chunk].ids
            place.total += sidecar.counts.rows.get("Trace", 0)
            for problem_id in ids:
                rate = sidecar.counts.rows.get("Trace", 0) / len(ids)
                kind[problem_id] = kind.get(problem_id, 0.0) + rate
    chosen: dict[str, None] = {}
    left = float(most)
    wanted = {split: sum(kind.values()) for split, kind in expected.items()}
    order = list(expected)
    for place_of, split in enumerate(order):
        kind, later = expected[split], sum(wanted[other] for other in order[place_of + 1 :])
        share = max(SHARES[split] * most, left - later) if split in SHARES else left
        budget = min(left, share)
        for problem_id in sorted(kind, key=_rank):
            budget -= kind[problem_id]
            if budget < 0 and chosen:
                break
            chosen[problem_id] = None
            left -= kind[problem_id]
    return list(chosen)


def read_traces(
    found: RunData,
    most: int = MOST_TRACES,
    most_text: int = MOST_TEXT,
    tick: Callable[[int, int], Any] = lambda done, total: None,
) -> Traces:
    """The sampled traces of a run with what was said of them. tick: called after each stage."""
    places = find_places(found)
    chosen = choose(places, most)
    wanted = set(chosen)
    for number, place in enumerate(places, 1):
        read_place(found, place, wanted)
        tick(number, len(places))
    traces = Traces(places, known_problems(found, places, wanted), sum(p.total for p in places), chosen)
    traces.keep(most, most_text)
    traces.list_changes(found)
    return traces


def read_place(found: RunData, place: Place, wanted: set[str], chunks: set[int] | None = None) -> None:
    """The wanted problems' traces of a place, with what was said of them. chunks: of an evaluation, where not
    all of it shall be read to know what it solved."""
    if place.stage.room == "evaluate":
        _read_evaluation(found, place, wanted, chunks)
    else:
        _read_generation(found, place, wanted)


def _read_evaluation(found: RunData, place: Place, wanted: set[str], chunks: set[int] | None) -> None:
    """An evaluation holds its labels beside its traces. Its candidates only: an incumbent's rows stand in the
    round that made it.
    """
    mains: dict[str, dict[str, Trace]] = {}  # problem -> "greedy" | "chosen" | "first" -> its trace
    right: dict[str, bool] = {}
    said: dict[str, list[Label]] = {}
    first, judges = measured(place.stage)[0], main_of(place.stage) is not None
    for row in read_rows(place.folder, ("Trace", "Label"), chunks):
        if isinstance(row, Label):
            if row.labeller == GOLD and row.correct is not None:
                right[row.trace_id] = row.correct
            said.setdefault(row.trace_id, []).append(row)
            continue
        if row.model.endswith(INCUMBENT):
            place.total -= 1
            continue
        if row.is_attempt and (row.model in (first, "") or not judges):
            kind = "chosen" if row.chosen else "greedy" if row.temperature == 0 else "first"
            mains.setdefault(row.problem_id, {}).setdefault(kind, row)
            if row.answer is None:
                place.unanswered[why_none(found, row)] += 1
        if row.problem_id in wanted:
            place.traces[row.id] = row
    place.labels = {trace_id: said[trace_id] for trace_id in place.traces if trace_id in said}
    if judges:
        for problem_id, kinds in mains.items():
            main = kinds.get("chosen") or kinds.get("greedy") or kinds["first"]
            if main.id in right:
                place.solved[problem_id], place.main[problem_id] = right[main.id], main.id
                place.answers[problem_id], place.verdicts[problem_id] = main, said[main.id]


def why_none(found: RunData, trace: Trace) -> str:
    """Why a trace has no answer: `cut` by a limit, what the task says of its text, or just `no answer`."""
    if trace.finish in ("length", "budget"):
        return "cut"
    tasks = list(found.run.tasks.values())
    return next((said for task in tasks if (said := task.why_no_answer(trace.text))), "no answer")


def _read_generation(found: RunData, place: Place, wanted: set[str]) -> None:
    """A generation's labels and fate stand in the stages that read it."""
    run = found.run
    own = read_rows(place.folder, ("Trace",), chunks_with(place.folder, wanted))
    place.traces = {row.id: row for row in own if row.problem_id in wanted}
    stages = run.stages_in(place.round) if not place.final else run.recipe.section("finally")
    labelling = [s for s in stages if s.room == "label" and place.stage.name in s.sources]
    names = {place.stage.name, *(stage.name for stage in labelling)}
    selecting = [s for s in stages if s.room == "select" and names & {str(x) for x in s.sources}]
    for stage in labelling:
        folder = run.stage_folder(stage, place.round)
        for row in read_rows(folder, ("Label",), chunks_with(folder, wanted)):
            if row.problem_id in wanted and row.trace_id in place.traces:
                if row.correct is not None and not stage.settings.sees_gold:
                    place.called[row.trace_id] = row.correct
                    row = replace(row, correct=None)
                place.labels.setdefault(row.trace_id, []).append(row)
                if row.correct is not None:
                    place.solved[row.problem_id] = place.solved.get(row.problem_id, False) or row.correct
    for stage in sorted(selecting, key=lambda s: "Example" not in getattr(s.settings, "makes", ())):
        folder = run.stage_folder(stage, place.round)
        kinds = ("Example", "StepExample", "Pair", "Dropped")
        for row in read_rows(folder, kinds, chunks_with(folder, wanted)):
            if row.problem_id in wanted:
                _settle(place, row)


def _settle(place: Place, row: Example | StepExample | Pair | Dropped) -> None:
    """What became of a trace; the first filter's word counts, where it is not of this round's own rows."""
    if isinstance(row, Dropped):
        if row.what in place.traces:
            place.fate.setdefault(row.what, row.reason)
    else:
        for trace_id in sources_of(row):
            if trace_id in place.traces:
                place.fate.setdefault(trace_id, KEPT)


def known_problems(found: RunData, places: list[Place], wanted: set[str]) -> dict[str, Problem]:
    """The sampled problems, prepared or imagined, and all that an evaluation measured."""
    asked = wanted | {i for place in places if place.stage.room == "evaluate" for i in place.solved}
    prepared = found.run.prepare_folder
    rows = read_rows(prepared, ("Problem",), chunks_with(prepared, asked))
    known = {row.id: row for row in rows if row.id in asked}
    known.update({key: row for key, row in problems_of(found.run).items() if key in asked})
    for place in places:
        if place.stage.room == "generate" and "Problem" in getattr(place.stage.settings, "makes", ()):
            known.update({row.id: row for row in read_rows(place.folder, ("Problem",)) if row.id in asked})
    return known


def bin_sizes(traces: Traces) -> dict[tuple[str, str], int]:
    """(stage, difficulty) -> how many problems an evaluation measured there."""
    sizes: dict[tuple[str, str], int] = {}
    newest = {place.stage.name: place for place in traces.places if place.solved and not place.final}
    for stage, place in newest.items():
        found = [traces.problems[i] for i in place.solved if i in traces.problems]
        several = len({problem.source for problem in found}) > 1
        for problem in found:
            names = (
                [problem.source, f"{problem.source}/{problem.difficulty}"]
                if several
                else [problem.difficulty]
            )
            for name in names:
                sizes[stage, name] = sizes.get((stage, name), 0) + 1
    return sizes


def unanswered(traces: Traces) -> list[dict[str, Any]]:
    """Why traces of an evaluation have no answer: `cut`, `invalid arithmetic`, `no answer`, by round."""
    return [
        {"round": place.round, "stage": place.stage.name, "why": why, "count": count}
        for place in traces.places
        if place.stage.room == "evaluate" and not place.final
        for why, count in sorted(place.unanswered.items())
    ]


# --- what changed


def before(found: RunData, places: list[Place], place: Place) -> Place | None:
    """The same stage in the round whose model stood before this one: what a change is against."""
    earlier = {
        p.round: p
        for p in places
        if p.stage.name == place.stage.name and p.round < place.round and not p.final
    }
    if place.final or not earlier:
        return None
    model = measured(place.stage)[0] if place.stage.room == "evaluate" else ""
    gate = found.gates.get(place.round - 1)
    if gate and (standing := gate["standing"].get(model.partition("@")[0])):
        stood = max(int(standing["round"]), 0)
        if stood in earlier:
            return earlier[stood]
    return earlier[max(earlier)]


def flips(found: RunData, places: list[Place], place: Place) -> tuple[list[str], list[str]]:
    """The problems newly solved and newly lost at a place."""
    old = before(found, places, place)
    if old is None:
        return [], []
    both = [problem_id for problem_id in place.solved if problem_id in old.solved]
    return (
        [i for i in both if place.solved[i] and not old.solved[i]],
        [i for i in both if old.solved[i] and not place.solved[i]],
    )


def learned(found: RunData, traces: Traces) -> list[dict[str, Any]]:
    """For each round of each evaluation: how many problems were newly solved and lost, and which."""
    rows = []
    for place in traces.places:
        if place.stage.room != "evaluate" or place.final or not place.solved:
            continue
        if before(found, traces.places, place) is None:
            continue
        solved, lost = flips(found, traces.places, place)
        rows.append(
            {
                "round": place.round,
                "stage": place.stage.name,
                "problems": len(place.solved),
                "solved": solved,
                "lost": lost,
            }
        )
    return rows
