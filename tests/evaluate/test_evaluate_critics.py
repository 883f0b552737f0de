"""One policy under several critics, by hand: who goes on, what counts, the formula and the straight line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

sys.path.append(str(Path(__file__).parents[1] / "label"))

from label_world import PROBLEM, Lines

from pipeline.asks import All, Continue, Turn
from pipeline.evaluate import critics
from pipeline.rows import Question
from pipeline.tasks import BaseTask

TASK: BaseTask = Lines()
QUESTION = Question(id="p", question="?", prompt="Q:", prompt_used="Q:")
SETTINGS = critics.Settings(critics=["sound", "blind", "mute"], checks=3, resamples=100)


class Model:
    """Writes these attempts, one after another in each conversation; what each critic says of a text."""

    SAYS = {
        "sound": lambda text: "right" if text == "right" else "wrong",
        "blind": lambda text: "right" if text != "bad" else "wrong",
        "mute": lambda text: "hm",
    }

    def __init__(self, *attempts: str) -> None:
        self.attempts = attempts
        self.shown: list[tuple[str, ...]] = []

    def reply(self, ask):
        if isinstance(ask, All):
            return [self.reply(one) for one in ask.asks]
        if isinstance(ask, Turn):
            self.shown.append((ask.act, ask.by, *(said.text for said in ask.history)))
            last = ask.history[0].text
            return dataclasses.replace(ask.question, prompt=last, prompt_used=last, act=ask.act)
        assert isinstance(ask, Continue)
        return [self.write(prefix, ask) for prefix in ask.listed]

    def write(self, prefix, ask):
        if prefix.act == "critique":
            assert ask.temperature == 0
            text = self.SAYS[ask.by](prefix.prompt.strip())
        else:
            assert ask.by == "policy"
            seen = prefix.prompt.strip()
            place = self.attempts.index(seen) + 1 if seen in self.attempts else 0
            text = self.attempts[place % len(self.attempts)]
        return dataclasses.replace(
            prefix, text=f"{text}\n", token_ids=tuple(map(ord, text)), steps=(f"{text}\n",),
            step_ends=(len(text),), finish="eos", answer=TASK.extract_turn(prefix.act, text),
        )  # fmt: skip

    def drive(self, settings=SETTINGS):
        asks, reply = critics.answer(QUESTION, settings, "policy"), None
        while True:
            try:
                ask = asks.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self.reply(ask)


def outcome(model, settings=SETTINGS, name="p"):
    rows = model.drive(settings)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.parent for row in rows} - {None} <= {row.id for row in rows}
    labels = critics.grade(PROBLEM, rows, TASK)
    found = critics.outcomes(PROBLEM, rows, labels, settings, "policy", TASK)
    return dataclasses.replace(found, problem_id=name), rows


def test_each_critic_ends_its_own_conversation_by_hand():
    model = Model("bad", "no", "right", "worse")
    found, rows = outcome(model)
    said = {
        name: [(one.right, one.passes, one.checked) for one in talk] for name, talk in found.attempts.items()
    }
    assert said == {
        "sound": [(False, False, True), (False, False, True), (True, True, True)],
        "blind": [(False, False, True), (False, True, True)],
        "mute": [(False, False, True), (False, False, True), (True, False, True), (False, False, False)],
    }
    assert not found.once
    # the last attempt and what this critic said of it, nothing older
    assert ("revise", "policy", "no\n", "wrong\n") in model.shown
    assert ("revise", "policy", "no\n", "hm\n") in model.shown
    assert sum(act == "revise" for act, *_ in model.shown) == 2 + 1 + 3
    assert {row.model for row in rows if row.act == "critique"} == {"sound", "blind", "mute"}
    assert {row.model for row in rows if row.is_attempt} == {"policy"}
    metrics = critics.measure({"policy": [found]}, SETTINGS)
    assert [metrics[f"accuracy/sound/{k}"] for k in (1, 2, 3)] == [0, 1, 1]
    assert [metrics[f"accuracy/mute/{k}"] for k in (1, 2, 3)] == [0, 1, 0]  # an open one is given up
    assert (metrics["accuracy/sound"], metrics["accuracy/blind"], metrics["accuracy/mute"]) == (1, 0, 0)
    assert (metrics["tpr/sound"], metrics["fpr/sound"], metrics["balanced/sound"]) == (1, 0, 1)
    assert metrics["fpr/blind"] == 0.5
    assert "tpr/blind" not in metrics  # it never saw a right one
    assert metrics["p"] == pytest.approx(2 / 7)  # the first, and two, one and three after it
    assert "nobody knows" in critics.health(metrics, SETTINGS).warnings[0]


def test_the_formula_and_the_line():
    assert float(critics.predicted(0.2, 0.9, 0.1, 1)) == pytest.approx(0.328)
    assert float(critics.predicted(0.2, 0.9, 0.1, 2)) == pytest.approx(0.42272)
    assert float(critics.predicted(0.2, 0.9, 0.1, 200)) == pytest.approx(0.18 / 0.26)
    assert float(critics.predicted(0.2, 0.5, 0.5, 7)) == pytest.approx(0.2)  # it knows nothing
    assert float(critics.line(0.7, 0.1, 0.9, 0.4)) == pytest.approx(0.25)
    assert float(critics.line(0.9, 0.1, 0.9, 0.4)) == pytest.approx(0.4)
    assert critics.line(0.5, 0.1, 0.5, 0.1) != critics.line(0.5, 0.1, 0.5, 0.1)  # NaN: none knows anything


def test_measured_predicted_and_line_stand_beside_one_another():
    """Two problems: one is right at once, one at the second attempt."""
    settings = critics.Settings(critics=["sound", "blind"], checks=1, resamples=100)
    found = [outcome(Model("right"), settings, "a")[0], outcome(Model("no", "right"), settings, "b")[0]]
    metrics = critics.measure({"policy": found}, settings)
    assert (metrics["accuracy/once"], metrics["accuracy/sound"], metrics["accuracy/blind"]) == (0.5, 1.0, 0.5)
    assert metrics["p"] == pytest.approx(2 / 3)
    assert metrics["predicted/sound"] == pytest.approx(2 / 3 + 1 / 3 * 2 / 3)
    assert metrics["predicted/blind"] == pytest.approx(2 / 3)  # it passes all
    assert metrics["line/sound"] == 1.0
    assert metrics["line/blind"] == 0.5
    said = critics.remarks(metrics, settings)[critics.SECTION]
    assert "sound (1.00) +50.0, blind (0.50) +0.0" in said
    assert critics.health(metrics, settings) == critics.Health()


def test_what_is_drawn_is_declared():
    known = {each.name for each in critics.metrics(SETTINGS)}
    assert len(known) == len(critics.metrics(SETTINGS))
    assert {name for panel in critics.panels(SETTINGS) for name in panel.metrics} <= known
    measured = critics.measure(
        {"policy": [outcome(Model("no", "right"))[0], outcome(Model("right"))[0]]}, SETTINGS
    )
    assert {name.removesuffix("/low").removesuffix("/high") for name in measured} - {"problems"} <= known


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValidationError, match="far stands twice"):
        critics.Settings(critics=["far", "near", "far"])
    with pytest.raises(ValidationError, match="leave search and from out"):
        critics.Settings(search={"generate": "sample"})
    with pytest.raises(ValidationError):
        critics.Settings(critics=[])


def test_the_cost_is_that_of_critics_that_are_never_content():
    cost = critics.Settings(critics=["own", "far"], checks=3).answering(
        "policy", SimpleNamespace(typical_tokens=20.0)
    )
    assert cost.written == {"policy": 20 + 2 * 3 * 20, "own": 60, "far": 60}
