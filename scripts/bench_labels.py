"""Labels by roll-outs (Math-Shepherd) through the driver, against the rows that they draw as a flat batch."""

from __future__ import annotations

from bench_world import Bench, in_turns, seconds

from pipeline.asks import Continue, Prefix, start, to_trace
from pipeline.engine.driver import Driver, Search
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.label import shepherd
from pipeline.rows import Group, Problem, Question
from pipeline.stages.rollouts import rows_of

NUM_PROBLEMS, SAMPLES, ROLLOUTS = 125, 4, 8
LIVE_SEARCHES = 128


def problems(bench: Bench) -> list[Problem]:
    found = []
    for problem in bench.task.problems():
        found.append(problem)
        if len(found) == NUM_PROBLEMS:
            break
    return found


def sampled(bench: Bench, policy: Engine, wanted: list[Problem]) -> dict[str, Group]:
    """Four traces of each problem."""

    def sample(question: Question):  # noqa: ANN202
        ends = yield Continue(start(question), by="policy", n=SAMPLES)
        return [to_trace(question, end, number) for number, end in enumerate(ends)]

    searches = []
    for problem in wanted:
        prompt = bench.task.prompt(problem.question)
        question = Question(id=problem.id, question=problem.question, prompt=prompt, prompt_used=prompt)
        searches.append(Search(problem.id, bench.task, sample(question), bench.task.settings.max_tokens))
    driver = Driver({"policy": policy}.__getitem__, run_seed=0, round=0, stage="bench")
    return {end.problem_id: Group(end.problem_id, traces=end.result) for end in driver.run(searches)}


def label_figures(bench: Bench) -> dict[str, float]:
    """500 traces, 8 roll-outs after each step but the last; answers checked and rows made."""
    policy = bench.engine(bench.folder)
    wanted = {problem.id: problem for problem in problems(bench)}
    groups = sampled(bench, policy, list(wanted.values()))
    settings = shepherd.Settings(n=ROLLOUTS)
    recorded: list[Request] = []

    def is_right(problem_id: str, prefix: Prefix) -> bool:
        return prefix.finish == "eos" and bench.task.correct(prefix.answer, wanted[problem_id])

    def labelled() -> float:
        recorded.clear()
        submit = policy.submit
        policy.submit = lambda rows: (rows := list(rows), recorded.extend(rows), submit(rows))[-1]  # type: ignore[method-assign]
        driver = Driver({"policy": policy}.__getitem__, run_seed=0, round=0, stage="bench", is_right=is_right)
        begun = seconds(bench.device)
        todo = [
            Search(
                name, bench.task, shepherd.label(wanted[name], group, settings, bench.task),
                bench.task.settings.max_tokens,
            )
            for name, group in groups.items()
        ]  # fmt: skip
        rows = 0
        for end in driver.run(todo, LIVE_SEARCHES):
            rows += len(rows_of(end.problem_id, end.drawn, groups[end.problem_id].traces)) + len(end.result)
        took = seconds(bench.device) - begun
        del policy.submit
        assert rows == len(recorded) + sum(len(group.traces) for group in groups.values())
        return driver.spent["written"]["policy"] / took

    def flat() -> float:
        policy.clear()
        rows = [
            Request(r.ids, r.limit, r.seed, r.temperature, r.top_p, r.top_k, r.ends_on, r.state)
            for r in recorded
        ]
        begun = seconds(bench.device)
        policy.submit(rows)
        while policy.busy:
            policy.step(4)
        return sum(len(row.new_ids) for row in rows) / (seconds(bench.device) - begun)

    ours, plain = in_turns(bench.rounds, labelled, flat)
    bench.note("rollouts/rows", len(recorded))
    bench.note("rollouts/tokens a second", ours)
    bench.note("rollouts/tokens a second, flat", plain)
    return {"rollouts_vs_flat": bench.note("rollouts_vs_flat/seed", ours / plain)}
