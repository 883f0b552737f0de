"""What a search remembers changes the time it takes, and no bit of what it gets."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from model_world import WORDS, LineTask, make_model, word_tokenizer
from test_driver import beams

from pipeline.asks import Continue, Prefix
from pipeline.engine import cpu_attention
from pipeline.engine.driver import Driver, Search
from pipeline.engine.endings import STEP
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.prefix_cache import CacheBudget, PrefixCache
from pipeline.engine.selftest import self_test


def tree_of(draw: random.Random, depth: int = 5) -> tuple[int, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The prompt's length, and prefixes with their step ends: parents before children, as a search asks."""
    prompt = tuple(draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 40)))
    known: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(prompt, ())]
    for _ in range(depth * 3):
        ids, ends = draw.choice(known)
        longer = (*ids, *(draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 12))))
        known.append((longer, (*ends, len(longer) - 1)))
    return len(prompt), known[1:]


ROOM = 1 << 30


def memory_of(engine: Engine, num_bytes: int = ROOM) -> PrefixCache:
    return PrefixCache(CacheBudget(num_bytes, engine._token_bytes))


def columns_read(engine: Engine, work) -> int:
    """Rows times columns that go through the model."""
    read = []
    hook = engine.model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: read.append(given[0].numel())
    )
    work()
    hook.remove()
    return sum(read)


def test_scores_are_the_same_whatever_is_remembered(prm: Engine):
    """And the more room there is, the less is read; what is kept never passes it."""
    read = [columns_read(prm, lambda room=room: scored_in_steps(prm, room)) for room in (0, 100_000, ROOM)]
    assert read[0] > 1.1 * read[1] > 1.2 * read[2]


def scored_in_steps(prm: Engine, num_bytes: int) -> None:
    draw = random.Random(0)
    trees = [tree_of(draw) for _ in range(12)]
    whole = [prm.score(items) for _, items in trees]
    room = CacheBudget(num_bytes, prm._token_bytes)
    memories = [PrefixCache(room) for _ in trees]
    found: list[list[list[float]]] = [[] for _ in trees]
    for start in range(0, 15, 3):  # trees advance together, and share forwards
        several = [(t, item) for t, (_, items) in enumerate(trees) for item in items[start : start + 3]]
        scores = prm.score([item for _, item in several], [(memories[t], trees[t][0]) for t, _ in several])
        for (t, _), score in zip(several, scores, strict=True):
            found[t].append(score)
    assert found == whole  # bitwise
    held = sum(piece.nbytes for m in memories for one in m._held.values() for piece in one.pieces[-1:])
    assert room.left == num_bytes - held >= 0
    for memory in memories:
        memory.forget()
    assert room.left == num_bytes


def test_a_step_is_read_once(prm: Engine):
    num_prompt, items = tree_of(random.Random(1), depth=8)
    memory = memory_of(prm)
    last = max(items, key=lambda item: len(item[1]))
    path = [(last[0][: end + 1], last[1][: k + 1]) for k, end in enumerate(last[1])]
    assert len(path) > 3

    def in_order(of) -> None:
        for item in path:
            prm.score([item], [(of, num_prompt)] if of else ())

    assert columns_read(prm, lambda: in_order(memory)) <= len(last[0]) + 2 * len(path)
    assert columns_read(prm, lambda: in_order(None)) == sum(len(ids) for ids, _ in path)
    again = (last[0], last[1])
    assert columns_read(prm, lambda: prm.score([again], [(memory, num_prompt)])) <= 12  # the last step


def test_a_tail_that_becomes_a_step_is_read_where_it_ends(prm: Engine):
    """A prefix read with tokens behind its last step, and later closed just there."""
    ids = tuple(random.Random(3).randrange(2, len(WORDS)) for _ in range(20))
    memory = memory_of(prm)
    for item in ((ids[:14], (8,)), (ids[:14], (8, 13)), (ids, (8, 13, 19))):
        assert prm.score([item], [(memory, 5)]) == prm.score([item])


