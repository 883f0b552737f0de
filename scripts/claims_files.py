"""What is claimed, and what is held against what: the files in claims/, one a paper, read and checked.

    paper: "2312.08935"
    title: Math-Shepherd
    methods: [shepherd]                       # names it by which ONLY= finds it, beside the file's own
    runs:                                     # a recipe and what it changes, as `ratchet run` takes them
      labelled: {recipe: shepherd_countdown, set: [task.train=2000]}
    claims:
    - says: a vote weighted by the reward model beats the majority of 16
      where: section 4.2
      a: {run: labelled, stage: final, metric: accuracy/weighted, name: weighted}
      b: {run: labelled, stage: final, metric: accuracy/majority, name: majority}
      wants: higher                           # or lower, or {same: 2}: no difference beyond 2 points

An arm is a metric of an evaluation, whose outcomes are paired by problem (`model`: `policy@0`; `round`:
another than the last), or a number that a training says of itself (`stage` of train), one a run. Two claims
that name the same recipe, changes and seed share its run, whichever file they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import RecipeError, nearest
from pipeline.evaluate import Metric
from pipeline.models.packaged import packaged, wanted
from pipeline.models.seeds import plan
from pipeline.recipe.methods import hook, method
from pipeline.recipe.read import load, parse_yaml
from pipeline.recipe.shape import Recipe, Stage, data_settings, fingerprint, measured

ROOT = Path(__file__).parents[1]
NOTHING_ELSE = ConfigDict(extra="forbid", frozen=True)


class RunOf(BaseModel):
    """A recipe by its name and what is changed in it. The run's name follows from both, and the seed."""

    model_config = NOTHING_ELSE
    recipe: str = Field(pattern=r"^[a-z0-9_]+$")
    set: tuple[str, ...] = ()

    def name(self, seed: int) -> str:
        """As the run is called in data/: equal for equal recipe, changes and seed."""
        mark = f"-{fingerprint(sorted(self.set))[:8]}" if self.set else ""
        return f"claims-{self.recipe}{mark}-s{seed}"

    def load(self, seed: int) -> Recipe:
        """The recipe as its run has it.

        Raises:
            RecipeError: there is no such recipe, or it does not take a change.
        """
        path = ROOT / f"recipes/{self.recipe}.yaml"
        if not path.is_file():
            known = [one.stem for one in path.parent.glob("*.yaml")]
            raise RecipeError(f"no recipe {self.recipe!r} in recipes/{nearest(self.recipe, known)}")
        return load(path, [*self.set, f"seed={seed}", "wandb.mode=disabled"], self.name(seed))


class Arm(BaseModel):
    """One side of a claim."""

    model_config = NOTHING_ELSE
    run: str
    stage: str
    metric: str
    model: str = ""  #: the stage's first where absent
    round: int | None = None  #: none: the last one
    name: str = ""  #: in the table; the metric where absent

    @property
    def called(self) -> str:
        return self.name or self.metric


class Claim(BaseModel):
    """What a paper says, as a difference between two arms."""

    model_config = NOTHING_ELSE
    says: str
    where: str = ""
    a: Arm
    b: Arm
    wants: Literal["higher", "lower"] | dict[str, float] = "higher"
    paired: bool = True  #: false: the arms answered other problems (two rounds of one run), resampled apart
    note: str = ""

    @field_validator("wants")
    @classmethod
    def _a_bound(cls, wants: Any) -> Any:
        if isinstance(wants, dict) and (set(wants) != {"same"} or wants["same"] <= 0):
            raise ValueError("write higher, lower, or {same: X} with points above 0")
        return wants


class File(BaseModel):
    """A file of claims/."""

    model_config = NOTHING_ELSE
    paper: str = Field(pattern=r"^\d{4}\.\d{5}$")
    title: str
    methods: tuple[str, ...] = ()
    runs: dict[str, RunOf] = {}
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _arms_have_runs(self) -> File:
        for claim in self.claims:
            for arm in (claim.a, claim.b):
                if arm.run not in self.runs:
                    raise ValueError(f"{claim.says}: no run {arm.run!r}{nearest(arm.run, list(self.runs))}")
        said = [claim.says for claim in self.claims]
        if twice := {one for one in said if said.count(one) > 1}:
            raise ValueError(f"says twice: {', '.join(sorted(twice))}")
        return self


@dataclass(frozen=True)
class Place:
    """Where an arm's figures stand in a run: the stage, and the metric as its method declares it (none for a
    number of a training)."""

    stage: Stage
    metric: Metric | None


