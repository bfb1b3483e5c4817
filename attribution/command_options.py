"""Options that the commands of `attribution` share, how they reach a source, and how they print."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from attribution.embedded_source import EmbeddedSource
from attribution.errors import AttributionError
from attribution.kafka_source import KafkaSource
from attribution.membership import Membership
from attribution.settings import config_parts
from attribution.sources import Source
from protos.command import print_config
from protos.task import load_tasks

__all__ = [
    "AsJson",
    "Bootstrap",
    "Client",
    "KafkaSettings",
    "Logs",
    "Out",
    "Overrides",
    "Prefix",
    "PrintConfig",
    "Tasks",
    "as_text",
    "client_settings",
    "open_source",
    "print_task_config",
    "print_values",
]

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


@dataclasses.dataclass(frozen=True)
class Client:
    """How a Kafka client reaches the broker."""

    bootstrap: str | None
    settings: dict[str, str]
    prefix: str

    @property
    def address(self) -> str:
        """Where the broker is. Raises AttributionError if nobody said."""
        if self.bootstrap is None:
            raise AttributionError("--bootstrap: missing; Kafka wants the broker's address, e.g. localhost:9092")
        return self.bootstrap

    def members(self, group: str | None, *, name: str | None, session_s: float) -> Membership | None:
        """A member of the group; None = no group."""
        if group is None:
            return None
        return Membership(self.address, group=group, name=name, session_s=session_s, settings=self.settings, prefix=self.prefix)


def client_settings(given: list[str] | None) -> dict[str, str]:
    """Settings of librdkafka from KEY=VALUE. Raises AttributionError for one that is not."""
    pairs = [entry.partition("=") for entry in given or []]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise AttributionError(f"--kafka {key}: wants KEY=VALUE, e.g. security.protocol=SASL_SSL")
    return {key: value for key, _, value in pairs}


def open_source(name: str, *, logs: Path | None, client: Client, members: Membership | None = None) -> Source:
    """The source of a name. Raises AttributionError for another name, or where it lacks what it reads."""
    if name == "embedded":
        if logs is None:
            raise AttributionError("--logs: missing; source embedded reads the directory that the server writes its logs to")
        return EmbeddedSource(logs)
    if name == "kafka":
        return KafkaSource(client.address, prefix=client.prefix, settings=client.settings, members=members)
    raise AttributionError(f"--source {name}: unknown; known: embedded, kafka")


def print_task_config(tasks: Path, overrides: list[str]) -> None:
    """Every value of the tasks with its origin."""
    for task in load_tasks(tasks, overrides=overrides).values():
        print(f"# task {task.name}")
        print_config(config_parts(task), flags=overrides)


def as_text(value: Any) -> Any:
    """Bytes in hex, dates in words; other values as they are."""
    return value.hex() if isinstance(value, bytes) else str(value) if isinstance(value, datetime.date) else value


def print_values(values: dict[str, Any], as_json: bool) -> None:
    """One JSON object, or a table for people."""
    if as_json:
        print(json.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, str(value))
    Console().print(table)
