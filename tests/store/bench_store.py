"""A million rows through the store: memory stays flat, time is linear. Called by scripts/bench.py; not a
test.

    python tests/store/bench_store.py [ROWS] [FOLDER]

Every pass runs in a process of its own, whose peak memory is read from the kernel.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.rows import Dropped, Example, Label, Trace
from pipeline.store.folder import ChunkPlan, Plan, StageFolder

CHUNK = 5_000


def _traces(first: int, count: int) -> Iterator[Trace]:
    """Synthetic traces of the size of a short countdown solution."""
    for i in range(first, first + count):
        steps = [f"{i % 97} + {i % 89} = {i % 97 + i % 89}\n", f"{i} * 3 = {3 * i}\n", f"answer: {i % 21}"]
        ids = [(i * 31 + k) % 999 for k in range(48)]
        yield Trace(
            problem_id=f"p{i // 8}",
            round=1,
            stage="sample",
            id=f"p{i // 8}/{i % 8}",
            prompt=f"Use {i % 13}, {i % 11} and {i % 7} to make {i % 100}.\n",
            text="".join(steps),
            token_ids=ids,
            step_ends=[16, 32, 48],
            steps=steps,
            answer=str(i % 21),
            logprobs=[-(token % 50) / 7 for token in ids],
        )


def _begin(folder: StageFolder, room: str, main: str, rows: int, inputs: dict[str, str]) -> Plan:
    chunks = [
        ChunkPlan([f"p{i}" for i in range(first // 8, (first + CHUNK) // 8)], {path: [n] for path in inputs})
        for n, first in enumerate(range(0, rows, CHUNK))
    ]
    return folder.begin(
        Plan.make(
            run="bench", round=1, stage=folder.path.name, room=room, method=room, main=main, settings={}, 
            inputs=inputs, models={}, seed=0, chunks=chunks,
        )
    )  # fmt: skip


def write_pass(root: Path, rows: int) -> int:
    """Generate: traces in."""
    folder = StageFolder(root / "sample")
    plan = _begin(folder, "generate", "Trace", rows, {})
    for chunk in range(len(plan.chunks)):
        with folder.writing(chunk) as part:
            part.add(_traces(chunk * CHUNK, min(CHUNK, rows - chunk * CHUNK)))
    return folder.commit().rows(Trace)


def label_pass(root: Path, rows: int) -> int:
    """Label: a chunk's traces read, a label for each written."""
    source, folder = StageFolder(root / "sample"), StageFolder(root / "check")
    plan = _begin(folder, "label", "Label", rows, {"bench/sample": source.require().hash})
    for chunk in range(len(plan.chunks)):
        with folder.writing(chunk) as part:
            for row in source.read(Trace, [chunk]):
                part.add([Label(problem_id=row.problem_id, trace_id=row.id, correct=row.answer == "7")])
                part.count("read")
    return folder.commit().rows(Label)


def select_pass(root: Path, rows: int) -> int:
    """Select: traces and their labels read, examples or dropped rows written."""
    traces, labels, folder = (
        StageFolder(root / "sample"),
        StageFolder(root / "check"),
        StageFolder(root / "rows"),
    )
    plan = _begin(folder, "select", "Example", rows, {"bench/check": labels.require().hash})
    for chunk in range(len(plan.chunks)):
        with folder.writing(chunk) as part:
            right = {label.trace_id for label in labels.read(Label, [chunk]) if label.correct}
            for row in traces.read(Trace, [chunk]):
                if row.id in right:
                    part.add(
                        [
                            Example(
                                problem_id=row.problem_id,
                                prompt=row.prompt,
                                completion=row.text,
                                trace_id=row.id,
                            )
                        ]
                    )
                else:
                    part.add([Dropped(problem_id=row.problem_id, what=row.id, reason="wrong_answer")])
                part.count("read")
    return sum(folder.commit().counts.rows.values())


def _measure(work: Callable[[Path, int], int], root: Path, rows: int, answers: multiprocessing.Queue) -> None:
    began = time.perf_counter()
    made = work(root, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answers.put({"rows": made, "seconds": round(time.perf_counter() - began, 1), "rss_gib": round(peak, 3)})


def bench_million(rows: int = 1_000_000, folder: Path | None = None) -> dict[str, float]:
    """Writes, labels and selects `rows` traces. Returns million_rows_rss_gib (the worst pass) and
    million_rows_seconds (the sum).
    """
    context = multiprocessing.get_context("spawn")
    passes = {}
    with tempfile.TemporaryDirectory(dir=folder) as root:
        for work in (write_pass, label_pass, select_pass):
            answers = context.Queue()
            process = context.Process(target=_measure, args=(work, Path(root), rows, answers))
            process.start()
            passes[work.__name__] = answers.get()
            process.join()
        size = sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file())
    print(json.dumps({**passes, "bytes": size}))
    return {
        "million_rows_rss_gib": max(p["rss_gib"] for p in passes.values()),
        "million_rows_seconds": round(sum(p["seconds"] for p in passes.values()), 1),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    arguments = sys.argv[1:]
    print(
        bench_million(
            int(arguments[0]) if arguments else 1_000_000, Path(arguments[1]) if arguments[1:] else None
        )
    )
