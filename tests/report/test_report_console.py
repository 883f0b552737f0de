"""What the console says, in each of its modes."""

import io
import json

import pytest

from pipeline.evaluate import accuracy
from pipeline.evaluate.gate import Decision
from pipeline.recipe.measures import Measure
from pipeline.report import summary, wording
from pipeline.report.console import Console, Speed
from pipeline.run.reporter import Share


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def round_row(number, accuracy, change=None, promoted=None):
    metrics = {
        "measure/accuracy/greedy": accuracy,
        "measure/accuracy/greedy/low": accuracy - 0.03,
        "measure/accuracy/greedy/high": accuracy + 0.03,
    }
    if change is not None:
        metrics |= {"measure/accuracy/greedy/change": change, "rows/kept_share": 0.0973}
        metrics |= {"sample/charged/policy": 1_234_567, "gate/policy/promoted": promoted}
    return {"round": number, "done": True, "metrics": metrics}


ROWS = [round_row(0, 0.102), round_row(1, 0.234, 0.132, 1.0), round_row(2, 0.19, -0.044, 0.0)]
FINAL = {
    "final/accuracy/greedy": 0.335,
    "final/accuracy/greedy/low": 0.306,
    "final/accuracy/greedy/high": 0.365,
    "final/accuracy/greedy@0": 0.101,
    "final/gain/greedy": 0.234,
    "final/gain/greedy/low": 0.204,
    "final/gain/greedy/high": 0.263,
    "final/problems": 1000.0,
    "final/accuracy/majority": 0.42,
}
DECLARED = accuracy.metrics(accuracy.Settings(samples=8, votes=("majority",)))
KNOWN = [Measure(stage, metric) for stage in ("measure", "final") for metric in DECLARED]
SUMMARY = {
    "run": "quickstart",
    "metrics": FINAL,
    "result": summary.result(FINAL, KNOWN),
    "seconds": 291.0,
    "where": {"rows and metrics": "data/quickstart"},
    "next": ["ratchet show quickstart 3 check"],
}


def tell(console, clock):
    console.run_started("quickstart", "recipes/quickstart.yaml", "round 1, stage sample")
    console.stage_started(1, "sample", "generate: sample, by policy")
    with console.progress("sample", 12_000) as bar:
        bar(0)
        clock.now += 40
        bar(4_000, right=0.098)
    console.stage_done(1, "sample", {"traces": 12_000, "tokens by policy": 1_234_567, "loss": 0.43121}, 84.2)
    console.warn("half of the traces are cut")
    console.round_done(1, ROWS[:2], {}, KNOWN)
    console.gate(1, "policy", Decision(True, ["fine"]))
    console.gate(2, "policy", Decision(False, ["surely worse"]))
    console.round_done(2, ROWS, {}, KNOWN)
    console.finished(SUMMARY)


def said(**how):
    clock, file = Clock(), io.StringIO()
    tell(Console(file=file, clock=clock, **how), clock)
    return file.getvalue()


@pytest.mark.parametrize(
    ("decided", "words"),
    [
        ({"policy": 1.0}, "promoted"),
        ({"critic": 1.0}, "critic promoted"),  # no word on the policy, whose accuracy stands beside it
        ({"prm": 0.0, "critic": 1.0, "policy": 1.0}, "critic promoted, policy promoted, prm REFUSED"),
        ({}, ""),
    ],
)
def test_the_gates_word_says_whose_it_is(decided, words):
    metrics = {f"gate/{model}/promoted": value for model, value in decided.items()}
    assert summary.round_line({"round": 1, "metrics": metrics}, KNOWN)["gate"] == words


def test_plain_lines():
    text = said()
    assert "quickstart goes on from round 1, stage sample" in text.splitlines()[0]
    assert "\nround 1\n" in text
    assert "  sample: 4,000 of 12,000, 100/s, 1 min 20 s left, right 9.8 %" in text
    assert "  sample       1 min 24 s  12,000 traces, 1.23M tokens by policy, loss 0.4312" in text
    table = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit() and "[" in line]
    assert table[-1] == ["2", "19.0", "%", "[16.0,", "22.0]", "-4.4", "9.7", "%", "1.23M", "REFUSED"]
    assert ["1", "23.4", "%", "[20.4,", "26.4]", "+13.2", "9.7", "%", "1.23M", "1:24", "promoted"] in table
    assert "policy refused" in text
    assert text.count("surely worse") == 1
    end = "greedy accuracy 10.1 % -> 33.5 % on 1,000 problems; gain +23.4 points (95 %: +20.4 to +26.3)"
    assert end in text
    assert "data/quickstart" in text
    assert "ratchet show quickstart 3 check" in text
    assert "\x1b" not in text


