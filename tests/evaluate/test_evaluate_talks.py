"""Evaluations of models that talk about their own work, by hand: turns, critiques, verifiers, the oracle gap."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

sys.path.append(str(Path(__file__).parents[1] / "label"))

from label_world import PROBLEM, Lines, trace

from pipeline.asks import All, Continue, Turn
from pipeline.engine.driver import drive_with_replies
from pipeline.evaluate import critique, oracle_gap, turns, verification
from pipeline.evaluate.outcomes import Outcome
from pipeline.recipe.contract import breaches
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.tasks import countdown

TASK = Lines()
QUESTION = Question(id="p", question="?", prompt="Q:", prompt_used="Q:")


def attempt(name, parent=None, answer="right", *steps, **more) -> Trace:
    """A trace `p/NAME` that ends in this answer."""
    made = trace(0, *steps, answer)
    return dataclasses.replace(made, id=f"p/{name}", parent=f"p/{parent}" if parent else None, **more)


def verdict(name, parent, word) -> Trace:
    return attempt(name, parent, word)


def graded(module, settings, *traces, labels=None, problem=PROBLEM, more=()):
    """The rows of one problem and their outcome. Its `from` brings these traces."""
    group = Group("p", traces=list(traces), labels=labels or {}, rollouts=list(more))
    rows = drive_with_replies(module.answer(QUESTION, settings, "policy", None, group), [])
    found = [row for row in rows if isinstance(row, Label)] + module.grade(problem, rows, TASK)
    mine = [row for row in rows if isinstance(row, Trace)]
    return module.outcomes(problem, mine, found, settings, "policy", TASK), rows


# --- turns

TURNS = turns.Settings(**{"from": ["talk"]}, resamples=100)


def test_accuracy_by_turn_and_what_changed():
    settings = TURNS
    mended, _ = graded(turns, settings, attempt("0", None, "bad"), attempt("revise.0", "0", "right"))
    spoiled, _ = graded(turns, settings, attempt("0", None, "right"), attempt("revise.0", "0", "bad"))
    copied, _ = graded(turns, settings, attempt("0", None, "right"), attempt("revise.0", "0", "right"))
    alone, _ = graded(turns, settings, attempt("0", None, "right"), verdict("critique.0", "0", "right"))
    assert mended.talks[0].right == (False, True)
    found = [
        dataclasses.replace(one, problem_id=str(n)) for n, one in enumerate((mended, spoiled, copied, alone))
    ]
    metrics = turns.measure({"policy": found}, settings)
    assert metrics["accuracy/t1"] == 3 / 4
    assert metrics["accuracy/t2"] == 3 / 4  # an answer that is not revised stands
    assert metrics["lift"] == 0
    assert (metrics["wrong_to_right"], metrics["right_to_wrong"]) == (1 / 4, 1 / 4)
    assert (metrics["unchanged"], metrics["copied"]) == pytest.approx((1 / 3, 1 / 3))
    assert metrics["second_turns"] == 3 / 4
    # "bad\n" against "right\n", a letter a token: b-a-d to r-i-g-h-t are 5 edits over 4 + 6 tokens
    assert metrics["distance"] == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-7)
    assert metrics["lift/low"] < 0 < metrics["lift/high"]
    assert "4.0" not in turns.remarks(metrics, settings)["Do later turns help?"]
    assert turns.health(metrics, settings) == turns.Health()


def test_more_turns_than_two_and_several_conversations():
    three = turns.Settings(**{"from": ["talk"]}, turns=3)
    first = attempt("0", None, "bad")
    found, _ = graded(
        turns, three, first, verdict("critique.0", "0", "wrong"), attempt("revise.0", "critique.0", "worse"),
        attempt("revise.1", "revise.0", "right"), attempt("1", None, "right"),
    )  # fmt: skip
    assert [talk.right for talk in found.talks] == [(False, False, True), (True, True, True)]
    metrics = turns.measure({"policy": [found]}, three)
    assert [metrics[f"accuracy/t{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 1.0]
    assert metrics["wrong_to_right"] == 0.5
    cut, _ = graded(turns, TURNS, first, attempt("revise.0", "0", "worse"), attempt("revise.1", "revise.0"))
    assert cut.talks[0].right == (False, False)  # the third attempt does not count


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ([1, 2, 3], [1, 3, 4], 2),
        ([], [1, 2], 2),
        ([1], [], 1),
        ([1, 2], [1, 2], 0),
        ([1, 2, 3, 4], [2, 3], 2),
    ],
)
def test_edit_distance(one, other, edits):
    assert turns.edit_distance(one, other) == edits


def test_traces_of_one_turn_only_are_said_to_be_that():
    found, _ = graded(turns, TURNS, attempt("0"), attempt("1", None, "bad"))
    metrics = turns.measure({"policy": [found]}, TURNS)
    assert metrics["accuracy/t1"] == metrics["accuracy/t2"] == 0.5
    assert "unchanged" not in metrics
    [warning] = turns.health(metrics, TURNS).warnings
    assert "no conversation has a second attempt" in warning
    copies, _ = graded(turns, TURNS, attempt("0"), attempt("revise.0", "0"))
    [warning] = turns.health(turns.measure({"policy": [copies]}, TURNS), TURNS).warnings
    assert "collapse to no edit" in warning
    with pytest.raises(ValidationError, match="give search"):
        turns.Settings()
    with pytest.raises(ValidationError, match="give search"):
        turns.Settings(**{"from": ["a"], "search": {"generate": "sample"}})


def test_a_problem_without_an_answer_counts_as_never_solved():
    assert turns.outcomes(PROBLEM, [], [], TURNS, "policy", TASK).talks[0].right == (False, False)


# --- critique

CRITIQUE = critique.Settings(**{"from": ["verify"]}, resamples=100)


def said(**by_trace):
    """Labels: True or False a verdict, a number a value."""
    return {
        f"p/{name[1:]}": Label(
            problem_id="p", trace_id=f"p/{name[1:]}", correct=word if isinstance(word, bool) else None,
            value=None if isinstance(word, bool) else word,
        )
        for name, word in by_trace.items()
    }  # fmt: skip


def test_verdicts_against_gold_by_hand():
    answers = [attempt("0"), attempt("1"), attempt("2", None, "bad"), attempt("3", None, "bad"),
               attempt("4", None, "worse"), attempt("5", None, "other")]  # fmt: skip
    labels = said(t0=True, t1=False, t2=True, t3=False, t4=0.4)
    found, _ = graded(critique, CRITIQUE, *answers, labels=labels)
    metrics = critique.measure({"policy": [found]}, CRITIQUE)
    # told: right+, right-, wrong+, wrong-, wrong-: TP 1, FN 1, FP 1, TN 2
    assert (metrics["precision"], metrics["recall"]) == (0.5, 0.5)
    assert metrics["f1"] == 0.5
    assert metrics["false_accept"] == pytest.approx(1 / 3, abs=1e-7)
    assert metrics["balanced"] == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-7)
    assert metrics["accuracy"] == 3 / 5
    assert metrics["coverage"] == pytest.approx(5 / 6, abs=1e-7)
    assert metrics["lift"] == pytest.approx(1 / 2 - 2 / 5)
    assert metrics["verdicts"] == 5
    assert metrics["calibration/4/true"] == 0
    # two of six say `right`, two say `bad`, the others one each
    assert metrics["by_votes/right/30"] == 0.5
    assert metrics["by_votes/accuracy/30"] == 0.5
    assert metrics["by_votes/accuracy/10"] == 1
    assert "hardly" in critique.remarks(metrics, CRITIQUE)[critique.SECTION]


def test_critiques_speak_where_no_label_does():
    answers = [attempt("0"), attempt("1", None, "bad")]
    judged = [verdict("critique.0", "0", "right"), verdict("critique.1", "1", "wrong"),
              verdict("critique.2", "1", "right"), verdict("critique.3", "1", "wrong")]  # fmt: skip
    found, rows = graded(critique, CRITIQUE, *answers, *judged[:2], more=judged[2:])
    assert [(one.says, one.value) for one in found.judged] == [(True, 1.0), (False, pytest.approx(1 / 3))]
    assert all(row.is_attempt for row in rows if isinstance(row, Trace))
    tie, _ = graded(critique, CRITIQUE, *answers, *judged[:3])
    assert tie.judged[1].says is None
    metrics = critique.measure({"policy": [found]}, CRITIQUE)
    assert (metrics["auc"], metrics["balanced"], metrics["lift"]) == (1, 1, 0.5)


def test_all_verdicts_alike_and_no_verdict_at_all():
    answers = [attempt("0"), attempt("1", None, "bad")]
    found, _ = graded(critique, CRITIQUE, *answers, labels=said(t0=True, t1=True))
    metrics = critique.measure({"policy": [found]}, CRITIQUE)
    assert (metrics["balanced"], metrics["false_accept"], metrics["lift"]) == (0.5, 1.0, 0.0)
    assert "auc" not in metrics
    [warning] = critique.health(metrics, CRITIQUE).warnings
    assert "every verdict says right" in warning
    none, _ = graded(critique, CRITIQUE, *answers)
    metrics = critique.measure({"policy": [none]}, CRITIQUE)
    assert metrics["coverage"] == 0
    assert "no answer that `from` brings has a verdict" in critique.health(metrics, CRITIQUE).warnings[0]
    _, rows = graded(critique, CRITIQUE, verdict("critique.0", None, "right"))
    assert rows == [Dropped(problem_id="p", what="p", reason="no_attempt")]
    nobody = dataclasses.replace(PROBLEM, answer=None)
    unknown, _ = graded(critique, CRITIQUE, *answers, labels=said(t0=True), problem=nobody)
    assert unknown.judged == ()
    with pytest.raises(ValidationError, match="writes nothing"):
        critique.Settings(**{"from": ["a"], "search": {"generate": "sample"}})


# --- verification


class Model:
    """A policy whose n-th fresh answer, n-th answer after a critique, and critique of a text are given."""

    def __init__(self, fresh, revised, says):
        self.fresh, self.revised, self.says = fresh, revised, says
        self.fed: list[str] = []
        self.turns: dict[str, int] = {}

    def reply(self, ask):
        if isinstance(ask, All):
            return [self.reply(one) for one in ask.asks]
        if isinstance(ask, Turn):
            if ask.act == "revise":
                assert [one.act for one in ask.history] == ["", "critique"]
                self.fed.append(ask.history[1].text)
            return dataclasses.replace(
                ask.question, prompt=ask.history[0].text, prompt_used=ask.history[0].text, act=ask.act
            )
        assert isinstance(ask, Continue)
        return [self.write(prefix, k) for prefix in ask.listed for k in range(ask.n)]

    def write(self, prefix, k):
        if prefix.act == "critique":
            lines = [self.says(prefix.prompt)]
        elif prefix.act == "revise":
            number = self.turns[prefix.prompt] = self.turns.get(prefix.prompt, -1) + 1
            lines = self.revised[number % len(self.revised)]
        else:
            lines = self.fresh[k]
        text = "".join(f"{line}\n" for line in lines)
        ends = [sum(len(line) + 1 for line in lines[: n + 1]) for n in range(len(lines))]
        return dataclasses.replace(
            prefix, text=text, token_ids=tuple(map(ord, text)), steps=tuple(f"{x}\n" for x in lines),
            step_ends=tuple(ends), finish="eos", answer=TASK.extract_turn(prefix.act, text),
        )  # fmt: skip

    def drive(self, settings, problem=PROBLEM):
        asks = verification.answer(QUESTION, settings, "policy", None, None, problem=problem, task=TASK)
        reply = None
        while True:
            try:
                ask = asks.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.reply(ask)


def arms(model, **settings):
    settings = verification.Settings(**{"attempts": 3, "tokens": 1000} | settings)
    rows = model.drive(settings)
    labels = verification.grade(PROBLEM, rows, TASK)
    assert len({row.id for row in rows}) == len(rows)
    return verification.outcomes(PROBLEM, rows, labels, settings, "policy", TASK), rows


def ends(found):
    return {arm: (end.right, end.accepted, end.attempts) for arm, end in found.arms.items()}


def test_the_arms_by_hand():
    """Its critic passes what holds no `bad`; the second fresh answer is wrong and passes, the third is right."""
    model = Model(
        fresh=[["so", "bad"], ["no"], ["right"]],
        revised=[["right"]],
        says=lambda text: "wrong" if "bad" in text else "right",
    )
    found, rows = arms(model)
    assert ends(found) == {
        "once": (False, False, 1),
        "self": (True, True, 2),
        "self_resample": (False, True, 2),
        "binary": (True, True, 2),
        "first_error": (True, True, 2),
        "all_errors": (True, True, 2),
        "resample": (True, True, 3),
    }
    # its own critique, then what a sound one says: the verdict, the first fault, all of them
    assert model.fed == ["wrong\n", "Verdict: wrong", "Step 2 is wrong. Verdict: wrong"] + [
        "Step 2 is wrong. Verdict: wrong"
    ]
    assert found.pool == ((False, False), (False, True), (True, True))
    # so\nbad\n is 7 tokens, wrong\n 6, right\n 6; no\n 3
    assert found.arms["once"].tokens == 7
    assert found.arms["self"].tokens == 7 + 6 + 6 + 6
    assert found.arms["self_resample"].tokens == 7 + 6 + 3 + 6
    assert found.arms["binary"].tokens == 7 + 6
    assert found.arms["resample"].tokens == 7 + 3 + 6
    metrics = verification.measure({"policy": [found]}, verification.Settings())
    assert metrics["p"] == pytest.approx(1 / 3, abs=1e-7)
    assert (metrics["tpr"], metrics["fpr"]) == (1, 0.5)
    assert metrics["predicted"] == metrics["predicted/each"] == pytest.approx(0.5)  # 1/3 / (1/3 + 1/3)
    assert metrics["over_once/resample"] == 1
    said = verification.remarks(metrics, verification.Settings())[verification.SECTION]
    assert said.startswith("Its own critique helps (+100.0 points over one answer); re-sampling")


def test_an_arm_stops_where_its_tokens_are_spent_and_where_its_rounds_are():
    never = Model(fresh=[["bad"]] * 3, revised=[["bad", "again"]], says=lambda text: "wrong")
    found, rows = arms(never)
    assert {end.attempts for arm, end in found.arms.items() if arm != "once"} == {3}
    assert not any(end.right or end.accepted for end in found.arms.values())
    short, rows = arms(never, tokens=5)  # one answer of 4 tokens and a critique of 6
    assert (short.arms["self"].attempts, short.arms["self_resample"].attempts) == (1, 1)
    assert (short.arms["binary"].attempts, short.arms["resample"].attempts) == (2, 2)
    some, rows = arms(never, arms=["resample"])
    assert set(some.arms) == {"once", "resample"}
    assert {row.id.split("/")[2] for row in rows} == {"pool"}
    all_alike = verification.measure({"policy": [found]}, verification.Settings())
    assert "predicted" not in all_alike  # nothing is ever right: no true positive to count
    assert "tpr" not in all_alike


def test_a_critic_without_a_verdict_accepts_nothing_and_one_that_passes_all_tells_nothing():
    mute = Model(fresh=[["right"]] * 3, revised=[["right"]], says=lambda text: "hm")
    found, _ = arms(mute)
    assert found.pool == ((True, None),) * 3
    assert (found.arms["self"].right, found.arms["self"].accepted) == (True, False)
    fool = Model(fresh=[["bad"], ["right"], ["bad"]], revised=[["bad"]], says=lambda text: "right")
    metrics = verification.measure({"policy": [arms(fool)[0]]}, verification.Settings())
    assert "tells nothing" in verification.health(metrics, verification.Settings()).warnings[0]
    assert metrics["predicted"] == pytest.approx(metrics["p"])


def test_the_formula_of_endless_resampling():
    assert float(verification.predicted(0.2, 0.9, 0.1)) == pytest.approx(0.18 / 0.26)
    assert float(verification.predicted(0.4, 0.5, 0.5)) == pytest.approx(0.4)
    assert float(verification.predicted(0.3, 1.0, 0.0)) == 1
    assert verification.predicted(0.3, 0.0, 0.0) != verification.predicted(
        0.3, 0.0, 0.0
    )  # NaN: nothing passes


def test_gold_reaches_only_the_arms_that_say_so():
    """Poisoned, it changes what sound verifiers did and said, and no row of the others."""

    def rows(answer):
        model = Model(
            [["so", "bad"], ["no"], ["right"]], [["right"]], lambda t: "wrong" if "bad" in t else "right"
        )
        found = model.drive(verification.Settings(attempts=3), dataclasses.replace(PROBLEM, answer=answer))
        arms = {}
        for row in found:
            arms.setdefault(row.id.split("/")[2], []).append((row.text, row.prompt))
        return arms

    true, poisoned = rows("right"), rows("poison")
    assert true["pool"] == poisoned["pool"]
    assert true["self"] == poisoned["self"]
    assert len(poisoned["binary"]) > len(true["binary"])
    names = {one.name: one.says for one in verification.metrics(verification.Settings())}
    assert all("sees gold" in names[f"accuracy/{arm}"] for arm in verification.SEES_GOLD)
    assert not any("gold" in names[f"accuracy/{arm}"] for arm in ("once", "self", "self_resample"))
    nobody = Problem(id="p", question="?", answer=None)
    [row] = Model([], [], str).drive(verification.Settings(), nobody)
    assert row.reason == "no_gold"


def test_an_evaluation_that_answers_with_gold_must_take_it():
    from types import ModuleType

    from pipeline import evaluate

    assert evaluate.contract(verification) is evaluate.GoldEvaluateMethod
    assert list(breaches(verification, evaluate.contract(verification), "here")) == []
    blind = ModuleType("blind")
    blind.__dict__.update(vars(turns))
    blind.Settings = verification.Settings
    [said] = breaches(blind, evaluate.contract(blind), "here")
    assert "has no parameter problem, task" in said


# --- oracle gap


def one(number, right):
    return Outcome(problem_id=str(number), difficulty="", source="", searched=False, main=right, right=(),
                   answers=(), scores=(), votes=(), lengths=(3,), marks=(str(number),))  # fmt: skip


def test_the_gap_and_what_closes_it():
    settings = oracle_gap.Settings(of="policy", oracle="taught", resamples=200)
    assert settings.measured == ["policy", "taught", "policy@0"]
    rights = {"policy": 4, "taught": 5, "policy@0": 3}
    found = {name: [one(n, n < num) for n in range(10)] for name, num in rights.items()}
    metrics = oracle_gap.measure(found, settings)
    assert metrics["accuracy/greedy"] == 0.4
    assert metrics["accuracy/greedy@taught"] == 0.5
    assert metrics["gap"] == pytest.approx(0.1)
    assert metrics["closed"] == 0.5
    assert metrics["gap/low"] <= 0.1 <= metrics["gap/high"]
    assert "10.0 points behind" in oracle_gap.remarks(metrics, settings)[oracle_gap.SECTION]
    flat = oracle_gap.measure({**found, "taught": found["policy@0"]}, settings)
    assert "closed" not in flat
    assert "no gap to close" in oracle_gap.health(flat, settings).warnings[0]
    panel = next(p for p in oracle_gap.panels(settings) if p.title.startswith("Own labels"))
    assert list(panel.metrics) == ["accuracy/greedy", "accuracy/greedy@taught", "accuracy/greedy@0"]


def test_three_models_are_wanted():
    with pytest.raises(ValidationError, match="are three models"):
        oracle_gap.Settings(oracle="policy")
    with pytest.raises(ValidationError, match="their own answers"):
        oracle_gap.Settings(search={"generate": "sample"})


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (turns, TURNS),
        (critique, CRITIQUE),
        (verification, verification.Settings()),
        (oracle_gap, oracle_gap.Settings(samples=4)),
    ],
)
def test_what_is_drawn_is_declared(module, settings):
    """Panels name metrics that are declared, or what stands behind a prefix or another model's name."""
    known = {each.name for each in module.metrics(settings)}
    assert len(known) == len(module.metrics(settings))
    for panel in module.panels(settings):
        for name in panel.metrics:
            assert name.endswith("/") or name.partition("@")[0] in known | {"pass", "maj"}, name


