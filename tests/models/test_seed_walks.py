"""Walks side by side: each sees the prompt and itself, as if it stood alone."""

from __future__ import annotations

import random

import pytest

from pipeline.models import seed_walks, seeds
from pipeline.tasks import countdown, deduction

SETTINGS = deduction.Settings(use="deduction")


def test_the_logits_of_packed_walks_are_those_of_each_alone():
    import torch

    recipe, task = seeds.plan("seed://deduction?hidden=32&inner=64", SETTINGS)
    tokenizer, draw = seeds.make_tokenizer(task), random.Random(0)
    torch.manual_seed(0)
    model = seeds.new_model(recipe, tokenizer).eval()
    rows, apart = [], []
    for num in (3, 1, 4):
        question, walks = task.rule_walks(draw, num)
        prompt = tokenizer(task.prompt(question))["input_ids"]
        ends = [[*tokenizer(walk)["input_ids"], tokenizer.eos_token_id] for walk in walks]
        rows.append(seed_walks.row_of(prompt, ends))
        apart.append((prompt, ends))
    ids, labels, more = seed_walks.tensors(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        packed = model(ids, use_cache=False, **more).logits
        for number, (prompt, ends) in enumerate(apart):
            at = len(prompt) - 1
            for walk in ends:
                [alone] = model(torch.tensor([prompt + walk]), use_cache=False).logits
                assert torch.allclose(
                    packed[number, at : at + 1 + len(walk)], alone[len(prompt) - 1 :], atol=1e-5
                )
                assert labels[number, at : at + 1 + len(walk)].tolist() == [-1, *walk]
                at += 1 + len(walk)
            assert set(labels[number, at:].tolist()) <= {-1}


def test_a_row_by_hand():
    row = seed_walks.row_of([7, 8, 9], [[1, 2], [3]])
    assert row.ids == [7, 8, 9, 1, 2, 9, 3]
    assert row.labels == [-1, -1, -1, 1, 2, -1, 3]
    assert row.places == [0, 1, 2, 3, 4, 2, 3]
    assert row.walk == [0, 0, 1, 1, 1, 2, 2]


def test_older_seeds_keep_their_names_and_what_their_folders_say():
    for name in ("countdown", "addition"):
        recipe, _ = seeds.plan(f"seed://{name}", None)
        assert recipe.walks == 1
        assert "walks" not in recipe.described
    recipe, _ = seeds.plan("seed://countdown", countdown.Settings(use="countdown", largest=100))
    assert recipe.hash == "2849208be57b"
    recipe, _ = seeds.plan("seed://deduction", SETTINGS)
    assert recipe.described["walks"] > 1


@pytest.mark.parametrize(
    "change", [{"hops": (2, 3)}, {"choices": 3}, {"form": "truth"}, {"branches": 2}, {"kinds": 40}]
)
def test_the_hash_follows_the_rules(change):
    plain, _ = seeds.plan("seed://deduction", SETTINGS)
    other, _ = seeds.plan("seed://deduction", deduction.Settings(use="deduction", **change))
    same, _ = seeds.plan("seed://deduction", deduction.Settings(use="deduction", train=50, few_shot=2))
    assert plain.hash == same.hash != other.hash
