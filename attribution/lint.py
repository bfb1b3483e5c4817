"""Sample messages of a producer, looked at before it goes live: what the join would say of each. Touches files.

A file holds one message as it would be sent (an Event, with or without a registry's header, or an Arrow batch), or a log (`*.log`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from attribution.admission import judge
from attribution.decode import decode
from attribution.events import Raw
from attribution.settings import JoinConfig
from protos.events_pb2 import Event
from protos.framing import Record, records

__all__ = ["lint"]

# The broker writes the append time, so a sample has none: it is taken to have arrived so soon.
_LOGGED_LATER_US = 1_000


def lint(files: Sequence[Path], *, config: JoinConfig) -> list[dict[str, Any]]:
    """One finding a message: file, kind, fault (None = sound), and what is allowed but unwise."""
    return [finding for file in files for finding in _of_file(file, config)]


def _of_file(file: Path, config: JoinConfig) -> list[dict[str, Any]]:
    data = file.read_bytes()
    payloads = [item.payload for item in records(data, whole=True) if isinstance(item, Record)] if file.suffix == ".log" else [data]
    events = decode([Raw("sample", 0, number, payload) for number, payload in enumerate(payloads)])
    taken = pl.when(pl.col("append_time_us") > 0).then("append_time_us").otherwise(pl.col("event_time_us") + _LOGGED_LATER_US)
    unlogged = pl.col("fault") == "append_time_missing"
    events = events.with_columns(append_time_us=taken, fault=pl.when(unlogged).then(None).otherwise("fault"))
    judged = judge(events, config=config)
    return [{"file": str(file), "kind": row["kind"], "fault": row["fault"], "advice": _advice(row)} for row in judged.iter_rows(named=True)]


def _advice(row: dict[str, Any]) -> list[str]:
    found = []
    if row["kind"] in ("impression", "reward", "signal") and not row["producer"]:
        found.append("producer is empty: faults can't be counted by producer")
    if row["kind"] == "reward" and row["slot"] is None and not row["action"]:
        found.append("neither slot nor action: the reward is the whole slate's")
    if row["event_time_us"] is not None and 0 < row["event_time_us"] < 1_000_000_000_000_000:
        found.append("event_time_us lies before September 2001: are these milliseconds?")
    if row["kind"] not in ("undecodable",) and _unknown(row["payload"]):
        found.append("fields that this version does not know: they are kept, and not read")
    return found


def _unknown(payload: bytes) -> bool:
    event = Event.FromString(payload)
    size = event.ByteSize()
    event.DiscardUnknownFields()
    return event.ByteSize() < size
