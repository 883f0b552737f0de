"""The command line: `ratchet COMMAND`, the same as `python -m pipeline COMMAND`.

Every command but `run`, `stage`, `eval` and `doctor` answers without loading torch.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import RatchetError
from pipeline.models.environment import prepare as prepare_environment

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")

app = typer.Typer(
    help="Language models that teach themselves to reason, and never slip back.\n\n"
    "Start with: ratchet run recipes/quickstart.yaml",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value: stages.sample.n=16, seed=1")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong, and the result.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="One JSON object a line instead of text.")]
RunName = Annotated[str, typer.Argument(help="A run, as `ratchet status` lists them.")]


def _console(quiet: bool, log_json: bool, main: bool = True) -> Any:
    from pipeline.report.console import Console

    return Console(quiet=quiet, log_json=log_json, main=main)


@app.command()
def run(
    target: Annotated[str, typer.Argument(help="A recipe file, or the name of a run to go on with.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run's name; the recipe's own where absent.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop when this stage is done.")] = None,
    launch: Annotated[
        Path | None, typer.Option(help="An accelerate config: each stage in a fresh group.")
    ] = None,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a recipe, or go on with a run.

    A run that exists goes on at the first chunk that is not done.

    - `ratchet run recipes/quickstart.yaml`
    - `ratchet run recipes/quickstart.yaml seed=1 --name quickstart-s1`
    - `ratchet run quickstart rounds=5` (continues a finished run)
    """
    from pipeline.loop import run_loop
    from pipeline.session import find, session
    from pipeline.world import join

    recipe = find(target, overrides or [], name, DATA)
    if launch is not None:
        from pipeline.launch import run_launched

        raise typer.Exit(run_launched(recipe, launch, until, _console(quiet, log_json)))
    world = join()
    console = _console(quiet, log_json, world.main)
    with session(recipe, console, world, DATA, CHECKPOINTS) as working, working.mirrored():
        working.announce()
        if run_loop(working, until):
            console.finished(working.summary())


