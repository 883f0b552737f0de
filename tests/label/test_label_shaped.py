"""label/shaped: SCoRe's rewards, by hand."""

from __future__ import annotations

import pytest
from label_world import stamped
from pydantic import ValidationError

from pipeline.asks import Logprob
from pipeline.engine.driver import drive_with_replies
from pipeline.label import shaped
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.select import episodes
from pipeline.tasks import BaseTask, TaskSettings

PROBLEM = Problem(id="p", question="?", answer=None)
TASK = BaseTask(TaskSettings(use="none"))
#: right or wrong, first and second attempt: the four transitions
MENDED, KEPT, FAILED, SPOILED = (0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)


def trace(name: str, turn: int, parent: str | None = None) -> Trace:
    return Trace(
        problem_id="p", id=f"p/{name}", prompt="q", text="ab", token_ids=[1, 2, 3], step_ends=[1, 3],
        steps=["a", "b"], logprobs=[-1.0, -1.0, -1.0], turn=turn, parent=parent,
    )  # fmt: skip


def group_of(*rewards: tuple[float, float]) -> Group:
    group = Group("p")
    for number, pair in enumerate(rewards):
        first, second = trace(str(number), 0), trace(f"revise.{number}", 1, f"p/{number}")
        group.traces.extend([first, second])
        for one, reward in zip((first, second), pair, strict=True):
            group.labels[one.id] = Label(problem_id="p", trace_id=one.id, value=reward)
    return group


def labels(group: Group, *replies, **settings) -> dict[str, Label]:
    made = shaped.label(PROBLEM, group, shaped.Settings(**settings), TASK)
    rows = stamped(drive_with_replies(made, list(replies)), "shaped")
    return {row.trace_id: row for row in rows if isinstance(row, Label)}


def test_the_second_attempts_rewards_are_11_1_0_and_minus_10() -> None:
    found = labels(group_of(MENDED, KEPT, FAILED, SPOILED), stage=2)
    assert [found[f"p/revise.{n}"].value for n in range(4)] == [11, 1, 0, -10]
    assert [found[f"p/{n}"].value for n in range(4)] == [0, 1, 0, 1]


def test_stage_1_rewards_the_second_attempt_alone_and_without_a_bonus() -> None:
    found = labels(group_of(MENDED, KEPT, FAILED, SPOILED), stage=1)
    assert [found[f"p/revise.{n}"].value for n in range(4)] == [1, 1, 0, 0]
    assert {found[f"p/{n}"].value for n in range(4)} == {0.0}
    assert {tuple(found[f"p/{n}"].advantage) for n in range(4)} == {(0.0,)}


def test_gamma_gives_the_first_attempt_a_part_of_the_seconds_reward() -> None:
    assert shaped.shaped(0, 1, shaped.Settings(stage=2, gamma=0.5)) == (5.5, 11)
    assert shaped.shaped(1, 1, shaped.Settings(stage=1, gamma=1)) == (1, 1)
    assert shaped.shaped(1, 0, shaped.Settings(stage=2, alpha=2)) == (1, -2)


def test_advantages_are_less_the_mean_of_the_others_at_the_same_turn() -> None:
    found = labels(group_of(MENDED, KEPT, FAILED, SPOILED), stage=2)
    assert found["p/revise.0"].advantage == pytest.approx([11 - (1 + 0 - 10) / 3])
    assert found["p/0"].advantage == pytest.approx([0 - (1 + 0 + 1) / 3])


def test_each_step_pays_for_the_log_ratios_from_it_to_the_end() -> None:
    def reply(ask: Logprob) -> list[list[float]]:
        assert ask.by == "policy@0"
        return [[-1.5, -1.0, -1.25]] * len(ask.listed)  # 0.5, then 0 and 0.25 nats away

    group = group_of(FAILED, FAILED)
    found = labels(group, reply, stage=1, reference="policy@0")
    assert found["p/0"].advantage == pytest.approx([-0.1 * 0.75, -0.1 * 0.25])
    assert found["p/revise.0"].advantage == pytest.approx([-0.01 * 0.75, -0.01 * 0.25])
    assert labels(group, reply, stage=2, reference="policy@0")["p/0"].advantage == pytest.approx(
        [-0.01 * 0.75, -0.01 * 0.25]
    )


def test_what_is_no_whole_episode_is_dropped_with_its_reason() -> None:
    group = group_of(MENDED)
    lone, blank = trace("9", 0), trace("revise.8", 1, "p/8")
    group.traces.extend([lone, blank])
    group.labels[lone.id] = Label(problem_id="p", trace_id=lone.id, value=1.0)
    rows = drive_with_replies(shaped.label(PROBLEM, group, shaped.Settings(stage=2), TASK), [])
    lost = {row.what: row.reason for row in rows if isinstance(row, Dropped)}
    assert lost == {"p/9": "no_episode", "p/revise.8": "no_reward"}
    assert len(rows) == 4


def test_a_stage_must_be_said() -> None:
    with pytest.raises(ValidationError, match="stage"):
        shaped.Settings()
    with pytest.raises(ValidationError, match="1 or 2"):
        shaped.Settings(stage=3)


def test_rows_of_a_turn_have_a_kl_weight_of_their_own() -> None:
    group = group_of(MENDED, FAILED)
    group.labels.update(labels(group, stage=1))
    given = episodes.Settings(kl_weight=(10, 1))
    rows = episodes.select(group, given, TASK, lambda text: [1], whole=(0.0, 1.0))
    assert [row.kl_weight for row in rows] == [10, 1, 10, 1]
    assert episodes.Settings(kl_weight=0.5).kl_of(7) == 0.5
    with pytest.raises(ValidationError, match="weighs no turn"):
        episodes.Settings(kl_weight=[])
