"""Ratchet: language models that teach themselves to reason, and never slip back.

The outer loop is `loop.py`; a room is a folder here; a method is one file in one room. Run it with `python -m
pipeline --help`."""

__version__ = "0.1.0"
