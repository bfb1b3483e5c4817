"""Commands that ask the tables, and change nothing in them: status, dead letters, lint, SQL, and features of units made of signals."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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
    as_text,
    client_settings,
    open_source,
    print_task_config,
    print_values,
)
from attribution.datasets import query as run_query
from attribution.datasets import write_rows
from attribution.dead_letters import by_producer
from attribution.dead_letters import dead_letters as letters_of
from attribution.errors import AttributionError
from attribution.lint import lint as lint_files
from attribution.producer import EventProducer
from attribution.settings import load_join_config
from attribution.status import landed_events, report
from attribution.unit_feature_build import FeatureRequest, build_unit_features
from attribution.unit_feature_store import features_folder
from protos.command import refusing
from protos.errors import ProtosError
from protos.task import DEFAULT_TENANT

__all__ = ["dead_letters", "lint", "query", "status", "unit_features_command"]


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
        print_task_config(tasks, overrides or [])
        return
    ends = None
    if logs or bootstrap:
        client = Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
        opened = open_source("embedded" if logs else "kafka", logs=logs, client=client)
        ends = opened.end_offsets()
        opened.close()
    print_values(report(out, config=config, ends=ends), as_json)


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
        client = Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
        with EventProducer(client.address, prefix=prefix, settings=client.settings) as producer:
            for topic, partition, payload in letters.select("topic", "partition", "payload").iter_rows():
                producer.resend(topic, partition, payload)
    rates = by_producer(letters, landed).to_dicts()
    sent = letters.height if resend else 0
    print_values({"letters": letters.drop("payload").to_dicts(), "by_producer": rates, "sent_again": sent}, as_json)


@refusing(AttributionError, ProtosError)
def lint(
    files: Annotated[list[Path], typer.Argument(help="Sample messages: one message a file, or a log (*.log).", exists=True)],
    tasks: Tasks = Path("configs/tasks"),
    as_json: AsJson = False,
) -> None:
    """Look at sample messages before a producer goes live: exit code 1 if the join would refuse one."""
    found = lint_files(files, config=load_join_config(tasks))
    print_values({"messages": found, "faults": sum(finding["fault"] is not None for finding in found)}, as_json)
    if any(finding["fault"] for finding in found):
        raise typer.Exit(1)


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
        print_values({"rows": rows.num_rows, "file": str(to)}, as_json)
    elif as_json:
        print(json.dumps(rows.to_pylist(), default=as_text))
    else:
        table = Table(*rows.schema.names)
        for row in rows.to_pylist():
            table.add_row(*(str(as_text(value)) for value in row.values()))
        Console().print(table)


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
            "--window-days",
            help="Length of a window, days; repeatable. Default: 1, 7 and 30. Refused where events of it have expired.",
            min=1e-5,
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
    columns = [one.name for one in made.columns]
    print_values({"version": made.version, "units": made.rows, "columns": columns, "folder": str(folder)}, as_json)
