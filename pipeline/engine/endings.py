"""What token ids mean as bytes, and where a step or an answer ends: tables over ids, built once, free of
torch.

On real tokenizers a separator fuses with its neighbours (".\\n\\n" may be one token) or spans several ("\\n"
+ "\\n"). So ends are found by an automaton over the *bytes* of tokens (Aho and Corasick 1975), folded into
one table [token, state]: a step ends at the token that holds the end of the separator, and following it costs
one lookup a token, for all rows at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.errors import RecipeError

STEP, STOP, EOS, LENGTH = 1, 2, 4, 8  #: why a row ended, as bits
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def hash_ids(ids: Sequence[int]) -> str:
    """16 hex digits of the SHA-256 of token ids."""
    return hashlib.sha256(np.asarray(ids, dtype="<u4").tobytes()).hexdigest()[:16]


def tokenizer_hash(tokenizer: Any) -> str:
    """A name for what a tokenizer's ids mean: its vocabulary and special tokens."""
    special = sorted((int(i), str(t), bool(t.special)) for i, t in tokenizer.added_tokens_decoder.items())
    text = json.dumps([sorted(tokenizer.get_vocab().items()), special])
    return hashlib.sha256(text.encode()).hexdigest()


def sign_tokens(tokenizer: Any, name: str = "") -> tuple[int, int]:
    """The ids of '+' and '-', the marks that `head: token` reads at a step's end (Math-Shepherd).

    Raises:
        RecipeError: the tokenizer has no such tokens.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [mark for mark in "+-" if mark not in vocabulary]
    if missing:
        raise RecipeError(
            f"{name or 'the reward model'}: head: token needs the tokens '+' and '-', and its tokenizer "
            f"lacks {' and '.join(map(repr, missing))}; use head: value"
        )
    return vocabulary["+"], vocabulary["-"]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable characters for bytes, backwards."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def _decoder_kinds(state: Any) -> set[str]:
    found = {state["type"]}
    for inner in state.get("decoders", []):
        found |= _decoder_kinds(inner)
    return found


def token_bytes(tokenizer: Any, size: int) -> list[bytes]:
    """The bytes that each id adds to a text, for ids 0 .. size - 1. Special tokens (end, padding) add none.

    Joined, they give the text of any sequence; `tokenizer.decode` strips a first space and cannot be split at
    a token.
    """
    texts = [b""] * size
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = backend.decoder if backend is not None else None
    kinds = _decoder_kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
    alphabet = _byte_alphabet()
    for token, number in tokenizer.get_vocab().items():
        if number >= size:
            continue
        byte = _BYTE_TOKEN.fullmatch(token)
        if "ByteLevel" in kinds and all(char in alphabet for char in token):
            texts[number] = bytes(alphabet[char] for char in token)
        elif "ByteFallback" in kinds and byte:
            texts[number] = bytes([int(byte[1], 16)])
        elif decoder is not None:  # after another token, so that no leading space is stripped
            texts[number] = decoder.decode(["a", token])[1:].encode()
        elif backend is not None:  # without a decoder, `tokenizers` joins with spaces
            texts[number] = b" " + token.encode()
        else:
            texts[number] = tokenizer.convert_tokens_to_string(["a", token])[1:].encode()
    for number, added in tokenizer.added_tokens_decoder.items():
        if number < size:
            texts[number] = b"" if added.special else added.content.encode()
    for number in tokenizer.all_special_ids:
        if number < size:
            texts[number] = b""
    return texts


class Rule:
    """Where rows of one task end: its start state in the tables of `Endings`."""

    def __init__(self, endings: Endings, start: int, spans: bool) -> None:
        self._endings, self.start, self._spans = endings, start, spans
        #: tokens that end a step, whatever stood before them
        self._marks = frozenset(np.flatnonzero(endings.hits[:, start] & STEP).tolist())

    def state_after(self, ids: Iterable[int]) -> int:
        """The state after the tokens of a completion."""
        state = self.start
        if self._spans:  # a separator of one byte cannot be half read
            for token in ids:
                state = int(self._endings.next[token, state])
        return state

    def step_ends(self, ids: Sequence[int], state: int) -> list[int]:
        """The positions in `ids` whose token ends a step, read on from `state`."""
        if not self._spans:
            return [place for place, token in enumerate(ids) if token in self._marks]
        ends = []
        for place, token in enumerate(ids):
            if self._endings.hits[token, state] & STEP:
                ends.append(place)
            state = int(self._endings.next[token, state])
        return ends


class Endings:
    """The tables of one tokenizer: `next` and `hits` [token, state], with a run of states for each rule."""

    def __init__(self, texts: list[bytes], eos_ids: Iterable[int]) -> None:
        self._texts = texts
        self._eos = sorted(eos_ids)
        self._rules: dict[tuple[str, tuple[str, ...]], Rule] = {}
        self.next = np.zeros((len(texts), 0), np.int32)
        self.hits = np.zeros((len(texts), 0), np.uint8)
        self.rule("", ())  # state 0: only end tokens end

    def rule(self, separator: str, stop: Sequence[str]) -> Rule:
        """The rule of a task; its tables are made at the first use."""
        key = (separator, tuple(stop))
        if key not in self._rules:
            patterns = [(separator.encode(), STEP)] * bool(separator) + [
                (s.encode(), STOP) for s in stop if s
            ]
            delta, flags = _automaton(patterns)
            states, hits = _fold(self._texts, delta, flags)
            hits[self._eos] |= EOS
            start = self.next.shape[1]
            self.next = np.concatenate([self.next, states + start], axis=1)
            self.hits = np.concatenate([self.hits, hits], axis=1)
            self._rules[key] = Rule(self, start, len(flags) > 1)
        return self._rules[key]

    def stops(self, state: int, ends_on: int) -> list[str]:
        """The texts on which a row that began in `state` ends, for a server that matches text itself."""
        found: list[str] = []
        for (separator, stop), rule in self._rules.items():
            if (
                rule.start <= state
            ):  # rules stand in the order of their states: the last one that fits is the row's
                found = [separator] * bool(separator and ends_on & STEP) + list(
                    stop if ends_on & STOP else ()
                )
        return found


def _automaton(patterns: list[tuple[bytes, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Aho-Corasick: delta [states, 256] and, by a transition, what has just ended: flags [states, 256]."""
    words = {b""} | {text[:end] for text, _ in patterns for end in range(1, len(text))}
    names = sorted(words, key=lambda word: (len(word), word))
    place = {word: number for number, word in enumerate(names)}
    delta = np.zeros((len(names), 256), np.int32)
    flags = np.zeros((len(names), 256), np.uint8)
    for word, number in place.items():
        for byte in range(256):
            read = word + bytes([byte])
            delta[number, byte] = next(place[read[i:]] for i in range(len(read) + 1) if read[i:] in place)
            for text, flag in patterns:
                if read.endswith(text):
                    flags[number, byte] |= flag
    return delta, flags


def _fold(texts: list[bytes], delta: np.ndarray, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The automaton over whole tokens: (next, hits), both [tokens, states]."""
    num_states = len(delta)
    states = np.tile(np.arange(num_states, dtype=np.int32), (len(texts), 1))
    hits = np.zeros((len(texts), num_states), np.uint8)
    lengths = np.array([len(text) for text in texts])
    for place in range(int(lengths.max(initial=0))):
        active = np.flatnonzero(lengths > place)
        byte = np.array([texts[token][place] for token in active])[:, None]
        hits[active] |= flags[states[active], byte]
        states[active] = delta[states[active], byte]
    return states, hits