def test_terminal_has_the_same_facts():
    text = said(plain=False, width=110)
    for fact in ("12,000 traces", "REFUSED", "+23.4 points", "data/quickstart", "half of the traces are cut"):
        assert fact in text
    assert "\x1b[" in text


def test_quiet_says_what_went_wrong_and_the_result():
    lines = said(quiet=True).splitlines()
    assert lines[0] == "warning: half of the traces are cut"
    assert any("surely worse" in line for line in lines)
    assert any("+23.4 points" in line for line in lines)
    assert not any("12,000 traces" in line or "round 1" in line for line in lines)


def test_another_rank_says_nothing():
    assert said(main=False) == ""
    assert said(main=False, log_json=True) == ""


def test_json_lines():
    events = [json.loads(line) for line in said(log_json=True).splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == [
        "run_started", "stage_started", "progress", "stage_done", "warning", "round_done", "gate", "gate",
        "round_done", "finished",
    ]  # fmt: skip
    assert events[2]["facts"] == {"right": 0.098, "done": 4000, "total": 12000}
    assert events[3]["facts"]["traces"] == 12_000
    assert events[-1]["metrics"]["final/gain/greedy"] == 0.234


def test_short_work_draws_no_progress():
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, clock=clock, plain=False, width=100)
    with console.progress("rows", 10) as bar:
        clock.now += 1.9
        bar(9)
        assert bar.drawn is None
        clock.now += 0.2
        bar(10)
        assert bar.drawn is not None
    with console.task("building seed://countdown") as tick:
        clock.now += 3
        tick(10, 700, 0.4)
        assert (tick.pace.done, tick.total) == (10, 700)


def test_a_task_within_a_stage_leaves_its_progress_standing():
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, clock=clock, plain=False, width=100)
    with console.progress("sample", 10) as bar:
        clock.now += 3
        bar(1)
        with console.task("loading") as tick:
            clock.now += 3
            tick(1, 2)
        bar(2)
        assert console._live is not None
    assert console._live is None


def test_training_counts_its_own_steps():
    clock, file = Clock(), io.StringIO()
    with Console(file=file, clock=clock).progress("learn") as bar:
        bar(None, step=1, steps=250, loss=1.0)
        clock.now += 50
        bar(None, step=101, steps=250, loss=0.5)
    assert file.getvalue().strip() == "learn: 101 of 250, 2.02/s, 1 min 14 s left, loss 0.5"


def test_pace_does_not_count_what_an_earlier_launch_did():
    clock = Clock()
    pace = Speed(clock)
    pace.saw(500)
    assert pace.rate is None
    clock.now = 10
    pace.saw(600)
    assert pace.rate == 10
    assert pace.left(1000) == 40


def test_recipes_without_accuracy_still_get_a_table_and_an_end():
    file = io.StringIO()
    console = Console(file=file)
    console.round_done(0, [{"round": 0, "metrics": {"credit/labels": 3}}])
    console.finished({"run": "r", "metrics": {}})
    assert "r: finished" in file.getvalue()
    assert "start" in file.getvalue()


def test_model_text_is_no_markup_and_no_surprise():
    file = io.StringIO()
    Console(file=file, plain=False, width=80).warn("answer [bold]x[/bold] [/oops]")
    assert "[bold]x[/bold] [/oops]" in file.getvalue()
    raw = io.BytesIO()  # a terminal that knows no such letters, and text that is no Unicode
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(file=stream, plain=True).warn("caf\u00e9 \ud800")
    Console(file=stream, plain=False).warn("caf\u00e9 \ud800")
    Console(file=stream, log_json=True).warn("caf\u00e9 \ud800")
    assert raw.getvalue().count(b"caf? ?") == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (wording.duration(0.44), "0.4 s"),
        (wording.duration(59.7), "1 min 00 s"),
        (wording.duration(7_620), "2 h 07 min"),
        (wording.clock(7_620), "2:07:00"),
        (wording.count(99_999), "99,999"),
        (wording.count(1_234_567), "1.23M"),
        (wording.fact("dropped no_answer", 31), "31 dropped as no_answer"),
        (wording.fact("accuracy/greedy", Share(0.3125)), "accuracy/greedy 31.2 %"),
        (wording.fact("auc", 0.81239), "auc 0.8124"),
        (wording.fact("tokens/s", 14210.4), "tokens/s 14,210"),
    ],
)
def test_numbers_as_people_read_them(text, wanted):
    assert text == wanted
