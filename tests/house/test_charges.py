"""What a search cost is shared among its traces, and not a token is lost."""

from __future__ import annotations

from pipeline.rows import Dropped, Trace
from pipeline.stages.search import share_charge


def trace(number: int, charged: int = -1) -> Trace:
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text="a", token_ids=[1], step_ends=[1], steps=["a"],
        finish="eos", tokens_charged=charged,
    )  # fmt: skip


def test_the_first_trace_pays_the_remainder() -> None:
    other = Dropped(problem_id="p", what="p/9", reason="budget")
    for tokens, wanted in ((10, [4, 3, 3]), (11, [5, 3, 3]), (12, [4, 4, 4]), (2, [2, 0, 0]), (0, [0, 0, 0])):
        found = share_charge(
            [trace(0), other, trace(1), trace(2)], {"policy": tokens - 1, "prm": 1} if tokens else {}
        )
        assert [row.tokens_charged for row in found if isinstance(row, Trace)] == wanted
        assert found[1] is other


def test_traces_that_know_their_cost_keep_it() -> None:
    found = share_charge([trace(0, 7), trace(1), trace(2)], {"policy": 20})
    assert [row.tokens_charged for row in found] == [7, 7, 6]
    assert [row.tokens_charged for row in share_charge([trace(0, 30), trace(1)], {"policy": 20})] == [30, 0]
    known = [trace(0, 3), trace(1, 4)]
    assert share_charge(known, {"policy": 99}) is known
