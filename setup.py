"""Copies recipes/ into the package that is built, so that `pip install` alone brings them (pyproject.toml has
the rest)."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """`build_py`, and the recipes as `pipeline/_recipes/`; a clone in development mode has them already."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "pipeline" / "_recipes"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "recipes", target)


setup(cmdclass={"build_py": WithRecipes})
