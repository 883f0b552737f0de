"""What the product does with a family: sampled, trained and scored in small, and held against transformers and peft.

`python tests/models/family_matrix.py` writes docs/models.md from it; `test_families.py` holds the two together.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from pipeline.models.environment import prepare

    prepare(threads=1)

import families

PROMPTS = ("7", "Q: Ann has 4 apples", "Q: Ann has 31 apples and buys 9 more.\nA:")
NUM_TOKENS = 16
DOC = Path(__file__).parents[2] / "docs" / "models.md"


class WrongAnswer(AssertionError):
    """The product did something else than transformers or peft, and said nothing."""


@dataclass
class Line:
    """A family's line in docs/models.md."""

    family: str
    engine: str = ""
    exact: str = ""
    prm: str = ""
    lora: str = ""
    packing: str = ""

    def text(self) -> str:
        return f"| {self.family} | {self.engine} | {self.exact} | {self.prm} | {self.lora} | {self.packing} |"


def look(name: str, exact: bool = False) -> Line:
    """Everything about a family. exact: run the self-test too (seconds)."""
    line = Line(name)
    with tempfile.TemporaryDirectory() as place:
        folder = families.make(Path(place) / "base", name)
        rows = _written(folder, line, exact)
        if rows:
            _trained(folder, rows, line, Path(place))
        _scored(folder, line, Path(place))
    return line


def greedy(model: Any, ids: list[int]) -> list[int]:
    """Greedy tokens by the model's own forward over the whole row."""
    import torch

    found = list(ids)
    with torch.inference_mode():
        while len(found) < len(ids) + NUM_TOKENS and (len(found) == len(ids) or found[-1] != 1):
            found.append(int(model(input_ids=torch.tensor([found]), use_cache=False).logits[0, -1].argmax()))
    return found[len(ids) :]


def generated(model: Any, ids: list[int]) -> list[int]:
    """The same by `generate`; by our own loop where transformers' cache cannot (two recurrent layers alone)."""
    import torch

    given = torch.tensor([ids])
    try:
        out = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NUM_TOKENS
        )
    except (ValueError, RuntimeError, IndexError):
        return greedy(model, ids)
    return out[0, len(ids) :].tolist()


def _open(folder: Path, adapter: Path | None = None, head: str | None = None, exact: bool = False) -> Any:
    """As `start_engine(check=True)` does, without the self-test."""
    from pipeline.engine.local import Engine
    from pipeline.engine.own_forward import fits, has_state, shape_of
    from pipeline.engine.start import start_engine
    from pipeline.engine.whole import WholeEngine

    more: dict[str, Any] = {"head": head, "dtype": "float32", "device": "cpu", "max_rows": 8}
    if exact:
        return start_engine(folder, adapter, check=True, **more)
    shape = shape_of(folder, head, "float32")
    found = None if has_state(folder) else fits(folder, shape, lambda: Engine(folder, adapter, **more))
    return found or fits(folder, shape, lambda: WholeEngine(folder, adapter, **more), refuse=True)


def _write(engine: Any, prompts: list[list[int]]) -> list[list[int]]:
    from pipeline.engine.endings import EOS
    from pipeline.engine.growth import Request

    rows = [Request(ids, NUM_TOKENS, temperature=0.0, ends_on=EOS, tag=i) for i, ids in enumerate(prompts)]
    engine.submit(rows)
    while engine.busy:
        engine.step()
    return [row.new_ids for row in rows]


def _written(folder: Path, line: Line, exact: bool) -> list[Any]:
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.engine.whole import WholeEngine
    from pipeline.errors import RecipeError
    from pipeline.rows import Example

    try:
        engine = _open(folder, exact=exact)
    except RecipeError as error:
        line.engine = "refused: " + str(error).split(" are not served here: ")[-1].split(". Use engine")[0]
        return []
    line.engine = "whole rows" if isinstance(engine, WholeEngine) else "batch"
    line.exact = ("yes" if engine.exact else "no") if exact else ""
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [engine.encode(prompt) for prompt in PROMPTS]
    found, expected = _write(engine, prompts), [generated(own, ids) for ids in prompts]
    if found != expected and found != [
        greedy(own, ids) for ids in prompts
    ]:  # RoBERTa's differ from each other
        raise WrongAnswer(f"{line.family}: the engine wrote {found}, transformers {expected}")
    return [
        Example(
            problem_id=str(i), trace_id=str(i), prompt="", completion="x", prompt_ids=ids, completion_ids=new
        )
        for i, (ids, new) in enumerate(zip(prompts, found, strict=True))
    ]


def _job(
    folder: Path, rows: list[Any], place: Path, lora: dict[str, Any], head: str | None = None, **more: Any
) -> Any:
    from pipeline.train import TrainJob

    out, scratch = (Path(tempfile.mkdtemp(dir=place)) for _ in range(2))
    return TrainJob(
        rows=lambda: iter(rows), base=folder, adapter=None, out=out, scratch=scratch, seed=3, round=1, lora=lora,
        head=head, dtype="float32", **more,
    )  # fmt: skip