@app.command()
def stage(
    name: RunName,
    stage_name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of its recipe.")],
    round_number: Annotated[int, typer.Option("--round", help="The round; 0 is before the first.")],
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run one stage of one round as its own job.

    `accelerate launch --config_file recipes/launch/ddp.yaml -m pipeline stage quickstart learn --round 2`
    """
    from pipeline.loop import stage_alone
    from pipeline.session import find, session
    from pipeline.world import join

    recipe = find(name, [], None, DATA)
    world = join()
    with session(recipe, _console(quiet, log_json, world.main), world, DATA, CHECKPOINTS) as working:
        stage_alone(working, stage_name, round_number)


@app.command()
def plan(
    target: Annotated[str, typer.Argument(help="A recipe file or a run.")], overrides: Overrides = None
) -> None:
    """Say what a recipe would do, and what it would cost: stages, inputs, models, rows, tokens, time, memory,
    disk.

    `ratchet plan recipes/rest_em_math.yaml rounds=2`
    """
    from pipeline.estimate import describe
    from pipeline.session import find

    typer.echo(describe(find(target, overrides or [], None, DATA), DATA))


@app.command()
def check(recipe_files: Annotated[list[Path], typer.Argument(metavar="RECIPE...")]) -> None:
    """Check recipe files: every problem at once, without loading torch.

    `ratchet check recipes/*.yaml`
    """
    from pipeline.errors import RecipeError
    from pipeline.models.chat import faults_of
    from pipeline.recipe import load

    problems: list[str] = []
    for path in recipe_files:
        try:
            found = load(path)
        except RecipeError as error:
            problems += error.problems
            continue
        problems += [f"{path}: {line}" for line in found.not_built]
        problems += (faults := faults_of(found))
        if not found.not_built and not faults:
            typer.echo(f"{path}: ok ({len(found.stages)} stages, {found.rounds} rounds)")
    if problems:
        raise RecipeError(problems)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A run; without it, every run is listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until nobody works on it.")] = False,
) -> None:
    """Say how far a run is and what it measured; what it does now, its speed, the time left, the disk used.

    - `ratchet status`
    - `ratchet status quickstart --watch` (from another terminal; Ctrl-C leaves the run alone)
    - `ratchet status quickstart --json`
    """
    from pipeline.errors import RecipeError
    from pipeline.status import all_runs, run_status
    from pipeline.telling import follow, run_lines, to_text

    if name is None:
        if watch:
            raise RecipeError("status --watch: name the run to follow; `ratchet ls` lists them")
        found = all_runs(DATA, CHECKPOINTS)
        typer.echo(json.dumps(found, indent=1) if as_json else run_lines(found))
    elif watch:
        follow(name, DATA, CHECKPOINTS, typer.echo)
    else:
        one = run_status(name, DATA, CHECKPOINTS)
        typer.echo(json.dumps(one, indent=1) if as_json else to_text(one))


@app.command()
def show(
    name: RunName,
    round_number: Annotated[int, typer.Argument(metavar="ROUND")],
    stage_name: Annotated[str, typer.Argument(metavar="STAGE")],
    row: Annotated[int | None, typer.Option(help="One row, whole, by its number from 0.")] = None,
    limit: Annotated[int, typer.Option(help="How many rows.")] = 10,
) -> None:
    """Show a stage's rows for people: traces with their steps and labels, trees indented.

    `ratchet show quickstart 1 check --limit 5`
    """
    from pipeline.status import show_rows

    typer.echo(show_rows(name, round_number, stage_name, row, limit, DATA, CHECKPOINTS))


@app.command(name="eval")
def evaluate(
    name: RunName,
    overrides: Overrides = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="After which round; the last by default.")
    ] = None,
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
    quiet: Quiet = False,
) -> None:
    """Measure a run's policy outside the loop; no gate reads it.

    `ratchet eval quickstart --round 2 --split test samples=16`
    """
    from pipeline.apart import evaluate_apart

    typer.echo(
        evaluate_apart(name, round_number, split, overrides or [], _console(quiet, False), DATA, CHECKPOINTS)
    )


@app.command()
def export(
    name: RunName,
    round_number: Annotated[int, typer.Argument(metavar="ROUND")],
    model: Annotated[str, typer.Option(help="Which model of the recipe.")] = "policy",
    to: Annotated[
        Path | None, typer.Option(help="The folder to write; exports/RUN-ROUND-MODEL by default.")
    ] = None,
) -> None:
    """Merge a model's adapter into an ordinary Hugging Face folder.

    `ratchet export quickstart 3 --to my-model`
    """
    from pipeline.apart import export_model

    typer.echo(export_model(name, round_number, model, to, DATA, CHECKPOINTS))


@app.command()
def doctor(
    target: Annotated[str, typer.Argument(help="A recipe file or a run.")], overrides: Overrides = None
) -> None:
    """Try a recipe on 32 problems and say what would waste a week: truncation, missing ends, rewards all
    alike.

    `ratchet doctor recipes/star_gsm8k.yaml`
    """
    from pipeline.doctor import examine
    from pipeline.session import find

    findings = examine(find(target, overrides or [], None, DATA), _console(False, False), DATA, CHECKPOINTS)
    raise typer.Exit(1 if any(finding.bad for finding in findings) else 0)


@app.command(name="ls")
def list_runs() -> None:
    """List every run, a line each: state, rounds, work, disk, last result.

    `ratchet ls`
    """
    status(None, False, False)


@app.command()
def verify(
    name: RunName,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make what is damaged again, to the same hash.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check every hash of a run: rows, weights, and that its gates and metrics follow from them. Exit 3 with
    a list where something is wrong.

    - `ratchet verify quickstart`
    - `ratchet verify quickstart --repair`
    """
    from pipeline.upkeep import verify as check_run

    typer.echo(check_run(name, repair, _console(quiet, False), DATA, CHECKPOINTS))


@app.command()
def fork(
    name: RunName,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="The name of the new run.")],
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Start a new run from an old one with settings changed. What is still valid is taken over, under hard
    links where the storage has them.

    `ratchet fork quickstart quickstart-slow stages.learn.learning_rate=0.0001`
    """
    from pipeline.upkeep import fork as fork_run

    typer.echo(fork_run(name, new_name, overrides or [], _console(quiet, False), DATA, CHECKPOINTS))


@app.command()
def gc(name: RunName) -> None:
    """Remove a run's scratch: trainer checkpoints and unfinished files. What is committed stays.

    `ratchet gc quickstart`
    """
    from pipeline.upkeep import collect

    typer.echo(collect(name, DATA, CHECKPOINTS))


@app.command()
def report(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run, or several side by side.")],
    to: Annotated[Path | None, typer.Option(help="The file to write; RUN/report.html by default.")] = None,
) -> None:
    """Write one HTML file that shows what happened: no server, no network, also of an unfinished run.

    `ratchet report quickstart`
    """
    from pipeline.report.html import build_report

    written = build_report(names, DATA, CHECKPOINTS, to, _console(False, False))
    typer.echo(f"{written}: open it in a browser")


@app.command()
def push(
    name: RunName,
    to: Annotated[str, typer.Option(help="The data set on the Hub: USER/NAME.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, show the card.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Its adapters too, below weights/.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Upload a run to the Hugging Face Hub as a data set with its card: rows, manifests, metrics, recipe.

    - `ratchet push quickstart --to me/quickstart --dry-run`
    - `ratchet push quickstart --to me/quickstart --weights`
    """
    from pipeline.push import push as push_run

    for line in push_run(name, to, dry_run, weights, private, DATA, CHECKPOINTS):
        typer.echo(line)


