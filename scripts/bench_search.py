"""The search against its own asks, replayed without a tree, and against one prompt a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_world import Bench, seconds

from pipeline.asks import Asks, Continue, Prefix, Score
from pipeline.engine.driver import Driver, Search
from pipeline.engine.endings import EOS, LENGTH, STEP
from pipeline.engine.growth import Request, grown
from pipeline.engine.local import Engine
from pipeline.generate import mcts_star

LIVE_SEARCHES = (32, 128, 512)


def make_prm(bench: Bench) -> Path:
    """The policy's body with a random head: as fast as a trained one."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = bench.scratch / "prm"
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(bench.folder, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bench.folder).save_pretrained(folder)
    return folder


def searches(bench: Bench, number: int) -> Iterator[Search]:
    """ReST-MCTS* with 10 iterations and branch 3: about 97 tokens a tree for the reference code."""
    settings = mcts_star.Settings(by="policy", value="prm", iterations=10, branch=3, temperature=1.0)
    for question in bench.questions(number):
        asks = mcts_star.generate(question, settings, None)
        yield Search(question.id, bench.task, asks, bench.task.settings.max_tokens)


@dataclass
class Recording:
    """A run of searches: its rates, and what it asked for."""

    trees: float
    written: float
    read: float
    rows: list[Request] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  #: by kind of work

    def or_better(self, other: Recording) -> Recording:
        """The better of each rate."""
        rates = zip(
            (self.trees, self.written, self.read), (other.trees, other.written, other.read), strict=True
        )
        return Recording(*map(max, rates))


def run_searches(
    bench: Bench, policy: Engine, prm: Engine, live: int, number: int, remember: bool = True
) -> Recording:
    """`number` searches, `live` at a time. Rates are a second: trees, tokens written, prefixes read."""
    could = policy.remembers, prm.remembers
    policy.remembers, prm.remembers = could if remember else (False, False)
    rows: list[Request] = []
    items: list[Any] = []
    submit, score = policy.submit, prm.score
    policy.submit = lambda new: (new := list(new), rows.extend(new), submit(new))[-1]  # type: ignore[method-assign]
    prm.score = lambda new, known=(): (items.extend(new), score(new, known))[-1]  # type: ignore[method-assign]
    driver = Driver({"policy": policy, "prm": prm}.__getitem__, run_seed=0, round=0, stage="bench")
    todo = list(searches(bench, number))
    start = seconds(bench.device)
    for _ in driver.run(todo, live):
        pass
    total = seconds(bench.device) - start
    del policy.submit, prm.score
    policy.remembers, prm.remembers = could
    reading = driver.spent["seconds"]["read"]
    written = driver.spent["written"]["policy"]
    return Recording(
        number / total,
        written / (total - reading),
        len(items) / reading,
        rows,
        items,
        driver.spent["seconds"],
    )


def replay(bench: Bench, policy: Engine, recorded: Recording, live: int) -> float:
    """The recorded rows as one flat queue: tokens a second with as many rows live, no tree, no reward
    model.
    """
    before, policy.max_rows = policy.max_rows, min(policy.max_rows, 3 * live)
    policy.clear()
    rows = [
        Request(r.ids, r.limit, r.seed, r.temperature, r.top_p, r.top_k, r.ends_on, r.state)
        for r in recorded.rows
    ]
    start = seconds(bench.device)
    policy.submit(rows)
    while policy.busy:
        policy.step(4)
    rate = sum(len(row.new_ids) for row in rows) / (seconds(bench.device) - start)
    policy.max_rows = before
    policy.clear()
    return rate


def forward(bench: Bench, prm: Engine, recorded: Recording) -> float:
    """The recorded prefixes in one call: prefixes a second."""
    start = seconds(bench.device)
    prm.score(recorded.items)
    return len(recorded.items) / (seconds(bench.device) - start)


