"""The environment that makes bits reproducible must stand before any test loads torch; and the tiny policy."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

from pipeline.models.environment import prepare

prepare(threads=1)
os.environ.setdefault("RATCHET_CACHE", str(Path(tempfile.gettempdir()) / f"ratchet-tests-{os.getuid()}"))
sys.path.append(str(Path(__file__).parent / "house"))
# a busy machine is no failure: neither a slow example nor a slow draw
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings.default,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer Llama that solves most of the 40 training problems and few others."""
    from tiny_world import make_policy

    return make_policy(tmp_path_factory.mktemp("tiny") / "policy")
