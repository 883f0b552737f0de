"""How well does a seed talk? Its critic, judge and second tries on countdown, held against the rules.

    python scripts/bench_talk.py                        # seed://countdown?talk=1, 300 dev problems
    python scripts/bench_talk.py 'seed://countdown?talk=2' --problems 600

What is absent is built first, and the seconds of CPU that took are said. For each dev problem the seed
answers (greedy, and one sample), checks its sample, checks a right answer, and checks a cheat: its sample
with the target written as the last result. A faulty answer is one with a false or illegal step; its fault is
named where the check says the kind of fault that the rules find first. Its judge of two sees its sample,
where that is wrong, beside the right answer in both orders, and beside its own second try.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.models import environment  # noqa: E402

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

from pipeline.asks import Asks, Continue, Prefix, Said, Turn, start  # noqa: E402  the environment comes first
from pipeline.engine.driver import Driver, Search  # noqa: E402
from pipeline.engine.local import Engine  # noqa: E402
from pipeline.models import seeds  # noqa: E402
from pipeline.rows import Problem, Question  # noqa: E402
from pipeline.tasks import _dialect, countdown  # noqa: E402

TOKENS = 110  #: a comparison holds two checks


class Talks:
    """One seed on one set of problems."""

    def __init__(self, task: countdown.Task, problems: list[Problem]) -> None:
        self.task, self.problems = task, problems

    def checked(self, problem: Problem, answer: str) -> _dialect.Checked:
        """What a sound critic says."""
        numbers, target = self.task.parse(problem.question)
        return _dialect.check(numbers, target, answer, self.task.settings.largest)

    def search(self, problem: Problem) -> Asks[dict[str, Any]]:
        """Everything that is asked about one problem."""
        prompt = self.task.prompt(problem.question)
        question = Question(id=problem.id, question=problem.question, prompt=prompt, prompt_used=prompt)

        def said(act: str, *history: Said, heat: float = 0.0) -> Asks[Prefix]:
            turn = yield Turn(question, act, history, by="seed")
            [end] = yield Continue(start(turn), by="seed", temperature=heat)
            return end

        [greedy] = yield Continue(start(question), by="seed", temperature=0.0)
        [sample] = yield Continue(start(question), by="seed")
        own, right = Said(sample.text), Said(self.task.gold_completion(problem) or "")
        cheat = Said(f"{sample.text.rpartition(' = ')[0]} = {self.task.parse(problem.question)[1]}")
        check = yield from said("critique", own)
        told = {
            "greedy": greedy,
            "sample": sample,
            "cheat": cheat.text,
            "check": check,
            "check, sampled": (yield from said("critique", own, heat=1.0)),
            "check of right": (yield from said("critique", right)),
            "check of cheat": (yield from said("critique", cheat)),
            "points": (yield from said("judge", own)),
            "own first": (yield from said("compare", own, right)),
            "own second": (yield from said("compare", right, own)),
            "second": (yield from said("revise", own, heat=1.0)),
            "after check": (yield from said("revise", own, Said(check.text, "critique"), heat=1.0)),
        }
        told["own pair"] = yield from said("compare", own, Said(told["second"].text))
        return told

    def figures(self, engine: Engine) -> Iterator[tuple[str, float, int]]:
        """(what, share, of how many)."""
        driver = Driver({"seed": engine}.__getitem__, run_seed=0, round=0, stage="bench_talk")
        by_id = {problem.id: problem for problem in self.problems}
        todo = [Search(p.id, self.task, self.search(p), TOKENS) for p in self.problems]
        found = [(by_id[end.problem_id], end.result) for end in driver.run(todo)]
        for what in ("greedy", "sample", "second", "after check"):
            yield share(f"right, {what}", [self.task.correct(one[what].answer, p) for p, one in found])
        own = [(self.checked(p, one["sample"].text), one) for p, one in found]
        yield share("legal, sample", [truth.rank > _dialect.FAULTY for truth, _ in own])
        for what in ("check", "check, sampled"):
            yield from critic(what, [(truth.rank == _dialect.RIGHT, one[what].answer) for truth, one in own])
        faulty = [(truth, one["check"].text) for truth, one in own if truth.fault]
        yield share("fault named", [f"{truth.fault} wrong" in text for truth, text in faulty])
        yield share(
            "right answers called right", [one["check of right"].answer == "right" for _, one in found]
        )
        cheats = [
            one["check of cheat"].answer == "wrong"
            for p, one in found
            if self.checked(p, one["cheat"]).rank == _dialect.FAULTY
        ]
        yield share("cheats called wrong", cheats)
        yield share("points as by the rules", [one["points"].answer == str(t.points) for t, one in own])
        yield from self.judge(found)
        yield share("second says the first again", [same(one["second"], one["sample"]) for _, one in found])

    def judge(self, found: list[tuple[Problem, dict[str, Any]]]) -> Iterator[tuple[str, float, int]]:
        """Its own wrong answers beside the right one, in both orders; two answers of its own."""
        judged = [(self.checked(p, one["sample"].text), p, one) for p, one in found]
        lost = [one for truth, _, one in judged if truth.rank < _dialect.RIGHT]
        pairs = [(one["own first"].answer, one["own second"].answer) for one in lost]
        orders = [(one, "second") for one, _ in pairs] + [(other, "first") for _, other in pairs]
        yield share("right one better than own wrong one", [said == right for said, right in orders])
        for place in ("first", "second"):
            told = [said == place for said, right in orders if right == place]
            yield share(f"right one better, where it is {place}", told)
        yield share("wrong one better", [said not in (right, "same", None) for said, right in orders])
        yield share("no word on which is better", [said is None for said, _ in orders])
        yield share("right one better, in both orders", [pair == ("second", "first") for pair in pairs])
        ends = [(t.points, self.checked(p, one["second"].text).points, one) for t, p, one in judged]
        own = [(a, b, one["own pair"].answer) for a, b, one in ends]
        unlike = [said == ("first" if a > b else "second") for a, b, said in own if a != b]
        yield share("two own answers of unlike points", unlike)
        yield share("two own answers of equal points", [said == "same" for a, b, said in own if a == b])


def same(one: Prefix, other: Prefix) -> bool:
    return one.text.strip() == other.text.strip()


def share(what: str, found: list[bool]) -> tuple[str, float, int]:
    return what, sum(found) / len(found) if found else float("nan"), len(found)


def critic(what: str, found: list[tuple[bool, str | None]]) -> Iterator[tuple[str, float, int]]:
    """Of (is it right?, what the critic says)."""
    accepted = share(f"{what}: right ones accepted", [said == "right" for truth, said in found if truth])
    refused = share(f"{what}: wrong ones refused", [said == "wrong" for truth, said in found if not truth])
    yield from (accepted, refused)
    yield f"{what}: balanced accuracy", (accepted[1] + refused[1]) / 2, len(found)
    yield share(f"{what}: no verdict", [said is None for _, said in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("seeds", nargs="*", default=["seed://countdown?talk=1"])
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--largest", type=int, default=100, help="as the recipes have it")
    asked = parser.parse_args()
    settings = countdown.Settings(
        use="countdown", largest=asked.largest, train=1, dev=asked.problems, test=1, max_tokens=TOKENS
    )
    task = countdown.Task(settings)
    problems = [problem for problem in task.problems() if problem.split == "dev"]
    for spec in asked.seeds:
        clock = time.process_time()
        folder = seeds.build(spec, settings, ROOT / "checkpoints")
        print(f"{spec} ({folder.name}), {time.process_time() - clock:.0f} s of CPU to build")
        for what, value, count in Talks(task, problems).figures(Engine(folder)):
            print(f"  {what:40} {100 * value:6.1f} % of {count}", flush=True)


if __name__ == "__main__":
    main()
