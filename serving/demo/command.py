"""The commands `serving demo` and `serving drill`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import rich
import rich.markup
import rich.table
import typer

from protos.command import refusing
from protos.errors import ProtosError
from serving.errors import ServingError

__all__ = ["demo", "drill"]


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
    # On two cores more would starve the learner and the gate, which then look seldom: fewer contests end, not more.
    rate: Annotated[float, typer.Option(min=1.0, help="Decisions a second that the callers aim at.")] = 900.0,
    seed: Annotated[int, typer.Option(min=0, help="Key of the visitors' choices.")] = 1,
    bootstrap: Annotated[
        str, typer.Option("--bootstrap", help="Kafka, host:port, between server and joiner; without it the joiner reads the server's logs.")
    ] = "",
) -> None:
    """Run the whole loop on real data: server, joiner, learner and gate as processes, driven through gRPC."""
    # Data sets and pictures take seconds to load, for which no server should wait.
    from serving.demo.run import Plan, run_demo
    from serving.demo.traffic import Load

    load = Load(rate=rate, batch=32, batch_workers=1, late_s=4.0)
    plan = Plan(folder=folder, tasks=tasks, seconds=seconds, decisions=decisions, load=load, seed=seed, task=task, bootstrap=bootstrap)
    figures = run_demo(plan)
    # As it was called: `make demo` knows a `serving` that is in nobody's path.
    called = "serving" if sys.argv[0].endswith(".py") else sys.argv[0]
    print(f"The same as the page of a running loop: {shlex.join([called, 'dashboard', '--folder', str(folder)])}")
    if figures["replay_draws"] < 1.0 or figures["replay_propensities"] < 1.0:
        print("error: the log does not replay; look at `serving replay`", file=sys.stderr)
        raise typer.Exit(1)


@refusing(ServingError, ProtosError, exit_code=1)
def drill(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where everything is written. The drill empties a folder that it made, no other.")
    ] = Path("var/drill"),
    config: Annotated[Path, typer.Option("--task-config", help="The drill's task file.")] = Path("configs/drill/offers.yaml"),
    seed: Annotated[int, typer.Option(min=0, help="Key of the visitors' choices.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Plant challengers whose truth is known in a running loop: bad ones must be stopped, a good one promoted, and undone when it turns."""
    from serving.demo.gate_drill import run_drill

    acts = run_drill(folder, config=config, seed=seed)
    if as_json:
        print(json.dumps([{**act._asdict(), "passed": act.passed} for act in acts], indent=1))
    else:
        table = rich.table.Table("planted", "should be", "became", "because")
        for act in acts:
            table.add_row(
                act.planted, act.expected, act.became if act.passed else f"[red]{act.became}[/red]", rich.markup.escape(act.because)
            )
        rich.print(table)
    if not all(act.passed for act in acts):
        raise typer.Exit(1)
