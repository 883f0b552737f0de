"""Accuracy from canned replies: which asks, which rows, which numbers."""

import pytest
from pydantic import ValidationError

from pipeline.asks import All, Continue, Logprob, Prefix, Score, to_trace
from pipeline.evaluate import accuracy
from pipeline.rows import Group, Label, Node, Problem, Question, Trace
from pipeline.tasks import BaseTask, TaskSettings


class Sums(BaseTask):
    """Answers are the last line; a step is right when it holds no '!'."""

    def extract(self, text):
        return text.splitlines()[-1] if text else None

    def correct(self, answer, problem):
        return answer == problem.answer

    def step_oracle(self, problem, steps):
        return ["!" not in step for step in steps]


TASK = Sums(TaskSettings(use="sums"))
PROBLEMS = [
    Problem(
        id=f"p{n}", question=f"{n}+1", answer=str(n + 1), difficulty="odd" if n % 2 else "even", split="dev"
    )
    for n in range(6)
]


def question(problem):
    return Question(id=problem.id, question=problem.question, prompt="Q", prompt_used="Q")


def written(steps, finish="eos", logprob=-0.5):
    text = "".join(steps)
    return Prefix(
        prompt="Q",
        token_ids=tuple(range(len(steps))),
        step_ends=tuple(range(1, len(steps) + 1)),
        steps=tuple(steps),
        text=text,
        logprobs=(logprob,) * len(steps),
        finish=finish,
        answer=TASK.extract(text) if finish == "eos" else None,
        model="policy",
    )


def run(problem, settings, model, reply):
    """Drives one search with replies made by `reply(ask)`."""
    asks = accuracy.answer(question(problem), settings, model)
    try:
        ask = next(asks)
        while True:
            answer = [reply(a) for a in ask.asks] if isinstance(ask, All) else reply(ask)
            ask = asks.send(answer)
    except StopIteration as end:
        return end.value


def outcomes_of(settings, model, reply, task=TASK):
    found = []
    for problem in PROBLEMS:
        rows = run(problem, settings, model, lambda ask, problem=problem: reply(problem, ask))
        labels = [row for row in rows if not isinstance(row, Trace)] + accuracy.grade(problem, rows, task)
        traces = [row for row in rows if isinstance(row, Trace)]
        found.append(accuracy.outcomes(problem, traces, labels, settings, model, task))
    return found


def good(problem, ask):
    """Greedy right but on p0; 2 of 4 samples right, one by a wrong step; one is cut by the limit."""
    if isinstance(ask, Logprob):
        return [[-0.7] * len(prefix.token_ids) for prefix in ask.listed]
    right = problem.answer
    if ask.temperature == 0:
        return [written(["a\n", "9" if problem.id == "p0" else right])]
    return [
        written(["a\n", right]),
        written(["!\n", right]),
        written(["b\n", "9", "9"], finish="length"),
        written([f"{problem.id}\n", "8"]),
    ]


def bad(problem, ask):
    if isinstance(ask, Logprob):
        return good(problem, ask)
    return [written(["c\n", "0"])] * ask.n


SETTINGS = accuracy.Settings(of=["policy", "policy@0"], samples=4, k=(2, 4), kl=True)


def test_asks_and_rows():
    rows = run(PROBLEMS[1], SETTINGS, "policy", lambda ask: good(PROBLEMS[1], ask))
    traces = [row for row in rows if isinstance(row, Trace)]
    assert [t.id for t in traces] == [f"p1/policy/{n}" for n in range(5)]
    assert [t.temperature for t in traces] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert {t.model for t in traces} == {"policy"}
    assert {row.labeller for row in rows if not isinstance(row, Trace)} == {"kl"}
    asks = accuracy.answer(question(PROBLEMS[1]), SETTINGS, "policy")
    first = next(asks)
    assert [(type(a), a.n, a.temperature, a.by) for a in first.asks] == [
        (Continue, 1, 0.0, "policy"),
        (Continue, 4, 1.0, "policy"),
    ]


