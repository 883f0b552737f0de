"""A model's chat template, rendered where it can harm no one: in a process of its own, with a limit of CPU
time and memory, by transformers' own sandboxed renderer.

A template comes with the weights, so it is a stranger's program: it may loop, fill memory, or reach for
Python's internals, which the sandbox (jinja2's) refuses. The process starts once, renders everything that is
asked of it, and ends with whoever asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UnsafeFile, printable

SECONDS = 3.0  #: of CPU time, one rendering
WALL = 60.0  #: seconds that an answer may take: a template cannot sleep, but a machine can be busy
START = 120.0  #: seconds that its start may take: it loads transformers
MEMORY = 1 << 30  #: bytes of address space that a rendering may take
MOST = 1 << 20  #: characters that it may write of its own
UNSAFE = ("SecurityError", "MemoryError")  #: errors after which a template is asked nothing more
KEEP = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")  #: no tokens, no keys


class TemplateFails(UnsafeFile):
    """It raised an error of its own: it refuses these turns, or is no sound program. said: the error."""

    def __init__(self, sentence: str, said: str) -> None:
        super().__init__(sentence)
        self.said = said


class ChatTemplate:
    """One template and its special tokens."""

    def __init__(self, name: str, template: str, tokens: dict[str, Any]) -> None:
        self.name, self._template, self._tokens = name, template, tokens
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[str, str] = {}

    def render(self, messages: Sequence[dict[str, str]], begins: bool = True) -> str:
        """Chat turns. begins: ending where the model's answer begins.

        Raises:
            UnsafeFile: it does not end, takes too much memory, or reaches for what is not its own.
            TemplateFails: it fails otherwise.
        """
        asked = json.dumps({"messages": list(messages), "begins": begins})
        if asked not in self._known:
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[asked] = self._ask(asked)
        return self._known[asked]

    def _ask(self, asked: str) -> str:
        process = self._process or self._started()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(asked.encode() + b"\n")
            process.stdin.flush()
        line = self._line(process, WALL)
        if line is None:
            self._no(f"does not end within {SECONDS:g} s or {MEMORY >> 30} GiB")
        answer = json.loads(line or "{}")
        if "error" in answer:
            said = printable(str(answer["error"]), 200)
            if not said.startswith(UNSAFE):
                raise TemplateFails(self._sentence(f"fails: {said}"), said)
            self._no(f"fails: {said}")
        text = str(answer["text"])
        if len(text) > MOST + 4 * len(asked):
            self._no(f"writes {len(text):,} characters around turns of {len(asked):,}")
        return text

    def _started(self) -> subprocess.Popen[bytes]:
        setup = {"template": self._template, "tokens": self._tokens, "seconds": SECONDS, "memory": MEMORY,
                 "path": [os.path.abspath(p) for p in sys.path if p]}  # fmt: skip
        process = self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("_chat_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={key: os.environ[key] for key in KEEP if key in os.environ},
            cwd="/",
        )
        weakref.finalize(self, _end, process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(setup).encode() + b"\n")
        process.stdin.flush()
        if self._line(process, START) is None:
            self._no("has no process to be rendered in")
        return process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """Its next line; None where none comes in time."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return (process.stdout.readline() if ready else b"") or None

    def _no(self, what: str) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None
        raise UnsafeFile(self._sentence(what))

    def _sentence(self, what: str) -> str:
        return (
            f"model {self.name}: its chat template {what}. Use a model whose template is sound, or set "
            "chat: false in the task"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
