"""The command `serving demo`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from protos.command import refusing
from protos.errors import ProtosError
from serving.demo.run import Plan, run_demo
from serving.demo.traffic import Load
from serving.errors import ServingError

__all__ = ["demo"]


@refusing(ServingError, ProtosError, exit_code=1)
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where everything is written. The demo empties a folder that it made, no other.")
    ] = Path("var/demo"),
    task: Annotated[
        str, typer.Option("--task", help="What is learned: digits, or video_upload (quality rises, reliability is kept).")
    ] = "digits",
    tasks: Annotated[Path, typer.Option("--tasks", help="Directory with the demo's task file.")] = Path("configs/tasks"),
    seconds: Annotated[float, typer.Option(min=5.0, max=3600.0, help="Traffic ends after this many seconds.")] = 70.0,
    decisions: Annotated[int, typer.Option(min=1_000, help="Traffic ends after this many decisions, if they come sooner.")] = 100_000,
    rate: Annotated[float, typer.Option(min=1.0, help="Decisions a second that the callers aim at.")] = 1_200.0,
    seed: Annotated[int, typer.Option(min=0, help="Key of the visitors' choices.")] = 1,
) -> None:
    """Run the whole loop on real data: server, joiner, learner and gate as processes, driven through gRPC."""
    load = Load(rate=rate, batch=32, batch_workers=1, late_s=4.0)
    figures = run_demo(Plan(folder=folder, tasks=tasks, seconds=seconds, decisions=decisions, load=load, seed=seed, task=task))
    if figures["replay_draws"] < 1.0 or figures["replay_propensities"] < 1.0:
        print("error: the log does not replay; look at `serving replay`", file=sys.stderr)
        raise typer.Exit(1)
