"""The command `attribution`."""

import dataclasses
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

# One thread: the frames of a micro-batch are small, and a pool of threads costs more than it gives. Read when polars is first imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Table

from attribution.backfill import TimeRange, backfill_landed, backfill_source
from attribution.datasets import query as run_query
from attribution.datasets import write_rows
from attribution.dead_letters import by_producer
from attribution.dead_letters import dead_letters as letters_of
from attribution.embedded_source import EmbeddedSource
from attribution.errors import AttributionError
from attribution.housekeeping import compact, delete_unit
from attribution.kafka_source import KafkaSource
from attribution.lint import lint as lint_files
from attribution.membership import Membership
from attribution.memory import keep_freed_memory
from attribution.metrics import serve_metrics
from attribution.producer import EventProducer
from attribution.retention import Broker, Cuts, expire_all
from attribution.settings import JoinConfig, config_parts, load_join_config
from attribution.sources import Source
from attribution.status import landed_events, needed_since_us, report
from attribution.topics import ensure_topics
from attribution.unit_feature_build import FeatureRequest, build_unit_features
from attribution.unit_feature_store import features_folder
from attribution.watermarks import FINAL_US
from attribution.worker import Progress, Worker, run_worker
from protos.command import print_config, refusing, until_signalled
from protos.errors import ProtosError
from protos.task import DEFAULT_TENANT, load_tasks

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
    metrics_address: Annotated[
        str | None, typer.Option(help="Answer Prometheus at this address: freshness, watermarks, counts.", metavar="HOST:PORT")
    ] = None,
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
    keep_freed_memory()
    try:
        worker = Worker(opened, out=out, config=config)
        if metrics_address is not None:
            print(f"metrics: {serve_metrics(worker, metrics_address, now_us=lambda: time.time_ns() // 1_000)}", file=sys.stderr)
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
    from_us: Annotated[int, typer.Option(help="Decisions from this time on, microseconds since the epoch.", min=0)] = 0,
    until_us: Annotated[int, typer.Option(help="Decisions before this time, microseconds since the epoch.", min=1)] = FINAL_US,
    deletions: Annotated[
        Path | None, typer.Option(help="Directory of the tables whose deletions are to be obeyed; default: --out.", metavar="DIR")
    ] = None,
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
    within = TimeRange(from_us, until_us)
    if events:
        done = backfill_landed(events, out=out, config=config, within=within)
    else:
        client = _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
        opened = _source("embedded" if logs else "kafka", logs=logs, client=client)
        done = _replayed(config, out=out, source=opened, within=within, deletions=deletions)
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


@app.command("dead-letters")
@refusing(AttributionError, ProtosError)
def dead_letters(
    out: Out = Path("var/joined"),
    tasks: Tasks = Path("configs/tasks"),
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    resend: Annotated[bool, typer.Option("--resend", help="Send them again to the topic and partition where they were.")] = False,
    bootstrap: Bootstrap = None,
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List what the join can't use, by place and reason, with the rate of each producer; send it again when its cause is mended."""
    landed = landed_events(out)
    letters = letters_of(landed, config=load_join_config(tasks, overrides=overrides or []))
    letters = letters if reason is None else letters.filter(letters["reason"] == reason)
    if resend:
        client = _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
        with EventProducer(client.address, prefix=prefix, settings=client.settings) as producer:
            for topic, partition, payload in letters.select("topic", "partition", "payload").iter_rows():
                producer.resend(topic, partition, payload)
    rates = by_producer(letters, landed).to_dicts()
    _print({"letters": letters.drop("payload").to_dicts(), "by_producer": rates, "sent_again": letters.height if resend else 0}, as_json)


@app.command()
@refusing(AttributionError, ProtosError)
def lint(
    files: Annotated[list[Path], typer.Argument(help="Sample messages: one message a file, or a log (*.log).", exists=True)],
    tasks: Tasks = Path("configs/tasks"),
    as_json: AsJson = False,
) -> None:
    """Look at sample messages before a producer goes live: exit code 1 if the join would refuse one."""
    found = lint_files(files, config=load_join_config(tasks))
    _print({"messages": found, "faults": sum(finding["fault"] is not None for finding in found)}, as_json)
    if any(finding["fault"] for finding in found):
        raise typer.Exit(1)


@app.command()
@refusing(AttributionError)
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT, e.g. 'SELECT * FROM action_daily'.")],
    out: Out = Path("var/joined"),
    to: Annotated[Path | None, typer.Option(help="Write the rows to this file (.parquet or .csv).", metavar="FILE")] = None,
    as_json: AsJson = False,
) -> None:
    """SQL over observations, exposures, action_daily, events, signals and unit_activity(at_us, window_s)."""
    rows = run_query(out, sql)
    if to is not None:
        write_rows(rows, to)
        _print({"rows": rows.num_rows, "file": str(to)}, as_json)
    elif as_json:
        print(json.dumps(rows.to_pylist(), default=_plain))
    else:
        table = Table(*rows.schema.names)
        for row in rows.to_pylist():
            table.add_row(*(str(_plain(value)) for value in row.values()))
        Console().print(table)


