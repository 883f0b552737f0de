"""A tiny random model that chats: its own tokenizer with a chat template, and a head that knows little more than whole
answers, verdicts and scores, so that drawing finds some of each. Good for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from real_world import TEMPLATE, tokenizer_for

from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Row
from pipeline.run.session import session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace
from pipeline.tasks import words
from pipeline.tasks._acts import INSTRUCTIONS

TASK: dict[str, Any] = {"use": "words", "train": 2, "dev": 1, "test": 1, "chat": True, "max_tokens": 14}
#: what the random model says most: whole pieces, so that drawing finds answers and verdicts
SAID = (
    *("4 + 5 = 9\n", "8 - 5 = 3\n", "7 * 3 = 21\n", "Verdict: right", "Verdict: wrong", "Score: 4", "Score: 1"),
    *("Better: first", "Better: second", "<thinking>", "</thinking>", "<output>", "</output>", "How many now?"),
)  # fmt: skip


def make(
    folder: Path, said: Mapping[str, float] = dict.fromkeys(SAID, 1.3), end: float = 1.6, brief: bool = False
) -> Path:
    """Random weights, and a head that knows little more than what is `said`, as loud as it says, and the end.

    brief: a turn begins with one of the pieces, and each of them ends it; and as Llama's does, the tokenizer puts a
    start token before every text, which the template writes too."""
    import torch
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_for(
        [*INSTRUCTIONS.values(), *(p.question for p in words.Task(words.Settings(**TASK)).problems())],
        size=900,
    )
    tokenizer.add_tokens(list(said))
    assert tokenizer.chat_template == TEMPLATE
    if brief:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=False, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    pieces = tokenizer.convert_tokens_to_ids(list(said))
    with torch.no_grad():
        embed, head = model.model.embed_tokens.weight, model.lm_head.weight
        head *= 0.5
        # a first number that stays what it is makes the head's column a bias
        embed[:, 0] = 12.0
        for place in range(1 + brief):
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[place] = layer.mlp.down_proj.weight[place] = 0.0
            head[:, place] = 0.0
        head[pieces, 0] = torch.tensor(list(said.values()))
        head[tokenizer.eos_token_id, 0] = end
        if (
            brief
        ):  # a second one says what was written last: the mark before a turn, a piece, or something else
            embed[:, 0], embed[:, 1] = 40.0, 0.0
            embed[tokenizer.convert_tokens_to_ids("<|assistant|>"), 1] = 40.0
            embed[pieces, 1] = -40.0
            head[tokenizer.eos_token_id, 1] = -1.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(path: Path, *more: str) -> dict[str, Any]:
    """A recipe to its end, and its status."""
    recipe = load(path, [*more, "wandb.mode=disabled"])
    workspace = Workspace(Path("data"), Path("checkpoints"))
    with session(recipe, Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    status = run_status(recipe.name, workspace)
    assert status["complete"]
    assert verify_run(Path("data") / recipe.name, Path("checkpoints") / recipe.name) == []
    return status


def rows(folder: Path, stage: str, kind: type[Row]) -> list[Any]:
    """What a stage wrote of one kind."""
    return list(StageFolder(folder / stage).read(kind))