@dataclass
class Claims:
    """A file of claims/, and what its recipes say."""

    path: Path
    file: File
    _recipes: dict[str, Recipe] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.path.stem

    @cached_property
    def names(self) -> set[str]:
        """What ONLY= may call it."""
        return {one.lower() for one in (self.stem, self.file.paper, self.file.title, *self.file.methods)}

    def recipe(self, run: str) -> Recipe:
        """A run's recipe, whatever the seed.

        Raises:
            RecipeError: it cannot be read.
        """
        if run not in self._recipes:
            try:
                self._recipes[run] = self.file.runs[run].load(0)
            except RecipeError as error:
                raise RecipeError([f"{self.path}: runs.{run}: {line}" for line in error.problems]) from None
        return self._recipes[run]

    def place(self, claim: Claim, arm: Arm) -> Place:
        """Where an arm's figures will stand.

        Raises:
            RecipeError: the recipe has no such stage, or the stage measures no such thing.
        """
        here, recipe = f"{self.path}: {claim.says}", self.recipe(arm.run)
        stage = next((one for one in recipe.stages if one.name == arm.stage), None)
        if stage is None:
            known = [one.name for one in recipe.stages if one.room in ("evaluate", "train")]
            raise RecipeError(f"{here}: {arm.run} has no stage {arm.stage!r}{nearest(arm.stage, known)}")
        if arm.round is not None and not 0 <= arm.round <= recipe.rounds:
            raise RecipeError(f"{here}: round {arm.round} of {arm.run}, which has {recipe.rounds}")
        if stage.room == "train":
            return Place(stage, None)
        if stage.room != "evaluate":
            raise RecipeError(f"{here}: {arm.stage} is a stage of {stage.room}/, which measures nothing")
        models = measured(stage)
        if (arm.model or models[0]) not in models:
            told = f"{arm.stage} measures {', '.join(models)}, not {arm.model!r}"
            raise RecipeError(f"{here}: {told}{nearest(arm.model, models)}")
        known = hook("evaluate", method("evaluate", stage.method), "metrics")(stage.settings)
        found = [one for one in known if _among(arm.metric, [one.name])]
        if not found:
            names = [one.name for one in known]
            raise RecipeError(f"{here}: {arm.stage} measures no {arm.metric!r}{nearest(arm.metric, names)}")
        return Place(stage, max(found, key=lambda one: len(one.name)))

    def check(self) -> None:
        """Every claim's arms are there, and are in one unit.

        Raises:
            RecipeError: with every problem found.
        """
        problems: list[str] = []
        for claim in self.file.claims:
            try:
                places = [self.place(claim, arm) for arm in (claim.a, claim.b)]
            except RecipeError as error:
                problems += error.problems
                continue
            if len({place.metric is None for place in places}) == 2:
                problems.append(
                    f"{self.path}: {claim.says}: one arm is paired by problem, the other is a number"
                )
            elif len({place.metric.share for place in places if place.metric}) == 2:
                problems.append(f"{self.path}: {claim.says}: one arm is a share, the other is none")
        if problems:
            raise RecipeError(list(dict.fromkeys(problems)))

    def fingerprint(self, claim: Claim) -> str:
        """Of all that a claim's figures depend on but the seeds: its recipes' data and its arms."""
        arms = [
            [*behind(self.recipe(arm.run), arm.stage), arm.stage, arm.metric, arm.model, arm.round]
            for arm in (claim.a, claim.b)
        ]
        return fingerprint(arms)[:16]


def behind(recipe: Recipe, stage: str) -> list[Any]:
    """What a stage's figures depend on: tasks, models, rounds, and all stages but those that only stand
    beside it after the last round."""
    wanted = {stage}
    for one in reversed(recipe.section("finally")):
        if one.name in wanted:
            wanted.update(source for source in one.sources if isinstance(source, str))
    stages = [one for one in recipe.stages if one.section != "finally" or one.name in wanted]
    return [
        [data_settings(task) for task in recipe.tasks],
        {name: [data_settings(model), _built(recipe, model.base)] for name, model in recipe.models.items()},
        [[one.section, one.name, one.room, one.method, data_settings(one.settings)] for one in stages],
        [recipe.rounds, recipe.header.problems_per_round, recipe.header.tokens_per_round],
    ]


def _built(recipe: Recipe, base: str) -> str:
    """What an embedded seed is made by: its recipe changes now and then, and its weights with it."""
    if not base.startswith("seed://"):
        return ""
    return wanted(base).folder_name if packaged(base) else plan(base, recipe.tasks[0])[0].hash


def _among(metric: str, names: list[str]) -> bool:
    """A declared metric, or a bin or part of one."""
    return any(metric == name or metric.startswith(f"{name}/") for name in names)


def read_file(path: Path) -> Claims:
    """A file of claims/, its shape checked.

    Raises:
        RecipeError: with every problem found.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a map of paper, title, runs, claims; this is {type(raw).__name__}")
    try:
        return Claims(path, File.model_validate(raw))
    except ValidationError as error:
        raise RecipeError([f"{path}: {_told(each)}" for each in error.errors()]) from None


def _told(error: Any) -> str:
    """One of pydantic's errors as a line: where, what is wrong, what stands there."""
    where = ".".join(str(part) for part in error["loc"] if part not in ("literal['higher','lower']",))
    what = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    seen = f" (it is {given!r})" if isinstance(given, (str, int, float)) else ""
    return f"{where}: {what}{seen}" if where else what


def read_all(folder: Path) -> list[Claims]:
    """Every file of claims/, by name.

    Raises:
        RecipeError: with every problem of every file.
    """
    problems: list[str] = []
    found: list[Claims] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found.append(read_file(path))
            found[-1].check()
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    if not found:
        raise RecipeError(f"{folder}: no claims there: one YAML file a paper")
    return found


def chosen(files: list[Claims], only: str | None, also: tuple[str, ...] = ()) -> list[Claims]:
    """Those that ONLY= names by paper, method or file; all without one. also: names that are no file's.

    Raises:
        RecipeError: it names none.
    """
    if not only:
        return files
    found = [one for one in files if only.lower() in one.names]
    if not found and only.lower() not in also:
        known = sorted({name for one in files for name in one.names} | set(also))
        raise RecipeError(f"ONLY={only}: no paper and no method of claims/{nearest(only.lower(), known)}")
    return found
