"""The inside of the answer jail: a process of its own that compares two answers with sympy, and is easy to
kill.

Started by `jail.py` as a plain script under `python -I`, so it shares no memory, no environment and no open
file with the training process. It reads frames of JSON (4 bytes of length, then the text) and answers each
job with one frame. Memory, CPU time, files and processes are limited by the kernel; an audit hook refuses
what a comparison never needs. It is not a sandbox for code, and needs not to be: no text is ever executed,
because sympy's string evaluator is taken out before the first job.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_FRAME = 64 * 1024 * 1024
MAX_PAIR = 4_000  #: characters of two answers together; `compare.py` sends fewer
REFUSED = (
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pty.",
    "shutil.",
    "ftplib.",
    "urllib.",
    "webbrowser.",
    "syslog.",
)
HARMLESS = {"os.listdir", "os.scandir"}  # imports look into folders


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _guard(folders: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = (*args, None, None, None)[:3]
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes or not str(path).startswith(folders):
                raise PermissionError("the answer jail opens no files")
        elif event.startswith(REFUSED) and event not in HARMLESS:
            raise PermissionError(f"the answer jail refuses {event}")

    return hook


def _numbers_only(text: str, *_: Any, **__: Any) -> Any:
    """Instead of sympy's evaluator: a number becomes that number, a name that symbol, all else is refused."""
    from sympy import Float, Integer, Symbol

    plain = text.strip()
    if re.fullmatch(r"[+-]?[0-9]+", plain):
        return Integer(int(plain))
    if re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][+-]?[0-9]{1,4})?", plain):
        return Float(plain)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,30}", plain):
        return Symbol(plain)
    raise ValueError("text is never evaluated")


def _disarm_sympy() -> None:
    """sympy's sympify and parse_expr run their text as Python; latex2sympy's grammar gives them only
    numbers.
    """
    import sympy
    import sympy.parsing as parsing
    import sympy.physics.units  # loaded by the first simplify, and made by sympify
    from sympy.parsing import sympy_parser

    places = [
        sympy,
        parsing,
        sympy_parser,
        *map(sys.modules.get, ("math_verify.parser", "latex2sympy2_extended.latex2sympy2")),
    ]
    for module in places:
        for name in ("parse_expr", "eval_expr", "parse_expr_cached"):
            if module is not None and hasattr(module, name):
                setattr(module, name, _numbers_only)


def _make_same() -> Callable[[str, str], bool | None]:
    from pipeline.answers import sameness
    from pipeline.answers._symbols import Sympy
    from pipeline.answers.forms import read

    _disarm_sympy()
    algebra = Sympy()

    def same(answer: str, gold: str) -> bool | None:
        if len(answer) + len(gold) > MAX_PAIR:
            return None
        one, other = sorted((answer, gold))  # so that the order of the two never counts
        return sameness.same(read(one), read(other), algebra)

    return same


def _search(pattern: str, text: str) -> str | None:
    """The last match's first group (or all of it): a user's regex on a model's text may backtrack for ever,
    so it runs here.
    """
    last = None
    for match in re.finditer(pattern, text):
        last = match
    if last is None:
        return None
    return last.group(1) if last.re.groups else last.group(0)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if data is None or len(data) < size:
        os._exit(0)  # the parent closed the pipe
    return data


def _answer(job: list[Any], same: Callable[[str, str], bool | None]) -> dict[str, Any]:
    kind, first, second = job
    try:
        return {"ok": _search(first, second) if kind == "search" else same(first, second)}
    except MemoryError:
        return {"ok": None, "spoiled": True}  # a process that ran out of memory is not used again
    except (Exception, RecursionError):  # whatever hostile text makes a parser raise means: cannot compare
        return {"ok": None}


def _arm(seconds: float) -> None:
    """Counts CPU time, not the clock, so that a busy machine does not change a verdict. The default action
    of both signals is death.
    """
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used + seconds) + 1
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )
    signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    setup = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent(setup["parent"])
    sys.path[:] = [*setup["path"], setup["code"]]
    sys.dont_write_bytecode = True
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints may reach the replies
    _limit(resource.RLIMIT_AS, setup["memory_mb"] * 1024 * 1024)
    same = _make_same()
    same("(x-1)(x+\\frac{2}{2})", "x^2-1")  # the first simplification costs 0.3 s of set-up
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    sys.addaudithook(_guard(tuple(path for path in setup["path"] if path) + (sys.base_prefix, sys.prefix)))

    def reply(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        replies.write(struct.pack(">I", len(data)) + data)

    reply({"ready": True})
    requests = sys.stdin.buffer
    while True:
        (size,) = struct.unpack(">I", _read_exactly(requests, 4))
        if size > MAX_FRAME:
            os._exit(1)
        for job in json.loads(_read_exactly(requests, size)):
            _arm(setup["seconds"])
            message = _answer(job, same)
            signal.setitimer(signal.ITIMER_PROF, 0)
            reply(message)
            if message.get("spoiled"):
                os._exit(0)


if __name__ == "__main__":
    main()
