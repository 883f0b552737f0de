"""Walks side by side: each sees the prompt and itself, as if it stood alone."""

from __future__ import annotations

import random
import re

import pytest

from pipeline.errors import RecipeError
from pipeline.models import seed_training, seed_walks, seeds
from pipeline.tasks import countdown, deduction

SETTINGS = deduction.Settings(use="deduction")


def test_the_logits_of_packed_walks_are_those_of_each_alone():
    import torch

    recipe, task = seeds.plan("seed://deduction?hidden=64&inner=64", SETTINGS)
    tokenizer, draw = seeds.make_tokenizer(task), random.Random(0)
    torch.manual_seed(0)
    model = seed_training.new_model(recipe, tokenizer).eval()
    rows, apart = [], []
    for num in (3, 1, 4):
        question, walks = task.rule_walks(draw, num)
        prompt = tokenizer(task.prompt(question))["input_ids"]
        ends = [[*tokenizer(walk)["input_ids"], tokenizer.eos_token_id] for walk in walks]
        looks = [tuple(tokenizer(list(look))["input_ids"]) for look in task.rule_looks(draw, question)[:num]]
        rows.append(seed_walks.row_of(prompt, ends, looks))
        apart.append((prompt, [([], end) for end in ends] + looks))
    ids, labels, more = seed_walks.tensors(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        packed = model(ids, use_cache=False, **more).logits
        for number, (prompt, beside) in enumerate(apart):
            at = len(prompt) - 1
            for read, learned in beside:
                walk = read + learned
                [alone] = model(torch.tensor([prompt + walk]), use_cache=False).logits
                assert torch.allclose(
                    packed[number, at : at + 1 + len(walk)], alone[len(prompt) - 1 :], atol=1e-5
                )
                assert labels[number, at : at + 1 + len(walk)].tolist() == [-1] * (1 + len(read)) + learned
                at += 1 + len(walk)
            assert set(labels[number, at:].tolist()) <= {-1}


def test_a_row_by_hand():
    row = seed_walks.row_of([7, 8, 9], [[1, 2], [3]])
    assert row.ids == [7, 8, 9, 1, 2, 9, 3]
    assert row.labels == [-1, -1, -1, 1, 2, -1, 3]
    assert row.places == [0, 1, 2, 3, 4, 2, 3]
    assert row.walk == [0, 0, 1, 1, 1, 2, 2]


def test_a_row_with_looks_by_hand():
    row = seed_walks.row_of([7, 8, 9], [[1, 2]], [([4], [5]), ([6], [3])])
    assert row.ids == [7, 8, 9, 1, 2, 9, 4, 5, 9, 6, 3]
    assert row.labels == [-1, -1, -1, 1, 2, -1, -1, 5, -1, -1, 3]
    assert row.places == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4]
    assert row.walk == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_looks_are_the_rules_of_the_question():
    _, task = seeds.plan("seed://deduction", SETTINGS)
    draw = random.Random(0)
    for _ in range(20):
        question, _ = task.rule_walks(draw, 1)
        said = re.findall(r"(?:Every|Each|Any) (\w+)( is [a-z ]+)\.", question)
        assert sorted(task.rule_looks(draw, question)) == sorted(said)


def test_some_heads_start_out_as_lookups():
    """The first layer's look one token back, the second's from a kind to what a rule says of it."""
    import torch

    recipe, task = seeds.plan("seed://deduction", SETTINGS)
    tokenizer = seeds.make_tokenizer(task)
    torch.manual_seed(0)
    model = seed_training.new_model(recipe, tokenizer).eval()
    model.set_attn_implementation("eager")
    question, _ = task.rule_walks(random.Random(0), 1)
    hits = []
    for kind, _ in task.rule_looks(random.Random(0), question):
        ids = tokenizer(task.prompt(question) + kind)["input_ids"]
        with torch.no_grad():
            first, second = (
                seen[0] for seen in model(torch.tensor([ids]), output_attentions=True).attentions
            )
        back = first.diagonal(offset=-1, dim1=1, dim2=2)  # [heads, all tokens but the first]
        assert (back[: recipe.back] > 0.8).all()
        assert back[recipe.back :].mean() < 0.3
        said = [tokenizer.convert_ids_to_tokens(ids)[at] for at in second[: recipe.back, -1].argmax(-1)]
        hits += [f" {kind}{one}" in question for one in said]
    assert sum(hits) > 0.6 * len(hits)  # by chance one in twenty


@pytest.mark.parametrize("less", ["heads=1", "layers=1", "hidden=48"])
def test_lookups_that_do_not_fit_are_refused(less):
    recipe, task = seeds.plan(f"seed://deduction?{less}", SETTINGS)
    with pytest.raises(RecipeError, match=f"back=2 with .*{less}"):
        seed_training.new_model(recipe, seeds.make_tokenizer(task))


def test_older_seeds_keep_their_names_and_what_their_folders_say():
    for name in ("countdown", "addition"):
        recipe, _ = seeds.plan(f"seed://{name}", None)
        assert recipe.walks == 1
        assert not set(seeds.LATER) & set(recipe.described)
    recipe, _ = seeds.plan("seed://countdown", countdown.Settings(use="countdown", largest=100))
    assert recipe.hash == "2849208be57b"
    recipe, _ = seeds.plan("seed://deduction", SETTINGS)
    assert recipe.described["looks"] > 1
    recipe, _ = seeds.plan("seed://addition", None)
    assert recipe.hash == "d33c15dd90cd"


@pytest.mark.parametrize(
    "change", [{"hops": (2, 3)}, {"choices": 3}, {"form": "truth"}, {"branches": 2}, {"kinds": 40}]
)
def test_the_hash_follows_the_rules(change):
    plain, _ = seeds.plan("seed://deduction", SETTINGS)
    other, _ = seeds.plan("seed://deduction", deduction.Settings(use="deduction", **change))
    same, _ = seeds.plan("seed://deduction", deduction.Settings(use="deduction", train=50, few_shot=2))
    assert plain.hash == same.hash != other.hash
