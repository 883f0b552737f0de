"""Cases met outside this project: 85 pairs and 17 reports, handed over beside the repository."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.answers import extract
from pipeline.rows import Problem
from pipeline.tasks import csqa, gsm8k, jsonl, math

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"
PAIRS = CASES / "answers.jsonl"
REPORTS = sorted((CASES / "field").glob("[01]*")) if (CASES / "field").exists() else []
TASKS = {"gsm8k": gsm8k, "math": math, "csqa": csqa, "jsonl": jsonl}
LIMIT = 2.0  # seconds of processor time: twenty times the 0.1 s that is wanted, for a busy machine

needs_cases = pytest.mark.skipif(not PAIRS.exists(), reason="the handed cases (../shared/cases) are not here")


def make(name):
    kind, *rest = name.split()
    settings = dict(zip(("extract", "compare"), rest, strict=False)) if kind == "jsonl" else {}
    settings |= dict(item.split("=") for item in rest if "=" in item)
    return TASKS[kind].Task(TASKS[kind].Settings(use=kind, path="rows.jsonl", **settings))


def problem(gold):
    return Problem(id="p", question="Which?", answer=gold, split="train")


@needs_cases
def test_every_handed_pair_has_the_expected_verdict():
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 85
    judged = [row for row in rows if isinstance(row["expected"], bool)]
    assert len(judged) == 81  # the other four are about time: below
    wrong = []
    for row in judged:
        task = make(row["task"])
        found = task.extract(row["completion"])
        if task.correct(found, problem(row["gold"])) is not row["expected"]:
            wrong.append((row["gold"], row["completion"], found, row["expected"]))
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "Answer" + " " * 1_200,
        "\n" * 12_000,
        ("answer" + " " * 500 + ":") * 8,
        "-\n" * 4_000,
        "Option" + "\t" * 20_000,
        ("choice" + " \n" * 300) * 9,
        "(" * 20_000,
        "* \n" * 6_000,
    ],
    ids=["blanks", "empty lines", "colons", "dashes", "tabs", "lines", "brackets", "stars"],
)
def test_a_letter_is_sought_in_linear_time(text):
    start = time.process_time()
    extract.choice(text)
    assert time.process_time() - start < LIMIT


@pytest.mark.skipif(not REPORTS, reason="the handed cases (../shared/cases) are not here")
@pytest.mark.parametrize("report", REPORTS, ids=[path.name for path in REPORTS])
def test_a_handed_report_is_mended(report):
    env = {**os.environ, "RATCHET": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(report / "repro.py")],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