@app.command()
def sync(name: RunName) -> None:
    """Rebuild a run's wandb mirror from its metrics.jsonl, and upload it where wandb is online.

    `ratchet sync quickstart`
    """
    from pipeline.report.mirror import sync as rebuild
    from pipeline.status import open_run

    looked = open_run(name, DATA, CHECKPOINTS)
    done, said = rebuild(looked.folder, looked.recipe.header.wandb, checkpoints=CHECKPOINTS)
    typer.echo(said)
    raise typer.Exit(0 if done else 1)


@app.command()
def solve(
    question: Annotated[str, typer.Argument(help="A problem in the task's own words.")],
    overrides: Overrides = None,
    run_name: Annotated[
        str, typer.Option("--run", help="The run whose models answer.")
    ] = "rest_mcts_countdown",
    search: Annotated[str, typer.Option(help="A generate method.")] = "mcts_star",
) -> None:
    """Answer one problem with a run's trained models, and print the search tree.

    `ratchet solve "numbers 3, 7, 12; target 24" --run rest_mcts_countdown --search mcts_star iterations=20`
    """
    from pipeline.solve import solve as answer

    typer.echo(answer(question, run_name, search, overrides or [], DATA, CHECKPOINTS))


@app.command()
def compare(
    recipe_files: Annotated[list[Path], typer.Argument(metavar="RECIPE...")],
    tokens: Annotated[int, typer.Option(help="Generated policy tokens a recipe may learn from.", min=1)],
    change: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value for every recipe.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run recipes at an equal budget of generated tokens, and print one table.

    `ratchet compare recipes/rest_em_countdown.yaml recipes/rest_mcts_countdown.yaml --tokens 3000000 --set
    seed=1`"""
    from pipeline.compare import compare as run_compared

    typer.echo(run_compared(recipe_files, tokens, change or [], _console(quiet, False), DATA, CHECKPOINTS))


def main() -> None:
    """The console script. A user's error is one sentence (or a short list) and its exit code."""
    prepare_environment()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about each other
    try:
        left = app(standalone_mode=False)  # what typer.Exit carried comes back as a value, Ctrl-C as 130
    except RatchetError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        left = 130
    except Exception as problem:  # the command line's own errors; their class moved between versions of typer
        if not hasattr(problem, "show"):
            raise
        problem.show()
        sys.exit(2)
    if left == 130:
        typer.echo("Interrupted. The same command goes on from here.", err=True)
    sys.exit(left if isinstance(left, int) else 0)


if __name__ == "__main__":
    main()
