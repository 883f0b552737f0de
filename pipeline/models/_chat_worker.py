"""The process of `chat_template.py`: renders chat turns, a line of JSON each, under limits of its own."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any


def main() -> None:
    """The first line is the setup; then a line in is a line out."""
    setup: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = setup["path"]
    import psutil
    from transformers.utils.chat_template_utils import render_jinja_template

    most = psutil.Process().memory_info().vms + setup["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.stdout.buffer.write(b"{}\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(spent.ru_utime + spent.ru_stime + setup["seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            asked = json.loads(line)
            rendered: Any = render_jinja_template(
                conversations=[asked["messages"]],
                chat_template=setup["template"],
                add_generation_prompt=asked["begins"],
                **setup["tokens"],
            )
            answer = {"text": rendered[0][0]}
        except Exception as problem:  # a stranger's program may raise anything
            answer = {"error": f"{type(problem).__name__}: {problem}"[:1000]}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
