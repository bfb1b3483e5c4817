"""The command `attribution`."""

import dataclasses
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
from attribution.membership import Membership
from attribution.settings import JoinConfig, config_parts, load_join_config
from attribution.sources import Source
from attribution.status import report
from attribution.topics import ensure_topics
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
KafkaSettings = Annotated[
    list[str] | None,
    typer.Option("--kafka", help="A setting of librdkafka's own, e.g. security.protocol=SASL_SSL; repeatable.", metavar="KEY=VALUE"),
]
Prefix = Annotated[str, typer.Option("--topic-prefix", help="Stands before the names of the four topics at the broker.", metavar="TEXT")]
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
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
    group: Annotated[
        str | None,
        typer.Option(help="Share the partitions with the other members of this Kafka consumer group; without it all are derived here."),
    ] = None,
    member: Annotated[
        str | None, typer.Option(help="Name of this member, its own among the group's: after a restart it finds its partitions again.")
    ] = None,
    session_s: Annotated[
        float, typer.Option(help="A member that is silent for so long loses its partitions, seconds.", min=1.0, max=1800.0)
    ] = 10.0,
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
    client = _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
    opened = _source(source, logs=logs, client=client, members=client.members(group, name=member, session_s=session_s))
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
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
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
    done = (
        backfill_landed(events, out=out, config=config)
        if events
        else _replayed(config, out=out, logs=logs, client=_Client(bootstrap, settings=_settings(kafka), prefix=prefix))
    )
    _print({"events": done.events, "rows": done.rows}, as_json)


@app.command()
@refusing(AttributionError, ProtosError)
def status(
    out: Out = Path("var/joined"),
    tasks: Tasks = Path("configs/tasks"),
    logs: Logs = None,
    bootstrap: Bootstrap = None,
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
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
        client = _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
        opened = _source("embedded" if logs else "kafka", logs=logs, client=client)
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


@dataclasses.dataclass(frozen=True)
class _Client:
    """How a Kafka client reaches the broker."""

    bootstrap: str | None
    settings: dict[str, str]
    prefix: str

    @property
    def address(self) -> str:
        if self.bootstrap is None:
            raise AttributionError("--bootstrap: missing; Kafka wants the broker's address, e.g. localhost:9092")
        return self.bootstrap

    def members(self, group: str | None, *, name: str | None, session_s: float) -> Membership | None:
        if group is None:
            return None
        return Membership(self.address, group=group, name=name, session_s=session_s, settings=self.settings, prefix=self.prefix)


def _settings(given: list[str] | None) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in given or []]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise AttributionError(f"--kafka {key}: wants KEY=VALUE, e.g. security.protocol=SASL_SSL")
    return {key: value for key, _, value in pairs}


@app.command()
@refusing(AttributionError)
def topics(
    bootstrap: Bootstrap = None,
    partitions: Annotated[int, typer.Option(help="Partitions of each topic; the most workers that can share them.", min=1)] = 16,
    replicas: Annotated[int, typer.Option(help="Copies of each partition.", min=1)] = 3,
    retention_days: Annotated[float, typer.Option(help="How long the broker keeps events, days.", min=0.01)] = 14.0,
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Make the four topics with the settings that the join needs; check them where they are there."""
    client = _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
    retention_s = retention_days * 86_400.0
    made = ensure_topics(
        client.address, partitions=partitions, replicas=replicas, retention_s=retention_s, prefix=prefix, settings=client.settings
    )
    _print(made, as_json)


def _source(name: str, *, logs: Path | None, client: _Client, members: Membership | None = None) -> Source:
    if name == "embedded":
        if logs is None:
            raise AttributionError("--logs: missing; source embedded reads the directory that the server writes its logs to")
        return EmbeddedSource(logs)
    if name == "kafka":
        return KafkaSource(client.address, prefix=client.prefix, settings=client.settings, members=members)
    raise AttributionError(f"--source {name}: unknown; known: embedded, kafka")


def _replayed(config: JoinConfig, *, out: Path, logs: Path | None, client: "_Client") -> Progress:
    opened = _source("embedded" if logs else "kafka", logs=logs, client=client)
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
