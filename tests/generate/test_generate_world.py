"""Search in the model's own world and in the task's, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from talking import TASK, Talker

from pipeline.asks import Continue, Turn
from pipeline.generate import true_world, world_model
from pipeline.rows import Dropped, Node, Problem, Question, Trace

QUESTION = Question(
    id="p", question="numbers 3, 7, 12; target 22", prompt="Q\n", prompt_used="Q\n", task="countdown"
)
FIRST = "12 + 7 = 19, left 3, 19\n"
LIE = "12 + 7 = 15, left 3, 15\n"  # another state after the same action
OTHER = "7 + 3 = 10, left 12, 10\n"
RIGHT, FALSE, WRONG = "19 + 3 = 22.", "15 + 7 = 22.", "12 - 10 = 2."


class Stepper(Talker):
    """steps[text]: the steps written there in turn; a step that ends with a full stop ends the answer."""

    def __init__(self, steps, verdicts=None):
        super().__init__({})
        self.steps, self.verdicts = steps, verdicts or {}

    def reply(self, ask):
        if not isinstance(ask, Continue):
            return super().reply(ask)
        self.asked.append(ask)
        return [self.go(prefix, ask) for prefix in ask.listed for _ in range(ask.n)]

    def go(self, prefix, ask):
        if prefix.act:
            text = next(v for k, v in self.verdicts.items() if k in prefix.prompt)
            return replace(
                prefix,
                text=text,
                token_ids=(0,) * len(text),
                finish="eos",
                answer=TASK.extract_turn("critique", text),
            )
        while not prefix.done:
            place = self.used.get(prefix.text, 0)
            self.used[prefix.text] = place + 1
            written = self.steps[prefix.text][place % len(self.steps[prefix.text])]
            step = written.removesuffix(".")
            ids = prefix.token_ids + tuple(map(ord, step))
            prefix = replace(
                prefix,
                text=prefix.text + step,
                token_ids=ids,
                steps=(*prefix.steps, step),
                step_ends=(*prefix.step_ends, len(ids)),
                logprobs=(-1.0,) * len(ids),
                finish="eos" if written.endswith(".") else "",
                answer=TASK.extract(prefix.text + step) if written.endswith(".") else None,
            )
            if ask.until == "step":
                break
        return prefix


STEPS = {"": [FIRST, LIE, FIRST, OTHER], FIRST: [RIGHT], LIE: [FALSE], OTHER: [WRONG]}
#: the model believes in the false end
BELIEFS = {"15 + 7": "22 - 22 = 0 right", "19 + 3": "wrong", "12 - 10": "wrong"}


def nodes(rows):
    return {row.step: row for row in rows if isinstance(row, Node)}


def chosen(rows):
    [found] = [row for row in rows if isinstance(row, Trace) and row.chosen]
    return found


def test_golden_values():
    assert world_model.prior(3 / 5, 4, 0.5) == pytest.approx(0.425)
    assert world_model.puct(1, 0.5, 9, 2, 24) == 13
    assert world_model.optimistic([0, 1]) == pytest.approx(0.731059, abs=1e-6)
    assert world_model.optimistic([1000.0, 0.0]) == 1000
    assert world_model.plain([0, 1]) == 0.5


def settings(**more):
    return world_model.Settings(**{"simulations": 6, "n": 4, **more})


def test_equal_actions_are_one_with_their_states_as_the_belief():
    one = Stepper(STEPS, BELIEFS)
    rows = one.drive(world_model.generate(QUESTION, settings(), None))
    found = nodes(rows)
    # 12 + 7: 3 of 4 draws, two states; 7 + 3: 1 of 4. Two actions: .5 * .75 + .25 = .625, .5 * .25 + .25 = .375
    assert [found[step].prior for step in (FIRST, LIE, OTHER)] == pytest.approx([0.625, 0.625, 0.375])
    assert found[FIRST].parent == found[LIE].parent == "p/n0"
    assert found[FIRST].visits > 0
    assert found[LIE].visits > 0


def test_the_models_world_believes_what_it_says_and_the_true_one_does_not():
    # Simulation 1 writes FIRST to RIGHT, of which the model says wrong: 0. In its world only the lie pays, but the
    # state believed after 12 + 7 is the frequent one, FIRST.
    one = Stepper(STEPS, BELIEFS)
    rows = one.drive(world_model.generate(QUESTION, settings(), None))
    assert chosen(rows).text == FIRST + "19 + 3 = 22"
    assert {ask.act for ask in one.asked if isinstance(ask, Turn)} == {"critique"}
    lying = {**STEPS, "": [LIE, LIE, FIRST, OTHER]}
    rows = Stepper(lying, BELIEFS).drive(world_model.generate(QUESTION, settings(), None))
    assert chosen(rows).text == LIE + "15 + 7 = 22"
    problem = Problem(id="p", question=QUESTION.question, answer="known")
    true = true_world.Settings(simulations=6, n=4)
    one = Stepper(lying, BELIEFS)
    rows = one.drive(true_world.generate(QUESTION, true, None, problem=problem, task=TASK))
    assert chosen(rows).text == FIRST + "19 + 3 = 22"
    assert LIE not in nodes(rows)
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["illegal", "illegal"]
    assert not [ask for ask in one.asked if isinstance(ask, Turn)]
    assert nodes(rows)[FIRST].value > nodes(rows)[OTHER].value == 0


def test_an_end_is_asked_about_once_and_no_verdict_is_counted_and_backs_up_nothing():
    one = Stepper({"": [FIRST], FIRST: [RIGHT]}, {"19 + 3": "no idea"})
    rows = one.drive(world_model.generate(QUESTION, settings(simulations=3), None))
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["no_verdict"]
    assert len([ask for ask in one.asked if isinstance(ask, Turn)]) == 1
    assert nodes(rows)[FIRST].value is None
    assert chosen(rows).text == FIRST + "19 + 3 = 22"  # nothing was learned: the policy writes on greedily


def test_a_budget_ends_the_search_and_an_answer_is_still_written():
    one = Stepper(STEPS, BELIEFS)
    rows = one.drive(world_model.generate(QUESTION, settings(budget_tokens=1, simulations=50), None))
    # one simulation passes the budget: an expansion, a roll-out, a critique; then the answer
    assert [ask.until for ask in one.asked if isinstance(ask, Continue)] == [
        "step", "answer", "answer", "answer",
    ]  # fmt: skip
    assert chosen(rows).finish == "eos"


def test_a_policy_that_writes_nothing_ends():
    one = Stepper({"": ["."]}, {"": "wrong"})
    rows = one.drive(world_model.generate(QUESTION, settings(), None))
    assert chosen(rows).answer is None


def test_the_rules_tell_what_may_be_stepped_without_the_target():
    false_list = "7 + 3 = 10, left 12, 9\n"
    told = TASK.legal("numbers 3, 7, 12; target 99", [OTHER, "12 - 10 = 2"])
    assert told == [True, True]
    assert TASK.legal(QUESTION.question, [LIE, "15 + 3 = 18"]) == [False, False]
    assert TASK.legal(QUESTION.question, [false_list]) == [False]
    assert TASK.legal(QUESTION.question, ["8 + 3 = 11, left 12, 11\n"]) == [False]
    assert true_world.Settings().sees_gold
    assert not true_world.Settings().shows_hint
    assert not world_model.Settings().sees_gold


def test_a_problem_without_gold_has_no_true_world():
    problem = Problem(id="p", question=QUESTION.question, answer=None)
    asks = true_world.generate(QUESTION, true_world.Settings(), None, problem=problem, task=TASK)
    assert [row.reason for row in Stepper({}).drive(asks)] == ["no_gold"]
