"""What a search remembers changes the time it takes, and no bit of what it gets."""

from __future__ import annotations

import random

import pytest
from model_world import WORDS, LineTask, make_model, word_tokenizer
from test_driver import beams

from pipeline.models import attention
from pipeline.models.driver import Driver, Search
from pipeline.models.engine import Engine
from pipeline.models.memory import Memory
from pipeline.models.selftest import self_test


def tree_of(draw: random.Random, depth: int = 5) -> tuple[int, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The prompt's length, and prefixes with their step ends: parents before children, as a search asks."""
    prompt = tuple(draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 40)))
    known: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(prompt, ())]
    for _ in range(depth * 3):
        ids, ends = draw.choice(known)
        longer = (*ids, *(draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 12))))
        known.append((longer, (*ends, len(longer) - 1)))
    return len(prompt), known[1:]


def columns_read(engine: Engine, work) -> int:
    """Rows times columns that go through the model."""
    read = []
    hook = engine.model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: read.append(given[0].numel())
    )
    work()
    hook.remove()
    return sum(read)


@pytest.mark.parametrize("room", [1 << 30, 20_000, 0])
def test_scores_are_the_same_whatever_is_remembered(prm: Engine, room: int):
    draw = random.Random(0)
    trees = [tree_of(draw) for _ in range(12)]
    whole = [prm.score(items) for _, items in trees]
    memories = [Memory(room) for _ in trees]
    found: list[list[list[float]]] = [[] for _ in trees]
    for start in range(0, 15, 3):  # trees advance together, and share forwards
        several = [(t, item) for t, (_, items) in enumerate(trees) for item in items[start : start + 3]]
        scores = prm.score([item for _, item in several], [(memories[t], trees[t][0]) for t, _ in several])
        for (t, _), score in zip(several, scores, strict=True):
            found[t].append(score)
    assert found == whole  # bitwise
    assert all(memory.room <= room for memory in memories)


def test_a_step_is_read_once(prm: Engine):
    num_prompt, items = tree_of(random.Random(1), depth=8)
    memory = Memory(1 << 30)
    last = max(items, key=lambda item: len(item[1]))
    path = [(last[0][: end + 1], last[1][: k + 1]) for k, end in enumerate(last[1])]
    assert len(path) > 3

    def in_order(of) -> None:
        for item in path:
            prm.score([item], [(of, num_prompt)] if of else ())

    assert columns_read(prm, lambda: in_order(memory)) <= len(last[0]) + 2 * len(path)
    assert columns_read(prm, lambda: in_order(None)) == sum(len(ids) for ids, _ in path)
    both = [(last[0], last[1]), (last[0][: last[1][0] + 1], last[1][:1])]
    assert columns_read(prm, lambda: prm.score(both[1:], [(memory, num_prompt)])) <= 2 * len(last[0])


def test_samples_of_a_prompt_have_it_read_once(prm: Engine):
    draw = random.Random(2)
    prompt = tuple(draw.randrange(2, len(WORDS)) for _ in range(60))
    items = [((*prompt, *(draw.randrange(2, len(WORDS)) for _ in range(4))), (63,)) for _ in range(8)]
    memory = Memory(1 << 30)
    assert columns_read(prm, lambda: prm.score(items, [(memory, 60)] * 8)) == 60 + 8 * 4
    assert prm.score(items, [(Memory(1 << 30), 60)] * 8) == prm.score(items)


@pytest.mark.parametrize("window", [1, 7, 128])
def test_searches_get_the_same_from_engines_that_remember(policy: Engine, prm: Engine, window: int):
    def results(remembers: bool) -> tuple[dict, int]:
        policy.remembers = prm.remembers = remembers
        driver = Driver({"policy": policy, "prm": prm}.__getitem__, run_seed=3, round=1, stage="s")
        found: dict = {}

        def work() -> None:
            searches = [Search(name, LineTask(), asks, 40) for name, asks in beams(24).items()]
            found.update({end.problem_id: (end.result, end.charged) for end in driver.run(searches, window)})

        return found, columns_read(prm, work) + columns_read(policy, lambda: None)

    try:
        plain, many = results(False)
        remembered, few = results(True)
    finally:
        policy.remembers = prm.remembers = True
    assert remembered == plain
    assert few < 0.8 * many


def test_where_two_parts_differ_nothing_is_remembered(tmp_path, monkeypatch):
    """An attention that feels its number of queries: the self-test sees it in scores and in prefills."""

    def feels(module, query, key, value, mask, scaling=None, **more):
        out, weight = attention.attend(module, query, key, value, mask, scaling, **more)
        return out * (1 + 1e-6 * (query.shape[2] < key.shape[2])), weight

    for kind, head in (("Qwen3ForCausalLM", None), ("Qwen3ForTokenClassification", "value")):
        more = {"head_dim": 16} | ({"num_labels": 1} if head else {})
        folder = make_model(tmp_path / kind, word_tokenizer(), kind=kind, hidden_size=48, **more)
        engine = Engine(folder, head=head)
        assert self_test(engine, (64,))
        assert engine.remembers
        folder = make_model(tmp_path / f"{kind}-2", word_tokenizer(), kind=kind, hidden_size=80, **more)
        engine = Engine(folder, head=head)
        monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS, attention.NAME, feels)
        self_test(engine, (64,))
        assert not engine.remembers
        assert engine.new_memory(1) is None
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
