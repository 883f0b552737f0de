"""Pause tokens (Goyal et al., arXiv:2310.02226): copies of one learned token between a prompt and its answer,
so that a model computes over more positions before it has to speak.

What a model expects stands in `pause.json` beside its weights: {"copies": 10, "id": 517}. Whoever renders a
prompt for the model appends them; rows of data never hold them. An adapter's file goes before its base's, so
a model that was trained with pauses may be fine-tuned without, and the other way round.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData, RecipeError

FILE = "pause.json"
TOKEN = "<pause>"  # noqa: S105  no password
MOST = 256  #: copies
SHARE = 0.1  #: of a row's tokens in pre-training, the pauses at random places
Row = tuple[list[int], list[int]]  #: ids, and labels of which -1 is learned nowhere


@dataclass(frozen=True)
class Pause:
    """The token, and how many of it stand behind a prompt; 0: the model knows it and wants none."""

    id: int
    copies: int

    def after(self, prompt_ids: Sequence[int]) -> list[int]:
        """A prompt's ids with the copies behind them, whether some stood there or not."""
        end = len(prompt_ids)
        while end and prompt_ids[end - 1] == self.id:
            end -= 1
        return [*prompt_ids[:end], *[self.id] * self.copies]


def pause_of(*folders: Path | None) -> Pause | None:
    """What the first folder says that says anything.

    Raises:
        DamagedData: its file is no pause's.
    """
    for folder in folders:
        if folder is None or not (path := Path(folder) / FILE).is_file():
            continue
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            found = Pause(said["id"], said["copies"])
        except (OSError, ValueError, KeyError, TypeError):
            found = Pause(-1, -1)
        whole = type(found.id) is int and type(found.copies) is int
        if not whole or found.id < 0 or not 0 <= found.copies <= MOST:
            raise DamagedData(f'{path}: not of the form {{"copies": 10, "id": 517}}: copy the model again')
        return found
    return None


def write_pause(folder: Path, pause: Pause | None) -> None:
    """Lay it beside weights that are not committed yet; nothing for none."""
    if pause is None:
        return
    from pipeline.store.disk import DISK

    said = {"copies": pause.copies, "id": pause.id}
    DISK.write(folder / FILE, (json.dumps(said, sort_keys=True) + "\n").encode())


def id_in(tokenizer: Any) -> int:
    """The id of the token: the tokenizer's own, or the next that is free."""
    known = tokenizer.get_vocab().get(TOKEN)
    return len(tokenizer) if known is None else int(known)


def added_to(tokenizer: Any, copies: int) -> Pause | None:
    """Let a tokenizer know the token; nothing for 0 copies."""
    pause = Pause(id_in(tokenizer), copies)
    if copies and pause.id == len(tokenizer):
        tokenizer.add_tokens([TOKEN], special_tokens=True)
    return pause if copies else None


def require_pauses(spec: str, copies: int, walks: int) -> None:
    """Can a seed be built with so many?

    Raises:
        RecipeError: no.
    """
    if not 0 <= copies <= MOST:
        raise RecipeError(f"base: {spec}: pause must be from 0 to {MOST}, not {copies}")
    if copies and walks > 1:
        raise RecipeError(
            f"base: {spec}: several walks are learned side by side there, so it learns no pauses"
        )


def paused(row: Row, num_prompt: int, pause: Pause, draw: random.Random) -> Row:
    """A row of pre-training with pauses that nothing learns to say: of every second one behind the prompt, as
    it will be asked, of the others at random places, a tenth as many as it has tokens (section 3.1).
    """
    ids, labels = row
    if draw.random() < 0.5:
        places = [num_prompt] * pause.copies
    else:
        places = sorted(draw.randrange(1, len(ids)) for _ in range(max(1, round(SHARE * len(ids)))))
    for place in reversed(places):
        ids, labels = [*ids[:place], pause.id, *ids[place:]], [*labels[:place], -1, *labels[place:]]
    return ids, labels


def grow(model: Any, pause: Pause | None) -> None:
    """Give a model's embeddings a row for the token, where they have none: the mean of the others, so that an
    untrained one is drawn by nothing.
    """
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    if pause is None or pause.id < size:
        return
    model.resize_token_embeddings(pause.id + 1, mean_resizing=False)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for weight in {id(table.weight): table.weight for table in tables if table is not None}.values():
            weight[size:] = weight[:size].float().mean(0).to(weight.dtype)
