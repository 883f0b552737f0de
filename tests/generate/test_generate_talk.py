"""Generators of conversations: driven by hand with canned replies, and over countdown with a policy that knows."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from pipeline.asks import All, Continue, Prefix, Turn
from pipeline.errors import RecipeError
from pipeline.generate import check_context, dialect, self_refine, two_turn
from pipeline.rows import Dropped, Question, Trace
from pipeline.tasks import addition, countdown, split_of, words
from pipeline.tasks.prepare import render, render_turn

TASK = countdown.Task(countdown.Settings(use="countdown"))
ASKED = "numbers 1, 4, 11; target 93"
QUESTION = Question(id="p", question=ASKED, prompt=ASKED + "\n", prompt_used=ASKED + "\n")
A, B, C = "4 + 1 = 5, left 11, 5\n11 + 5 = 16", "11 - 4 = 7, left 1, 7\n7 * 1 = 7", "11 * 4 = 44, left 1, 44\n44 + 1 = 45"  # fmt: skip


class Script:
    """A model that says its lines in order, whatever it is asked; `asked` are the prompts."""

    def __init__(self, *lines: str, finish: str = "eos", task=TASK, template=None) -> None:
        self.lines, self.finish, self.task = list(lines), finish, task
        self.template = template or (lambda turns: None)
        self.asked: list[tuple[str, str, str, float]] = []  #: act, prompt, model, temperature

    def reply(self, ask):
        if isinstance(ask, All):
            return [self.reply(one) for one in ask.asks]
        if isinstance(ask, Turn):
            return render_turn(self.task, ask, self.template)
        assert isinstance(ask, Continue)
        return [self.write(prefix, ask) for prefix in ask.listed for _ in range(ask.n)]

    def write(self, prefix: Prefix, ask: Continue) -> Prefix:
        text = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        self.asked.append((prefix.act, prefix.prompt, ask.by, ask.temperature))
        said = self.task.extract_turn(prefix.act, text) if prefix.act else self.task.extract(text)
        ids = tuple(map(ord, text))
        return replace(
            prefix, text=text, token_ids=ids, logprobs=(-1.0,) * len(ids), finish=self.finish, answer=said
        )

    def drive(self, search):
        found = None
        try:
            ask = next(search)
            while True:
                ask = search.send(self.reply(ask))
        except StopIteration as stop:
            found = stop.value
        assert not [each for each in found if isinstance(each, Trace) and each.problem_id != "p"]
        return found


def told(rows):
    return [(row.id, row.turn, row.parent, row.chosen) for row in rows if isinstance(row, Trace)]


def test_an_episode_is_two_attempts_of_which_the_second_sees_the_first_and_no_verdict() -> None:
    script = Script(A, B, C, A)
    rows = script.drive(two_turn.generate(QUESTION, two_turn.Settings(n=2), None))
    assert told(rows) == [
        ("p/0", 0, None, False),
        ("p/1", 0, None, False),
        ("p/revise.0", 1, "p/0", True),
        ("p/revise.1", 1, "p/1", True),
    ]
    assert [row.text for row in rows] == [A, B, C, A]
    assert [asked[1] for asked in script.asked[2:]] == [
        f"{ASKED}\n{A}\nrevise: ",
        f"{ASKED}\n{B}\nrevise: ",
    ]
    assert rows[2].answer == "11 * 4 = 44, 44 + 1 = 45"
    assert rows[2].prompt == f"{ASKED}\n{A}\nrevise: "
    assert all(row.is_attempt and row.logprobs for row in rows)


def test_refining_ends_with_the_critics_word_and_the_answer_in_force_counts() -> None:
    script = Script(A, "no: wrong", B, "all right", C)
    rows = script.drive(self_refine.generate(QUESTION, self_refine.Settings(), None))
    assert told(rows) == [
        ("p/0", 0, None, False),
        ("p/critique.0", 1, "p/0", False),
        ("p/rewrite.0", 2, "p/critique.0", True),
        ("p/critique.1", 3, "p/rewrite.0", False),
    ]
    assert script.asked[-1][1] == f"{ASKED}\n{A}\ncheck: no: wrong\nrevise: {B}\ncheck: "
    assert [(act, heat) for act, _, _, heat in script.asked] == [
        ("", 0.0), ("critique", 0.7), ("rewrite", 0.7), ("critique", 0.7),
    ]  # fmt: skip


def test_a_right_first_answer_is_left_alone() -> None:
    rows = Script(A, "right").drive(self_refine.generate(QUESTION, self_refine.Settings(), None))
    assert [(row.id, row.chosen) for row in rows] == [("p/0", True), ("p/critique.0", False)]


def test_a_critic_that_gives_no_verdict_is_counted_and_stops_nothing() -> None:
    script = Script(A, "hm", B, "hm", C, "hm")
    rows = script.drive(self_refine.generate(QUESTION, self_refine.Settings(attempts=3), None))
    lost = [row for row in rows if isinstance(row, Dropped)]
    assert [(row.what, row.reason) for row in lost] == [("p/x0", "no_verdict"), ("p/x1", "no_verdict")]
    [chosen] = [row for row in rows if isinstance(row, Trace) and row.chosen]
    assert chosen.text == C
    assert [row.answer for row in rows if isinstance(row, Trace) and row.act == "critique"] == [None, None]


def test_a_policy_that_never_ends_is_cut_and_goes_on() -> None:
    rows = Script("4 + 1", finish="length").drive(
        self_refine.generate(QUESTION, self_refine.Settings(attempts=2), None)
    )
    assert [row.finish for row in rows if isinstance(row, Trace)] == ["length"] * 3
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["no_verdict"]


def test_another_model_may_be_the_critic() -> None:
    script = Script(A, "wrong", B)
    settings = check_context.Settings(critic="judge", check_temperature=0)
    script.drive(check_context.generate(QUESTION, settings, None))
    assert [(by, heat) for _, _, by, heat in script.asked] == [("policy", 1), ("judge", 0), ("policy", 1)]
    cost = settings.cost(TASK.settings)
    assert cost.written == {"policy": 2 * TASK.settings.typical_tokens, "judge": TASK.settings.typical_tokens}
    assert cost.traces == 3


def test_an_answer_is_given_again_whatever_the_check_says() -> None:
    script = Script(A, "right", B, "wrong", C)
    rows = script.drive(check_context.generate(QUESTION, check_context.Settings(checks=2), None))
    assert [row.id for row in rows] == ["p/0", "p/critique.0", "p/revise.0", "p/critique.1", "p/revise.1"]
    assert rows[-1].chosen
    assert script.asked[-1][1] == f"{ASKED}\n{A}\ncheck: right\nrevise: {B}\ncheck: wrong\nrevise: "
    stopped = Script(A, "right", B).drive(
        check_context.generate(QUESTION, check_context.Settings(checks=2, until_right=True), None)
    )
    assert [(row.id, row.chosen) for row in stopped] == [("p/0", True), ("p/critique.0", False)]


def test_a_window_shows_the_last_attempt_as_the_answer() -> None:
    script = Script(A, "wrong", B, "wrong", C)
    rows = script.drive(check_context.generate(QUESTION, check_context.Settings(checks=2, window=1), None))
    assert [asked[1] for asked in script.asked[2:]] == [
        f"{ASKED}\n{A}\ncheck: wrong\nrevise: ",
        f"{ASKED}\n{B}\ncheck: ",
        f"{ASKED}\n{B}\ncheck: wrong\nrevise: ",
    ]
    assert [row.turn for row in rows] == [0, 1, 2, 3, 4]  # of the conversation, not of what is shown


def test_the_control_draws_afresh_and_its_critic_sees_the_new_answer_alone() -> None:
    script = Script(A, "wrong", B, "wrong", C)
    settings = check_context.Settings(checks=2, context=False, n=1)
    rows = script.drive(check_context.generate(QUESTION, settings, None))
    assert [row.id for row in rows] == ["p/0", "p/critique.0", "p/1", "p/critique.1", "p/2"]
    assert [asked[1] for asked in script.asked[2:]] == [f"{ASKED}\n", f"{ASKED}\n{B}\ncheck: ", f"{ASKED}\n"]


def test_conversations_of_a_problem_do_not_share_ids() -> None:
    for method, settings in (
        (self_refine, self_refine.Settings(n=3)),
        (check_context, check_context.Settings(n=3, checks=2)),
        (two_turn, two_turn.Settings(n=3)),
    ):
        rows = Script(A, "wrong", B, "hm", C, "right", A, "wrong").drive(
            method.generate(QUESTION, settings, None)
        )
        names = [row.id if isinstance(row, Trace) else row.what for row in rows]
        assert len(set(names)) == len(names)
        assert sum(row.chosen for row in rows if isinstance(row, Trace)) == 3


@pytest.mark.parametrize("method", [two_turn, self_refine, check_context])
def test_poisoned_gold_changes_nothing(method) -> None:
    problem = next(TASK.problems())
    poisoned = replace(problem, answer="1 + 1 = 2", solution="1 + 1 = 2", meta="x", difficulty="1 way")

    def made(one):
        shown = render(TASK, one)
        question = Question(id="p", question=one.question, prompt=shown.prompt, prompt_used=shown.prompt_used)
        script = Script(A, "wrong", B, "right", C)
        return script.drive(method.generate(question, method.Settings(), None)), script.asked

    assert made(problem) == made(poisoned)


@pytest.mark.parametrize("method", [two_turn, self_refine, check_context])
def test_a_tokenizer_without_a_template_is_a_sentence(method) -> None:
    chat = countdown.Task(countdown.Settings(use="countdown", chat=True))
    with pytest.raises(RecipeError, match="the tokenizer of policy has no chat template"):
        Script(A, task=chat).drive(method.generate(QUESTION, method.Settings(), None))


# --- conversations that rules make


def talked(task, **settings):
    problem = replace(next(task.problems()), id="p")
    search = dialect.generate(QUESTION, dialect.Settings(**settings), None, problem=problem, task=task)
    return Script("", task=task).drive(search)


def test_rules_make_conversations_in_the_words_that_a_turn_shows() -> None:
    rows = talked(TASK, n=60)
    assert rows == talked(TASK, n=60)
    assert {row.act for row in rows} == {"critique", "revise", "compare", "judge", "propose"}
    assert len({row.id for row in rows}) == 60
    for row in rows:
        assert row.problem_id == "p"
        assert row.prompt.endswith({"critique": "check: ", "compare": "judge: "}.get(row.act, f"{row.act}: "))
        assert row.text
        asked = row.prompt.split("\n")[:-1] if row.act == "propose" else row.prompt.split("\n")[:1]
        assert {split_of(question) for question in asked} == {"train"}
        if row.act in ("critique", "judge", "compare"):
            assert row.answer is not None


def test_rules_make_conversations_for_a_judge_of_pairs() -> None:
    rows = talked(TASK, n=20, only=("compare",), pairs=True)
    assert all(re.search(r"; score \d; \d, \d; (first|second|same)$", row.text) for row in rows)
    assert not any(re.search(r"; \d, \d; ", row.text) for row in talked(TASK, n=20, only=("compare",)))
    with pytest.raises(RecipeError, match="task words: its comparisons have one form: leave pairs out"):
        talked(words.Task(words.Settings(use="words", chat=True)), pairs=True)


def test_only_some_acts_are_wanted() -> None:
    assert {row.act for row in talked(TASK, n=8, only=("critique",))} == {"critique"}
    with pytest.raises(
        RecipeError, match=r"only: \[sing\]: the conversations of task countdown have no such"
    ):
        talked(TASK, only=("sing",))


def test_a_task_without_conversations_drops_its_problems() -> None:
    [row] = talked(addition.Task(addition.Settings(use="addition")))
    assert (row.what, row.reason) == ("p", "no_dialect")


def test_word_problems_are_talked_about_in_a_chat_models_own_template() -> None:
    task = words.Task(words.Settings(use="words", chat=True))
    problem = replace(next(task.problems()), id="p")
    script = Script(
        "", task=task, template=lambda turns: "".join(f"<{t['role']}>{t['content']}" for t in turns)
    )
    rows = script.drive(dialect.generate(QUESTION, dialect.Settings(n=40), None, problem=problem, task=task))
    assert {row.act for row in rows} == {"critique", "revise", "rewrite", "compare"}
    for row in rows:
        assert row.prompt.startswith("<user>")
        assert row.prompt.count("<assistant>") == {"compare": 0, "rewrite": 2}.get(row.act, 1)
        assert row.answer is not None


def test_the_draws_are_named_by_the_problem() -> None:
    one, two = random.Random("p"), random.Random("q")
    assert TASK.conversation(one) != TASK.conversation(two)
