"""The local engine: the same tokens as `generate`, and rows that do not feel their neighbours."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from model_world import WORDS, make_model, word_tokenizer
from torch.nn.functional import scaled_dot_product_attention

from pipeline.engine import selftest
from pipeline.engine.cpu_attention import attend
from pipeline.engine.endings import EOS, LENGTH, STEP, STOP
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.rungs import rung_of
from pipeline.engine.selftest import self_test
from pipeline.errors import DamagedData, Diverged, RecipeError


def some_rows(number: int, *, seed: int = 0, **more) -> list[Request]:
    """Rows of several rungs, lengths and samplings."""
    draw = random.Random(seed)
    rows = []
    for i in range(number):
        ids = [draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 30))]
        sampling = draw.choice([(1.0, 1.0, 0), (0.0, 1.0, 0), (0.7, 1.0, 0), (1.0, 0.8, 0), (1.3, 0.9, 7)])
        given = {"limit": draw.choice([5, 40, 90]), "seed": i, "ends_on": EOS} | more
        temperature, top_p, top_k = sampling
        rows.append(Request(ids, temperature=temperature, top_p=top_p, top_k=top_k, **given))
    return rows


def run(engine: Engine, rows: list[Request], *, max_rows: int = 512, stagger: int = 0) -> list[tuple]:
    """What each row got. stagger: rows that join while others decode."""
    engine.clear()
    before, engine.max_rows = engine.max_rows, max_rows
    waiting = list(rows)
    while waiting or engine.busy:
        if waiting:
            engine.submit(waiting[: stagger or None])
            del waiting[: stagger or None]
        engine.step(3)
    engine.max_rows = before
    engine.clear()
    return [(row.new_ids, row.logprobs, row.flags) for row in rows]


def test_greedy_tokens_are_those_of_generate(policy: Engine):
    """Except where the two top logits lie within 1e-4: there both may be right, and the comparison ends."""
    rows = some_rows(60, ends_on=EOS)
    for row in rows:
        row.temperature, row.top_k, row.top_p = 0.0, 0, 1.0
    ours = run(policy, rows)
    compared = near = 0
    for row, (new_ids, _, flags) in zip(rows, ours, strict=True):
        ids = torch.tensor([row.ids])
        theirs = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=row.limit,
            use_cache=True,
        )[0, len(row.ids) :].tolist()
        if new_ids == theirs:
            compared += len(theirs)
            assert bool(flags & EOS) == (theirs[-1] in policy.eos_ids)
            continue
        place = next(i for i, (a, b) in enumerate(zip(new_ids, theirs, strict=False)) if a != b)
        logits = policy.model(torch.tensor([row.ids + theirs[:place]])).logits[0, -1]
        top = logits.topk(2).values
        assert top[0] - top[1] < 1e-4, f"token {place}: {new_ids[place]} against {theirs[place]}"
        near += 1
    assert compared > 500
    assert near <= 1


def test_logprobs_are_those_of_a_plain_forward(policy: Engine):
    rows = some_rows(20, seed=3)
    for row, (new_ids, logprobs, _) in zip(rows, run(policy, rows), strict=True):
        logits = policy.model(torch.tensor([row.ids + new_ids])).logits[0]
        expected = (
            logits.log_softmax(-1)[len(row.ids) - 1 : -1]
            .gather(-1, torch.tensor(new_ids)[:, None])
            .squeeze(-1)
        )
        assert torch.allclose(torch.tensor(logprobs), expected, atol=2e-5)
        again = policy.logprobs([(row.ids + new_ids, len(row.ids))])[0]
        assert torch.allclose(torch.tensor(again), expected, atol=2e-5)


def test_rows_are_bitwise_the_same_in_any_company(policy: Engine):
    """max_rows 1, 7 and 64; all at once, a few at a time, another order; tokens and log-probabilities."""
    reference = run(policy, some_rows(70), max_rows=64)
    assert len({rung_of(len(row.ids) + row.limit - 1) for row in some_rows(70)}) == 2
    assert run(policy, some_rows(70), max_rows=1) == reference
    assert run(policy, some_rows(70), max_rows=7, stagger=11) == reference
    assert run(policy, some_rows(70), max_rows=64, stagger=5) == reference
    backwards = some_rows(70)[::-1]
    assert run(policy, backwards, max_rows=7)[::-1] == reference
    assert run(policy, some_rows(70)[:1]) == reference[:1]


def test_few_rows_are_bitwise_what_they_are_among_many(policy: Engine):
    """One to five rows and prefixes at a time, of every length from one token up: some processors multiply so few
    lines another way, in prefills, in the head of a prefill and in steps."""
    rows = [Request([9 + n % 7, *[4 + (3 * n + k) % 40 for k in range(n)]], 12, seed=n) for n in range(24)]
    reference = run(policy, rows)
    for size in (1, 2, 3, 4, 5):
        for first in range(0, len(rows), size):
            few = [Request(row.ids, row.limit, seed=row.seed) for row in rows[first : first + size]]
            assert run(policy, few) == reference[first : first + size], (size, first)


def test_rows_are_bitwise_the_same_on_two_threads(policy: Engine):
    reference = run(policy, some_rows(20))
    torch.set_num_threads(2)
    try:
        assert run(policy, some_rows(20)) == reference
    finally:
        torch.set_num_threads(1)


def test_a_row_depends_on_its_seed(policy: Engine):
    same = [Request([9, 4, 11], 30, seed=5), Request([9, 4, 11], 30, seed=5), Request([9, 4, 11], 30, seed=6)]
    first, second, third = run(policy, same)
    assert first == second != third


def test_samples_of_one_prefix_share_its_prefill(policy: Engine, monkeypatch: pytest.MonkeyPatch):
    prefilled = []
    true = policy.prefill
    monkeypatch.setattr(
        policy, "prefill", lambda prefixes, *more: prefilled.extend(prefixes) or true(prefixes, *more)
    )
    rows = [Request([9, 4, 11, 12, seed % 2 + 20, 3], 6, seed=seed) for seed in range(12)]
    shared = run(policy, rows)
    assert sorted(prefilled) == [(9, 4, 11, 12, 20, 3), (9, 4, 11, 12, 21, 3)]
    monkeypatch.undo()
    alone = [run(policy, [Request([9, 4, 11, 12, seed % 2 + 20, 3], 6, seed=seed)])[0] for seed in range(12)]
    assert alone == shared


def test_rows_end_at_steps_stops_and_limits(policy: Engine):
    lines = policy.rule("\n", ("+",))
    newline, plus = 2, 4
    ended = {STEP: 0, STOP: 0, EOS: 0, LENGTH: 0}
    rows = [
        Request([9, 5, i], 25, seed=i, ends_on=STEP | STOP | EOS, state=lines.start) for i in range(9, 50)
    ]
    for new_ids, _, flags in run(policy, rows):
        last = {STEP: newline, STOP: plus, EOS: 1}
        kind = next(bit for bit in (STEP, STOP, EOS, LENGTH) if flags & bit)
        ended[kind] += 1
        assert not {newline, plus, 1} & set(new_ids[:-1])
        assert new_ids[-1] == last[kind] if kind != LENGTH else len(new_ids) == 25
    assert all(ended.values()), ended
    through = [Request([9, 5, i], 25, seed=i, ends_on=EOS, state=lines.start) for i in range(9, 50)]
    assert any(newline in new_ids[:-1] for new_ids, _, _ in run(policy, through))


def test_sampling_follows_the_model(policy: Engine):
    """First tokens of 4,000 rows against the model's own probabilities, plain and cut."""
    ids = [9, 4, 11, 7]
    logits = policy.model(torch.tensor([ids])).logits[0, -1]
    for temperature, top_k in ((1.0, 0), (0.5, 5)):
        rows = [Request(ids, 1, seed=s, temperature=temperature, top_k=top_k) for s in range(4000)]
        counts = torch.bincount(
            torch.tensor([new[0] for new, _, _ in run(policy, rows)]), minlength=len(logits)
        )
        expected = logits / temperature
        if top_k:
            expected = expected.masked_fill(expected < expected.topk(top_k).values[-1], -torch.inf)
        assert ((counts / 4000 - expected.softmax(-1)).abs() < 0.035).all()


