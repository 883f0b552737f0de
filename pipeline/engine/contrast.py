"""Running batches whose tokens are drawn from something else than the model's own distribution.

Scores that are drawn from and log-probabilities that are written down part ways here: the first are set
against an early layer's (DoLa, arXiv:2309.03883) or made smaller for tokens that stand already (CTRL,
arXiv:1909.05858), the second stay those of the model at temperature 1. By transformers' own forward, which
alone shows hidden states: right and slow. On a CPU the rows keep the running batch's cache; on a GPU, and for
families that are read whole, every row is read from its start at each token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.engine.batch import COUNT, LAST, POSITION, Batch
from pipeline.engine.cache import Stash
from pipeline.engine.decoding import Decoding, Dola, candidates
from pipeline.engine.growth import Request
from pipeline.engine.prefix_cache import Reading
from pipeline.engine.readings import logprob_of
from pipeline.errors import RecipeError
from pipeline.models.load import plain_head

if TYPE_CHECKING:
    from pipeline.engine.local import Engine

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "final_norm", "embedding_norm")


def divergences(last: torch.Tensor, early: torch.Tensor, how: str) -> torch.Tensor:
    """How far each layer's words are from the last's: log-probabilities [R, V] and [L, R, V] to [L, R].

    js: the Jensen-Shannon divergence. released: (KL(M || p) + KL(M || q)) / 2 over the vocabulary's size, M
    the mean of both, which is what the authors' code computes. By hand, p = .7, .2, .1 and q = .2, .3, .5:
    0.15136, and 0.17632 / 3.
    """
    middle = (last.exp() + early.exp()) / 2
    log_middle = middle.log()
    if how == "js":
        terms = last.exp() * (last - log_middle) + early.exp() * (early - log_middle)
        return terms.nan_to_num(0.0).sum(-1) / 2
    terms = middle * (log_middle - last) + middle * (log_middle - early)
    return terms.nan_to_num(0.0).mean(-1) / 2


def contrasted(last: torch.Tensor, early: torch.Tensor, dola: Dola) -> torch.Tensor:
    """log p_last - log p_early of the farthest layer, for each row's tokens that the last layer finds likely
    enough, -inf for others (equations 3 to 5). Logits [R, V] and [L, R, V] to [R, V].
    """
    last, early = last.log_softmax(-1), early.log_softmax(-1)
    farthest = divergences(last, early, dola.divergence).argmax(0)
    chosen = early[farthest, torch.arange(len(last), device=last.device)]
    least = last.amax(-1, keepdim=True) + float(np.log(dola.relative_top))
    return torch.where(last < least, -torch.inf, last - chosen)


def penalised(scores: torch.Tensor, ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores [R, V] of the tokens of each row's ids [R, T], divided by the penalty where positive, times it
    where negative: transformers' own rule.
    """
    held = scores.gather(1, ids)
    return scores.scatter(1, ids, torch.where(held < 0, held * penalty, held / penalty))


