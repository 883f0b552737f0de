"""Ratchet: language models that teach themselves to reason, and never slip back.

The outer loop is `loop.py`; a room is a folder here; a method is one file in one room. Run it with `python -m
pipeline --help`."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    """`from pipeline import Run`: a run to look at in a notebook (docs/notebooks.md), loaded on demand."""
    if name == "Run":
        return importlib.import_module("pipeline.report.notebook").RunReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
