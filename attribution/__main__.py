"""The command `attribution`: run the join, run it again over what is there, and the commands of its neighbours."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

# One thread: the frames of a micro-batch are small, and a pool of threads costs more than it gives. And polars' allocator (jemalloc) keeps
# what is freed, for the reason in `memory.py`: a tenth of the join's CPU. Both are read when polars is first imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")

import typer

from attribution.backfill import TimeRange, backfill_landed, backfill_source
from attribution.command_options import (
    AsJson,
    Bootstrap,
    Client,
    KafkaSettings,
    Logs,
    Out,
    Overrides,
    Prefix,
    PrintConfig,
    Tasks,
    client_settings,
    open_source,
    print_task_config,
    print_values,
)
from attribution.commands_keeping import compact_command, delete_unit_command, expire, topics
from attribution.commands_questions import dead_letters, lint, query, status, unit_features_command
from attribution.errors import AttributionError
from attribution.memory import keep_freed_memory
from attribution.metrics import serve_metrics
from attribution.settings import JoinConfig, load_join_config
from attribution.sources import Source
from attribution.watermarks import FINAL_US
from attribution.worker import Progress, Worker, run_worker
from protos.command import refusing, until_signalled
from protos.errors import ProtosError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Joins decisions, impressions and rewards into observations, each exactly once.", no_args_is_help=True, add_completion=False
)


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
        print_task_config(tasks, overrides or [])
        return
    client = Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
    opened = open_source(source, logs=logs, client=client, members=client.members(group, name=member, session_s=session_s))
    total = _Total()
    keep_freed_memory()
    try:
        worker = Worker(opened, out=out, config=config)
        if metrics_address is not None:
            print(f"metrics: {serve_metrics(worker, metrics_address, now_us=lambda: time.time_ns() // 1_000)}", file=sys.stderr)
        run_worker(worker, poll_s=poll_s, stop=until_signalled(), until_final=until_final, on_progress=total.add)
    finally:
        opened.close()
    print_values({"events": total.events, "rows": total.rows, "final": worker.final}, as_json)


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
        print_task_config(tasks, overrides or [])
        return
    given = [flag for flag in (events, logs, bootstrap) if flag is not None]
    if len(given) != 1:
        raise AttributionError(f"backfill takes one of --events, --logs and --bootstrap, not {len(given)}")
    within = TimeRange(from_us, until_us)
    if events:
        done = backfill_landed(events, out=out, config=config, within=within)
    else:
        client = Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
        opened = open_source("embedded" if logs else "kafka", logs=logs, client=client)
        done = _replayed(config, out=out, source=opened, within=within, deletions=deletions)
    print_values({"events": done.events, "rows": done.rows}, as_json)


app.command()(status)
app.command("dead-letters")(dead_letters)
app.command()(lint)
app.command()(query)
app.command("unit-features")(unit_features_command)
app.command("delete-unit")(delete_unit_command)
app.command()(expire)
app.command("compact")(compact_command)
app.command()(topics)


class _Total:
    """Sums what the cycles did."""

    def __init__(self) -> None:
        self.events, self.rows = 0, 0

    def add(self, progress: Progress) -> None:
        self.events += progress.events
        self.rows += progress.rows


def _replayed(config: JoinConfig, *, out: Path, source: Source, within: TimeRange, deletions: Path | None) -> Progress:
    try:
        return backfill_source(source, out=out, config=config, on_progress=lambda progress: None, within=within, deletions=deletions)
    finally:
        source.close()


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
