"""The house's own rules, read off the source: who imports whom, what may never stand there, what the README says of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipeline"
METHODS = ("generate", "label", "select", "train", "evaluate")
#: from the bottom: what stands further down may be imported
LAYERS = (
    "errors", "settings", "rows", "asks", "store", "answers", "tasks", "vote", "models", "engine", *METHODS,
    "processes", "recipe", "run", "stages", "report", "loop", "commands", "__main__",
)  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "wandb", "deepspeed", "altair")
FILES = sorted(PIPELINE.rglob("*.py"))


def imports(tree: ast.AST, top_only: bool = False) -> list[str]:
    """Modules imported; top_only: those at import time, outside `if TYPE_CHECKING`."""
    found: list[str] = []

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append(child.module or "")
                found.extend(f"{child.module}.{alias.name}" for alias in child.names)
            elif top_only and (
                isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            ):
                continue
            else:
                walk(child)

    walk(tree)
    return found


def test_there_are_files() -> None:
    assert len(FILES) > 60


def test_no_arrow_goes_up() -> None:
    """A package imports what stands below it in `LAYERS`, inside functions too; a room of methods never another."""
    seen = 0
    for path in FILES:
        here = path.relative_to(PIPELINE).with_suffix("").parts[0]
        if here == "__init__":
            continue
        for name in imports(ast.parse(path.read_text())):
            there = (
                name.split(".")[1]
                if name.startswith("pipeline.") and name != "pipeline.__version__"
                else here
            )
            seen += there != here
            assert LAYERS.index(there) <= LAYERS.index(here), f"{path.relative_to(ROOT)} imports {name}: up"
            both = {here, there} <= set(METHODS)
            assert here == there or not both, f"{path.relative_to(ROOT)} imports {name}: another room"
    assert seen > 300


def test_no_file_imports_itself_by_way_of_others() -> None:
    """The import graph of files has no circle, imports inside functions counted, those for types alone not."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    arrows = {
        name: {
            i for i in imports(_run_time(path)) if i in names and i != name and not name.startswith(f"{i}.")
        }
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name not in done:
            for other in arrows[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in names:
        visit(name, ())
    assert len(done) == len(FILES)


def _run_time(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text())
    tree.body = [
        n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    ]
    return tree


def test_the_top_is_short_and_shadows_nothing() -> None:
    """What stands on top of the package, and that it starts as a script although `select` is a standard module."""
    top = {path.stem for path in PIPELINE.glob("*.py")}
    assert top == {"__init__", "__main__", "loop", "rows", "errors", "settings", "asks"}
    script = [sys.executable, str(PIPELINE / "__main__.py"), "--version"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ratchet ")


def test_only_the_loop_and_its_helpers_load_rooms_by_name() -> None:
    """`methods.method` loads methods; nothing else imports a method's module by name, apart from tests."""
    methods = {
        f"pipeline.{room}.{path.stem}"
        for room in ("generate", "label", "select", "train")
        for path in (PIPELINE / room).glob("*.py")
        if path.stem != "__init__" and not path.stem.startswith("_")
    }
    assert len(methods) > 10
    for path in (p for p in FILES if p.relative_to(PIPELINE).parts[0] not in METHODS):
        found = set(imports(ast.parse(path.read_text()))) & methods
        assert not found, f"{path} imports {found}"


def test_nothing_heavy_loads_with_a_light_module() -> None:
    """Modules that `check`, `status` and `--help` load import nothing heavy at their top."""
    heavy_by_right = {"load", "merged", "charts"}
    for path in FILES:
        if path.name.startswith("_") or path.stem in heavy_by_right or path.parent.name == "engine":
            continue
        tops = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), top_only=True)}
        assert not tops & set(HEAVY), f"{path.relative_to(ROOT)} imports {tops & set(HEAVY)} when it loads"


def test_help_status_and_check_load_no_torch(tmp_path: Path) -> None:
    for words in (["--help"], ["status"], ["check", str(ROOT / "recipes" / "quickstart.yaml")]):
        code = (
            f"import sys, runpy; sys.argv = ['ratchet', *{words!r}]\n"
            "try: runpy.run_module('pipeline', run_name='__main__')\n"
            "except SystemExit as left: assert not left.code, left.code\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, (words, done.stderr)


def test_no_pickle_no_eval_no_remote_code() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        for name in imports(tree):
            assert name.split(".")[0] not in ("pickle", "dill", "cloudpickle", "marshal", "shelve"), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "os.system", "sympify"), (
                    f"{path}: {called}"
                )
                for word in node.keywords:
                    said = f"{path}:{node.lineno}"
                    assert not (word.arg == "trust_remote_code" and ast.unparse(word.value) != "False"), said
                    assert not (word.arg == "weights_only" and ast.unparse(word.value) == "False"), said
                    assert not (word.arg == "shell" and ast.unparse(word.value) == "True"), said


def test_every_module_says_what_it_is() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_the_readme_shows_the_tree_as_it_is() -> None:
    """Run `python scripts/tree.py --write` after adding a file."""
    shown = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tree.py")], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() in (ROOT / "README.md").read_text()