def test_rungs():
    assert [rung_of(n) for n in (1, 64, 65, 300, 769, 1024, 1025, 1600)] == [
        64,
        64,
        128,
        384,
        1024,
        1024,
        1536,
        2048,
    ]


def test_forwards_hold_one_rung_and_little_padding(policy: Engine):
    draw = random.Random(0)
    lengths = [draw.randrange(1, 400) for _ in range(300)]
    for trim in (True, False):
        policy.trim = trim
        groups = list(policy.groups(lengths))
        assert sorted(i for group, _ in groups for i in group) == list(range(300))
        for group, width in groups:
            assert len({rung_of(lengths[i]) for i in group}) == 1
            assert max(lengths[i] for i in group) <= width <= rung_of(lengths[group[0]])
            assert len(group) * width <= policy.forward_tokens or len(group) == 1
            assert trim or width == rung_of(lengths[group[0]])
    policy.trim = True
    padding = sum(width - lengths[i] for group, width in policy.groups(lengths) for i in group)
    assert padding < 0.15 * sum(lengths)


def test_scores_are_read_at_the_step_ends(prm: Engine):
    """By token id: a head that answers 1 at line ends and 0 elsewhere shows where it was read."""
    draw = random.Random(0)
    items = []
    for _ in range(40):
        ids = [draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(3, 90))]
        items.append((ids, sorted(draw.sample(range(len(ids)), 3))))
    scores = prm.score(items)
    for (ids, at), score in zip(items, scores, strict=True):
        expected = prm.model(torch.tensor([ids])).logits[0, at, 0]
        assert torch.allclose(torch.tensor(score), expected, atol=2e-5)
    assert [prm.score([item])[0] for item in items] == scores  # bitwise, whoever shares the forward
    assert prm.score([([3, 4], [])]) == [[]]


