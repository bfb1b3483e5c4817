"""Commands that keep tables, logs and topics in order: make topics, delete a unit, expire what is old, compact."""

import time
from pathlib import Path
from typing import Annotated

import typer

from attribution.command_options import AsJson, Bootstrap, Client, KafkaSettings, Out, Prefix, Tasks, client_settings, print_values
from attribution.errors import AttributionError
from attribution.housekeeping import compact, delete_unit
from attribution.retention import Broker, Cuts, expire_all
from attribution.settings import load_join_config
from attribution.status import needed_since_us
from attribution.topics import ensure_topics
from protos.command import refusing
from protos.errors import ProtosError
from protos.task import DEFAULT_TENANT

__all__ = ["compact_command", "delete_unit_command", "expire", "topics"]


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
    print_values(dict(delete_unit(out, tenant=tenant, unit_id=unit, until_us=until_us or now_us, now_us=now_us)), as_json)


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
    now_us, client = time.time_ns() // 1_000, Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
    cuts = Cuts(*(now_us - round(days * 86_400e6) for days in (events_days, observations_days, logs_days, topics_days)))
    held_since_us = needed_since_us(out, config=load_join_config(tasks))
    broker = Broker(client.address, prefix=prefix, settings=client.settings) if bootstrap else None
    found = expire_all(out, cuts=cuts, held_since_us=held_since_us, logs=logs, broker=broker, wait_s=wait_s, apply=apply)
    print_values({**found, "applied": apply}, as_json)


@refusing(AttributionError)
def compact_command(
    owner: Annotated[str, typer.Option(help="Name of the one process that compacts these tables; another name is refused.")],
    out: Out = Path("var/joined"),
    keep_hours: Annotated[float, typer.Option(help="Files that a reader of the last hours may need stay.", min=0.0)] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Merge small files of the tables and remove the old ones."""
    print_values(dict(compact(out, owner=owner, keep_s=keep_hours * 3600.0)), as_json)


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
    client = Client(bootstrap, settings=client_settings(kafka), prefix=prefix)
    retention_s = retention_days * 86_400.0
    made = ensure_topics(
        client.address, partitions=partitions, replicas=replicas, retention_s=retention_s, prefix=prefix, settings=client.settings
    )
    print_values(made, as_json)
