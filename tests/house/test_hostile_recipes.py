"""Recipes that mean harm: each is refused within two seconds of CPU time and little memory, in one sentence."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
RECIPES = {
    "alias bomb": ("\n".join(["a0: &a0 [x, x, x]", *LEVELS]), "aliases unfold"),
    "alias bomb of maps": (
        "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}" for n in range(1, 60))]),
        "aliases unfold",
    ),
    "merge bomb": (
        "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 40))]),
        "aliases unfold",
    ),
    "a list in itself": ("name: &a [*a]", "aliases unfold"),
    "3,000 deep in brackets": ("name: " + "[" * 3000 + "]" * 3000, "nested more than"),
    "3,000 deep in maps": ("name: " + "{a: " * 3000 + "1" + "}" * 3000, "nested more than"),
    "900 deep by indents": ("\n".join(" " * n + "a:" for n in range(900)), "nested more than"),
    "10,000 digits": ("seed: " + "9" * 10_000, "a number of 10,000 characters"),
    "10,000 digits in hexadecimal": ("seed: 0x" + "f" * 10_000, "a number of 10,002 characters"),
    "10,000 digits by sixties": ("seed: " + ":".join(["1"] + ["59"] * 3333), "a number of"),
    "a float of 10,000 digits": ("seed: 1." + "9" * 10_000, "a number of"),
    "a tag that builds": ("name: !!python/object/apply:os.system ['touch owned']", "not valid YAML"),
    "escapes": ('name: "\x1b[2J', "not valid YAML"),
    "a nul": ("name: \x00", "not valid YAML"),
    "a date that is none": ("name: 2001-99-99", "not valid YAML"),
    "a mad base64": ("name: !!binary =====", ""),
}  # fmt: skip


def cpu_of(path: Path, place: Path) -> tuple[int, str, float]:
    """(exit code, what it said, CPU seconds) of `ratchet check` under a gigabyte of data."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "check", str(path)],
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        done.returncode,
        done.stdout + done.stderr,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused(name: str, tmp_path: Path) -> None:
    text, words = RECIPES[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    code, said, seconds = cpu_of(path, tmp_path)
    assert code == 2, said[-2000:]
    assert "Traceback" not in said
    assert words in said
    assert len(said) < 5000
    assert said.replace("\n", " ").isprintable()
    assert seconds < 20  # the two seconds, ten times: it is CPU time, start and imports counted
    assert not (tmp_path / "owned").exists()


def test_a_recipe_of_200_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    code, said, seconds = cpu_of(path, tmp_path)
    assert (code, "no recipe is that large" in said) == (2, True)
    assert seconds < 20


def test_an_override_is_held_to_the_same(tmp_path: Path) -> None:
    from pipeline.errors import RecipeError
    from pipeline.recipe.read import override, parse_yaml

    for text in ("9" * 10_000, "[" * 3000, "&a [*a]"):
        with pytest.raises(RecipeError, match="seed=1"):
            parse_yaml(text, "seed=1")
    for key in (
        ".".join(["a"] * 3000),
        f"task.{'9' * 10_000}",
        "task.\u00b2",
        f"task.0.use.{'x' * 10_000}.y",
    ):
        with pytest.raises(RecipeError, match="nested more than|a list of 1|is not a map") as caught:
            override({"task": [{"use": "words"}]}, f"{key}=1")
        assert len(str(caught.value)) < 25_000
    assert parse_yaml("", "x") is None
    assert parse_yaml("[1, 2.5, 0x10, 1e3, -7]", "x") == [1, 2.5, 16, "1e3", -7]
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}", "x") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