def test_a_head_of_tokens_gives_the_share_of_plus(policy_folder: Path):
    engine = Engine(policy_folder, head="token")
    ids = [9, 4, 11, 2, 30, 2]
    logits = engine.model(torch.tensor([ids])).logits[0]
    expected = logits[[3, 5]][:, [4, 5]].softmax(-1)[:, 0]
    assert torch.allclose(torch.tensor(engine.score([(ids, [3, 5])])[0]), expected, atol=1e-5)


def test_prm_json_says_whether_a_score_is_a_probability(prm: Engine, prm_folder: Path, tmp_path: Path):
    folder = tmp_path / "soft"
    shutil.copytree(prm_folder, folder)
    (folder / "prm.json").write_text('{"activation": "sigmoid", "head": "value", "target": "soft"}')
    item = ([9, 4, 11, 2], [3])
    raw, soft = prm.score([item])[0][0], Engine(folder, head="value").score([item])[0][0]
    assert soft == pytest.approx(1 / (1 + torch.tensor(-raw).exp().item()), abs=1e-6)


def test_a_ready_made_prm_of_two_labels_gives_the_probability_of_right(models: Path):
    folder = make_model(
        models / "two", word_tokenizer(), kind="LlamaForTokenClassification", seed=4, num_labels=2
    )
    engine = Engine(folder, head="value")
    logits = engine.model(torch.tensor([[9, 4, 2]])).logits[0, -1]
    assert engine.score([([9, 4, 2], [2])])[0][0] == pytest.approx(logits.softmax(-1)[1].item(), abs=1e-6)


