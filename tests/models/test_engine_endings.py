"""Tokens as bytes, and where steps and answers end: on whole words and on a BPE in which line ends fuse."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_world import CORPUS, LineTask, bpe_tokenizer, word_tokenizer

from pipeline.asks import Prefix
from pipeline.engine.endings import EOS, STEP, STOP, Endings, sign_tokens, token_bytes, tokenizer_hash
from pipeline.engine.growth import Request, grown
from pipeline.errors import RecipeError


def metaspace_tokenizer():
    """As Llama 2 and Mistral have it: spaces are marked, unknown characters fall back to bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "</s>",
        *[f"<0x{byte:02X}>" for byte in range(256)],
        "▁",
        "▁the",
        "▁sum",
        "is",
        "7",
        "▁7",
        ".",
    ]
    inner = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def gpt2_tokenizer():
    """As GPT-2, Llama 3 and Qwen have it: a regular expression parts words first; one of its line ends was added."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AddedToken, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )  # fmt: skip
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>"]
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    tokenizer.add_tokens([AddedToken("\n\n\n", normalized=False), AddedToken("<step>", special=False)])
    return tokenizer


def unigram_tokenizer():
    """As T5 and Gemma have it: pieces with marked spaces, chosen by their odds; bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *[(f"<0x{byte:02X}>", -9.0) for byte in range(256)]]
    pieces += [
        (piece, -2.0 - i / 10)
        for i, piece in enumerate(["▁", "\n", "\n\n", "▁so", "▁the", "is", ".\n", "7", "▁▁", "s", "o", "."])
    ]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


MAKERS = [word_tokenizer, bpe_tokenizer, metaspace_tokenizer, gpt2_tokenizer, unigram_tokenizer]


@pytest.mark.parametrize("make", MAKERS)
@given(
    parts=st.lists(
        st.sampled_from(["\n", "\n\n", "so", " the sum", " is", " 7", ".", "x", " ", "12", "é", "\r\n"]),
        max_size=24,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_steps_of_encoded_text_end_where_its_text_says(make, parts):
    """Text, encoded as the tokenizer encodes it: the tokens that end a step are those that hold the separator's end."""
    tokenizer, texts, endings = made(make)
    ids = tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
    text = b"".join(texts[i] for i in ids)
    for separator in ("\n", "\n\n"):
        rule = endings.rule(separator, ())
        bounds = [0, *itertools.accumulate(len(texts[i]) for i in ids)]
        expected = [
            place
            for place in range(len(ids))
            if any(bounds[place] < end <= bounds[place + 1] for end in _ends_of(text, separator.encode()))
        ]
        assert rule.step_ends(ids, rule.start) == expected
    if "�" not in text.decode("utf-8", errors="replace"):
        decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        shown = text.decode("utf-8", errors="replace")
        # a decoder may drop or add the one blank that marks a text's first word, and nothing else
        assert decoded in {shown, shown.removeprefix(" "), f" {shown}"}


@functools.cache
def made(make):
    tokenizer = make()
    texts = token_bytes(tokenizer, len(tokenizer))
    return tokenizer, texts, Endings(texts, [tokenizer.eos_token_id])


@pytest.mark.parametrize("make", MAKERS)
def test_joined_bytes_are_the_decoded_text(make):
    tokenizer = make()
    texts = token_bytes(tokenizer, len(tokenizer) + 3)
    draw = random.Random(0)
    seen = 0
    for _ in range(600):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 12))]
        ours = b"".join(texts[i] for i in ids).decode("utf-8", errors="replace")
        theirs = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if "�" not in ours + theirs:
            assert ours.removeprefix(" ") == theirs.removeprefix(" ")
            seen += 1
    assert seen >= 30
    assert texts[tokenizer.eos_token_id] == b""


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("separator", ["\n", "\n\n", "\n ", "\n\n\n", " "])
def test_a_step_ends_at_the_token_that_holds_the_end_of_the_separator(make, separator):
    tokenizer = make()
    texts = token_bytes(tokenizer, len(tokenizer))
    endings = Endings(texts, [tokenizer.eos_token_id])
    rule = endings.rule(separator, ())
    dense = [i for i, text in enumerate(texts) if set(text) & set(separator.encode())]
    single = [i for i in dense if len(texts[i]) == 1]
    draw = random.Random(1)
    found = 0
    for _ in range(150):
        ids = [draw.choice(draw.choice([single, dense, range(len(texts))])) for _ in range(14)]
        text, ends = b"", []
        for place, token in enumerate(ids):
            before = len(text)
            text += texts[token]
            if any(before < end <= len(text) for end in _ends_of(text, separator.encode())):
                ends.append(place)
        assert rule.step_ends(ids, rule.start) == ends
        split = draw.randrange(14)  # a prefix that stands in the middle of a separator goes on where it was
        state = rule.state_after(ids[:split])
        assert [split + place for place in rule.step_ends(ids[split:], state)] == [
            e for e in ends if e >= split
        ]
        found += len(ends)
    assert found > 30


