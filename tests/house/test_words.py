"""What people bring from trl, verl and transformers: a key by another name, one sample where several are
compared, a search's traces under a policy gradient. `check` says what it is here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import RatchetError
from pipeline.recipe.methods import ROOMS, method, methods
from pipeline.recipe.read import load
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]


def refused(recipe: str, *overrides: str) -> str:
    with pytest.raises(RatchetError) as said:
        load(ROOT / "recipes" / f"{recipe}.yaml", list(overrides))
    return str(said.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("stages.learn.beta=0.04", "(here: kl.coefficient)"),
        ("stages.learn.epsilon_high=0.28", "(here: clip_high)"),
        ("stages.learn.num_iterations=2", "(here: epochs)"),
        ("stages.learn.loss_type=dapo", "(here: loss)"),
        ("stages.learn.scale_rewards=false", "group_advantage; grpo divides by the deviation"),
        ("stages.learn.lr=1e-3", "(here: learning_rate)"),
        ("stages.learn.gradient_accumulation_steps=2", "(here: batch_size and micro_batch)"),
        ("stages.learn.max_grad_norm=1.0", "(write args: {max_grad_norm: ...})"),
        ("stages.sample.num_generations=8", "(here: n)"),
        ("stages.sample.max_new_tokens=8", "(here: max_tokens)"),
        ("models.policy.model_name_or_path=gpt2", "(here: base)"),
        ("models.policy.torch_dtype=bfloat16", "(here: dtype)"),
    ],
)
def test_a_key_of_another_library_is_told_by_its_name_here(override: str, meant: str) -> None:
    said, key = refused("grpo_countdown", override), override.partition("=")[0].rpartition(".")[2]
    assert f"unknown key {key} (" in said
    assert meant in said


def test_every_word_leads_to_a_key_that_is_there() -> None:
    def below(kind: type[Settings]) -> list[type[Settings]]:
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in below(one))]

    for room in ROOMS:
        for name in methods(room):
            method(room, name)
    checked = 0
    for kind in below(Settings):
        for word, here in vars(kind).get("words", {}).items():
            assert word not in kind.model_fields, f"{kind}: {word} is a key itself"
            if " " not in here:
                assert any(here.partition(".")[0] in one.model_fields for one in below(kind)), here
            checked += 1
    assert checked > 30


def test_one_sample_has_nothing_to_be_compared_with() -> None:
    said = refused("grpo_countdown", "stages.sample.n=1")
    assert re.search(
        r"stages\.gain: group_advantage compares .* sample writes one: .*stages\.sample\.n=8", said
    )
    assert "compares" in refused("ttrl_countdown", "stages.sample.n=1")
    assert "stages.pairs: pairs compares" in refused("iterated_dpo_countdown", "stages.sample.n=1")
    said = refused("grpo_countdown", "stages.gain.kind=pass_at_k", "stages.gain.k=16")
    assert re.search(r"sample writes 8, fewer than its 16: .*stages\.sample\.n=16", said)
    load(ROOT / "recipes/grpo_countdown.yaml", ["stages.gain.kind=pass_at_k", "stages.gain.k=8"])
    load(ROOT / "recipes/pivotal_countdown.yaml")
    load(ROOT / "recipes/grpo_countdown.yaml", ["stages.sample.n=2"])


def test_what_dpo_would_refuse_after_its_pairs_are_made_is_said_before() -> None:
    said = refused("strength_countdown", "before.sure.unsure=0.2")
    assert re.search(r"before\.kept\.from: sure makes pairs of a confidence below 1, .*confidence: 1", said)
    load(ROOT / "recipes/strength_countdown.yaml", ["before.sure.unsure=0.2", "before.sure.confidence=1"])
    said = refused("iterated_dpo_countdown", "stages.learn.args={deepspeed: zero2.json}")
    assert "stages.learn.args.deepspeed: train: dpo reads its reference before" in said


def test_what_a_search_chose_is_no_draw_of_the_policy() -> None:
    said = refused(
        "ppo_steps_countdown",
        "stages.sample={generate: beam, by: policy, value: prm, n: 4, temperature: 1.0}",
    )
    assert re.search(r"the traces of sample are drawn with a search's choice among steps", said)
