"""Tokens drawn otherwise: DoLa and the repetition penalty by hand, against transformers' own forward and `generate`, and
beside rows that are drawn plainly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_world import WORDS, make_model, word_tokenizer
from pydantic import ValidationError

from pipeline.asks import Continue, MonteCarlo, Prefix
from pipeline.engine.contrast import WholeDecodingBatch, contrasted, divergences, penalised
from pipeline.engine.decoding import Decoding, Dola, candidates, decoding_of
from pipeline.engine.driver import Driver, Search
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.whole import WholeEngine
from pipeline.errors import RecipeError
from pipeline.generate.sample import Settings
from pipeline.settings import in_fingerprint

P, Q = (0.7, 0.2, 0.1), (0.2, 0.3, 0.5)
DOLA = Dola(layers=(1, 2))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    return make_model(folder / "deep", word_tokenizer(), seed=5, num_hidden_layers=4)


@pytest.fixture(scope="module")
def engine(deep: Path) -> Engine:
    return Engine(deep, name="deep", dtype="float32")


def rows_of(
    number: int, decoding: Decoding | None, temperature: float = 1.0, limit: int = 12
) -> list[Request]:
    return [
        Request(
            [2 + (7 * i + k) % (len(WORDS) - 2) for k in range(1 + 3 * i % 11)], limit, seed=i, ends_on=0,
            temperature=temperature, decoding=decoding,
        )
        for i in range(number)
    ]  # fmt: skip


def run(engine: Engine, rows: list[Request]) -> list[tuple[list[int], list[float]]]:
    engine.clear()
    engine.submit(rows)
    while engine.busy:
        engine.step(3)
    engine.clear()
    return [(row.new_ids, row.logprobs) for row in rows]


# --- formulas


def test_divergences_by_hand() -> None:
    """Both are symmetric, 0 for equal distributions, and rank layers alike here."""
    last, early = torch.tensor([P]).log(), torch.tensor([[Q], [P], [(0.6, 0.25, 0.15)]]).log()
    js = divergences(last, early, "js")[:, 0]
    released = divergences(last, early, "released")[:, 0]
    assert js[0] == pytest.approx(0.15136, abs=1e-5)
    assert released[0] * 3 == pytest.approx(0.17632, abs=1e-5)  # a mean over a vocabulary of three
    assert js[1] == pytest.approx(0, abs=1e-7)
    assert js.argmax() == released.argmax() == 0
    assert divergences(early[0], last[None], "js")[0, 0] == pytest.approx(js[0])


def test_the_released_divergence_is_torch_kl_div_as_the_authors_call_it() -> None:
    from torch.nn.functional import kl_div

    draw = torch.Generator().manual_seed(3)
    last = torch.randn(5, 40, generator=draw).log_softmax(-1)
    early = torch.randn(3, 5, 40, generator=draw).log_softmax(-1)
    middle = (last.exp()[None] + early.exp()) / 2
    ours = divergences(last, early, "released")
    for k in range(3):
        both = [kl_div(one, middle[k], reduction="none").mean(-1) for one in (last, early[k])]
        torch.testing.assert_close(ours[k], (both[0] + both[1]) / 2)


def test_the_contrast_by_hand() -> None:
    """The farthest layer is Q; the third token has less than .15 of the likeliest and is never drawn."""
    early = torch.tensor([[(0.6, 0.25, 0.15)], [Q]]).log()
    found = contrasted(torch.tensor([P]).log(), early, Dola(relative_top=0.15))[0]
    assert found[:2].tolist() == pytest.approx([math.log(0.7 / 0.2), math.log(0.2 / 0.3)], abs=1e-6)
    assert found[2] == -math.inf
    whole = contrasted(torch.tensor([P]).log(), early, Dola(relative_top=0.1))[0]
    assert whole[2].item() == pytest.approx(math.log(0.1 / 0.5), abs=1e-6)
    one = contrasted(torch.tensor([P]).log(), early, Dola(relative_top=1.0))[0]
    assert one.isfinite().tolist() == [True, False, False]


def test_a_penalty_by_hand_and_as_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    scores = torch.tensor([[2.0, -1.0, 0.5, -math.inf]])
    found = penalised(scores, torch.tensor([[0, 1, 1, 3]]), 2.0)
    assert found.tolist() == [[1.0, -2.0, 0.5, -math.inf]]
    ids = torch.tensor([[0, 1, 1, 3]])
    assert torch.equal(found, RepetitionPenaltyLogitsProcessor(2.0)(ids, scores.clone()))


@pytest.mark.parametrize(
    ("layers", "number", "tied", "wanted"),
    [("low", 32, False, list(range(0, 16, 2))), ("high", 32, False, list(range(16, 32, 2))), ("low", 30, True, list(range(2, 15, 2))),
     ("low", 60, False, list(range(0, 20, 2))), ("high", 60, True, list(range(40, 60, 2))), ((5, 1, 5), 6, True, [1, 5])],
)  # fmt: skip
def test_candidate_layers_as_in_the_paper(layers: Any, number: int, tied: bool, wanted: list[int]) -> None:
    assert candidates(layers, number, tied) == wanted


def test_layers_that_do_not_exist_are_said(engine: Engine) -> None:
    with pytest.raises(ValueError, match="low leaves none of 2 layers: name some, from 0 to 1"):
        candidates("low", 2, True)
    with pytest.raises(RecipeError, match=r"model deep: dola\.layers: layer 4: there are 0 to 3"):
        run(engine, rows_of(1, Decoding(dola=Dola(layers=(1, 4)))))
    engine.clear()
    with pytest.raises(ValidationError, match="names no layer"):
        Dola(layers=())


# --- the engine


def slowly(engine: Engine, ids: list[int], decoding: Decoding, number: int) -> tuple[list[int], list[float]]:
    """Greedy, token by token, over the whole row, straight from transformers."""
    model, new, said = engine.model, [], []
    for _ in range(number):
        row = torch.tensor([[*ids, *new]])
        with torch.inference_mode():
            found = model(input_ids=row, use_cache=False, output_hidden_states=True)
            last = found.logits[0, -1].log_softmax(-1)
            scores = found.logits[0, -1].clone()
            if decoding.dola:
                early = [
                    model.lm_head(model.model.norm(found.hidden_states[k][0, -1]) if decoding.dola.norm else found.hidden_states[k][0, -1])
                    for k in decoding.dola.layers
                ]  # fmt: skip
                early = [one.log_softmax(-1) for one in early]
                far = []
                for one in early:
                    m = ((last.exp() + one.exp()) / 2).log()
                    far.append(float((last.exp() * (last - m) + one.exp() * (one - m)).sum()))
                scores = last - early[int(np.argmax(far))]
                scores[last < last.max() + math.log(decoding.dola.relative_top)] = -math.inf
            for token in {*ids, *new} if decoding.repetition_penalty != 1 else ():
                scores[token] = (
                    scores[token] * decoding.repetition_penalty
                    if scores[token] < 0
                    else scores[token] / decoding.repetition_penalty
                )
        new.append(int(scores.argmax()))
        said.append(float(last[new[-1]]))
    return new, said


@pytest.mark.parametrize(
    "decoding",
    [Decoding(dola=DOLA), Decoding(1.5, DOLA), Decoding(1.5), Decoding(dola=Dola(layers=(0, 3), norm=False, relative_top=0.5))],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Engine, WholeEngine])
def test_greedy_rows_are_a_direct_computation(deep: Path, kind: Any, decoding: Decoding) -> None:
    """With the running batch's cache and without one; what is written down is the model's own log-probability."""
    engine = kind(deep, name="deep", dtype="float32")
    rows = rows_of(6, decoding, temperature=0.0)
    plain = run(engine, rows_of(6, None, temperature=0.0))
    found = run(engine, rows)
    for row, (new, logprobs) in zip(rows, found, strict=True):
        wanted, said = slowly(engine, row.ids, decoding, 12)
        assert new == wanted
        assert logprobs == pytest.approx(said, abs=1e-4)
        assert logprobs == pytest.approx(engine.logprobs([([*row.ids, *new], len(row.ids))])[0], abs=1e-4)
    assert [new for new, _ in found] != [new for new, _ in plain]  # or nothing was tested


def test_a_repetition_penalty_is_that_of_generate(engine: Engine) -> None:
    for row in rows_of(5, Decoding(1.3), temperature=0.0):
        [(new, _)] = run(engine, [row])
        ids = torch.tensor([row.ids])
        wanted = engine.model.generate(
            ids, do_sample=False, repetition_penalty=1.3, max_new_tokens=12, eos_token_id=-1, attention_mask=torch.ones_like(ids),
        )  # fmt: skip
        assert new == wanted[0, len(row.ids) :].tolist()


def test_rows_do_not_feel_how_others_are_drawn(engine: Engine) -> None:
    """Bits of drawn rows alone and together; rows that are drawn plainly have those that they always had."""
    alone = [run(engine, [row])[0] for row in rows_of(7, Decoding(1.2, DOLA))]
    plain = run(engine, rows_of(7, None))
    mixed = [*rows_of(7, Decoding(1.2, DOLA)), *rows_of(7, None), *rows_of(7, Decoding(1.2))]
    found = run(engine, mixed)
    assert found[:7] == alone
    assert found[7:14] == plain
    assert [new for new, _ in found[14:]] != [new for new, _ in plain]


def test_only_likely_enough_tokens_are_drawn(engine: Engine) -> None:
    """relative_top 1 leaves one token, so sampling is greedy decoding of the model itself."""
    found = run(engine, rows_of(5, Decoding(dola=Dola(layers=(1,), relative_top=1.0)), temperature=5.0))
    greedy = run(engine, rows_of(5, None, temperature=0.0))
    assert [new for new, _ in found] == [new for new, _ in greedy]


def test_a_search_draws_so_and_its_rollouts_do_not(engine: Engine) -> None:
    """What the stage says holds for every Continue; MonteCarlo values are those of the model."""

    class Task:
        step_separator, stop = "\n", ()

        def extract(self, text: str) -> str:
            return text

    prefix = Prefix(prompt="numbers 3 4 5")

    def asks() -> Any:
        written = yield Continue(prefix, by="deep", n=3, max_tokens=8)
        counted = yield MonteCarlo(prefix, by="deep", n=3, keep=True)
        return [one.token_ids for one in written], [one.token_ids for one in counted[0].rollouts]

    def found(decoding: Decoding | None) -> Any:
        driver = Driver(lambda name: engine, run_seed=0, round=0, stage="s", is_right=lambda *_: True)
        [end] = driver.run([Search("p", Task(), asks(), 10, decoding=decoding)])
        return end.result

    plain, other = found(None), found(Decoding(1.4, DOLA))
    assert plain[0] != other[0]
    assert plain[1] == other[1]


def test_on_a_gpu_or_read_whole_the_batch_is_another(deep: Path) -> None:
    whole = WholeEngine(deep, name="deep", dtype="float32")
    whole.submit(rows_of(1, Decoding(1.2)))
    assert [type(batch) for batch in whole._batches.values()] == [WholeDecodingBatch]
    whole.clear()


def test_a_family_whose_last_layer_is_more_than_a_product_is_refused(tmp_path: Path) -> None:
    folder = make_model(
        tmp_path / "capped",
        word_tokenizer(),
        kind="Gemma2ForCausalLM",
        head_dim=16,
        final_logit_softcapping=5.0,
    )
    engine = Engine(folder, name="capped", dtype="float32")
    with pytest.raises(
        RecipeError, match="model capped: dola: models of type gemma2 change what their last layer says"
    ):
        engine.submit(rows_of(1, Decoding(dola=Dola(layers=(1,)))))


# --- settings


def test_settings_at_their_default_change_no_fingerprint() -> None:
    settings = Settings()
    assert settings.decoding is None
    assert not in_fingerprint(settings, "dola")
    assert not in_fingerprint(settings, "repetition_penalty")
    changed = Settings(dola={}, repetition_penalty=1.2)
    assert in_fingerprint(changed, "dola")
    assert changed.decoding == Decoding(1.2, Dola())
    assert (
        changed.drawn_otherwise == "dola, repetition_penalty 1.2"
    )  # trainers on the policy's own draws refuse it
    assert decoding_of(1.0, None) is None
    assert len({repr(Decoding(1.2, Dola())), repr(Decoding(1.2)), repr(Decoding(1.2, DOLA))}) == 3


def test_a_served_model_is_refused_before_anything_runs() -> None:
    from pipeline.recipe.read import build

    def recipe(**stage: Any) -> dict[str, Any]:
        policy = {"base": "seed://countdown", "engine": {"server": ["http://localhost:1"]}}
        return {
            "name": "x",
            "task": {"use": "countdown"},
            "models": {"policy": policy},
            "rounds": 0,
            "before": {"s": {"generate": "sample", **stage}},
        }

    build(recipe(), "r.yaml")
    with pytest.raises(RecipeError, match=r"before\.s: repetition_penalty 1\.2: servers do not draw so"):
        build(recipe(repetition_penalty=1.2), "r.yaml")