def test_metrics_by_hand():
    metrics = accuracy.measure({"policy": outcomes_of(SETTINGS, "policy", good)}, SETTINGS)
    assert metrics["problems"] == 6
    assert metrics["accuracy/greedy"] == pytest.approx(5 / 6, abs=1e-6)
    assert metrics["accuracy/greedy/even"] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics["accuracy/greedy/odd"] == 1.0
    assert metrics["accuracy/sampled"] == 0.5
    assert metrics["pass@2"] == pytest.approx(1 - 1 / 6, abs=1e-6)
    assert metrics["pass@4"] == 1.0
    assert metrics["maj@4"] == 1.0  # 2 right, one other, one without answer
    assert metrics["truncated"] == metrics["no_answer"] == pytest.approx(1 / 5)
    assert metrics["missing_eos"] == 0.0
    assert metrics["length/mean"] == pytest.approx(11 / 5)
    assert metrics["trace_error"] == pytest.approx(6 / 17, abs=1e-6)  # of 5 + 12 right traces
    assert metrics["kl"] == pytest.approx(0.2)
    assert metrics["distinct"] > 0.6
    assert {each.name for each in accuracy.metrics(SETTINGS)} <= set(metrics)
    assert metrics["accuracy/greedy/low"] < 5 / 6 < metrics["accuracy/greedy/high"]


def test_labels_choose_among_the_traces_of_from():
    """The highest value, of equals the better one by its own score; a trace without a value has no score."""

    def trace(number, score, chosen=False):
        return Trace(
            problem_id="p1", id=f"p1/search.0/{number}", prompt="", text=str(number), token_ids=[1], step_ends=[1],
            steps=[str(number)], answer=str(number), score=score, chosen=chosen,
        )  # fmt: skip

    traces = [trace(0, 0.9, True), trace(1, 0.2), trace(2, 0.4), trace(3, 0.8)]
    values = {0: 0.1, 1: 0.7, 2: 0.7}
    labels = {
        traces[n].id: Label(problem_id="p1", trace_id=traces[n].id, value=value, labeller="mutual")
        for n, value in values.items()
    }

    def answered(group, **more):
        settings = accuracy.Settings(**{"from": ("agree",)}, **more)
        search = accuracy.answer(question(PROBLEMS[1]), settings, "policy", None, group)
        with pytest.raises(StopIteration) as stop:
            next(search)
        return [(row.answer, row.score, row.chosen) for row in stop.value.value]

    group = Group("p1", traces=traces, labels=labels)
    as_they_were = [("0", 0.9, True), ("1", 0.2, False), ("2", 0.4, False), ("3", 0.8, False)]
    assert answered(group) == as_they_were
    assert answered(group, choose="label") == [
        ("0", 0.1, False), ("1", 0.7, False), ("2", 0.7, True), ("3", None, False),
    ]  # fmt: skip
    assert answered(Group("p1", traces=traces), choose="label") == as_they_were


def test_valid_is_right_by_right_steps_and_stands_only_where_it_is_asked_for():
    asked = SETTINGS.model_copy(update={"chains": True})
    found = {
        name: outcomes_of(SETTINGS, name, reply) for name, reply in (("policy", good), ("policy@0", bad))
    }
    plain, metrics = accuracy.measure(found, SETTINGS), accuracy.measure(found, asked)
    assert not any(name.startswith("valid") for name in plain)
    assert metrics["valid"] == pytest.approx(5 / 6, abs=1e-6)  # every right greedy one
    assert metrics["valid/sampled"] == 0.25  # one of the two right samples by a wrong step
    assert metrics["valid/low"] <= metrics["valid"] <= metrics["valid/high"]
    assert metrics["gain/valid"] == pytest.approx(5 / 6, abs=1e-6)  # the other one is never right
    assert {name: plain[name] for name in plain} == {name: metrics[name] for name in plain}
    named = {each.name: each for each in accuracy.metrics(asked)}
    assert set(named) <= set(metrics)
    assert [name for name in ("valid", "valid/sampled", "trace_error") if named[name].headline] == [
        "valid", "valid/sampled", "trace_error",
    ]  # fmt: skip
    assert not next(each for each in accuracy.metrics(SETTINGS) if each.name == "trace_error").headline


