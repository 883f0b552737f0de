"""A band of the whole set: quantiles over all problems, in a selector's survey, reduce and select."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipeline.recipe.methods import method
from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select import bands
from pipeline.tasks import BaseTask, TaskSettings

TASK = BaseTask(TaskSettings(use="any"))


def group(name, *scored, finish="eos"):
    traces, labels = [], {}
    for n, (value, correct) in enumerate(scored):
        one = Trace(
            problem_id=name,
            id=f"{name}/{n}",
            prompt="q",
            text="x",
            token_ids=[1],
            step_ends=[1],
            steps=["x"],
            finish=finish,
        )
        traces.append(one)
        labels[one.id] = Label(problem_id=name, trace_id=one.id, value=value, correct=correct)
    return Group(name, traces=traces, labels=labels)


def selected(groups, **settings):
    chosen = bands.Settings(**settings)
    whole = bands.reduce((bands.survey(g, chosen) for g in groups), chosen)
    return [row for g in groups for row in bands.select(g, chosen, TASK, lambda text: [7], whole=whole)]


def test_the_quantiles_are_of_all_problems_together():
    groups = [group("p", (0.1, True), (0.2, True)), group("q", (0.3, True), (0.4, True), (0.9, False))]
    rows = selected(groups, band=[0.5, 1.0])
    # of .1 .2 .3 .4 the half lies at .2; problem p keeps one of two, q keeps both right ones
    assert [row.trace_id for row in rows if isinstance(row, Example)] == ["p/1", "q/0", "q/1"]
    assert {row.what: row.reason for row in rows if isinstance(row, Dropped)} == {
        "p/0": "below_band",
        "q/2": "wrong_answer",
    }


def test_wrong_traces_count_where_asked():
    rows = selected([group("p", (0.1, True), (0.9, False))], band=[0.9, 1.0], right=False)
    assert [row.trace_id for row in rows if isinstance(row, Example)] == ["p/1"]


def test_what_has_no_score_or_was_cut_has_no_place():
    rows = selected([group("p", (None, True), (math.nan, True)), group("q", (0.5, True), finish="length")])
    assert [row.reason for row in rows] == ["unscored", "unscored", "truncated"]


def test_an_empty_set_keeps_nothing_and_does_not_fail():
    assert selected([]) == []
    with pytest.raises(ValidationError, match="low comes first"):
        bands.Settings(band=[0.5, 0.5])


def test_the_room_gives_it_the_contract_of_whole_sets():
    assert method("select", "bands") is bands


def test_every_reason_by_its_name_and_its_problem():
    one = group(
        "p", (0.1, True), (0.2, True), (0.3, True), (0.4, True), (0.5, None), (0.6, False), (0.7, True)
    )
    cut = [replace(one.traces[3], finish="budget"), *one.traces[4:6], one.traces[6]]
    labels = dict(one.labels)
    labels["p/4"] = replace(labels["p/4"], reason="oracle_unsure")
    del labels["p/6"]
    whole = Group("p", traces=[*one.traces[:3], *cut], labels=labels)
    rows = bands.select(whole, bands.Settings(), TASK, lambda text: [7], whole=(0.2, 0.2))
    assert [(row.problem_id, getattr(row, "what", "kept"), getattr(row, "reason", "")) for row in rows] == [
        ("p", "p/0", "below_band"),
        ("p", "kept", ""),
        ("p", "p/2", "above_band"),
        ("p", "p/3", "truncated"),
        ("p", "p/4", "oracle_unsure"),
        ("p", "p/5", "wrong_answer"),
        ("p", "p/6", "unlabelled"),
    ]


def test_a_search_s_own_score_places_a_trace_where_asked():
    one = group("p", (0.9, True), (0.1, True), (None, True))
    scored = [replace(trace, score=score) for trace, score in zip(one.traces, (0.1, 0.8, None), strict=True)]
    rows = selected([Group("p", traces=scored, labels=one.labels)], score="search", band=[0.9, 1.0])
    assert [getattr(row, "reason", "kept") for row in rows] == ["below_band", "kept", "unscored"]
    unlabelled = Group("p", traces=scored[:2], labels={})
    found = bands.survey(unlabelled, bands.Settings(score="value", right=False))
    assert found == []  # nobody's value is no value


def test_an_empty_set_s_band_holds_every_score():
    assert bands.reduce([], bands.Settings()) == (-math.inf, math.inf)


def test_a_method_with_a_survey_keeps_the_contract_of_whole_sets():
    from types import SimpleNamespace

    from pipeline.select import SelectMethod, WholeSelectMethod, contract, correct

    assert contract(bands) is WholeSelectMethod
    assert contract(correct) is SelectMethod
    for half in ("survey", "reduce"):  # one of the two is a mistake that the whole contract tells
        assert contract(SimpleNamespace(**{half: None})) is WholeSelectMethod
