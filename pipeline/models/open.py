"""One way to an engine: local, or over the servers that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def open_engine(
    folder: Path,
    adapter: Path | None = None,
    *,
    head: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    max_rows: int = 512,
    servers: Sequence[str] = (),
    weights_hash: str = "",
    name: str = "",
    check: bool = False,
) -> Any:
    """The engine of one version of a model.

    servers: addresses that hold the base model; none: a local engine. check: hold the engine against
    transformers' own forward and run the self-test, once for each shape of model in a process; `engine.exact`
    then says whether a row's bits are its own on this machine.

    Raises:
        RecipeError: a family that this engine does not read as transformers does.
    """
    if servers:
        from pipeline.models.server import ServerEngine

        return ServerEngine(
            folder,
            adapter,
            servers=servers,
            head=head,
            max_rows=max_rows,
            weights_hash=weights_hash,
            name=name,
        )
    from pipeline.models.engine import RUNGS, Engine
    from pipeline.models.own_forward import fits, read_whole
    from pipeline.models.selftest import self_test
    from pipeline.models.whole import WholeEngine

    def made(kind: type[Engine]) -> Engine:
        return kind(
            folder,
            adapter,
            head=head,
            dtype=dtype,
            device=device,
            max_rows=max_rows,
            weights_hash=weights_hash,
            name=name,
        )

    if not check:
        return made(Engine)
    engine = None if read_whole(folder) else fits(folder, lambda: made(Engine))
    if engine is None:
        return fits(folder, lambda: made(WholeEngine), refuse=True)
    self_test(engine, RUNGS[:1])
    return engine
