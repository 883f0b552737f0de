"""`env`: what to paste into a bug report. Loads no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from pipeline import __version__
from pipeline.commands import HERE
from pipeline.run.conditions import PACKAGES

OTHERS = ("datasets", "safetensors", "pydantic", "typer", "math-verify", "wandb", "deepspeed", "vllm")
#: of the environment, those that change what runs; no other is shown, a token least of all
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_CBWR", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "HF_HUB_OFFLINE", "WANDB_MODE",
)  # fmt: skip


def facts() -> Iterator[tuple[str, str]]:
    """(what, value), in the order of the report."""
    yield "ratchet", __version__ + _commit()
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    yield "processor", _processor()
    yield "graphics", _graphics()
    for name in (*PACKAGES, *OTHERS):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]
    where = HERE.data if HERE.data.is_dir() else Path()
    yield "disk", f"{shutil.disk_usage(where).free / 1e9:.1f} GB free in {where.resolve()}"


def _commit() -> str:
    """The commit of a clone, with a mark where files are changed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True)
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def _processor() -> str:
    import psutil

    flags = Path("/proc/cpuinfo")
    text = flags.read_text(errors="replace") if flags.is_file() else ""
    model = next(
        (ln.partition(":")[2].strip() for ln in text.splitlines() if ln.startswith("model name")), ""
    )
    wide = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    room = f"{memory.total / 1e9:.1f} GB memory, {memory.available / 1e9:.1f} GB free"
    return ", ".join(filter(None, [model or platform.machine(), f"{usable} usable cores", wide, room]))


def _graphics() -> str:
    """What the driver sees; torch, which may see less, is not asked."""
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer"
    return "; ".join(done.stdout.strip().splitlines()) or f"nvidia-smi: {done.stderr.strip() or 'no device'}"


def command() -> None:
    """Say what a bug report needs: versions, machine, devices, what of the environment matters.

    `ratchet env`
    """
    found = list(facts())
    width = max(len(what) for what, _ in found)
    typer.echo("\n".join(f"{what:<{width}}  {value}" for what, value in found))
