"""The command `attribution`: run, backfill, status."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

# One thread: the frames of a micro-batch are small, and a pool of threads costs more than it gives. Read when polars is first imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Table

from attribution.backfill import backfill_landed, backfill_source
from attribution.embedded_source import EmbeddedSource
from attribution.errors import AttributionError
from attribution.kafka_source import KafkaSource
from attribution.settings import JoinConfig, config_parts, load_join_config
from attribution.sources import Source
from attribution.status import report
from attribution.worker import Progress, Worker, run_worker
from protos.command import print_config, refusing, until_signalled
from protos.errors import ProtosError
from protos.task import load_tasks

__all__ = ["app", "main"]

app = typer.Typer(
    help="Joins decisions, impressions and rewards into observations, each exactly once.", no_args_is_help=True, add_completion=False
)

Tasks = Annotated[Path, typer.Option("--tasks", help="Directory of task files (*.yaml).", metavar="DIR")]
Out = Annotated[Path, typer.Option("--out", help="Directory of the tables `events` and `observations`.", metavar="DIR")]
Logs = Annotated[Path | None, typer.Option("--logs", help="Directory of the server's logs (source embedded).", metavar="DIR")]
Bootstrap = Annotated[
    str | None, typer.Option("--bootstrap", help="Address of the broker, host:port[,...] (source kafka).", metavar="ADDRESS")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A value of the tasks' sections `rewards` and `attribution`, laid over every file; repeatable.", metavar="KEY=VALUE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print every value with its origin (flag, file, default), and end.")]


@app.command()
@refusing(AttributionError, ProtosError)
def run(
    out: Out = Path("var/joined"),
    tasks: Tasks = Path("configs/tasks"),
    source: Annotated[str, typer.Option(help="Where events come from: embedded or kafka.")] = "embedded",
    logs: Logs = None,
    bootstrap: Bootstrap = None,
    poll_s: Annotated[float, typer.Option(help="Shortest time between two micro-batches, seconds.", min=0.05, max=60.0)] = 1.0,
    until_final: Annotated[bool, typer.Option("--until-final", help="End when every source has sent its final heartbeat.")] = False,
    overrides: Overrides = None,
    print_config_only: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Join what comes, until stopped (SIGTERM, SIGINT) or, with --until-final, until the input ends."""
    config = load_join_config(tasks, overrides=overrides or [])
    if print_config_only:
        _print_config(tasks, overrides or [])
        return
    opened = _source(source, logs=logs, bootstrap=bootstrap)
    total = _Total()
    try:
        worker = Worker(opened, out=out, config=config)
        run_worker(worker, poll_s=poll_s, stop=until_signalled(), until_final=until_final, on_progress=total.add)
    finally:
        opened.close()
    _print({"events": total.events, "rows": total.rows, "final": worker.final}, as_json)


@app.command()
@refusing(AttributionError, ProtosError)
def backfill(
    out: Annotated[Path, typer.Option("--out", help="Directory for the new table `observations`; must have none yet.", metavar="DIR")],
    events: Annotated[
        Path | None, typer.Option("--events", help="Directory that holds a table `events`: replay what has landed.", metavar="DIR")
    ] = None,
    logs: Logs = None,
    bootstrap: Bootstrap = None,
    tasks: Tasks = Path("configs/tasks"),
    overrides: Overrides = None,
    print_config_only: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Derive all observations again, from landed events (--events), a log (--logs) or Kafka (--bootstrap), into a new directory."""
    config = load_join_config(tasks, overrides=overrides or [])
    if print_config_only:
        _print_config(tasks, overrides or [])
        return
    given = [flag for flag in (events, logs, bootstrap) if flag is not None]
    if len(given) != 1:
        raise AttributionError(f"backfill takes one of --events, --logs and --bootstrap, not {len(given)}")
    done = backfill_landed(events, out=out, config=config) if events else _replayed(config, out=out, logs=logs, bootstrap=bootstrap)
    _print({"events": done.events, "rows": done.rows}, as_json)


@app.command()
@refusing(AttributionError, ProtosError)
def status(
    out: Out = Path("var/joined"),
    tasks: Tasks = Path("configs/tasks"),
    logs: Logs = None,
    bootstrap: Bootstrap = None,
    overrides: Overrides = None,
    print_config_only: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Where every decision is (logged = joined + pending + expired + quarantined), what the events counted as, watermarks, damage, lag."""
    config = load_join_config(tasks, overrides=overrides or [])
    if print_config_only:
        _print_config(tasks, overrides or [])
        return
    ends = None
    if logs or bootstrap:
        opened = _source("embedded" if logs else "kafka", logs=logs, bootstrap=bootstrap)
        ends = opened.end_offsets()
        opened.close()
    _print(report(out, config=config, ends=ends), as_json)


class _Total:
    """Sums what the cycles did."""

    def __init__(self) -> None:
        self.events, self.rows = 0, 0

    def add(self, progress: Progress) -> None:
        self.events += progress.events
        self.rows += progress.rows


def _source(name: str, *, logs: Path | None, bootstrap: str | None) -> Source:
    if name == "embedded":
        if logs is None:
            raise AttributionError("--logs: missing; source embedded reads the directory that the server writes its logs to")
        return EmbeddedSource(logs)
    if name == "kafka":
        if bootstrap is None:
            raise AttributionError("--bootstrap: missing; source kafka wants the broker's address, e.g. localhost:9092")
        return KafkaSource(bootstrap)
    raise AttributionError(f"--source {name}: unknown; known: embedded, kafka")


def _replayed(config: JoinConfig, *, out: Path, logs: Path | None, bootstrap: str | None) -> Progress:
    opened = _source("embedded" if logs else "kafka", logs=logs, bootstrap=bootstrap)
    try:
        return backfill_source(opened, out=out, config=config, on_progress=lambda progress: None)
    finally:
        opened.close()


def _print_config(tasks: Path, overrides: list[str]) -> None:
    for task in load_tasks(tasks, overrides=overrides).values():
        print(f"# task {task.name}")
        print_config(config_parts(task), flags=overrides)


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, str(value))
    Console().print(table)


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