def test_a_prompt_that_does_not_fit_costs_nothing(prm: Engine):
    draw = random.Random(4)
    prompt = tuple(draw.randrange(2, len(WORDS)) for _ in range(60))
    items = [((*prompt, *(draw.randrange(2, len(WORDS)) for _ in range(4))), (63,)) for _ in range(8)]
    small = memory_of(prm, 50 * prm._token_bytes)
    for _ in range(3):
        assert columns_read(prm, lambda: prm.score(items, [(small, 60)] * 8)) == 8 * 64


def test_samples_of_a_prompt_have_it_read_once(prm: Engine):
    draw = random.Random(2)
    prompt = tuple(draw.randrange(2, len(WORDS)) for _ in range(60))
    items = [((*prompt, *(draw.randrange(2, len(WORDS)) for _ in range(4))), (63,)) for _ in range(8)]
    memory = memory_of(prm)
    assert columns_read(prm, lambda: prm.score(items, [(memory, 60)] * 8)) == 60 + 8 * 4
    assert prm.score(items, [(memory_of(prm), 60)] * 8) == prm.score(items)


def test_what_was_written_is_not_read_again(policy: Engine):
    """Rows that go on from what rows wrote: the same bits as from a prefix that is read, and one column a
    token.
    """
    prompt = [random.Random(5).randrange(2, len(WORDS)) for _ in range(30)]
    rooms = {"all": ROOM, "some": 45 * policy._token_bytes, "none": 0}
    found, read = {}, {}
    for name, num_bytes in rooms.items():
        memory = memory_of(policy, num_bytes)
        wrote: list[list[Request]] = [[Request(prompt, 1)]]
        wrote[0][0].new_ids = []

        def go_on(memory=memory, wrote=wrote) -> None:
            for depth in range(4):
                starts = {(*row.ids, *row.new_ids): row for row in wrote[-1]}
                rows = [
                    Request(list(ids), 6, seed=10 * depth + k, ends_on=STEP, memory=memory, borders=(30,))
                    for ids in starts
                    for k in range(2)
                ]
                policy.submit(rows)
                while policy.busy:
                    policy.step(4)
                wrote.append(rows)

        read[name] = columns_read(policy, go_on)
        found[name] = [(row.ids, row.new_ids, row.logprobs) for rows in wrote[1:] for row in rows]
        memory.forget()
        assert memory.room.left == num_bytes
    assert found["all"] == found["some"] == found["none"]  # bitwise
    assert read["all"] < read["some"] < read["none"]
    assert read["all"] == 30 + sum(map(len, (new for _, new, _ in found["all"]))) - 2


def test_a_prompt_of_one_token_joins_beside_rows_that_go_on(policy: Engine):
    memory = memory_of(policy)
    first = Request([3, 4, 5], 4, seed=1, ends_on=STEP, memory=memory)
    policy.submit([first])
    while policy.busy:
        policy.step()
    rows = [Request([*first.ids, *first.new_ids], 3, seed=2, memory=memory), Request([7], 3, seed=3)]
    policy.submit(rows)
    while policy.busy:
        policy.step()
    assert [len(row.new_ids) for row in rows] == [3, 3]


@pytest.mark.parametrize("window", [1, 7, 128])
def test_searches_get_the_same_from_engines_that_remember(policy: Engine, prm: Engine, window: int):
    def results(remembers: bool) -> tuple[dict, int, int]:
        policy.remembers = prm.remembers = remembers
        driver = Driver({"policy": policy, "prm": prm}.__getitem__, run_seed=3, round=1, stage="s")
        found: dict = {}

        def work() -> None:
            searches = [Search(name, LineTask(), asks, 40) for name, asks in beams(24).items()]
            found.update({end.problem_id: (end.result, end.charged) for end in driver.run(searches, window)})

        judged: list[int] = []
        written = columns_read(policy, lambda: judged.append(columns_read(prm, work)))
        return found, written, judged[0]

    before = policy.remembers, prm.remembers
    try:
        plain, *many = results(False)
        remembered, *few = results(True)
    finally:
        policy.remembers, prm.remembers = before
    assert remembered == plain
    assert few[0] < 0.9 * many[0]  # the policy: its decoded columns are the same
    assert few[1] < 0.8 * many[1]