def test_valid_of_a_task_without_an_oracle_is_left_out():
    class Plain(type(TASK)):
        def step_oracle(self, problem, steps):
            return None

    asked = SETTINGS.model_copy(update={"chains": True})
    metrics = accuracy.measure({"policy": outcomes_of(asked, "policy", good, Plain(TASK.settings))}, asked)
    assert not any(name.startswith("valid") for name in metrics)


def test_seed_gives_gains_and_incumbent_gives_changes():
    good_ones, bad_ones = outcomes_of(SETTINGS, "policy", good), outcomes_of(SETTINGS, "policy@0", bad)
    final = accuracy.measure({"policy": good_ones, "policy@0": bad_ones}, SETTINGS)
    assert final["accuracy/greedy@0"] == 0.0
    assert final["gain/greedy"] == pytest.approx(5 / 6, abs=1e-6)
    assert final["gain/greedy/low"] <= final["gain/greedy"] <= final["gain/greedy/high"]
    assert "gain/pass@4" in final
    gated = accuracy.measure({"policy": good_ones, "policy@incumbent": bad_ones}, SETTINGS)
    assert gated["accuracy/greedy@incumbent"] == 0.0
    assert {f"accuracy/greedy/change{part}" for part in ("", "/low", "/high")} <= set(gated)
    assert "kl" not in {name for name in final if name.endswith("@0")}
    two = accuracy.measure(
        {"policy": good_ones, "partner": bad_ones, "partner@incumbent": good_ones}, SETTINGS
    )
    assert two["accuracy/greedy@partner/change"] == pytest.approx(-5 / 6, abs=1e-6)


def test_answers_that_mean_the_same_vote_together():
    """Each of two right samples is written in its own way; by text alone the two equal wrong ones would win."""

    class Loose(Sums):
        def same(self, one, other):
            return one.strip("+") == other.strip("+")

        def correct(self, answer, problem):
            return answer.strip("+") == problem.answer

    settings = accuracy.Settings(samples=5, votes=("majority",), k=(5,))
    spellings = ["{}", "+{}", "{}+", "7x", "7x"]
    found = {}
    for task in (Loose(TaskSettings(use="sums")), TASK):
        outcomes = []
        for problem in PROBLEMS:
            samples = [written([each.format(problem.answer)]) for each in spellings]
            rows = run(problem, settings, "policy", lambda ask, s=samples: s if ask.temperature else [s[0]])
            labels = accuracy.grade(problem, rows, task)
            outcomes.append(accuracy.outcomes(problem, rows, labels, settings, "policy", task))
        found[task] = accuracy.measure({"policy": outcomes}, settings)
    together, apart = found.values()
    assert (together["accuracy/majority"], together["maj@5"]) == (1, 1)
    assert (apart["accuracy/majority"], apart["maj@5"]) == (0, 0)


def test_votes_by_a_reward_model():
    """The PRM likes the first sample of each problem, which is right; two others agree on a wrong answer."""
    settings = accuracy.Settings(
        samples=3, value="prm", votes=("majority", "weighted", "best"), aggregate="min"
    )

    def reply(problem, ask):
        if isinstance(ask, Score):
            assert ask.by == "prm"
            return [[0.9, 0.8], [0.2, 0.3], [0.4]]
        if ask.temperature == 0:
            return [written([problem.answer])]
        return [written(["a\n", problem.answer]), written(["b\n", "7x"]), written(["c\n", "7x"])]

    rows = run(PROBLEMS[0], settings, "policy", lambda ask: reply(PROBLEMS[0], ask))
    assert [row.score for row in rows if isinstance(row, Trace)] == [None, 0.8, 0.2, 0.4]
    assert [row.step_scores for row in rows if not isinstance(row, Trace)][2] == [0.4, None]
    metrics = accuracy.measure({"policy": outcomes_of(settings, "policy", reply)}, settings)
    assert (metrics["accuracy/majority"], metrics["accuracy/weighted"], metrics["accuracy/best"]) == (0, 1, 1)
    assert metrics["maj@2"] < 1
    assert "best@1" not in metrics


