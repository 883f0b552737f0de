"""`stage RUN STAGE --round K`: one stage of one round as its own job."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands import HERE, LogJson, Quiet, RunName, console_for


def command(
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
    from pipeline.processes.group import join
    from pipeline.run.session import find, session

    recipe = find(name, [], None, HERE.data)
    world = join()
    with session(recipe, console_for(quiet, log_json, world.main), world, HERE) as working:
        stage_alone(working, stage_name, round_number)