def test_what_a_search_remembers_goes_when_it_ends(policy: Engine, prm: Engine):
    """Without waiting for the garbage collector: leaves and search hold one another."""
    whole = policy.room.left, prm.room.left
    alive: list[weakref.ref] = []
    most = 0
    driver = Driver({"policy": policy, "prm": prm}.__getitem__, run_seed=3, round=1, stage="s")
    searches = [Search(name, LineTask(), asks, 40) for name, asks in beams(40).items()]

    class Watched(PrefixCache):
        pass

    gc.disable()
    try:
        for engine in (policy, prm):
            engine.new_memory = lambda engine=engine: (
                m := Watched(engine.room),
                alive.append(weakref.ref(m)),
            )[0]
        for _ in driver.run(searches, 4):
            held = sum(bool(ref()._held) for ref in alive if ref() is not None)
            most = max(most, held)
    finally:
        gc.enable()
        del policy.new_memory, prm.new_memory
    assert len(alive) == 80
    assert 0 < most <= 2 * 5
    assert (policy.room.left, prm.room.left) == whole


def test_where_two_parts_differ_nothing_is_remembered(tmp_path, monkeypatch):
    """An attention that feels its number of queries: the self-test sees it in scores and in prefills."""

    def feels(of_policy: bool):
        def attend(module, query, key, value, mask, scaling=None, **more):
            out, weight = cpu_attention.attend(module, query, key, value, mask, scaling, of_policy)
            return out * (1 + 1e-6 * (query.shape[2] < key.shape[2])), weight

        return attend

    for kind, head in (("Qwen3ForCausalLM", None), ("Qwen3ForTokenClassification", "value")):
        more = {"head_dim": 16} | ({"num_labels": 1} if head else {})
        folder = make_model(tmp_path / kind, word_tokenizer(), kind=kind, hidden_size=48, **more)
        engine = Engine(folder, head=head)
        assert self_test(engine, (64,))
        assert engine.remembers
        folder = make_model(tmp_path / f"{kind}-2", word_tokenizer(), kind=kind, hidden_size=80, **more)
        engine = Engine(folder, head=head)
        name = cpu_attention.NAMES[head is None]
        monkeypatch.setitem(cpu_attention.ALL_ATTENTION_FUNCTIONS, name, feels(head is None))
        self_test(engine, (64,))
        assert not engine.remembers
        assert engine.new_memory() is None
        monkeypatch.undo()


def test_what_stands_in_front_of_a_forward_is_bounded(prm: Engine):
    """Many short steps behind long prefixes: their known columns take memory too."""
    before, prm.cache_bytes = prm.cache_bytes, 4 * 1000 * prm._token_bytes
    try:
        groups = list(prm.groups([2] * 40, [98] * 40))
    finally:
        prm.cache_bytes = before
    assert sorted(i for group, _ in groups for i in group) == list(range(40))
    assert max(len(group) for group, _ in groups) == 10


@pytest.mark.parametrize("kind", ["LlamaForTokenClassification", "MistralForTokenClassification", "token"])
def test_long_prefixes_in_several_parts(tmp_path, kind: str):
    """Past the blocks that attention sums in, with a window, and with a head of two tokens."""
    head = "token" if kind == "token" else "value"
    more = {"num_labels": 2} if head == "value" else {}
    more |= {"sliding_window": 70} if "Mistral" in kind else {}
    kind = "LlamaForCausalLM" if head == "token" else kind
    folder = make_model(tmp_path / "m", word_tokenizer(), kind=kind, max_position_embeddings=1024, **more)
    engine, draw = Engine(folder, head=head), random.Random(6)
    memories = [memory_of(engine) for _ in range(6)]
    rows = [tuple(draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(300, 700))) for _ in memories]
    cuts = [sorted(draw.sample(range(40, len(ids) - 1), 4)) for ids in rows]
    for part in range(4):
        items = [(ids[: cut[part] + 1], cut[: part + 1]) for ids, cut in zip(rows, cuts, strict=True)]
        assert engine.score(items, [(memory, 40) for memory in memories]) == engine.score(items)