class Layers:
    """What shows the words of a model's early layers.

    Raises:
        RecipeError: layers that it has not, or a family whose parts are not known.
    """

    def __init__(self, engine: Engine, dola: Dola) -> None:
        model = engine.model
        config = model.config.get_text_config()
        self.top: Any = plain_head(model, None, engine.num_tokens)
        tied = model.get_output_embeddings() is not None and (
            model.get_output_embeddings().weight is model.get_input_embeddings().weight
        )
        try:
            self.numbers = candidates(dola.layers, config.num_hidden_layers, tied)
        except ValueError as problem:
            raise RecipeError(f"model {engine.name}: dola.layers: {problem}") from None
        body = model.base_model
        self.norm = next((getattr(body, name) for name in NORMS if hasattr(body, name)), None)
        if self.top is None or self.norm is None:
            raise RecipeError(
                f"model {engine.name}: dola: models of type {config.model_type} change what their last layer "
                "says in a way that is not known here: leave dola out, or use another base"
            )
        self.with_norm = dola.norm

    def words(self, states: Any, line: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The float32 logits [layers, R, V] of the hidden states of all layers, at one place of each row."""
        early = torch.stack([states[k][line, at] for k in self.numbers])
        if self.with_norm and self.norm is not None:
            early = self.norm(early)
        return torch.stack([self.top(one) for one in early]).float()


class DecodingBatch(Batch):
    """Rows of one way of drawing, with the running batch's own cache."""

    def __init__(self, engine: Engine, columns: int, cap: int, decoding: Decoding) -> None:
        super().__init__(engine, columns, cap)
        self.decoding = decoding
        self.shown = Layers(engine, decoding.dola) if decoding.dola else None
        self.early: torch.Tensor | None = None  #: [layers, R, V] of the step in progress

    def _prefill(self, readings: list[Reading], rows: list[list[Request]], width: int) -> list[Request]:
        """Fill the cache alone: the step that follows reads the last token anew, and shows its layers."""
        made, _ = self.engine.prefill([one.ids for one in readings], width, [one.held for one in readings])
        self._settle(readings, rows, made)
        return []

    def _forward(self, num: int) -> torch.Tensor:
        if self.shown is None:
            return super()._forward(num)
        used = max(num, min(self.engine.min_rows, len(self.numbers)))
        numbers = torch.from_numpy(self.numbers[:used, : POSITION + 1].copy())
        last, position = numbers[:, LAST], numbers[:, POSITION]
        self.mask[:used, 0, 0].scatter_(1, position[:, None], 0.0)
        self.place.write_to(position, self._columns(used))
        mask = self.mask[:used, ..., : self.place.num_used]
        found = self.engine.model(
            input_ids=last[:, None],
            position_ids=position[:, None],
            attention_mask=self.engine._masks(mask, position[:, None]),
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=True,
        )
        line, first = torch.arange(used), torch.zeros(used, dtype=torch.int64)
        self.early = self.shown.words(found.hidden_states, line, first)[:, :num]
        return found.logits[:num, -1].float()

    def _choose(self, logits: torch.Tensor, slots: slice) -> tuple[np.ndarray, np.ndarray]:
        """Tokens from the changed scores, log-probabilities from the model's own."""
        scores = logits
        if self.decoding.dola and self.early is not None:
            scores = contrasted(logits, self.early, self.decoding.dola)
        if self.decoding.repetition_penalty != 1:
            scores = penalised(
                scores, self._standing(slots).to(logits.device), self.decoding.repetition_penalty
            )
        tokens, _ = super()._choose(scores, slots)
        chosen = logprob_of(logits, torch.from_numpy(tokens).to(logits.device))
        return tokens, chosen.cpu().numpy()

    def _standing(self, slots: slice) -> torch.Tensor:
        """The ids of prompt and completion of each row [R, T]; the first one again where a row is shorter."""
        counts = self.numbers[slots, COUNT].tolist()
        rows = self.rows[slots]
        longest = max(len(row.ids) + count for row, count in zip(rows, counts, strict=True))
        found = np.empty((len(rows), longest), np.int64)
        for line, row, written, count in zip(found, rows, self.ids[slots], counts, strict=True):
            line[:] = row.ids[0]
            line[: len(row.ids)] = row.ids
            line[len(row.ids) : len(row.ids) + count] = written[:count]
        return torch.from_numpy(found)


class WholeDecodingBatch(DecodingBatch):
    """The same without a cache: every row is read whole, by transformers' own forward, at each token."""

    def _prefill(self, readings: list[Reading], rows: list[list[Request]], width: int) -> list[Request]:
        nothing = torch.zeros(len(readings), 1, 1, 1, device=self.engine.device)
        self._settle(readings, rows, [Stash.of(nothing, nothing) for _ in self.layers])
        return []

    def _forward(self, num: int) -> torch.Tensor:
        ids = self._standing(slice(0, num)).to(self.engine.device)
        at = torch.from_numpy(self.numbers[:num, POSITION].copy()).to(ids.device)
        line = torch.arange(num, device=ids.device)
        given = {"input_ids": ids, "use_cache": False, "output_hidden_states": self.shown is not None}
        found = self.engine.model(**given)
        if self.shown is not None:
            self.early = self.shown.words(found.hidden_states, line, at)
        return found.logits[line, at].float()


def batch_of(engine: Engine, columns: int, cap: int, decoding: Decoding) -> Batch:
    """The running batch of rows that are drawn so."""
    cached = engine.device.type == "cpu" and engine.own_masks
    return (DecodingBatch if cached else WholeDecodingBatch)(engine, columns, cap, decoding)