def _ends_of(text: bytes, separator: bytes) -> list[int]:
    return [at + len(separator) for at in range(len(text)) if text.startswith(separator, at)]


def test_line_ends_fuse_in_the_bpe():
    """The premise of the tests above: some token holds a separator and its neighbour."""
    tokenizer = bpe_tokenizer()
    texts = token_bytes(tokenizer, len(tokenizer))
    assert any(b"\n\n" in text and text.strip() for text in texts)
    assert any(text == b"\n" for text in texts)


def test_rules_of_several_tasks_share_the_tables():
    tokenizer = word_tokenizer()
    endings = Endings(token_bytes(tokenizer, len(tokenizer)), [1])
    lines, double = endings.rule("\n", ()), endings.rule("\n\n", ("=7",))
    newline, equals, seven = 2, 7, tokenizer.get_vocab()["7"]
    assert endings.hits[newline, lines.start] == STEP
    assert endings.hits[newline, double.start] == 0
    assert endings.hits[newline, double.state_after([newline])] == STEP
    assert endings.hits[seven, double.state_after([equals])] == STOP
    assert endings.hits[1, lines.start] == endings.hits[1, 0] == EOS
    assert endings.rule("\n", ()) is lines


class _Text:
    """The part of an engine that growth needs."""

    def __init__(self, tokenizer):
        self.texts = token_bytes(tokenizer, len(tokenizer))

    def decode(self, ids):
        return b"".join(self.texts[i] for i in ids).decode()


def _grow(new, flags, until="answer", prefix=None, stop=(), room=50):
    tokenizer = word_tokenizer()
    text = _Text(tokenizer)
    rule = Endings(text.texts, [1]).rule("\n", stop)
    row = Request([5], 9, new_ids=new, logprobs=[-0.5] * len(new), flags=flags)
    prefix = prefix or Prefix("numbers")
    row.state = rule.state_after(prefix.token_ids)
    return grown(prefix, row, text, rule, LineTask(stop=stop), "policy", until, room)


def test_what_growth_writes_into_a_prefix():
    seven = 9 + 7
    first = _grow([seven, 4, seven, 2], STEP, "step")
    assert (first.steps, first.step_ends, first.text, first.finish) == (("7+7\n",), (4,), "7+7\n", "")
    assert first.answer is None
    alone = _grow([1], EOS, "step", first)  # an end token alone belongs to the step before it
    assert (alone.steps, alone.step_ends, alone.finish, alone.answer) == (("7+7\n",), (5,), "eos", "7+7")
    more = _grow([seven, 1], EOS, "step", first)
    assert (more.steps, more.step_ends, more.answer) == (("7+7\n", "7"), (4, 6), "7")
    assert len(more.logprobs) == len(more.token_ids) == more.step_ends[-1]
    cut = _grow(
        [seven, 4], 8, "step", first
    )  # a step cut by its own limit is a step, and can be gone on from
    assert (cut.steps, cut.step_ends, cut.finish) == (("7+7\n", "7+"), (4, 6), "")
    full = _grow([seven, 4], 8, "step", first, room=6)
    assert full.finish == "length"
    tokens = _grow([seven, 2, seven], 8, "tokens")
    assert (tokens.steps, tokens.text, tokens.finish) == (("7\n",), "7\n7", "")
    assert _grow([seven, 2, seven], 8).finish == "length"
    assert _grow([1], EOS).steps == ("",)


def test_the_text_that_stops_an_answer_is_left_out():
    seven, newline, numbers = 9 + 7, 2, 8
    ended = _grow([seven, newline, newline, numbers], STOP, stop=("\n\nnumbers",))
    assert (ended.text, ended.token_ids, ended.finish, ended.answer) == ("7", (seven,), "stop", "7")
    later = _grow([newline, numbers], STOP, prefix=_grow([seven, newline], 8, "tokens", stop=("\n\nnumbers",)),
                  stop=("\n\nnumbers",))  # fmt: skip
    assert later.text == "7\n"
    assert later.finish == "stop"


def test_a_tokenizer_without_the_marks_is_refused_by_name():
    assert sign_tokens(word_tokenizer()) == (4, 5)
    with pytest.raises(RecipeError, match="lacks '-'"):
        sign_tokens(word_tokenizer(["<pad>", "</s>", "+"]), "prm")


def test_the_hash_of_a_tokenizer_names_its_vocabulary():
    assert tokenizer_hash(word_tokenizer()) == tokenizer_hash(word_tokenizer())
    assert tokenizer_hash(word_tokenizer()) != tokenizer_hash(bpe_tokenizer())
