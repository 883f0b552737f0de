"""Rows for people: traces with their steps and scores, search trees indented, training rows, what was
dropped and why.

Plain text for a terminal or a file. Everything a model wrote is shown with its control characters spelled
out, so that it cannot act on a terminal. Not here: the trace browser of the HTML report.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline.rows import Dropped, Example, Label, Node, Pair, Problem, StepExample, Trace

MAINS = (Trace, Example, StepExample, Pair, Problem, Label)
BIDI = set(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))


@dataclass(frozen=True)
class Whole:
    """What a stage holds, of which only the first rows were read."""

    items: int | None  #: traces or training rows; None: nobody counted (trees)
    dropped: Mapping[str, int]  #: rows by reason
    problems: int


def num_items(rows: Sequence[Any]) -> int:
    """How many items `render_rows` would show of these rows."""
    return len(_items(rows))


def _reasons(rows: Iterable[Any]) -> Counter[str]:
    return Counter(row.reason for row in rows if isinstance(row, Dropped))


def render_rows(
    rows: Iterable[Any],
    limit: int = 5,
    number: int | None = None,
    problems: Mapping[str, Problem] | None = None,
    width: int = 110,
    whole: Whole | None = None,
) -> str:
    """A stage's rows as text.

    rows: of any kinds, mixed. limit: at most this many items. number: only this one (from 0), with every
    field. An item is a search tree where there are nodes, else a trace with its labels, else a training
    row. whole: what all rows come to, where these are the first of them.
    """
    found = list(rows)
    items = _items(found)
    total = whole.items if whole is not None and whole.items is not None else len(items)
    if number is not None and not 0 <= number < len(items):
        return f"no row {number}: there are {total:,}, 0 to {total - 1}" if items else "no rows"
    chosen = range(len(items))[:limit] if number is None else [number]
    page = _Page(found, problems or {}, width)
    for place in chosen:
        page.item(place, items[place], whole=number is not None)
    if number is None:
        if len(items) > limit and whole is not None and whole.items is None:
            page.lines.append(f"... more, of {whole.problems:,} problems in all (--limit, --row)")
        elif total > limit:
            page.lines.append(f"... {total - limit:,} more (--limit, --row)")
        page.dropped(Counter(whole.dropped) if whole is not None else _reasons(found))
    return "\n".join(page.lines) or "no rows"


def _items(rows: Sequence[Any]) -> list[list[Any]]:
    """Nodes together by problem; else one item a row of the kind that says most."""
    if any(isinstance(row, Node) for row in rows):
        trees: dict[str, list[Any]] = {}
        for row in rows:
            if isinstance(row, Node):
                trees.setdefault(row.problem_id, []).append(row)
        return list(trees.values())
    for kind in MAINS:
        if ones := [[row] for row in rows if type(row) is kind]:
            return ones
    return []


def safe(text: str) -> str:
    """Text of a model: line breaks kept, every other control character spelled out."""
    kept = (c if (c.isprintable() and c not in BIDI) or c == "\n" else _spelled(c) for c in text)
    return "".join(kept)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class _Page:
    """The lines of one rendering."""

    def __init__(self, rows: Sequence[Any], problems: Mapping[str, Problem], width: int) -> None:
        self.lines: list[str] = []
        self.problems, self.width = problems, width
        self.traces = {row.id: row for row in rows if isinstance(row, Trace)}
        self.labels: dict[str, list[Label]] = {}
        for row in rows:
            if isinstance(row, Label):
                self.labels.setdefault(row.trace_id, []).append(row)

    def item(self, place: int, rows: Sequence[Any], whole: bool) -> None:
        first = rows[0]
        if isinstance(first, Node):
            self.head(place, first.problem_id, f"tree of {len(rows)} nodes")
            self.tree(rows, whole)
        elif isinstance(first, Trace):
            self.trace(place, first)
        elif isinstance(first, StepExample):
            self.head(place, first.problem_id, "step example")
            self.steps(first.completions, first.labels)
        elif isinstance(first, (Example, Pair)):
            self.head(place, first.problem_id, _facts(first))
            shown = (
                ("prompt", "completion") if isinstance(first, Example) else ("prompt", "chosen", "rejected")
            )
            for name in shown:
                self.block(name, getattr(first, name))
        elif isinstance(first, Problem):
            self.head(place, first.id, f"{first.split} {first.difficulty}".strip(), question=False)
            self.block("question", first.question)
            self.block("answer", first.answer or "nobody knows")
        elif isinstance(first, Label):
            self.head(place, first.problem_id, f"label of {first.trace_id}: {_said(first)}")
        if whole:
            for row in rows[:1]:
                self.every_field(row)
        self.lines.append("")

    def head(self, place: int, problem_id: str, what: str, question: bool = True) -> None:
        self.lines.append(f"[{place}] {problem_id}  {what}".rstrip())
        if question and (problem := self.problems.get(problem_id)):
            asked = " ".join(safe(problem.question).split())
            self.lines.append(f"    {textwrap.shorten(asked, self.width - 4, placeholder=' ...')}")

    def trace(self, place: int, trace: Trace) -> None:
        labels = self.labels.get(trace.id, [])
        verdict = next((label.correct for label in labels if label.correct is not None), None)
        said = [turn_of(trace)] if trace.act else []
        said += [] if verdict is None else ["RIGHT" if verdict else "wrong"]
        said.append(
            f"{'answer' if trace.is_attempt else 'says'} {safe(trace.answer)}"
            if trace.answer is not None
            else "no answer"
            if trace.is_attempt
            else "says nothing"
        )
        said.append(f"{len(trace.token_ids)} tokens, ended by {trace.finish}")
        said += ["hinted"] if trace.hinted else []
        said += ["chosen"] if trace.chosen else []
        said += [] if trace.score is None else [f"score {trace.score:.3f}"]
        said += [trace.model] if trace.model else []
        self.head(place, trace.problem_id, ", ".join(said))
        scores = next((label.step_scores for label in labels if label.step_scores), None)
        advantage = next((label.advantage for label in labels if label.advantage), None)
        self.steps(trace.steps or [trace.text], scores or advantage)
        for label in labels:
            if label.reason or label.value is not None:
                self.lines.append(f"    {label.labeller or 'label'}: {_said(label)}")

    def steps(self, steps: Sequence[str], scores: Sequence[float | None] | None) -> None:
        for place, step in enumerate(steps):
            score = scores[place] if scores and place < len(scores) else None
            front = f"  {score:>6.3f} | " if score is not None else "         | "
            for line in safe(step).rstrip("\n").split("\n"):
                pieces = textwrap.wrap(line, self.width - 11, drop_whitespace=False) or [""]
                for piece in pieces:
                    self.lines.append(f"{front}{piece}".rstrip())
                    front = "         | "

    def tree(self, nodes: Sequence[Node], whole: bool) -> None:
        """Each node below its parent, deeper by two columns; children in the order of the rows."""
        known = {node.id for node in nodes}
        below: dict[str | None, list[Node]] = {}
        for node in nodes:
            below.setdefault(node.parent if node.parent in known else None, []).append(node)
        open_nodes = [(node, 0) for node in reversed(below.get(None, []))]
        while open_nodes:
            node, depth = open_nodes.pop()
            self.node(node, depth, whole)
            open_nodes += [(child, depth + 1) for child in reversed(below.get(node.id, []))]

    def node(self, node: Node, depth: int, whole: bool) -> None:
        value = "      " if node.value is None else f"{node.value:6.3f}"
        facts = f"{value} {node.visits:>4}x" + (f" p {node.prior:.2f}" if node.prior is not None else "")
        trace = self.traces.get(node.trace_id or "")
        verdicts = [label.correct for label in self.labels.get(node.trace_id or "", [])]
        end = ""
        if node.trace_id:
            end = "  RIGHT" if True in verdicts else "  wrong" if False in verdicts else "  end"
            end += " (chosen)" if trace is not None and trace.chosen else ""
        text = " ".join(safe(node.step).split()) or ("(question)" if depth == 0 else "(nothing)")
        if trace is not None and trace.act:
            text = f"{safe(trace.act)}: {text}"
        room = max(self.width - len(facts) - 2 * depth - len(end) - 4, 20)
        shown = text if whole else textwrap.shorten(text, room, placeholder=" ...") or text[:room]
        self.lines.append(f"  {facts}  {'  ' * depth}{shown}{end}")

    def block(self, name: str, text: str) -> None:
        lines = safe(text).rstrip("\n").split("\n")
        for place, line in enumerate(lines):
            for piece in textwrap.wrap(line, self.width - 15, drop_whitespace=False) or [""]:
                self.lines.append(f"    {name if place == 0 else '':>10} {piece}".rstrip())
                name = ""

    def every_field(self, row: Any) -> None:
        self.lines.append("    fields:")
        for field in fields(row):
            text = safe(repr(getattr(row, field.name)))
            self.lines.append(f"      {field.name}: {textwrap.shorten(text, 2000, placeholder=' ...')}")

    def dropped(self, reasons: Counter[str]) -> None:
        if reasons:
            said = ", ".join(f"{num:,} {safe(reason)}" for reason, num in reasons.most_common())
            self.lines.append(f"dropped: {said}")


def turn_of(trace: Trace) -> str:
    """What a later turn was asked for, and after what: `critique, turn 1 after p/0`."""
    after = f" after {trace.parent}" if trace.parent else ""
    return f"{trace.act}, turn {trace.turn}{after}"


def _facts(row: Example | Pair) -> str:
    if isinstance(row, Pair):
        names = f" of {row.trace_id} and {row.rejected_id}" if row.trace_id else ""
        unsure = f", confidence {row.confidence:.3g}" if row.confidence != 1 else ""
        return f"pair{names}, margin {row.margin:.3g}{unsure}"
    weight = f", weight {row.weight:.3g}" if row.weight != 1 else ""
    return f"example from {row.trace_id}{weight}" if row.trace_id else f"example{weight}"


def _said(label: Label) -> str:
    parts = [] if label.correct is None else ["right" if label.correct else "wrong"]
    parts += [] if label.value is None else [f"value {label.value:.3f}"]
    if label.step_scores:
        parts.append("steps " + " ".join("?" if s is None else f"{s:.2f}" for s in label.step_scores))
    parts += [safe(label.reason)] if label.reason else []
    return ", ".join(parts)