def test_the_best_of_k_by_gold_and_by_the_one_who_chose_it():
    """The PRM likes a wrong sample most: its own word of its choice rises with k and gold falls. By hand, of
    scores .9 (wrong), .6 (right), .3 (right): best@2 is 1/3, of k = 2 the highest is .9 twice and .6 once.
    What the limit cut before its answer is no choice, as in the vote, whatever its score."""
    settings = accuracy.Settings(samples=3, value="prm", k=(2, 3), best=True, votes=("best",))

    def reply(problem, ask):
        if isinstance(ask, Score):
            return [[0.9], [0.6], [0.3]]
        if ask.temperature == 0:
            return [written([problem.answer])]
        return [written(["a\n", "7x"]), written(["b\n", problem.answer]), written(["c\n", problem.answer])]

    metrics = accuracy.measure({"policy": outcomes_of(settings, "policy", reply)}, settings)
    assert [metrics[f"best@{k}"] for k in (1, 2, 3)] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [metrics[f"score@{k}"] for k in (1, 2, 3)] == pytest.approx([0.6, 0.8, 0.9])

    def cut(problem, ask):
        found = reply(problem, ask)
        return [written(["a\n"], finish="length"), *found[1:]] if len(found) > 1 else found

    outcomes = outcomes_of(
        settings, "policy", lambda p, a: reply(p, a) if isinstance(a, Score) else cut(p, a)
    )
    short = accuracy.measure({"policy": outcomes}, settings)
    assert short["best@3"] == short["accuracy/best"] == 1
    assert [short[f"score@{k}"] for k in (1, 2, 3)] == pytest.approx([0.45, 0.5, 0.6])
    declared = {one.name: one for one in accuracy.metrics(settings)}
    assert declared["best@3"].share
    assert not declared["score@3"].share
    assert {"best@1", "score@1", "best@2", "score@2"} <= set(declared)
    for given in ({"samples": 3}, {"value": "prm"}):
        with pytest.raises(ValidationError, match="best needs samples and a reward model"):
            accuracy.Settings(best=True, **given)


def test_order_and_extra_problems_do_not_matter():
    rows = outcomes_of(SETTINGS, "policy", good)
    alone = accuracy.measure({"policy": rows[1:]}, SETTINGS)
    paired = accuracy.measure({"policy": rows[::-1], "policy@incumbent": rows[1:]}, SETTINGS)
    assert {name: paired[name] for name in alone} == alone
    with pytest.raises(ValueError, match="no problem was measured for all"):
        accuracy.measure({"policy": rows[:2], "policy@0": rows[2:]}, SETTINGS)


def test_collapse_is_caught_and_a_solved_task_is_not():
    same = accuracy.Settings(samples=4)

    def collapsed(problem, ask):
        return [written(["c\n", "0"])] * ask.n

    def solved(problem, ask):
        return [written([problem.answer])] * ask.n

    def empty(problem, ask):
        return [written([])] * ask.n

    def health(reply):
        return accuracy.health(accuracy.measure({"policy": outcomes_of(same, "policy", reply)}, same), same)

    assert "collapsed" in health(collapsed).failures[0]
    assert "collapsed" in health(empty).failures[0]
    assert health(solved) == accuracy.Health()
    assert accuracy.health({"distinct": 0.19, "traces": 500}, same).warnings
    assert not accuracy.health({"distinct": 0.21, "traces": 500}, same).warnings


def test_a_search_answers_by_its_chosen_trace():
    settings = accuracy.Settings(search={"generate": "beam"})

    def search(asked):
        grown = yield Continue(Prefix(prompt="Q"), by="policy", n=4)
        return [to_trace(asked, prefix, number, chosen=number == 1) for number, prefix in enumerate(grown)]

    asks = accuracy.answer(question(PROBLEMS[2]), settings, "policy", search)
    ask = next(asks)
    with pytest.raises(StopIteration) as end:
        asks.send(good(PROBLEMS[2], ask))
    rows = end.value.value
    found = accuracy.outcomes(
        PROBLEMS[2], rows, accuracy.grade(PROBLEMS[2], rows, TASK), settings, "policy", TASK
    )
    metrics = accuracy.measure({"policy": [found]}, settings)
    assert metrics["accuracy/search"] == 1.0
    assert metrics["accuracy/sampled"] == 0.5
    assert rows[1].id == "p2/policy/1"


