"""The driver: what a search gets depends on its own asks and names, never on what else runs."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_world import WORDS, LineTask, make_model, word_tokenizer

from pipeline.asks import (
    All,
    Choose,
    Continue,
    Cut,
    Logprob,
    MonteCarlo,
    Prefix,
    Said,
    Same,
    Score,
    Turn,
    prefix_of,
    start,
    to_trace,
)
from pipeline.engine.draws import monte_carlo_seed
from pipeline.engine.driver import Driver, Search, drive_with_replies
from pipeline.engine.endings import hash_ids
from pipeline.engine.local import Engine
from pipeline.engine.queues import rollout_key
from pipeline.errors import Diverged, RecipeError
from pipeline.rows import Question
from pipeline.tasks import countdown


def beam(prompt: str, steps: int = 4):
    """A search that branches, scores, reads and ends at its own pace."""
    best = Prefix(prompt)
    seen = []
    for number in range(steps):
        grown = yield Continue(best, n=3, until="step", by="policy", max_tokens=8 + number)
        scores, logprobs = yield All(Score(grown, by="prm"), Logprob(grown[:2], by="policy"))
        values = [score[-1] if score else -9.0 for score in scores]
        best = grown[max(range(3), key=values.__getitem__)]
        seen.append((values, logprobs))
        if best.done:
            break
    [end] = yield Continue(best, by="policy", temperature=0.7, top_k=20)
    return seen, end


def driver(policy, prm=None, **more) -> Driver:
    given = {"run_seed": 3, "round": 1, "stage": "search"} | more
    return Driver({"policy": policy, "prm": prm}.__getitem__, **given)


def drive(policy, prm, asks, *, window: int = 128, max_tokens: int = 40, task=None, **more) -> dict:
    task = task or LineTask()
    searches = [Search(name, task, one, max_tokens) for name, one in asks.items()]
    return {end.problem_id: end for end in driver(policy, prm, **more).run(searches, window)}


def beams(number: int) -> dict:
    return {f"p{i:02d}": beam(f"numbers {i} {i * 7 % 50} =", 2 + i % 4) for i in range(number)}


def test_rows_do_not_depend_on_the_window(policy, prm):
    reference = drive(policy, prm, beams(24), window=128)
    assert len(reference) == 24
    assert sum(len(end.result[1].token_ids) for end in reference.values()) > 300
    for window, max_rows in ((1, 512), (5, 7), (24, 1), (3, 512)):
        before, policy.max_rows = policy.max_rows, max_rows
        policy.clear()
        again = drive(policy, prm, beams(24), window=window)
        policy.max_rows = before
        assert again == reference, f"window {window}, {max_rows} rows"
    backwards = dict(reversed(beams(24).items()))
    assert drive(policy, prm, backwards, window=6) == reference
    some = {name: one for name, one in beams(24).items() if name in ("p03", "p17")}
    assert drive(policy, prm, some) == {name: reference[name] for name in some}


def test_rows_depend_on_the_names(policy, prm):
    def first(**more):
        return drive(policy, prm, {"p00": beam("numbers 7 =")}, **more)["p00"].result[1].token_ids

    different = {first(), first(run_seed=4), first(round=2), first(stage="other")}
    assert len(different) == 4


def test_a_second_process_makes_the_same_rows(policy_folder, prm_folder, policy, prm):
    """Another interpreter, one thread more: bit by bit the same, log-probabilities included."""
    program = f"""