def one_prompt_a_call(bench: Bench, policy: Engine, prm: Engine, number: int) -> float:
    """Trees a second when each step is its own `generate` call and each prefix its own forward, as in the
    reference code.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    given = {"dtype": policy.dtype, "device_map": policy.device}
    reference = AutoModelForCausalLM.from_pretrained(bench.folder, **given).eval()
    judge = AutoModelForTokenClassification.from_pretrained(prm.folder, **given).eval()
    rule = policy.rule(bench.task.step_separator, bench.task.stop)
    ends = [i for i in range(policy.num_tokens) if policy.endings.hits[i, rule.start] & STEP]

    def write(ask: Continue, prefix: Prefix) -> Prefix:
        room = bench.task.settings.max_tokens - prefix.num_tokens
        if prefix.done or room <= 0:
            return prefix
        ids = torch.tensor([[*policy.encode(prefix.prompt), *prefix.token_ids]], device=policy.device)
        stop = [*policy.eos_ids, *(ends if ask.until == "step" else [])]
        out = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=ask.max_tokens or room, top_k=0,
            eos_token_id=stop, pad_token_id=policy.pad_id, do_sample=bool(ask.temperature),
            **({"temperature": ask.temperature} if ask.temperature else {}),
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        flags = EOS if out[-1] in policy.eos_ids else STEP if out[-1] in ends else LENGTH
        row = Request([], room, new_ids=out, logprobs=[0.0] * len(out), flags=flags, state=rule.start)
        return grown(
            prefix, row, policy, rule, bench.task, "policy", ask.until, bench.task.settings.max_tokens
        )

    def answer(ask: Any) -> Any:
        if isinstance(ask, Continue):
            return [write(ask, prefix) for prefix in ask.listed for _ in range(ask.n)]
        assert isinstance(ask, Score)
        replies = []
        for prefix in ask.listed:
            prompt = prm.encode(prefix.prompt)
            ids = torch.tensor([[*prompt, *prefix.token_ids]], device=prm.device)
            at = [len(prompt) + end - 1 for end in prefix.step_ends]
            replies.append(judge(ids).logits[0, at, 0].tolist())
        return replies

    start = seconds(bench.device)
    with torch.inference_mode():
        for search in searches(bench, number):
            exhaust(search.asks, answer)
    return number / (seconds(bench.device) - start)


def exhaust(asks: Asks[Any], answer: Callable[[Any], Any]) -> None:
    """Drive one search alone."""
    reply = None
    while True:
        try:
            reply = answer(asks.send(reply))
        except StopIteration:
            return


def search_figures(bench: Bench) -> dict[str, float]:
    """The worst of 32, 128 and 512 live searches."""
    policy = bench.engine(bench.folder)
    prm = bench.engine(make_prm(bench), head="value")
    run_searches(bench, policy, prm, 32, 32)  # warm
    alone = 0.0
    best = {live: Recording(0, 0, 0) for live in LIVE_SEARCHES}
    forgetful = dict(best)
    raw, flat = dict.fromkeys(LIVE_SEARCHES, 0.0), dict.fromkeys(LIVE_SEARCHES, 0.0)
    for _ in range(bench.rounds):
        for live in LIVE_SEARCHES:  # in turns, so that a noisy minute troubles all alike
            number = max(2 * live, 192)
            now = run_searches(bench, policy, prm, live, number)
            raw[live] = max(raw[live], replay(bench, policy, now, live))
            flat[live] = max(flat[live], forward(bench, prm, now))
            best[live] = best[live].or_better(now)
            without = run_searches(bench, policy, prm, live, number, remember=False)
            forgetful[live] = forgetful[live].or_better(without)
            alone = max(alone, one_prompt_a_call(bench, policy, prm, 6))
    worst: dict[str, list[float]] = {"search_vs_raw": [], "scoring_vs_forward": []}
    for live in LIVE_SEARCHES:
        bench.note(f"trees_per_second/{live}", best[live].trees)
        rates = (
            ("search_vs_raw", "tokens", best[live].written, forgetful[live].written, raw[live]),
            ("scoring_vs_forward", "prefixes", best[live].read, forgetful[live].read, flat[live]),
        )
        for key, what, ours, without_memory, plain in rates:
            bench.note(f"{key}/{live}/{what} a second", ours)
            bench.note(f"{key}/{live}/{what} a second, plain", plain)
            worst[key].append(bench.note(f"{key}/{live}", ours / plain))
            bench.note(f"{key}/{live}/nothing remembered", without_memory / plain)
    bench.note("trees_per_second/one_prompt_a_call", alone)
    times = [bench.note(f"search_vs_sequential/{live}", best[live].trees / alone) for live in LIVE_SEARCHES]
    return {name: min(values) for name, values in worst.items()} | {"search_vs_sequential": min(times)}
