"""The environment that makes bits reproducible must stand before any test loads torch."""

from __future__ import annotations

from pipeline.models.environment import prepare

prepare(threads=1)
