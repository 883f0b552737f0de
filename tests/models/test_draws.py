"""Seeds, Philox and the token that a uniform picks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.draws import cut, monte_carlo_seed, philox, pick, seed_of, uniforms, weights


@pytest.mark.parametrize(
    ("counter", "key", "known"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, known):
    assert philox(np.array([counter], np.uint64), np.array([key], np.uint64))[0].tolist() == known


def test_seeds_are_golden():
    assert seed_of(0, 1, "sample", "p/17", 3, 2) == 8075755704924595848
    assert monte_carlo_seed(0, "abc", [1, 2, 3], "temperature=1.0", 4) == 3520338420332603262


def test_seeds_keep_the_borders_between_names():
    names = [
        seed_of(0, 1, "a", "bc", 0, 0), seed_of(0, 1, "ab", "c", 0, 0), seed_of(0, 11, "a", "bc", 0, 0),
        seed_of(1, 1, "a", "bc", 0, 0), seed_of(0, 1, "a", "bc", 1, 0), seed_of(0, 1, "a", "bc", 0, 1),
        seed_of(0, 1, 'a","b', "c", 0, 0), monte_carlo_seed(0, "a", [12], "", 0), monte_carlo_seed(0, "a", [1, 2], "", 0),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


def test_a_uniform_depends_on_seed_and_token_alone():
    seeds = np.array([5, 2**64 - 1, 7, 12345678901234567], np.uint64)
    whole = uniforms(seeds, np.zeros(4, np.int64), 64)
    for row in range(4):
        for start in (0, 4, 32, 60):
            alone = uniforms(seeds[row : row + 1], np.array([start]), 4)
            assert alone[0].tolist() == whole[row, start : start + 4].tolist()
    assert whole.dtype == np.float32
    assert len(set(whole.ravel().tolist())) > 250


def test_uniforms_are_uniform():
    values = uniforms(np.arange(200, dtype=np.uint64), np.zeros(200, np.int64), 400).ravel()
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    expected = len(values) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square, 15 degrees: one in ten thousand
    lagged = np.corrcoef(values[:-1], values[1:])[0, 1]
    assert abs(lagged) < 0.02


def test_pick_follows_the_probabilities_and_never_takes_what_has_none():
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0, -torch.inf])
    grid = (torch.arange(20000) + 0.5) / 20000
    tokens = pick(weights(logits.expand(len(grid), -1))[0], grid)
    share = torch.bincount(tokens, minlength=5) / len(grid)
    assert torch.allclose(share, logits.softmax(0), atol=2e-4)
    edges = torch.tensor([0.0, 1 - 2.0**-24])
    assert pick(weights(logits.expand(2, -1))[0], edges).tolist() == [0, 3]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]), min_size=2, max_size=9),
    st.integers(0, 4),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_cut_keeps_the_smallest_set_that_reaches_p_of_the_k_best(values, k, p):
    kept = torch.isfinite(cut(torch.tensor([values]), torch.tensor([k]), torch.tensor([p])))[0].tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[: k or None]
    weight = np.exp([values[i] for i in order])
    before = np.concatenate([[0], np.cumsum(weight / weight.sum())[:-1]])
    expected = {i for i, b in zip(order, before, strict=True) if p == 1 or b < p - 1e-6}
    almost = {i for i, b in zip(order, before, strict=True) if p < 1 and abs(b - p) < 1e-6}
    assert {i for i, keep in enumerate(kept) if keep} - almost == expected - almost
    assert any(kept)