def _trained(folder: Path, rows: list[Any], line: Line, place: Path) -> None:
    """A round: train on what was written, write again, and compare with peft."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.errors import RecipeError
    from pipeline.models.merged import with_adapter
    from pipeline.train import sft

    said: list[str] = []
    job = _job(folder, rows, place, {"r": 2, "init_lora_weights": False}, say=said.append)
    settings = {"steps": 2, "batch_size": 3, "learning_rate": 1e-2, "max_length": 128, "packing": True}
    try:
        sft.train(job, sft.Settings.model_validate(settings))
    except RecipeError as error:
        line.lora = f"refused: {error}"
        return
    line.packing = "padded" if any(text.startswith("packing:") for text in said) else "yes"
    line.lora = next(
        text.split(" of ")[0].removeprefix("LoRA reaches ") for text in said if "LoRA reaches" in text
    )
    own = with_adapter(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), job.out).eval()
    prompts = [row.prompt_ids for row in rows]
    found, expected = _write(_open(folder, job.out), prompts), [greedy(own, ids) for ids in prompts]
    if found != expected:
        raise WrongAnswer(f"{line.family}: with its adapter the engine wrote {found}, peft {expected}")


def _scored(folder: Path, line: Line, place: Path) -> None:
    """A reward model: trained, and its scores held against peft's own."""
    import torch

    from pipeline.errors import RecipeError
    from pipeline.models.merged import with_adapter
    from pipeline.models.scorer import open_scorer
    from pipeline.rows import StepExample
    from pipeline.train import prm

    ids = [list(range(40 + i, 60 + i)) for i in range(4)]
    rows = [
        StepExample(
            problem_id=str(i), trace_id=str(i), prompt="p", completions=["a", "b"], labels=[0.9, i / 4],
            token_ids=row, step_ends=[8, 20],
        )
        for i, row in enumerate(ids)
    ]  # fmt: skip
    job = _job(folder, rows, place, {"r": 2, "init_lora_weights": False}, head="value")
    settings = {"target": "value", "steps": 2, "batch_size": 4, "learning_rate": 1e-2, "max_length": 128}
    try:
        prm.train(job, prm.Settings.model_validate(settings))
        scores = _open(folder, job.out, "value").score([(row, range(len(row))) for row in ids])
    except RecipeError as error:
        line.prm = "refused: " + str(error).split(": ", 1)[-1]
        return
    model, _ = open_scorer(folder, dtype=torch.float32)
    own = with_adapter(model, job.out).eval()
    with torch.inference_mode():
        expected = own(input_ids=torch.tensor(ids), use_cache=False).logits[..., 0]
    if not torch.allclose(torch.tensor(scores), expected, rtol=1e-3, atol=1e-3):
        raise WrongAnswer(f"{line.family}: scores {scores[0]}, peft's {expected[0].tolist()}")
    line.prm = "yes"


INTRO = """# Model families

What this project does with a family of `transformers`, made by `tests/models/family_matrix.py` from tiny models with
random weights (their configurations are in `tests/models/families.py`), on a CPU in float32. `make test-full` holds
every line against the disk.

- **engine**: *batch*: rows share a running batch and its key-value cache. *whole rows*: the family keeps a state, or
  does with its positions what the batch does not know; every row is then read whole by transformers' own forward at
  each token: right, slow, and the same in distribution only. Both wrote, token for token, what `generate` writes.
  On any machine a family is held against transformers' own forward when its model is first loaded; one that differs
  is read whole, and one that differs there too is refused with a sentence.
- **exact**: do a row's bits depend on it alone? Found anew on each machine; this is one with AVX-512. Experts never:
  their products hold the tokens of all rows.
- **PRM head**: `head: value`, trained and scored as peft scores it. Where transformers has no token classifier of the
  family, one is made of its parts; what is exported of it opens here, not in transformers by itself.
- **LoRA**: the share of the weights that lie under an adapter with the default settings; the rest are embeddings, the
  head and norms (a large share in such small models). In every mixture of experts the experts and their routers are
  adapted. The merged model wrote what peft's own writes.
- **packing**: *padded*: rows that are laid end to end would see each other, so `packing: true` pads them and says so.

| family | engine | exact | PRM head | LoRA | packing |
|---|---|---|---|---|---|
"""


def document() -> str:
    """docs/models.md."""
    lines = []
    for name in families.FAMILIES:
        lines.append(look(name, exact=True).text())
        print(lines[-1], flush=True)
    return INTRO + "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for each in sys.argv[1:]:
            try:
                print(look(each).text(), flush=True)
            except Exception as problem:
                import traceback

                print(f"| {each} | FAIL {type(problem).__name__}: {str(problem)[:300]}", flush=True)
                print("".join(traceback.format_tb(problem.__traceback__)[-2:]), flush=True)
    else:
        DOC.write_text(document(), encoding="utf-8")