def test_adapters_are_merged(policy_folder: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    for kind, head, more in (
        (AutoModelForCausalLM, None, {"task_type": "CAUSAL_LM"}),
        (AutoModelForTokenClassification, "value", {"task_type": "TOKEN_CLS", "exclude_modules": ["score"]}),
    ):
        torch.manual_seed(0)
        loaded = kind.from_pretrained(policy_folder, **({"num_labels": 1} if head else {}))
        model = get_peft_model(loaded, LoraConfig(r=4, target_modules="all-linear", **more)).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "lora_B" in name:
                    tensor.normal_(std=0.2)
        model.save_pretrained(tmp_path / str(head))
        engine = Engine(policy_folder, tmp_path / str(head), head=head)
        ids = torch.tensor([[9, 4, 11, 2, 30, 2]])
        expected, got = model(ids).logits, engine.model(ids).logits
        assert torch.allclose(expected, got, atol=2e-5)
        assert not torch.allclose(got, loaded.base_model(ids)[0][..., : got.shape[-1]], atol=0.1)


def test_windows_of_attention_are_kept(models: Path):
    """A model whose layers see the last 16 tokens only, and one that mixes both kinds."""
    for name, more in (
        ("MistralForCausalLM", {"sliding_window": 16}),
        ("Qwen2ForCausalLM", {
            "sliding_window": 16, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"],
        }),
    ):  # fmt: skip
        engine = Engine(make_model(models / name, word_tokenizer(), kind=name, seed=5, **more))
        draw = random.Random(1)
        rows = [
            Request([draw.randrange(2, 40) for _ in range(30)], 30, temperature=0.0, ends_on=0)
            for _ in range(4)
        ]
        for row, (new_ids, logprobs, _) in zip(rows, run(engine, rows), strict=True):
            logits = engine.model(torch.tensor([row.ids + new_ids])).logits[0].log_softmax(-1)
            expected = logits[len(row.ids) - 1 : -1].gather(-1, torch.tensor(new_ids)[:, None]).squeeze(-1)
            assert torch.allclose(torch.tensor(logprobs), expected, atol=5e-5), name


def test_what_cannot_be_used_is_said(policy: Engine, policy_folder: Path, prm_folder: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match="no trained head"):
        Engine(policy_folder, head="value")
    with pytest.raises(RecipeError, match="no model can be read"):
        Engine(tmp_path)
    with pytest.raises(RecipeError, match="dtype: float99"):
        Engine(policy_folder, dtype="float99")
    bare = make_model(tmp_path / "bare", word_tokenizer([w for w in WORDS if w not in "+-"]))
    with pytest.raises(RecipeError, match=r"lacks '\+' and '-'"):
        Engine(bare, head="token")
    broken = Engine(prm_folder, head="value")
    with torch.no_grad():
        broken.model.score.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="a score is not finite"):
        broken.score([([3, 4], [1])])
    broken.model.save_pretrained(tmp_path / "nan")
    word_tokenizer().save_pretrained(tmp_path / "nan")
    with pytest.raises(DamagedData, match="not finite"):
        Engine(tmp_path / "nan", head="value")


def test_a_policy_that_diverged_stops_the_run(policy_folder: Path):
    engine = Engine(policy_folder)
    with torch.no_grad():
        engine.model.lm_head.weight.fill_(torch.inf)
    engine.submit([Request([9, 4], 5)])
    with pytest.raises(Diverged, match="log-probability is not finite"):
        engine.step()


def test_the_self_test_finds_that_bits_are_kept(policy: Engine, prm: Engine):
    assert self_test(policy, (64, 128))
    assert self_test(prm, (64,))
    assert policy.exact
    assert policy.min_rows == 1