# --- what a sound checker says


def test_a_sound_checker_in_words_and_in_the_dialect():
    steps = ["so\n", "bad\n", "on\n"]
    text = "".join(steps)
    assert TASK.feedback(PROBLEM, text, "verdict") == "Verdict: wrong"
    assert TASK.feedback(PROBLEM, text, "first") == "Step 2 is wrong. Verdict: wrong"
    assert TASK.feedback(PROBLEM, text, "all") == "Step 2 is wrong. Step 3 is wrong. Verdict: wrong"
    assert TASK.feedback(PROBLEM, "no\n", "first") == "The answer is wrong. Verdict: wrong"
    assert TASK.feedback(PROBLEM, "right\n", "all") == "Verdict: right"
    task = countdown.Task(countdown.Settings(use="countdown"))
    problem = Problem(id="c", question="numbers 1, 4, 11; target 16", answer="4 + 1 = 5, 11 + 5 = 16")
    right, far = "4 + 1 = 5, left 11, 5\n11 + 5 = 16", "4 + 1 = 5, left 11, 5\n11 - 5 = 6"
    lies = "4 + 1 = 6, left 11, 6\n11 + 6 = 17"
    assert task.feedback(problem, right, "verdict") == "right"
    assert task.feedback(problem, far, "verdict") == "wrong"
    assert task.feedback(problem, far, "first").endswith("16 - 6 = 10 wrong")
    assert task.feedback(problem, far, "all") == task.feedback(problem, far, "first")
    assert task.feedback(problem, lies, "first") == "4 + 1 = 5, 6 - 5 = 1 result wrong"
    assert task.feedback(problem, lies, "all") == "4 + 1 = 5, 6 - 5 = 1 result wrong, 17 - 16 = 1 wrong"
    assert all(task.extract_turn("critique", task.feedback(problem, t, "all")) == word
               for t, word in ((right, "right"), (far, "wrong"), (lies, "wrong"), ("?", "wrong")))  # fmt: skip
    chat = countdown.Task(countdown.Settings(use="countdown", chat=True))
    assert chat.feedback(problem, far, "verdict") == "Verdict: wrong"