@app.command("unit-features")
@refusing(AttributionError, ProtosError)
def unit_features_command(
    out: Out = Path("var/joined"),
    tenant: Annotated[str, typer.Option(help="Tenant whose units are told of.")] = DEFAULT_TENANT,
    signals: Annotated[
        list[str] | None, typer.Option("--signal", help="Name of a signal; repeatable. Default: all that have landed.", metavar="NAME")
    ] = None,
    windows_days: Annotated[
        list[float] | None,
        typer.Option(
            "--window-days", help="Length of a window, days; repeatable. Default: 1, 7 and 30. Events must be kept longer.", min=1e-5
        ),
    ] = None,
    at_us: Annotated[
        int | None, typer.Option(help="The windows end before this time, microseconds since the epoch; default: the watermark.", min=1)
    ] = None,
    last_default: Annotated[float, typer.Option(help="Last value of a signal that was not there.")] = 0.0,
    keep: Annotated[int, typer.Option(help="Versions that stay, the new one among them.", min=1)] = 3,
    as_json: AsJson = False,
) -> None:
    """Publish counts, sums and last values of signals by unit, as a new version of the table that a server holds in memory."""
    days = windows_days or [1.0, 7.0, 30.0]
    request = FeatureRequest(tenant, signals or [], [length * 86_400.0 for length in days], last_default, at_us)
    made = build_unit_features(out, request, now_us=time.time_ns() // 1_000, keep=keep)
    folder = features_folder(out, tenant) / made.version
    _print({"version": made.version, "units": made.rows, "columns": [one.name for one in made.columns], "folder": str(folder)}, as_json)


@app.command("delete-unit")
@refusing(AttributionError)
def delete_unit_command(
    unit: Annotated[str, typer.Argument(help="Unit id, as in its events.")],
    out: Out = Path("var/joined"),
    tenant: Annotated[str, typer.Option(help="Tenant that owns the unit.")] = DEFAULT_TENANT,
    until_us: Annotated[
        int | None, typer.Option(help="Delete what happened up to this time, microseconds since the epoch; default: now.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete a unit: from both tables, their history, the unit features, and every later run and backfill."""
    now_us = time.time_ns() // 1_000
    _print(dict(delete_unit(out, tenant=tenant, unit_id=unit, until_us=until_us or now_us, now_us=now_us)), as_json)


@app.command()
@refusing(AttributionError, ProtosError)
def expire(
    out: Out = Path("var/joined"),
    tasks: Tasks = Path("configs/tasks"),
    events_days: Annotated[float, typer.Option(help="Age at which landed events go, days.", min=0.0)] = 30.0,
    observations_days: Annotated[float, typer.Option(help="Age at which observations go, days.", min=0.0)] = 400.0,
    logs: Annotated[
        Path | None, typer.Option("--logs", help="Directory of the server's logs: let go of landed segments too.", metavar="DIR")
    ] = None,
    logs_days: Annotated[float, typer.Option(help="Age at which segments of the logs go, days.", min=0.0)] = 14.0,
    bootstrap: Annotated[
        str | None,
        typer.Option("--bootstrap", help="Address of the broker: let go of landed and derived records too.", metavar="ADDRESS"),
    ] = None,
    topics_days: Annotated[float, typer.Option(help="Age at which records of the topics go, days.", min=0.0)] = 14.0,
    kafka: KafkaSettings = None,
    prefix: Prefix = "",
    wait_s: Annotated[
        float, typer.Option(help="Time for the joiner to land what the broker holds, before --logs are looked at, seconds.", min=0.0)
    ] = 30.0,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let go of events, observations, log segments and topic records by age; the account stays closed. A dry run unless --apply."""
    now_us, client = time.time_ns() // 1_000, _Client(bootstrap, settings=_settings(kafka), prefix=prefix)
    cuts = Cuts(*(now_us - round(days * 86_400e6) for days in (events_days, observations_days, logs_days, topics_days)))
    held_since_us = needed_since_us(out, config=load_join_config(tasks))
    broker = Broker(client.address, prefix=prefix, settings=client.settings) if bootstrap else None
    found = expire_all(out, cuts=cuts, held_since_us=held_since_us, logs=logs, broker=broker, wait_s=wait_s, apply=apply)
    _print({**found, "applied": apply}, as_json)


@app.command("compact")
@refusing(AttributionError)
def compact_command(
    owner: Annotated[str, typer.Option(help="Name of the one process that compacts these tables; another name is refused.")],
    out: Out = Path("var/joined"),
    keep_hours: Annotated[float, typer.Option(help="Files that a reader of the last hours may need stay.", min=0.0)] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Merge small files of the tables and remove the old ones."""
    _print(dict(compact(out, owner=owner, keep_s=keep_hours * 3600.0)), as_json)


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


def _replayed(config: JoinConfig, *, out: Path, source: Source, within: TimeRange, deletions: Path | None) -> Progress:
    try:
        return backfill_source(source, out=out, config=config, on_progress=lambda progress: None, within=within, deletions=deletions)
    finally:
        source.close()


def _print_config(tasks: Path, overrides: list[str]) -> None:
    for task in load_tasks(tasks, overrides=overrides).values():
        print(f"# task {task.name}")
        print_config(config_parts(task), flags=overrides)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value) if isinstance(value, datetime.date) else value


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