import sys, json, dataclasses
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pipeline.models.environment import prepare
prepare(threads=2)
from test_driver import Engine, Path, beams, drive
policy, prm = Engine(Path({str(policy_folder)!r})), Engine(Path({str(prm_folder)!r}), head="value")
ends = drive(policy, prm, beams(6), window=2)
print(json.dumps(dict(sorted((k, dataclasses.asdict(v.result[1])) for k, v in ends.items()))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    here = drive(policy, prm, beams(6))
    expected = {name: dataclasses.asdict(end.result[1]) for name, end in sorted(here.items())}
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps(expected))


def test_replies_are_flat_and_prefix_major(policy):
    def search():
        roots = [Prefix("numbers 3 ="), Prefix("numbers 4 =")]
        grown = yield Continue(roots, n=3, until="tokens", max_tokens=4, by="policy")
        [[again]] = yield All(Continue(grown[4], by="policy", until="tokens", max_tokens=2))
        done = dataclasses.replace(grown[0], finish="budget")
        kept = yield Continue([done, grown[1]], n=2, until="tokens", max_tokens=1, by="policy")
        return grown, again, kept

    grown, again, kept = drive(policy, None, {"p": search()})["p"].result
    assert [prefix.prompt[8] for prefix in grown] == ["3"] * 3 + ["4"] * 3
    assert len({prefix.token_ids for prefix in grown}) > 2
    assert all(prefix.model == "policy" and prefix.prompt_hash for prefix in grown)
    assert grown[0].prompt_hash != grown[3].prompt_hash
    assert again.token_ids[:4] == grown[4].token_ids[:4]
    assert kept[0] == kept[1] == dataclasses.replace(grown[0], finish="budget")
    assert len(kept) == 4


def test_greedy_samples_are_one_row(policy):
    def search():
        return (
            yield Continue(
                Prefix("numbers 3 ="), n=4, temperature=0, by="policy", until="tokens", max_tokens=6
            )
        )

    end = drive(policy, None, {"p": search()})["p"]
    assert len(end.result) == 4
    assert len(set(end.result)) == 1
    assert end.charged == {"policy": end.result[0].num_tokens}


def test_a_completion_never_exceeds_its_tokens(policy, policy_folder):
    def search(until, limit=0):
        prefix = Prefix("numbers 3 =")
        while not prefix.done:
            [prefix] = yield Continue(prefix, by="policy", until=until, max_tokens=limit)
        return prefix

    for until, limit in (("answer", 0), ("step", 3), ("tokens", 4)):
        ends = drive(policy, None, {f"p{i}": search(until, limit) for i in range(20)}, max_tokens=17)
        lengths = [end.result.num_tokens for end in ends.values() if end.result.finish == "length"]
        assert lengths
        assert set(lengths) == {17}
        for end in ends.values():
            prefix = end.result
            assert prefix.step_ends[-1] == prefix.num_tokens == len(prefix.logprobs)
            assert "".join(prefix.steps) == prefix.text
            assert len(prefix.steps) == len(prefix.step_ends)
            assert prefix.answer == LineTask().extract(prefix.text)


def test_a_context_bounds_a_completion_and_a_long_prompt_is_a_counted_reason(models):
    engine = Engine(make_model(models / "short", word_tokenizer(), max_position_embeddings=24), name="policy")

    def search(length):
        yield All(
            Continue(Prefix("numbers"), by="policy", until="tokens", max_tokens=1),
            Continue(Prefix("3" + "+3" * length), by="policy"),
        )
        [end] = yield Continue(Prefix("3" + "+3" * length), by="policy")
        return end

    ends = drive(engine, None, {"fits": search(8), "long": search(30)}, max_tokens=100)
    assert ends["fits"].error == ""
    assert 17 + ends["fits"].result.num_tokens <= 24
    assert ends["long"].result is None
    assert ends["long"].error == "prompt too long: 61 tokens, and policy holds 24 with its answer"
    assert ends["long"].charged == {}


def test_log_probabilities_are_those_that_were_recorded(policy):
    def search(i):
        grown = yield Continue(Prefix(f"numbers {i} ="), n=3, by="policy", temperature=0.7)
        read = yield Logprob(grown, by="policy")
        return grown, read

    for end in drive(policy, None, {f"p{i}": search(i) for i in range(8)}).values():
        for prefix, read in zip(*end.result, strict=True):
            assert torch.allclose(torch.tensor(prefix.logprobs), torch.tensor(read), atol=3e-5)


def test_certainty_is_how_far_the_model_was_from_undecided(policy):
    def search():
        grown = yield Continue(Prefix("numbers 3 ="), n=2, by="policy")
        read, certain = yield All(Logprob(grown, by="policy"), Logprob(grown, by="policy", of="certainty"))
        return grown, read, certain

    grown, read, certain = drive(policy, None, {"p": search()})["p"].result
    for prefix, likely, said in zip(grown, read, certain, strict=True):
        ids = [*policy.encode(prefix.prompt), *prefix.token_ids]
        logits = policy.model(torch.tensor([ids])).logits[0, -len(said) - 1 : -1].double()
        uniform = -logits.log_softmax(-1).mean(-1) - math.log(logits.shape[-1])  # KL(uniform || p)
        assert torch.allclose(torch.tensor(said).double(), uniform, atol=1e-4)
        assert len(said) == len(likely)
        assert said != likely


def test_chosen_answers_get_probabilities(policy):
    def search():
        prefixes = [Prefix("numbers 3 ="), Prefix("numbers 4 =")]
        return (yield Choose(prefixes, ("1", "2", "3+4"), by="policy"))

    replies = drive(policy, None, {"p": search()})["p"].result
    for prompt, reply in zip(("numbers 3 =", "numbers 4 ="), replies, strict=True):
        ids = policy.encode(prompt)
        weights = []
        for option in ("1", "2", "3+4"):
            more = policy.encode_more(option)
            logits = policy.model(torch.tensor([ids + more])).logits[0].log_softmax(-1)
            weights.append(sum(logits[len(ids) - 1 + i, token].item() for i, token in enumerate(more)))
        assert torch.allclose(torch.tensor(reply), torch.tensor(weights).softmax(0), atol=1e-4)
        assert sum(reply) == pytest.approx(1)


def test_a_prefix_is_scored_once_and_charged_by_what_is_new(policy, prm, monkeypatch):
    read = []
    true = prm.score
    monkeypatch.setattr(prm, "score", lambda items, known: read.extend(items) or true(items, known))

    def search():
        root = Prefix("numbers 3 =", (9, 4, 10, 2, 12, 2), (4, 6), ("0+1\n", "3\n"), "0+1\n3\n", (0.0,) * 6)
        first = dataclasses.replace(
            root, token_ids=root.token_ids[:4], step_ends=(4,), steps=("0+1\n",), text="0+1\n"
        )
        a = yield Score(first, by="prm")
        b, c = yield All(Score([root, first, root], by="prm"), Score(root, by="prm"))
        none = yield Score(Prefix("numbers 3 ="), by="prm")
        return a, b, c, none

    end = drive(policy, prm, {"p": search()})["p"]
    a, b, c, none = end.result
    assert [len(score) for score in a + b + c + none] == [1, 2, 1, 2, 2, 0]
    assert b[1] == a[0]
    assert b[0] == b[2] == c[0]
    assert sum(1 for _, at in read if at) == 2
    assert end.charged == {"prm": 6}
    prompt = prm.encode("numbers 3 =")
    assert {tuple(at) for _, at in read if at} == {(len(prompt) + 3,), (len(prompt) + 3, len(prompt) + 5)}


def test_monte_carlo_counts_what_ends_right(policy):
    def search(n, keep=True):
        root = Prefix("numbers 3 =")
        counted = yield MonteCarlo([root], by="policy", n=n, keep=keep)
        again = yield MonteCarlo(root, by="policy", n=n + 2, keep=keep)
        return counted[0], again[0]

    def is_right(problem_id, prefix):
        return len(prefix.text) % 2 == 0

    asks = {"a": search(6), "b": search(3), "c": search(2, keep=False)}
    ends = drive(policy, None, asks, is_right=is_right)
    a, more = ends["a"].result
    assert a.num_correct == sum(a.correct) == sum(len(prefix.text) % 2 == 0 for prefix in a.rollouts)
    assert more.rollouts[:6] == a.rollouts  # what was drawn is not drawn again
    assert ends["b"].result[1].rollouts == a.rollouts[:5]  # the draws name the prefix, not who asks
    assert ends["c"].result[0].rollouts == ()
    assert ends["a"].charged["policy"] == sum(prefix.num_tokens for prefix in more.rollouts)
    seeds = {monte_carlo_seed(3, policy.weights_hash, policy.encode("numbers 3 ="), "x", i) for i in range(8)}
    assert len(seeds) == 8
    with pytest.raises(TypeError, match="only a label stage"):
        drive(policy, None, {"a": search(2)})


def test_a_reward_model_with_another_tokenizer_reads_the_text_step_by_step(bpe, prm):
    def search():
        grown = yield Continue(Prefix("numbers 3"), n=2, by="bpe", until="tokens", max_tokens=4)
        text = "3+4=7\n7-1\n"
        foreign = Prefix("numbers 3", (5, 6), (1, 2), ("3+4=7\n", "7-1\n"), text, (0.0, 0.0), model="bpe")
        own = bpe_ids(text, prm)
        native = dataclasses.replace(foreign, token_ids=own, step_ends=(6, 10), logprobs=(0.0,) * 10)
        return grown, (yield Score([foreign, native], by="prm"))

    def bpe_ids(text, engine):
        return tuple(engine.encode_more(text))

    made = Driver({"bpe": bpe, "prm": prm}.__getitem__, run_seed=0, round=0, stage="s")
    [end] = made.run([Search("p", LineTask(), search(), 20)])
    _, (foreign, native) = end.result
    assert foreign == native
    assert len(foreign) == 2


def test_a_reward_model_whose_tokenizer_lacks_the_step_mark_is_refused_by_name(models, policy):
    deaf = word_tokenizer([word for word in WORDS if word != "\n"])
    folder = make_model(models / "deaf", deaf, kind="LlamaForTokenClassification", num_labels=1)

    def search():
        [grown] = yield Continue(Prefix("numbers 3"), by="policy", until="tokens", max_tokens=4)
        yield Score(dataclasses.replace(grown, step_ends=(4,), steps=(grown.text,)), by="prm")

    made = {"policy": policy, "prm": Engine(folder, head="value", name="prm")}
    driver = Driver(made.__getitem__, run_seed=0, round=0, stage="s")
    with pytest.raises(RecipeError, match=r"model prm: its tokenizer lacks the step mark '\\n'"):
        list(driver.run([Search("p", LineTask(), search(), 20)]))


def test_steps_of_a_bpe_end_where_the_separator_ends(bpe):
    def search(i):
        prefix = start(Question(id=str(i), question="", prompt="", prompt_used=f"x = {i}\n\n"))
        ends = []
        for _ in range(6):
            [prefix] = yield Continue(prefix, by="policy", until="step", max_tokens=20)
            ends.append(prefix)
            if prefix.done:
                break
        return ends

    task = LineTask("\n\n")
    ended_by_separator = fused = 0
    for end in drive(bpe, None, {f"p{i}": search(i) for i in range(30)}, task=task, max_tokens=100).values():
        for prefix in end.result:
            assert "".join(prefix.steps) + bpe.decode(prefix.token_ids[prefix.step_ends[-1] :]) == prefix.text
            last = bpe.texts[prefix.token_ids[-1]]
            if not prefix.done and "\n\n" in prefix.steps[-1]:
                ended_by_separator += 1
                fused += last.strip() != b"" and b"\n\n" in last
                before = bpe.decode(
                    prefix.token_ids[(prefix.step_ends[-2] if len(prefix.steps) > 1 else 0) : -1]
                )
                assert "\n\n" not in before
    assert ended_by_separator > 5
    assert fused > 0


def test_an_error_in_one_search_stops_all_and_leaves_the_engine_clean(policy, prm):
    closed = []

    def patient():
        try:
            yield Continue(Prefix("numbers 3 ="), by="policy")
        except GeneratorExit:
            closed.append(True)
            raise

    def broken():
        yield Continue(Prefix("numbers 4 ="), by="policy", until="tokens", max_tokens=1)
        raise Diverged("the search says so")

    with pytest.raises(Diverged, match="the search says so"):
        drive(policy, prm, {"a": patient(), "b": broken(), "c": patient()}, max_tokens=200)
    assert len(closed) == 2
    assert not policy.busy
    with pytest.raises(TypeError, match="which is no ask"):
        drive(policy, prm, {"a": iter_of("words")})


def iter_of(ask):
    yield ask


def test_searches_are_taken_as_the_window_has_room(policy):
    alive, most = set(), []

    def search(i):
        alive.add(i)
        most.append(len(alive))
        yield Continue(Prefix(f"numbers {i} ="), by="policy")
        alive.discard(i)
        return i

    told = []
    made = driver(policy)
    ends = list(made.run((Search(str(i), LineTask(), search(i), 30) for i in range(20)), 6, told.append))
    assert sorted(end.result for end in ends) == list(range(20))
    assert max(most) == 6
    assert {"done", "live", "tokens", "seconds"} == set(told[0])
    written = sum(end.charged["policy"] for end in ends)
    assert made.spent["written"]["policy"] == written
    assert list(made.run([], 4)) == []


def test_canned_replies_drive_a_search():
    def search():
        first = yield Continue(Prefix("a"), by="policy")
        second = yield Score(first, by="prm")
        return first, second

    seen = []
    assert drive_with_replies(search(), [["x"], lambda ask: [ask.prefixes]], seen) == (["x"], [["x"]])
    assert [type(ask).__name__ for ask in seen] == ["Continue", "Score"]
    with pytest.raises(AssertionError, match="once more"):
        drive_with_replies(search(), [["x"]])
    with pytest.raises(AssertionError, match="1 replies unread"):
        drive_with_replies(search(), [["x"], [], []])


def test_a_completion_is_cut_anywhere_and_goes_on_from_there(policy, prm):
    """Every prefix of a completion, inside of steps too, has the text of its ids; what is drawn after it is named by
    the prefix alone."""

    def pieces():
        [whole] = yield Continue(Prefix("numbers 7 ="), by="policy", until="tokens", max_tokens=12)
        cuts = yield Cut(whole, at=range(whole.num_tokens + 1), by="policy")
        inside = [cut for cut in cuts if cut.num_tokens not in (0, *whole.step_ends, whole.num_tokens)]
        counts = yield MonteCarlo(inside[:2], by="policy", n=2, keep=True)
        return whole, cuts, inside, counts

    found = drive(policy, prm, {"p": pieces()}, is_right=lambda problem_id, prefix: True)["p"]
    whole, cuts, inside, counts = found.result
    assert len(cuts) == whole.num_tokens + 1
    assert cuts[-1] is whole
    for number, cut in enumerate(cuts[:-1]):
        assert cut.token_ids == whole.token_ids[:number]
        assert cut.text == policy.decode(cut.token_ids)
        assert not cut.done
        assert cut.step_ends == tuple(end for end in whole.step_ends if end <= number)
        assert len(cut.steps) == len(cut.step_ends)
        assert len(cut.logprobs) == number
    assert inside
    for cut, counted in zip(inside, counts, strict=False):
        for rollout in counted.rollouts:
            assert rollout.token_ids[: cut.num_tokens] == cut.token_ids
            assert rollout.text == policy.decode(rollout.token_ids)
    written = whole.num_tokens + sum(
        rollout.num_tokens - cut.num_tokens
        for cut, counted in zip(inside, counts, strict=False)
        for rollout in counted.rollouts
    )
    assert found.charged == {"policy": written}  # a cut costs nothing


def test_another_tokenizer_s_completion_is_not_cut(policy, prm):
    def foreign():
        yield Cut(
            Prefix("numbers 7 =", token_ids=(5, 6), step_ends=(), text="nothing of the kind"),
            at=(1,),
            by="policy",
        )

    with pytest.raises(RecipeError, match=r"another tokenizer wrote them"):
        drive(policy, prm, {"p": foreign()})

    def beyond():
        yield Cut(Prefix("numbers 7 ="), at=(1,), by="policy")

    with pytest.raises(ValueError, match=r"cut at 1: the completion has 0 tokens"):
        drive(policy, prm, {"p": beyond()})


def test_answers_that_mean_the_same_are_told_by_the_task(policy, prm):
    class Signless(LineTask):
        def same(self, one, other):
            return one.lstrip("-") == other.lstrip("-")

    def grouped():
        told, written = yield All(
            Same(["-3", None, "3", "4", "-4", "-3"]), Continue(Prefix("numbers 7 ="), by="policy")
        )
        return told, len(written), (yield Same([])), (yield Same([None]))

    found = drive(policy, prm, {"p": grouped()}, task=Signless())["p"]
    assert found.result == (["-3", None, "-3", "4", "4", "-3"], 1, [], [None])


def rollouts_of(finished):
    """What a search drew, as a later one is given it."""
    found = {}
    for one in finished.drawn:
        ask = one.ask
        key = rollout_key(ask.by, one.begun, ask.temperature, ask.top_p, ask.top_k)
        found.setdefault(key, []).append(one.prefix)
    return found


def test_roll_outs_that_stand_are_read_and_charged_as_if_drawn(policy):
    def search(n):
        roots = [Prefix("numbers 3 ="), Prefix("numbers 4 =")]
        return (yield MonteCarlo(roots, by="policy", n=n, keep=True))

    def run(n, given):
        working = driver(policy, is_right=lambda problem_id, prefix: len(prefix.text) % 2 == 0)
        [end] = working.run([Search("p", LineTask(), search(n), 40, rollouts=given)])
        return end, working.spent["written"]["policy"]

    first, written = run(4, {})
    assert written == first.charged["policy"] > 0
    assert len(first.drawn) == 8
    again, spent = run(4, rollouts_of(first))
    assert (again.result, again.charged, again.drawn, spent) == (first.result, first.charged, [], 0)
    alone, whole = run(6, {})
    more, rest = run(6, rollouts_of(first))  # what is missing is drawn
    assert (more.result, more.charged, rest) == (alone.result, alone.charged, whole - written)
    assert [one.prefix for one in more.drawn] == [alone.drawn[i].prefix for i in (4, 5, 10, 11)]
    fewer, spent = run(2, rollouts_of(first))
    assert spent == 0
    assert fewer.charged["policy"] == sum(first.drawn[i].prefix.num_tokens for i in (0, 1, 4, 5))


def test_equal_asks_under_way_are_drawn_once(policy):
    def search():
        root = Prefix("numbers 3 =")
        one, two = yield All(*(MonteCarlo([root, root], by="policy", n=n, keep=True) for n in (3, 5)))
        return [counted.rollouts for counted in (*one, *two)]

    end = drive(policy, None, {"p": search()}, is_right=lambda problem_id, prefix: True)["p"]
    a, b, c, d = end.result
    assert a == b == c[:3] == d[:3]
    assert len(end.drawn) == 5
    assert end.charged["policy"] == sum(prefix.num_tokens for prefix in c)


def test_a_completer_whose_tokenizer_lacks_a_word_ends_the_search_with_a_reason(policy):
    def search(text):
        begun = Prefix("numbers 3 =", (5, 6), (2,), (text,), text, (0.0, 0.0), model="other")
        return (yield MonteCarlo(begun, by="policy", n=2, keep=True))

    asks = {"known": search("3+4=7\n"), "unknown": search("so it is €\n")}
    ends = drive(policy, None, asks, is_right=lambda problem_id, prefix: True)
    assert ends["unknown"].error.startswith("not readable: the tokenizer of policy cannot say")
    [count] = ends["known"].result
    assert all(prefix.text.startswith("3+4=7\n") for prefix in count.rollouts)


def conversation(question, by="policy"):
    """An answer, a critique of it, a second answer."""
    [first] = yield Continue(start(question), by=by, max_tokens=6)
    turn = yield Turn(question, "critique", [Said(first.text)], by=by)
    [critique] = yield Continue(start(turn), by=by, max_tokens=6)
    history = [Said(first.text), Said(critique.text, "critique")]
    last, same = yield All(Turn(question, "revise", history, by=by), Turn(question, "revise", history, by=by))
    assert last == same
    [second] = yield Continue(start(last), by=by, max_tokens=6)
    one = to_trace(question, first, 0)
    two = to_trace(turn, critique, 0, parent=one.id)
    return [one, two, to_trace(last, second, 0, parent=two.id)]


def test_a_later_turn_sees_the_conversation_and_is_stored_under_it(policy):
    task = countdown.Task(countdown.Settings(use="countdown"))
    text = "numbers 1, 2, 3; target 6"
    question = Question(id="p", question=text, prompt=text + "\n", prompt_used=text + "\n")
    [end] = driver(policy).run([Search("p", task, conversation(question), 40)])
    first, critique, second = end.result
    assert [trace.id for trace in end.result] == ["p/0", "p/critique.0", "p/revise.0"]
    assert [trace.act for trace in end.result] == ["", "critique", "revise"]
    assert [trace.is_attempt for trace in end.result] == [True, False, True]
    assert [trace.turn for trace in end.result] == [0, 1, 2]
    assert critique.parent == first.id
    assert second.parent == critique.id
    assert critique.prompt == f"{text}\n{first.text.removesuffix(chr(10))}\ncheck: "
    assert second.prompt.endswith("revise: ")
    assert critique.prompt in second.prompt
    assert second.prompt_hash == hash_ids(policy.encode(second.prompt))
    written = sum(len(trace.token_ids) for trace in end.result)
    assert end.charged == {"policy": written}
    assert prefix_of(second).act == "revise"
    assert prefix_of(second).prompt == second.prompt


def test_a_turn_of_a_chat_without_a_template_is_a_sentence(policy):
    task = countdown.Task(countdown.Settings(use="countdown", chat=True))
    question = Question(id="p", question="numbers 1, 2; target 3", prompt="numbers", prompt_used="numbers")
    with pytest.raises(RecipeError, match=r"the tokenizer of policy has no chat template: its critique"):
        list(driver(policy).run([Search("p", task, conversation(question), 40)]))
