"""`head: probe`: a language model whose hidden states at a step's last token say whether the step is right.

What was trained (`train/probe.py`) is one weight for each number of a hidden state, and a bias:
`probe.safetensors` beside a `prm.json` that names the layer. Layer 0 are the embeddings, layer k is what the
k-th layer gives, the last with the final norm. Training and scoring read hidden states by the same forwards,
so a score is what was fitted, to the bit on a machine where a row's bits are its own. Each prefix is read
whole: a search remembers keys and values, not hidden states.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import DamagedData, Diverged, RecipeError

FILE = "probe.safetensors"


def num_layers(engine: Any) -> int:
    """The number of the last layer; 0 are the embeddings."""
    return int(engine.model.config.get_text_config().num_hidden_layers)


@torch.inference_mode()
def hidden_states(
    engine: Any, items: Sequence[tuple[Sequence[int], Sequence[int]]], layers: Sequence[int]
) -> list[np.ndarray]:
    """For each (ids, positions): float32 [positions, layers, width], the hidden states of the layers there.

    Raises:
        RecipeError: the model does not show them.
    """
    found: list[np.ndarray] = [np.zeros((0, len(layers), 0), np.float32) for _ in items]
    asked = [number for number, (_, at) in enumerate(items) if len(at)]
    for group, width in engine.groups([len(items[n][0]) for n in asked]):
        which = [asked[i] for i in group]
        ids, positions, mask, _ = engine._begun([items[n][0] for n in which], width)
        given = {"input_ids": ids, "use_cache": False, "output_hidden_states": True}
        if engine.own_masks:
            given |= {"position_ids": positions, "attention_mask": mask}
        shown = getattr(engine.model.base_model(**given), "hidden_states", None)
        if shown is None or len(shown) <= max(layers):
            raise RecipeError(
                f"model {engine.name}: its family shows no hidden states by layer, which head: probe reads: "
                "use head: value or token, or another base"
            )
        for place, n in enumerate(which):
            at = torch.tensor(list(items[n][1]), device=ids.device)
            found[n] = torch.stack([shown[k][place, at] for k in layers], 1).float().cpu().numpy()
    return found


def said_by(hidden: np.ndarray, weight: np.ndarray, bias: float) -> list[float]:
    """The probability of right of each hidden state [positions, width]; each row is summed by itself."""
    logits = (hidden.astype(np.float64) * weight).sum(-1) + bias
    return (0.5 * (1 + np.tanh(0.5 * logits))).tolist()


def read_probe(name: str, *folders: Path | None) -> tuple[int, np.ndarray, float]:
    """(layer, weights, bias) of the first folder that holds a probe.

    Raises:
        RecipeError: none does. DamagedData: its file is another's.
    """
    from safetensors.numpy import load_file

    for folder in folders:
        if folder is None or not (folder / FILE).is_file():
            continue
        try:
            said = json.loads((folder / "prm.json").read_text(encoding="utf-8"))
            held = load_file(folder / FILE)
            return int(said["layer"]), held["weight"].astype(np.float64), float(held["bias"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as problem:
            first = str(problem).splitlines()[0][:120] if str(problem) else type(problem).__name__
            raise DamagedData(f"{folder}: no probe can be read here: {first}: train it again") from None
    raise RecipeError(
        f"model {name}: head: probe: no {FILE} beside its weights; train it here (train: probe), or use "
        "another head"
    )


@functools.cache
def probe_kind(kind: Any) -> Any:
    """An engine of this kind whose scores are a probe's."""

    class ProbeEngine(kind):
        """The base, and the probe that was trained on it."""

        def __init__(self, folder: Path, adapter: Path | None = None, **settings: Any) -> None:
            super().__init__(folder, None, **settings)
            self.adapter = Path(adapter) if adapter else None  # it names these weights
            self.layer, self.weight, self.bias = read_probe(self.name, self.adapter, self.folder)
            width = self.model.config.get_text_config().hidden_size
            if self.layer > num_layers(self) or len(self.weight) != width:
                raise DamagedData(
                    f"{adapter or folder}: a probe of layer {self.layer} with {len(self.weight)} weights; "
                    f"the base has {num_layers(self)} layers of {width}: it belongs to another base"
                )
            # transformers hangs what shows a layer on the layers that are there when it is asked first: here
            # all are, in the self-test only some
            hidden_states(self, [((0,), (0,))], [self.layer])

        def score(self, items: Any, memories: Any = ()) -> list[list[float]]:
            """As the engine's: the probability of right at each position."""
            layer = min(self.layer, self.num_layers)  # the self-test looks at the first layers alone
            states = hidden_states(self, items, [layer])
            replies = [said_by(one[:, 0], self.weight, self.bias) if len(one) else [] for one in states]
            if not all(np.isfinite(reply).all() for reply in replies):
                raise Diverged(f"model {self.name}: a score is not finite; the base's weights diverged")
            return replies

    return ProbeEngine