def test_a_verdict_is_kept_for_the_next_launch_and_not_for_another_machine(tmp_path, monkeypatch):
    """In a file; what is asked is asked again with other threads, versions, shapes or code."""
    monkeypatch.setattr(selftest, "_known", {})
    looks: list[int] = []
    look = selftest._looked
    monkeypatch.setattr(selftest, "_looked", lambda *given: looks.append(1) or look(*given))
    cache, shape = tmp_path / "home" / "self-test.json", {"hidden_size": 32, "num_hidden_layers": 5}
    engine = Engine(make_model(tmp_path / "m", word_tokenizer(), **shape))
    told: list[tuple] = []
    assert self_test(engine, (64,), cache=cache, progress=lambda *given: told.append(given))
    assert told
    assert len(engine.model.model.layers) == engine.num_layers == 5
    assert len(engine._lean.layers) == 5
    monkeypatch.setattr(selftest, "_known", {})  # another process
    other = Engine(make_model(tmp_path / "m2", word_tokenizer(), seed=1, **shape))  # other weights
    assert self_test(other, (64,), cache=cache)
    assert (other.trim, other.remembers) == (engine.trim, engine.remembers)
    assert len(looks) == 1
    for change in (
        lambda: monkeypatch.setattr(selftest, "_code", lambda: "other code"),
        lambda: monkeypatch.setattr(selftest, "_processor", lambda: "another processor"),
        lambda: monkeypatch.setattr(selftest, "version", lambda name: "9.9"),
        lambda: cache.write_text("{"),
    ):
        monkeypatch.setattr(selftest, "_known", {})
        change()
        assert self_test(other, (64,), cache=cache)
    assert len(looks) == 5


def test_the_self_test_compares_more_than_two_rows_however_slow_the_machine(tmp_path, monkeypatch):
    """Rows that feel a batch of more than two are found out, though there was no time for large batches."""
    monkeypatch.setattr(selftest, "_known", {})
    engine = Engine(make_model(tmp_path / "m", word_tokenizer(), hidden_size=40))
    results = selftest._results

    def feels(engine, rung, prefixes):
        found = results(engine, rung, prefixes)
        return found if len(prefixes) <= 7 else [(read, "other") for read, _ in found]

    monkeypatch.setattr(selftest, "_results", feels)
    assert not self_test(engine, (64,), seconds=0.0)
    assert not engine.exact


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention_does_not_feel_the_columns_behind_a_row(heads: int):
    torch.manual_seed(0)
    scaling, rows, size, columns = 0.3, 3, 32, 900
    for length in (1, 5, 30, 250, 300, 390, 700):
        query, key, value = (torch.randn(rows, n, columns, size) for n in (4, heads, heads))
        causal = torch.where(torch.arange(columns)[:, None] >= torch.arange(columns), 0.0, -torch.inf)
        for queries in (slice(length - 1, length), slice(0, length)):
            found = []
            for width in (7, 16, 24, 37, 40, 64, 199, 200, 256, 263, 264, 384, 500, 512, 640, 900):
                if width >= length:
                    mask = causal[None, None, queries, :width].expand(rows, 1, -1, -1)
                    seen = key[:, :, :width], value[:, :, :width]
                    found.append(attend(torch.nn.Module(), query[:, :, queries], *seen, mask, scaling)[0])
            plain = scaled_dot_product_attention(
                query[:, :, queries], key, value, causal[queries], scale=scaling, enable_gqa=True
            )
            assert torch.allclose(found[0].transpose(1, 2), plain, atol=1e-5)
            assert all(torch.equal(out, found[0]) for out in found)


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention_one_by_one_does_not_feel_the_other_queries(heads: int):
    torch.manual_seed(1)
    rows, size, columns = 3, 32, 150
    query, key, value = (torch.randn(rows, n, columns, size) for n in (4, heads, heads))
    mask = torch.where(torch.arange(columns)[:, None] >= torch.arange(columns), 0.0, -torch.inf)
    mask = mask.expand(rows, 1, -1, -1)
    together = attend(None, query, key, value, mask, one_by_one=True)[0]
    for start, end in ((0, 1), (20, 21), (33, 40), (149, 150)):
        asked, seen = query[:, :, start:end], mask[:, :, start:end]
        assert torch.equal(attend(None, asked, key, value, seen, one_by_one=True)[0], together[:, start:end])
    assert torch.allclose(attend(None, query, key, value, mask)[0], together, atol=1e-5)


def test_small_batches_can_be_padded(policy: Engine):
    """Where a machine keeps bits only from 16 rows up, the engine pads; the rows are the same here."""
    reference = run(policy, some_rows(30), max_rows=9)
    policy.min_rows = 16
    try:
        assert run(policy, some_rows(30), max_rows=9, stagger=4) == reference
        assert run(policy, some_rows(30)[:1]) == reference[:1]
    finally:
        policy.min_rows = 1
