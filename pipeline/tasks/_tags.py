"""Tagged thinking: `<thinking> ... <reflection> ... </reflection> ... </thinking><output> ... </output>`, the
format of models that look at their own thoughts before they answer. Only what stands in the output counts.

Tags nest as written: reflections inside the thinking, one output after it. Text outside the tags is let pass
and read by nobody.
"""

from __future__ import annotations

import re

THINKING, REFLECTION, OUTPUT = "thinking", "reflection", "output"
_TAG = re.compile(r"<(/?)(thinking|reflection|output)>")
_OUTPUT = re.compile(r"<output>(.*)</output>", re.DOTALL)


def fault(text: str) -> str:
    """Why a completion is not in the format: `no_tags`, `open_tag` (left open, or closed and never opened),
    `tag_order`, `no_output`; "" where it is."""
    open_tags: list[str] = []
    closed: list[str] = []
    found = _TAG.findall(text)
    for slash, name in found:
        if slash:
            if not open_tags or open_tags.pop() != name:
                return "open_tag"
            closed.append(name)
            continue
        if (open_tags != [THINKING]) if name == REFLECTION else bool(open_tags):
            return "tag_order"
        if name == OUTPUT and closed.count(THINKING) != 1:
            return "tag_order"
        open_tags.append(name)
    if open_tags:
        return "open_tag"
    if not found:
        return "no_tags"
    return "" if closed.count(OUTPUT) == 1 and closed[-1] == OUTPUT else "no_output"


def output(text: str) -> str | None:
    """What stands in the output of a completion in the format; None where it is not in it."""
    found = _OUTPUT.search(text)
    return found[1].strip("\n") if found and not fault(text) else None


def tagged(thoughts: list[tuple[str, bool]], answer: str) -> str:
    """Thoughts, each a reflection or not, and the answer, in the format."""
    lines = [f"<{THINKING}>"]
    for text, is_reflection in thoughts:
        inner = text.strip("\n")
        lines += [f"<{REFLECTION}>", inner, f"</{REFLECTION}>"] if is_reflection else [inner]
    return "\n".join([*lines, f"</{THINKING}>", f"<{OUTPUT}>", answer.strip("\n"), f"</{OUTPUT}>"])