@pytest.mark.parametrize("kind", ["LlamaForTokenClassification", "Qwen3ForTokenClassification"])
def test_a_block_of_queries_that_is_nearly_empty(tmp_path, kind: str):
    """513 tokens: attention takes 512 queries at once, and the last by itself would have other bits."""
    more = {"num_labels": 1} | ({"head_dim": 16} if "Qwen3" in kind else {})
    for seed in range(3):
        torch.manual_seed(seed)
        folder = make_model(
            tmp_path / str(seed), word_tokenizer(), kind=kind, max_position_embeddings=1024, **more
        )
        engine, draw = Engine(folder, head="value"), random.Random(seed)
        ids = tuple(draw.randrange(2, len(WORDS)) for _ in range(513))
        whole = engine.score([(ids, range(513))])[0]
        assert engine.score([(ids, (99, 512))])[0] == [whole[99], whole[512]]
        memory = memory_of(engine)
        engine.score([(ids[:100], (99,))], [(memory, 40)])
        assert engine.score([(ids, (99, 512))], [(memory, 40)])[0] == [whole[99], whole[512]]


def test_positions_that_turn_by_the_longest_row_are_not_promised(tmp_path):
    """`longrope`: transformers turns all rows of a forward by its longest, so rows feel one another."""
    factors = [1.0] * 8
    rope = {
        "rope_type": "longrope", "short_factor": factors, "long_factor": [4.0] * 8, "rope_theta": 10000.0,
        "original_max_position_embeddings": 64, "factor": 4.0,
    }  # fmt: skip
    folder = make_model(tmp_path / "m", word_tokenizer(), max_position_embeddings=256, rope_parameters=rope)
    engine = Engine(folder)
    assert engine._lean is None
    assert engine.new_memory() is None
    assert not self_test(engine, (64,))


def written(engine: Engine, prompts: list[str], stem: str, until: str = "answer") -> list[tuple]:
    """What plain sampling, or steps one by one, write after prompts that begin with a stem."""

    def search(prompt: str):
        [prefix] = yield Continue(Prefix(prompt), by="m", until=until, max_tokens=12)
        while until == "step" and not prefix.done:
            [prefix] = yield Continue(prefix, by="m", until=until, max_tokens=12)
        return prefix.token_ids, prefix.logprobs

    searches = [Search(f"p{i}", LineTask(), search(prompt), 30, stem) for i, prompt in enumerate(prompts)]
    driver = Driver(lambda _: engine, run_seed=1, round=1, stage="s")
    return [end.result for end in sorted(driver.run(searches), key=lambda end: end.problem_id)]


@pytest.mark.parametrize("until", ["answer", "step"])
def test_worked_examples_are_read_once_for_all_rows(tmp_path, until: str):
    """And change no bit; what is read of them goes when the rows are done."""
    engine = Engine(make_model(tmp_path / "m", word_tokenizer()))
    assert self_test(engine, (64,))
    assert engine.remembers
    stem = "numbers 1 + 2 = 3\n" * 12  # 120 tokens
    prompts = [f"{stem}numbers {i} + {i} =" for i in range(9)]
    found: list[list[tuple]] = []
    read = [
        columns_read(engine, lambda shared=shared: found.append(written(engine, prompts, shared, until)))
        for shared in ("", stem)
    ]
    assert found[0] == found[1]  # bitwise
    length = len(engine.encode(stem)) - 1
    assert read[0] - read[1] > 0.9 * (len(prompts) - 1) * length
    assert engine._stems.of("") is None
    assert not engine._stems._read


def test_a_stem_that_is_too_short_or_another_prompts_is_not_used(tmp_path):
    engine = Engine(make_model(tmp_path / "m", word_tokenizer()))
    assert self_test(engine, (64,))
    assert engine.stem_memory("1 + 2 = 3\n") is None
    stem = "numbers 1 + 2 = 3\n" * 12
    memory = engine.stem_memory(stem)
    ids = tuple(engine.encode(stem))
    assert memory.longest((*ids, 5, 6), ()).num_tokens == len(ids) - 1
    assert memory.longest((7, *ids[1:], 5), ()).num_tokens == 0
    assert memory.longest(ids[:-1], ()).num_tokens == 0  # nothing would be left to read
    engine.remembers = False
    assert engine.stem_memory(stem) is None
