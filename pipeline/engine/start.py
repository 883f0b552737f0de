"""One way to an engine: local, or over the servers that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def start_engine(
    folder: Path,
    adapter: Path | None = None,
    *,
    head: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    max_rows: int = 512,
    servers: Sequence[str] = (),
    served_as: str = "",
    api_key_env: str = "",
    timeout: float = 600.0,
    lora: dict[str, Any] | None = None,
    scratch: Path | None = None,
    verify: bool = True,
    weights_hash: str = "",
    name: str = "",
    check: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> Any:
    """The engine of one version of a model.

    servers: addresses that hold the base model; none: a local engine. served_as, api_key_env, timeout, lora,
    scratch, verify: as `ServerEngine` takes them. check: hold the engine against transformers' own forward,
    once for each shape of model in a process, and run the self-test, once for each on a machine, with its
    `progress`; `engine.exact` then says whether a row's bits are its own there.

    Raises:
        RecipeError: a family that this engine does not read as transformers does.
    """
    given: dict[str, Any] = {"head": head, "max_rows": max_rows, "weights_hash": weights_hash, "name": name}
    if not servers:
        return _local(folder, adapter, dtype, device, given, check, progress)
    from pipeline.engine.server import ServerEngine

    return ServerEngine(
        folder,
        adapter,
        servers=servers,
        model=served_as,
        api_key_env=api_key_env,
        timeout=timeout,
        lora=lora,
        scratch=scratch,
        verify=verify,
        **given,
    )


def _local(
    folder: Path,
    adapter: Path | None,
    dtype: str,
    device: str,
    given: dict[str, Any],
    check: bool,
    progress: Callable[[int, int, float], None] | None,
) -> Any:
    """The engine in this process. given: head, max_rows, weights_hash, name."""
    from pipeline.engine.garbage import collect_garbage
    from pipeline.engine.local import Engine
    from pipeline.engine.own_forward import fits, has_state, hides_window, shape_of
    from pipeline.engine.probe import probe_kind
    from pipeline.engine.ratio import ratio_kind
    from pipeline.engine.rungs import RUNGS
    from pipeline.engine.selftest import cache_file, self_test
    from pipeline.engine.shared import shared_kind
    from pipeline.engine.whole import WholeEngine
    from pipeline.models.heads import head_of
    from pipeline.models.load import device_of, dtype_of

    collect_garbage()  # of the engines and trainers before

    def made(kind: Any, dtype: str = dtype) -> Engine:
        reads = head_of(given["head"]).reads
        kinds = {"ratio": ratio_kind, "hidden": probe_kind, "state": shared_kind}
        if reads in kinds:
            kind = kinds[reads](kind)
        return kind(folder, adapter, dtype=dtype, device=device, **given)

    if not check:
        return made(Engine)
    shape, whole, on = shape_of(folder, given["head"], dtype), has_state(folder), device_of(device)
    half = dtype_of(dtype, on, folder).itemsize < 4
    if half and not whole and hides_window(folder):
        exactly = shape_of(folder, given["head"], "float32")
        whole = fits(folder, exactly, lambda: made(Engine, "float32")) is None
        collect_garbage()
    engine = None if whole else fits(folder, shape, lambda: made(Engine))
    if engine is None and half and not whole and dtype == "auto" and on.type == "cpu":
        return _local(folder, adapter, "float32", device, given, True, progress)  # it may be rounding
    if engine is None:
        return fits(folder, shape, lambda: made(WholeEngine), refuse=True)
    exact = self_test(engine, RUNGS[:1], cache=cache_file(), progress=progress)
    if dtype == "auto" and not exact and str(engine.device) == "cpu" and engine.dtype.itemsize < 4:
        return _local(folder, adapter, "float32", device, given, True, None)
    return engine
