"""Seed policies: deterministic, honest about what they have seen, whole or absent."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.models import seed_training, seeds
from pipeline.tasks import addition, countdown, deduction, split_of

COUNTDOWN = countdown.Settings(use="countdown")
ADDITION = addition.Settings(use="addition")
DEDUCTION = deduction.Settings(use="deduction")
TASKS = {"countdown": COUNTDOWN, "addition": ADDITION, "deduction": DEDUCTION}
BUILD = """
import sys
from pathlib import Path
from pipeline.models.environment import prepare
prepare(threads=int(sys.argv[3]))
from pipeline.models import seeds
from pipeline.tasks import countdown
print(seeds.build(sys.argv[1], countdown.Settings(use="countdown"), Path(sys.argv[2])))
"""


def build_apart(spec: str, checkpoints: Path, threads: int = 1) -> subprocess.Popen[str]:
    """A build in a process of its own."""
    command = [sys.executable, "-c", BUILD, spec, str(checkpoints), str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Path:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return Path(output.strip().splitlines()[-1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", list(TASKS))
def test_text_to_tokens_to_text_is_exact(name):
    _, task = seeds.plan(f"seed://{name}", TASKS[name])
    tokenizer, draw = seeds.make_tokenizer(task), random.Random(0)
    texts = ["".join(map(chr, range(32, 127))), "\n\n", "", " 0", "007 2001 200 20", "judge: no\n"]
    for _ in range(500):
        question, pieces = task.rule_example(draw)
        completion = "".join(text for text, _ in pieces)
        prompt = tokenizer(task.prompt(question))["input_ids"]
        apart = prompt + [i for text, _ in pieces for i in tokenizer(text)["input_ids"]]
        # No token spans the border of prompt and completion, nor that of two pieces.
        assert tokenizer(task.prompt(question) + completion)["input_ids"] == apart
        texts += [question, completion]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert "".join(tokenizer.decode([i]) for i in ids) == text


def test_every_whole_number_is_one_token_and_so_are_signs_and_dialect():
    _, task = seeds.plan("seed://countdown", COUNTDOWN)
    tokenizer = seeds.make_tokenizer(task)
    for text in [*map(str, range(201)), " + ", "; target ", ", left ", "\n", "+", "-", "check: ", "judge: "]:
        assert len(tokenizer(text)["input_ids"]) == 1, text
    assert tokenizer.eos_token_id is not None
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}) == 3


@pytest.mark.parametrize("name", list(TASKS))
def test_no_dev_or_test_question_is_among_the_examples(name):
    recipe, task = seeds.plan(f"seed://{name}", TASKS[name])
    draw, splits = random.Random(recipe.hash), set()
    for _ in range(3000):  # the very draws that a build begins with
        question, _ = task.rule_example(draw)
        plain = question.split("; hint")[0].split("\nTarget:")[0].split(" Hint:")[0]
        splits.add(split_of(plain))
    assert splits == {"train"}


def test_addition_sees_long_sums_with_their_answer_only():
    _, task = seeds.plan("seed://addition", ADDITION)
    draw, shown, plain_sums = random.Random(0), Counter(), Counter()
    for _ in range(3000):
        question, pieces = task.rule_example(draw)
        plain, _, target = question.partition("\nTarget: ")
        a, b = addition.parse(plain)
        assert pieces == [(addition.scratchpad(a, b), True)]
        assert not target or target == addition.spaced(str(int(a) + int(b)))
        (shown if target else plain_sums)[len(a)] += 1
    assert set(plain_sums) == {1, 2, 3}
    assert plain_sums[3] < 3000 / 9
    assert set(shown) == {1, 2, 3, 4, 5}


@pytest.mark.full
def test_two_builds_are_equal_bit_by_bit_whatever_the_threads(tmp_path):
    spec = "seed://countdown?steps=4&batch=8"
    one, two = build_apart(spec, tmp_path / "a"), build_apart(spec, tmp_path / "b", threads=2)
    first, second = finish(one), finish(two)
    assert first.name == second.name
    assert contents(first) == contents(second)
    assert (first / "model.safetensors").stat().st_size > 1_000_000


def test_builders_of_one_seed_wait_for_each_other_and_leave_nothing_else(tmp_path):
    spec = "seed://countdown?steps=4&batch=8"
    folders = {finish(process) for process in [build_apart(spec, tmp_path) for _ in range(2)]}
    assert len(folders) == 1
    left = [path.name for path in (tmp_path / "seed").iterdir() if not path.name.endswith(".lock")]
    assert left == [folders.pop().name]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_seed_is_an_ordinary_folder_built_once(tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec, ticks = f"seed://{name}?steps=3&batch=4", []
    folder = seeds.build(spec, TASKS[name], tmp_path, lambda *tick: ticks.append(tick))
    assert [tick[:2] for tick in ticks] == [(1, 3), (2, 3), (3, 3)]
    assert ticks[-1][2] == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.max_position_embeddings >= 256
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("5 * 3 = 15\n")["input_ids"]) == "5 * 3 = 15\n"
    assert folder.name.startswith(f"{name}-")
    assert seeds.build(spec, TASKS[name], tmp_path, lambda *tick: ticks.append(tick)) == folder
    assert len(ticks) == 3  # the second call built nothing


def test_a_killed_build_leaves_no_seed_and_the_next_one_starts_clean(tmp_path):
    spec = "seed://countdown?steps=1000000&batch=4"
    process = build_apart(spec, tmp_path)
    lock = tmp_path / "seed"
    while process.poll() is None and not (lock.exists() and list(lock.glob(".*.lock"))):
        pass
    process.kill()
    process.wait()
    assert not [path for path in lock.iterdir() if path.name.startswith("countdown-")]
    folder = seeds.build("seed://countdown?steps=2&batch=4", COUNTDOWN, tmp_path)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_the_hash_follows_the_rules_and_nothing_else():
    def name_of(**settings) -> str:
        recipe, _ = seeds.plan("seed://countdown", countdown.Settings(use="countdown", **settings))
        return recipe.hash

    assert name_of() == name_of(train=50, dev=3, few_shot=2)
    assert len({name_of(), name_of(range=(1, 13)), name_of(numbers=4), name_of(target=(10, 50))}) == 4
    other, _ = seeds.plan("seed://countdown", ADDITION)  # a seed of another task takes its own defaults
    assert other.hash == name_of()


def test_training_lowers_the_loss(tmp_path):
    import torch

    recipe, task = seeds.plan("seed://countdown?steps=30&batch=16", COUNTDOWN)
    tokenizer = seeds.make_tokenizer(task)
    ids, labels = seed_training._tensors(
        next(seed_training.examples(recipe, task, tokenizer)), tokenizer.pad_token_id
    )

    def loss(model) -> float:
        with torch.no_grad():
            logits = model(ids).logits[:, :-1]
        learned = labels[:, 1:] >= 0
        return float(torch.nn.functional.cross_entropy(logits[learned], labels[:, 1:][learned]))

    torch.manual_seed(0)
    before = loss(seed_training.new_model(recipe, tokenizer))
    torch.manual_seed(0)
    assert loss(seed_training.train(recipe, task, tokenizer)) < before - 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("seed://countdwn", "did you mean seed://countdown"),
        ("seed://countdown?stepz=3", "unknown key stepz"),
        ("seed://countdown?steps=many", "must be a number"),
        ("seed://countdown?version=3", "unknown key version"),
    ],
)
def test_specs_that_mean_nothing_are_refused(spec, message):
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        seeds.plan(spec, COUNTDOWN)


def test_planning_loads_no_torch():
    code = (
        "import sys\nfrom pipeline.models import seeds\nfrom pipeline.tasks import countdown\n"
        "seeds.plan('seed://countdown', countdown.Settings(use='countdown'))\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_hold_their_size_and_whole_examples():
    recipe, task = seeds.plan("seed://addition?batch=6", ADDITION)
    tokenizer = seeds.make_tokenizer(task)
    for rows in itertools.islice(seed_training.examples(recipe, task, tokenizer), 20):
        assert len(rows) == 6
        for ids, labels in rows:
            assert len(ids) == len(labels)
            assert ids[-1] == labels[-1] == tokenizer.eos_token_id
            assert all(label in (-1, token) for token, label in zip(ids, labels, strict=True))


# --- a seed that talks


def talking(spec: str = "seed://countdown?talk=1"):
    recipe, task = seeds.plan(spec, COUNTDOWN)
    return recipe, task, seeds.make_tokenizer(task, recipe.talk)


def test_a_talking_seed_is_another_one_and_the_plain_one_keeps_its_name():
    plain, holed = seeds.plan("seed://countdown", COUNTDOWN)[0], talking("seed://countdown?talk=2")[0]
    sound, blind = talking()[0], talking("seed://countdown?talk=1&blind=20")[0]
    assert len({recipe.hash for recipe in (plain, holed, sound, blind)}) == 4
    assert not {"talk", "blind"} & set(plain.described)
    assert (sound.layers, blind.described["blind"], "blind" in sound.described) == (3, 20, False)
    assert talking("seed://countdown?talk=1&steps=7&layers=2")[0].layers == 2
    assert seeds.plan("seed://countdown?talk=0", COUNTDOWN)[0].hash == plain.hash


def test_a_judge_of_pairs_is_another_seed_and_the_others_keep_their_names():
    hundred = countdown.Settings(use="countdown", largest=100)
    names = {
        spec: seeds.plan(f"seed://countdown{spec}", hundred)[0].hash for spec in ("", "?talk=1", "?talk=2")
    }
    assert names == {"": "2849208be57b", "?talk=1": "1be8be16d50d", "?talk=2": "f5d4323a3b04"}
    assert seeds.plan("seed://countdown?talk=1&pairs=0", hundred)[0].hash == names["?talk=1"]
    pairs = seeds.plan("seed://countdown?talk=1&pairs=1", hundred)[0]
    assert (pairs.layers, pairs.back, pairs.described["pairs"]) == (3, 2, 1)
    assert seeds.plan("seed://countdown?pairs=1&talk=1&back=0", hundred)[0].back == 0


def test_rows_of_a_judge_of_pairs_fit_and_end_with_its_word():
    from pipeline.models import seed_talk

    recipe, task, tokenizer = talking("seed://countdown?talk=1&pairs=1")
    draw, ends = random.Random(5), Counter()
    for _ in range(600):
        ids, labels = seed_talk.row(recipe, task, tokenizer, draw)
        assert len(ids) == len(labels) < 180
        ends[tokenizer.decode(ids[-2:-1])] += 1
    assert min(ends[word] for word in ("; first", "; second", "; same", " right", " wrong")) > 20


def test_the_dialects_words_are_tokens_of_a_talking_seed_alone():
    _, task, tokenizer = talking()
    for text in (" ok, ", " number wrong", " result wrong", " right", "; score ", "; second", "propose: "):
        assert len(tokenizer(text)["input_ids"]) == 1, text
    plain = seeds.make_tokenizer(task)
    assert len(plain(" right")["input_ids"]) > 1
    assert len(plain) < len(tokenizer)


def test_rows_of_a_talking_seed_learn_the_turn_and_the_fair_answer_before_it():
    from pipeline.models import seed_talk

    recipe, task, tokenizer = talking()
    drawn, again, learned_answers, plain = random.Random(5), random.Random(5), 0, 0
    for _ in range(600):
        ids, labels = seed_talk.row(recipe, task, tokenizer, drawn)
        if again.random() < seed_talk.PLAIN:
            question, [(said, _)] = task.rule_example(again)
            prompt, learned, plain = task.prompt(question), said, plain + 1
        else:
            turn = task.conversation(again)
            prompt, said = task.turn_prompt(turn.question, turn.act, turn.history), turn.said
            learned = (turn.history[0].text if turn.fair else "") + said
            learned_answers += turn.fair
        assert tokenizer.decode(ids[:-1]) == prompt + said
        assert tokenizer.decode([label for label in labels if label >= 0][:-1]) == learned
        assert all(label in (-1, i) for label, i in zip(labels, ids, strict=True))
        assert labels[-1] == ids[-1] == tokenizer.eos_token_id
        assert len(ids) < 160
    assert learned_answers > 60
    assert plain > 60


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("seed://addition?talk=1", "there are no conversations about addition"),
        ("seed://countdown?talk=3", "talk is 0, 1 or 2"),
        ("seed://countdown?talk=1&blind=-1", "blind a number from 0"),
        ("seed://countdown?blind=5", "without talk=1 there is none"),
        ("seed://countdown?talk=1&pairs=2", "pairs is 0 or 1"),
        ("seed://countdown?pairs=1", "without talk=1 there is none"),
        ("seed://countdown?talk=much", "talk must be a number"),
    ],
)
def test_a_dialect_that_does_not_exist_is_a_sentence(spec, says):
    name = spec.removeprefix("seed://").partition("?")[0]
    with pytest.raises(RecipeError, match=says):
        seeds.plan(spec, TASKS[name])


def test_a_seed_that_talks_knows_the_words_of_its_dialect() -> None:
    settings = countdown.Settings(use="countdown")
    assert seeds.unsaid("seed://countdown", settings, "propose")
    assert seeds.unsaid("seed://countdown?talk=0", settings, "propose")
    assert not seeds.unsaid("seed://countdown?talk=1", settings, "propose")
    assert not seeds.unsaid("seed://countdown?steps=20&talk=2", settings, "critique")
    own = countdown.Settings(use="countdown", acts={"critique": "is it so? "})
    assert seeds.unsaid("seed://countdown?talk=1", own, "critique")
