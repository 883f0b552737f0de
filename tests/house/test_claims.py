"""scripts/claims*.py: verdicts, pairing over problems and seeds, what ONLY= names, the summary; every file of claims/ as
it stands; and a claim from its runs to docs/claims.md."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.errors import RecipeError
from pipeline.evaluate.intervals import Ratio
from pipeline.rows import Label, Problem, Trace
from pipeline.tasks import countdown

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from claims_files import Claims, RunOf, behind, chosen, read_all, read_file  # noqa: E402
from claims_judge import ALL, OPEN, Judge  # noqa: E402
from claims_rows import (  # noqa: E402
    DIFFERS,
    HOLDS,
    KEPT,
    OTHER,
    UNTOLD,
    Paper,
    Row,
    critics_line,
    document,
    joined,
    read_rows,
    summary,
    write_rows,
)
from claims_runs import Side, apart, critic_of, critics, paired  # noqa: E402

import claims  # noqa: E402

ROW = Row("2312.08935", "weighted beats majority", ["weighted", "majority"], [63.2, 34.2], 29.0, low=26.0, high=32.0,
          by_seed=[30.0, 28.0], seeds=[0, 1], fingerprint="f")  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> list[Claims]:
    return read_all(ROOT / "claims")


# -- verdicts


@pytest.mark.parametrize(
    ("wants", "low", "high", "verdict"),
    [
        ("higher", 0.1, 3, HOLDS),
        ("higher", -0.1, 3, UNTOLD),
        ("higher", -3, -0.1, OTHER),
        ("lower", -3, -0.1, HOLDS),
        ("lower", 0.1, 3, OTHER),
        ("lower", -1, 1, UNTOLD),
        ({"same": 2}, -1.9, 1.9, HOLDS),
        ({"same": 2}, -1.9, 2.1, UNTOLD),
        ({"same": 2}, 2.1, 5, DIFFERS),
        ({"same": 2}, -5, -2.1, DIFFERS),
    ],
)
def test_a_verdict_is_the_intervals(wants: Any, low: float, high: float, verdict: str) -> None:
    assert replace(ROW, wants=wants, low=low, high=high).verdict == verdict


def test_without_an_interval_three_seeds_must_agree() -> None:
    bare = replace(ROW, low=None, high=None)
    assert replace(bare, by_seed=[1.0, 2.0, 3.0]).verdict == HOLDS
    assert replace(bare, by_seed=[-1.0, -2.0, -3.0]).verdict == OTHER
    assert replace(bare, by_seed=[1.0, 2.0, -0.1]).verdict == UNTOLD
    assert replace(bare, by_seed=[9.0, 9.0]).verdict == UNTOLD
    assert replace(bare, by_seed=[9.0]).verdict == UNTOLD


def test_trainings_that_contradict_one_another_tell_nothing() -> None:
    torn = replace(ROW, difference=4.2, low=1.2, high=7.2, by_seed=[-7.3, 1.0, 19.0], seeds=[0, 1, 2])
    assert torn.verdict == UNTOLD
    assert "not told apart (seeds contradict one another)" in torn.line()
    by_problems = replace(torn, by_seed=[-0.5, 4.1, 9.0])  # no further apart than 300 problems put them
    assert by_problems.verdict == HOLDS
    one_way = replace(torn, by_seed=[0.5, 3.0, 19.0])  # far apart, and all say so
    assert one_way.verdict == HOLDS


def test_a_ratio_is_held_against_one() -> None:
    times = replace(ROW, unit="times", zero=1.0, difference=1.2, low=1.1, high=1.3, by_seed=[1.2])
    assert times.verdict == HOLDS
    assert replace(times, low=0.9).verdict == UNTOLD
    assert replace(times, low=0.7, high=0.9).verdict == OTHER


def test_one_seed_is_called_one_seed() -> None:
    assert "| 1 seed | holds |" in replace(ROW, by_seed=[29.0], seeds=[0]).line()
    assert "| +30.0, +28.0 | holds (by hand, an older recipe's) |" in replace(ROW, by="hand").line(older=True)


# -- pairing


def side(right: list[float], ids: list[str] | None = None) -> Side:
    ratio = Ratio(np.array(right), np.ones(len(right)))
    return Side(ids or [str(number) for number in range(len(right))], ratio.value, ratio)


def test_pairing_takes_the_mean_of_the_seeds_on_each_problem() -> None:
    a, b = [side([1, 1, 0, 0]), side([1, 0, 1, 0])], [side([0, 1, 0, 0]), side([0, 0, 1, 0])]
    difference, low, high = paired(a, b)
    assert difference == 0.25  # the first problem alone differs, in both seeds
    assert low == 0
    assert high is not None
    assert 0.25 < high <= 0.75
    apart = paired([side([1, 0] * 50)], [side([0, 1] * 50)])
    alike = paired([side([1, 0] * 50), side([0, 1] * 50)], [side([0, 1] * 50), side([1, 0] * 50)])
    assert apart[1] is not None
    assert apart[1] < 0  # one seed: nothing is told
    assert alike == (0.0, 0.0, 0.0)  # on each problem the seeds' mean is the same


def test_seeds_measured_apart_are_joined_and_no_interval_is_narrower_for_it() -> None:
    later = replace(ROW, values=[60.2, 34.2], difference=26.0, low=22.0, high=29.0, by_seed=[26.0], seeds=[2])
    both = joined(ROW, later)
    assert (both.seeds, both.by_seed, both.parts) == ([0, 1, 2], [30.0, 28.0, 26.0], 2)
    assert (both.difference, both.values) == (28.0, [62.2, 34.2])
    assert both.low == pytest.approx((2 * 26 + 22) / 3, abs=1e-3)
    assert both.high == pytest.approx((2 * 32 + 29) / 3, abs=1e-3)
    assert "in 2 parts" in both.line()
    assert joined(later, ROW) == both
    # the interval of the mean over all seeds is narrower
    rng = np.random.default_rng(3)
    arms = [[side(list(rng.integers(0, 2, 300))) for _ in range(3)] for _ in range(2)]
    whole, one, two = [paired(arms[0][part], arms[1][part])[1:] for part in (slice(3), slice(1), slice(1, 3))]
    wide = np.average([np.ptp(np.array(one, float)), np.ptp(np.array(two, float))], weights=[1, 2])
    assert np.ptp(np.array(whole, float)) < wide


def test_critics_stand_beside_the_arms_that_went_by_their_word(shipped: list[Claims]) -> None:
    def turn(name: str, parent: str | None = None, answer: str | None = None, model: str = "policy") -> Trace:
        empty: dict[str, Any] = {"prompt": "", "text": "", "token_ids": [], "step_ends": [], "steps": []}
        return Trace(problem_id="p", id=name, answer=answer, parent=parent, model=model, **empty)

    def label(place: int, right: bool, by: str) -> Label:
        return Label(problem_id="p", trace_id=f"p/{place}", correct=right, labeller=by)

    gold = [label(place, place < 2, "gold") for place in range(5)]
    gold.append(label(4, True, "judge"))  # a model's word is not the truth
    answers = [turn(f"p/{place}", answer="1") for place in range(5)]
    said = ["right", "wrong", "right", "wrong", "wrong"]
    critiques = [turn(f"p/critique.{place}", f"p/{place}", one) for place, one in enumerate(said)]
    silent, other = turn("p/critique.8", "p/4"), turn("p/critique.9", "p/4", "right", "other")
    found = critic_of([*answers, *critiques, silent, other], gold, "policy")
    assert found == (0.5, pytest.approx(1 / 3), 5)
    assert critic_of([*answers, *critiques[2:]], gold, "policy") is None  # of right answers it says nothing
    [claims_] = [one for one in shipped if one.file.paper == "2305.14078"]
    claim = claims_.file.claims[0]
    sides = [[Side((), 0.0, None, (0.5, 0.2, 5)), Side((), 0.0, None, (1.0, 0.4, 7))], [Side((), 0.0)]]
    [name] = known = critics(claims_, claim, sides)
    assert known == {"world_model_countdown: believed": [0.75, 0.3, 12]}
    one, later = (
        replace(ROW, critics=known),
        replace(ROW, critics={name: [0.9, 0.0, 3]}, seeds=[2], by_seed=[1.0]),
    )
    both = joined(one, later).critics
    assert both == {name: [0.8, 0.2, 15]}
    [line] = critics_line([one, one, ROW])
    assert line.endswith(f"verdicts): `{name}` 0.72 (75, 30 %; 12).")
    assert critics_line([ROW]) == []


def test_no_measurement_takes_a_seed_away() -> None:
    """Seeds 1 and 2 after 0 and 1 are neither joined nor put in their place; all three are."""
    some = replace(ROW, seeds=[1, 2], by_seed=[28.0, 26.0])
    whole = replace(ROW, seeds=[0, 1, 2], by_seed=[30.0, 28.0, 26.0])
    assert claims.to_keep(None, some) == some
    assert claims.to_keep(ROW, some) == ROW
    assert claims.to_keep(ROW, whole) == whole
    assert claims.to_keep(whole, some) == whole
    assert claims.to_keep(ROW, replace(some, fingerprint="g")).seeds == [
        1,
        2,
    ]  # another recipe's is no measure of it
    assert claims.to_keep(ROW, replace(ROW, seeds=[2], by_seed=[26.0])).seeds == [0, 1, 2]


@pytest.mark.parametrize("change", [{"seeds": [1]}, {"fingerprint": "g"}, {"problems": 200}])
def test_what_is_not_one_claim_is_not_joined(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="seed 1|differ in"):
        joined(ROW, replace(ROW, **({"seeds": [2], "by_seed": [1.0]} | change)))


def test_what_was_asked_otherwise_is_not_paired() -> None:
    with pytest.raises(ValueError, match="2 problems and 3, 2 of them the same"):
        paired([side([1, 0])], [side([1, 0, 1])])
    with pytest.raises(ValueError, match="1 of them the same"):
        paired([side([1, 0]), side([1, 0], ["1", "2"])], [side([1, 0]), side([1, 0])])


def test_seeds_that_drew_other_problems_are_resampled_each_by_itself() -> None:
    a = [side([1, 1, 0, 0] * 25), side([1, 0, 1, 0] * 25)]
    b = [side([1, 0, 1, 0] * 25), side([1, 1, 0, 0] * 25)]
    assert paired(a, b) == (0.0, 0.0, 0.0)
    others = [replace(one, ids=tuple(f"other {name}" for name in one.ids)) for one in (a[1], b[1])]
    difference, low, high = paired([a[0], others[0]], [b[0], others[1]])
    assert difference == 0  # and no problem's mean over the seeds hides how far each seed lies from chance
    assert low is not None
    assert high is not None
    assert -0.2 < low < -0.05 < 0.05 < high < 0.2
    unlike = [side([1, 0, 1]), side([1, 1, 1, 0, 0])], [side([0, 0, 1]), side([0, 1, 1, 0, 0])]
    assert paired(*unlike)[0] == pytest.approx((1 / 3 + 1 / 5) / 2)


def test_sides_of_other_problems_are_resampled_apart() -> None:
    first, second = side([1, 0] * 50), side([1, 0, 0, 0] * 50, [str(n) for n in range(1000, 1200)])
    difference, low, high = apart([first], [second])
    assert difference == 0.25
    assert low == pytest.approx(0.25 - 1.96 * (0.25 / 100 + 0.1875 / 200) ** 0.5, abs=0.02)
    assert high == pytest.approx(0.25 + 1.96 * (0.25 / 100 + 0.1875 / 200) ** 0.5, abs=0.02)
    assert apart([Side((), 3.0)], [second]) == (2.75, None, None)


def test_a_bare_number_has_no_interval() -> None:
    assert paired([Side((), 3.0), Side((), 5.0)], [Side((), 1.0), Side((), 1.0)]) == (3.0, None, None)


# -- the files


def test_every_shipped_claim_names_what_its_recipes_have(shipped: list[Claims]) -> None:
    assert sum(len(one.file.claims) for one in shipped) >= 40
    assert len({one.file.paper for one in shipped}) >= 25
    for one in shipped:  # read_all has held every arm against its recipe
        assert one.stem.endswith(f"_{one.file.paper}")
        assert one.file.claims
        assert all(len(one.fingerprint(claim)) == 16 for claim in one.file.claims)
        assert all(row.verdict for row in read_rows(claims.kept_place(one)))


def test_only_names_a_paper_or_a_method(shipped: list[Claims]) -> None:
    assert [one.file.title for one in chosen(shipped, "2312.08935")] == ["Math-Shepherd"]
    assert chosen(shipped, "REBASE")[0].file.paper == "2408.00724"
    assert chosen(shipped, None) == shipped
    assert chosen(shipped, "search", ("search", "labels")) == []
    with pytest.raises(RecipeError, match="ONLY=2312.08936: no paper and no method of claims/.*2312.08935"):
        chosen(shipped, "2312.08936")


def test_equal_changes_are_one_run() -> None:
    one, other = (RunOf(recipe="quickstart", set=changes) for changes in (("a=1", "b=2"), ("b=2", "a=1")))
    assert one.name(0) == other.name(0) != one.name(1)
    assert RunOf(recipe="quickstart").name(2) == "claims-quickstart-s2"


GOOD: dict[str, Any] = {
    "paper": "2203.11171",
    "title": "Self-consistency",
    "runs": {"loop": {"recipe": "quickstart"}},
    "claims": [
        {
            "says": "votes win",
            "a": {"run": "loop", "stage": "final", "metric": "accuracy/majority"},
            "b": {"run": "loop", "stage": "final", "metric": "accuracy/greedy"},
        }
    ],
}


def written(folder: Path, **more: Any) -> Path:
    """A claims file; `a__stage: x` changes an arm."""
    data = json.loads(json.dumps(GOOD))
    for key, value in more.items():
        if key.startswith(("a__", "b__")):
            data["claims"][0][key[0]][key[3:]] = value
        elif key == "wants":
            data["claims"][0][key] = value
        else:
            data[key] = value
    path = folder / "one_2203.11171.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"runs": {"loop": {"recipe": "quickstrat"}}}, "no recipe 'quickstrat'.*quickstart"),
        ({"runs": {"loop": {"recipe": "quickstart", "set": ["task.trian=3"]}}}, "runs.loop: .*trian"),
        ({"a__run": "lop"}, "no run 'lop'.*loop"),
        ({"a__stage": "finals"}, "no stage 'finals'.*final"),
        ({"a__metric": "accuracy/majorty"}, "measures no 'accuracy/majorty'.*majority"),
        ({"a__model": "policy@7"}, "measures policy, policy@0, not 'policy@7'"),
        ({"a__stage": "rows"}, "a stage of select/, which measures nothing"),
        ({"a__stage": "measure", "a__round": 9}, "round 9 of loop, which has 3"),
        ({"a__stage": "learn", "a__metric": "loss"}, "one arm is paired by problem, the other is a number"),
        ({"a__metric": "length/mean"}, "one arm is a share, the other is none"),
        ({"paper": "arXiv"}, "paper: .*(it is 'arXiv')"),
        ({"wants": {"same": 0}}, "points above 0"),
        ({"wants": "more"}, "wants: .*(it is 'more')"),
        ({"claimz": []}, "claimz"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    written(tmp_path, **more)
    with pytest.raises(RecipeError, match=said):
        read_all(tmp_path)


def test_no_claims_file_and_no_map(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no claims there"):
        read_all(tmp_path)
    (tmp_path / "x.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="this is list"):
        read_file(tmp_path / "x.yaml")


# -- the document


def test_the_summary_counts_verdicts_and_seeds() -> None:
    three = replace(ROW, by_seed=[1.0, 1.0, 1.0], seeds=[0, 1, 2])
    papers = [
        Paper("2312.08935", "Math-Shepherd", [(three, False), (replace(ROW, low=-1), False)], ["waits"]),
        Paper("2203.11171", "Self-consistency", [(replace(ROW, low=-2, high=-1), True)], []),
        Paper("2304.13734", "Probes", [], ["a", "b"]),
    ]
    text = summary(papers)
    assert "3 claims of 2 papers were tested: 1 hold, 1 do not, 1 are not told apart." in text
    assert "1 rest on three seeds or more, 2 on fewer. 3 more are described" in text
    assert "| [2312.08935](https://arxiv.org/abs/2312.08935) Math-Shepherd | 2 | 1 |  | 1 | 1 |" in text
    whole = document(papers, ["## Beside"], f"old\n\n{KEPT}\n\nby hand\n")
    assert whole.endswith(f"## Beside\n\n{KEPT}\n\nby hand\n")
    assert "Not measured yet: waits." in whole
    assert "(an older recipe's)" in whole


def test_rows_are_kept_whole(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, says="other", low=None, high=None, wants={"same": 2})]
    write_rows(tmp_path / "m.json", rows, ["a table"])
    assert read_rows(tmp_path / "m.json") == rows
    (tmp_path / "m.json").write_text('{"rows": [{"says": "x", "odd": 1}]}')
    with pytest.raises(RecipeError, match="x: unknown key odd"):
        read_rows(tmp_path / "m.json")
    (tmp_path / "m.json").write_text("[")
    with pytest.raises(RecipeError, match="not JSON"):
        read_rows(tmp_path / "m.json")


# -- from runs to the document


def test_claims_are_tried(place: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [f"models.policy.base={tiny}", "rounds=0", "task.train=40", "task.dev=4", "task.test=8", "task.max_tokens=60",
               "finally.final.samples=4", "finally.final.of=policy", "stages.measure.samples=0"]  # fmt: skip
    folder, run = place / "claims", {"recipe": "quickstart", "set": changes}
    folder.mkdir()
    written(folder, runs={"loop": run})
    words = ["--claims", str(folder), "--to", "claims.md", "--only", "2203.11171", "--seeds", "0", "1"]
    assert claims.main([*words, "--kept"]) == 0  # nothing is there, and nothing is made
    assert "votes win" in Path("claims.md").read_text()
    assert not Path("data").exists()
    assert claims.main(words) == 0
    [row] = read_rows(folder / "measured/one_2203.11171.json")
    assert row.problems == 8
    assert row.seeds == [0, 1]
    assert len(row.by_seed) == 2
    text = Path("claims.md").read_text()
    assert row.line() in text
    assert "1 claims of 1 papers were tested" in text
    kept = sorted(str(path) for path in Path("data").rglob("*"))
    assert claims.main(words) == 0  # the same, from what is there
    assert Path("claims.md").read_text() == text
    assert sorted(str(path) for path in Path("data").rglob("*")) == kept
    noted = (
        (folder / "one_2203.11171.yaml").read_text().replace("votes win", "votes win\n  note: a later word")
    )
    (folder / "one_2203.11171.yaml").write_text(noted)
    assert claims.main([*words, "--kept", "--data", "elsewhere"]) == 0  # a note is the file's, without a run
    assert "votes win: a later word" in Path("claims.md").read_text()
    written(folder, runs={"loop": {**run, "set": [*changes, "finally.final.temperature=0.9"]}})
    assert claims.main([*words, "--kept"]) == 0  # another recipe by now, and its run is not there
    assert "(an older recipe's)" in Path("claims.md").read_text()
    capsys.readouterr()
    old, new = (
        RunOf(recipe="quickstart", set=tuple(one)).name(0)
        for one in (changes, [*changes, "finally.final.temperature=0.9"])
    )
    (Path("data") / old).rename(Path("data") / new)
    recorded = Path("data") / new / "recipe.yaml"
    recorded.write_text(recorded.read_text().replace(f"name: {old}", f"name: {new}"))
    assert (
        claims.main([*words, "--kept"]) == 2
    )  # a run of that name that another recipe made counts for nothing
    assert f"votes win: {new} was made by an older recipes/quickstart.yaml" in capsys.readouterr().err
    assert [one.seeds for one in read_rows(folder / "measured/one_2203.11171.json")] == [[0, 1]]
    assert claims.main(["--claims", str(folder), "--only", "nobody"]) == 2
    assert "no paper and no method" in capsys.readouterr().err


def test_a_paper_whose_model_is_not_here_stops_no_other(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "claims"
    folder.mkdir()
    for paper in ("2203.11171", "2312.06585"):
        run = {"recipe": "quickstart", "set": [f"models.policy.base={place}/none-{paper}"]}
        written(folder, runs={"loop": run}, paper=paper).rename(folder / f"x_{paper}.yaml")
    monkeypatch.setattr(claims, "PARTS", {})  # they have a test of their own
    assert claims.main(["--claims", str(folder), "--to", "c.md", "--seeds", "0"]) == 2
    said = capsys.readouterr().err
    assert "x_2203.11171: " in said
    assert "x_2312.06585: " in said
    assert "Not measured yet: votes win." in Path("c.md").read_text()


def test_what_only_stands_beside_a_stage_does_not_make_its_figures_older() -> None:
    def recipe(*more: str) -> Any:
        return RunOf(recipe="rstar_countdown", set=more).load(0)

    told, other = recipe(), recipe("finally.sampled.samples=32")
    assert behind(told, "final") == behind(other, "final")
    assert behind(told, "sampled") != behind(other, "sampled")
    for change in (
        "finally.search.rollouts=3",
        "before.learn.steps=9",
        "task.train=50",
        "models.policy.lora={r: 3}",
    ):
        assert behind(told, "final") != behind(recipe(change), "final"), change


def test_a_measure_that_no_run_has_is_a_sentence(place: Path, tiny: Path) -> None:
    changes = [f"models.policy.base={tiny}", "rounds=0", "task.train=40", "task.dev=4", "task.test=8", "task.max_tokens=60",
               "finally.final.samples=2", "finally.final.of=policy", "stages.measure.samples=0"]  # fmt: skip
    folder = place / "claims"
    folder.mkdir()
    more = {"a__metric": "accuracy/greedy/none", "b__metric": "accuracy/greedy"}
    path = written(folder, runs={"loop": {"recipe": "quickstart", "set": changes}}, **more)
    found = read_file(path)
    runs = claims.Runs(claims.Workspace(Path("data"), Path("checkpoints")))
    with pytest.raises(RecipeError, match="votes win: claims-quickstart-.*: final has accuracy/greedy, "):
        list(claims.measure_all(runs, found, [0]))


@pytest.mark.parametrize(
    ("kind", "scores"), [(ALL, [1, 1, 1]), (OPEN, [1, 1, 0.3]), (0.75, [None, None, 0.3])], ids=str
)
def test_a_judge_knows_of_open_steps_what_it_is_asked_to(kind: Any, scores: list[float | None]) -> None:
    task = countdown.Task(countdown.Settings(use="countdown", numbers=4))
    solved = Problem(id="p", question="numbers 2, 3, 4, 5; target 24", split="test", answer="")
    text = "2 * 3 = 6, left 4, 5, 6\n5 - 4 = 1, left 1, 6\n6 * 1 = 6"
    lost = Problem(id="q", question="numbers 2, 3, 4, 5; target 6", split="test", answer="")
    said = Judge(None, task, {}, kind).judged(lost, text, [0.1, 0.2, 0.3])
    assert [said[n] for n, score in enumerate(scores) if score is not None] == [
        s for s in scores if s is not None
    ]
    ends = Judge(None, task, {}, kind).judged(solved, text, [0.1, 0.2, 0.3])[2]
    assert ends == (0 if kind == ALL else 0.3)
    if isinstance(kind, float):  # of many draws, true ones stand above others as often as asked
        judge = Judge(None, task, {}, kind)
        draws = [
            [judge._of(truth, True, 0.5, [str(n), str(truth)]) for n in range(600)] for truth in (True, False)
        ]
        above = np.mean(np.array(draws[0])[:, None] > np.array(draws[1])[None, :])
        assert above == pytest.approx(kind, abs=0.03)