def test_a_problem_without_traces_is_not_solved():
    settings = accuracy.Settings()
    found = [accuracy.outcomes(problem, [], [], settings, "policy", TASK) for problem in PROBLEMS]
    assert accuracy.measure({"policy": found}, settings)["accuracy/greedy"] == 0.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k": (16,), "samples": 8}, "k=16 is more than samples=8"),
        ({"votes": ("majority",)}, "votes need samples"),
        ({"votes": ("weighted",), "samples": 4}, "set value"),
        ({"samples": -1}, "samples"),
        ({"k": (0,), "samples": 4}, "each k is 1 or more"),
    ],
)
def test_settings_are_refused_with_a_cure(keys, message):
    with pytest.raises(ValidationError, match=message):
        accuracy.Settings(**keys)


def test_default_ks_are_powers_of_two():
    assert accuracy.Settings(samples=8).ks == (2, 4, 8)
    assert accuracy.Settings(samples=6).ks == (2, 4)
    assert accuracy.Settings(samples=1).ks == ()
    assert accuracy.Settings(of=["student", "student@0"], kl=True).kl == "student@0"


def tree_of(problem_id):
    """a under the root, 1 and 2 under a; b ended. By depth: a; then a, 1 and 2, of which 2 goes on; then a, 2, x."""
    steps = [("n0", None, 0, "", False), ("n1", "n0", 1, "aaaa", False), ("n2", "n0", 1, "b", True), ("n3", "n1", 2, "11", False),
             ("n4", "n1", 2, "222", False), ("n5", "n4", 3, "x", False), ("n6", "n5", 4, "y", True)]  # fmt: skip
    return [
        Node(problem_id=problem_id, id=f"{problem_id}/{name}", parent=above and f"{problem_id}/{above}", depth=depth,
             step=step, terminal=ended, token_ids=list(map(ord, step)))
        for name, above, depth, step, ended in steps
    ]  # fmt: skip


def test_what_a_search_holds():
    settings = accuracy.Settings(search={"generate": "rebase"}, held=True)

    def outcome(problem, model="policy", nodes=True):
        def search(asked):
            return [*(tree_of(asked.id) if nodes else []), to_trace(asked, written([problem.answer]), 0)]
            yield

        rows = []
        for name in ("policy", "policy@0"):
            try:
                next(accuracy.answer(question(problem), settings, name, search))
            except StopIteration as end:
                rows += end.value
        labels = [row for row in rows if isinstance(row, Label)] + accuracy.grade(problem, rows, TASK)
        traces = [row for row in rows if isinstance(row, Trace)]
        return accuracy.outcomes(problem, traces, labels, settings, model, TASK)

    # nodes 1 + 3 + 3 over three depths; tokens 4 + 9 + 8; the paths alone 4 + (6 + 7) + 8 = 25
    assert dict(outcome(PROBLEMS[0]).held) == pytest.approx(
        {"held/nodes": 7 / 3, "held/tokens": 7, "held/shared": 1 - 21 / 25}
    )
    measured = accuracy.measure(
        {"policy": [outcome(one, nodes=one is PROBLEMS[0]) for one in PROBLEMS]}, settings
    )
    assert measured["held/tokens"] == 7  # over the problems whose search had an open step
    assert {one.name for one in accuracy.metrics(settings)} - {one.name for one in accuracy.metrics(
        accuracy.Settings(search={"generate": "rebase"}))} == {"held/nodes", "held/tokens", "held/shared"}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"search": {"generate": "sample"}}])
def test_what_holds_nothing_is_not_asked(more):
    with pytest.raises(ValidationError, match="held measures what a search over steps keeps"):
        accuracy.Settings(held=True, **more)
