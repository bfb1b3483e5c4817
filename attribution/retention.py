"""What `attribution expire` lets go of, by log, topic and table: all of it is looked at before any of it goes. Touches the world."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attribution.errors import TableError
from attribution.housekeeping import expire
from attribution.kafka_source import KafkaSource
from attribution.log_retention import expire_logs, read_by_offset, read_through_broker
from attribution.sources import Offsets, Partition
from attribution.status import done_offsets
from attribution.topic_retention import expire_topics
from protos.log_files import FEEDBACK

__all__ = ["Broker", "Cuts", "expire_all"]

_ASK_AGAIN_S = 0.5


@dataclasses.dataclass(frozen=True)
class Cuts:
    """What is older than these times goes, microseconds since the epoch: event times of the tables, times of writing of log and topic."""

    events_before_us: int
    observations_before_us: int
    logs_before_us: int
    topics_before_us: int


@dataclasses.dataclass(frozen=True)
class Broker:
    """The broker that the events come through; `settings` are librdkafka's own."""

    address: str
    prefix: str
    settings: Mapping[str, Any]

    def ends(self) -> Offsets:
        """End offset of every partition of the topics. Raises SourceError."""
        source = KafkaSource(self.address, prefix=self.prefix, settings=self.settings)
        try:
            return source.end_offsets()
        finally:
            source.close()


def expire_all(
    out: Path, *, cuts: Cuts, held_since_us: int, logs: Path | None, broker: Broker | None, wait_s: float, apply: bool
) -> dict[str, Any]:
    """What goes, or (`apply` false) would go: `tables`, `logs` (with a directory of logs) and `topics` (with a broker).

    `held_since_us`: the join still needs later events. `wait_s`: how long the joiner is given to land what the broker holds. Raises
    TableError and SourceError before anything has gone, but for a disk or a broker that then refuses.
    """
    ends = _ends(out, broker)
    landed = _landed(out, logs, broker=broker, wait_s=wait_s) if logs is not None else {}

    def going(*, apply: bool) -> dict[str, Any]:
        times = {"events_before_us": cuts.events_before_us, "observations_before_us": cuts.observations_before_us}
        tables = expire(out, **times, held_since_us=held_since_us, apply=apply)
        topics = _topics(broker, done=done_offsets(out, ends), before_us=cuts.topics_before_us, apply=apply)
        files = [] if logs is None else expire_logs(logs, landed=landed, before_us=cuts.logs_before_us, apply=apply)
        return {"tables": dataclasses.asdict(tables), "topics": topics, "logs": [dataclasses.asdict(one) for one in files]}

    found = going(apply=False)
    return going(apply=True) if apply else found


def _ends(out: Path, broker: Broker | None) -> Offsets:
    """End offsets at the broker. Raises TableError if the tables' offsets are not this broker's."""
    if broker is None:
        return {}
    if done_offsets(out, [Partition(FEEDBACK, 0)]):
        raise TableError(f"{out}: its events were read from a log directory, not from {broker.address}; leave out --bootstrap")
    ends = broker.ends()
    for partition, offset in done_offsets(out, ends).items():
        if offset > ends[partition]:
            place = f"{partition.topic}/{partition.number}"
            raise TableError(f"{out}: has landed {place} up to {offset}, and it ends at {ends[partition]}; give the broker that was joined")
    return ends


def _landed(out: Path, logs: Path, *, broker: Broker | None, wait_s: float) -> Mapping[str, int]:
    if broker is None:
        return read_by_offset(out, logs)
    ends = broker.ends
    return read_through_broker(logs, ends=ends, done=lambda asked: done_offsets(out, asked), wait=_waiting(wait_s))


def _waiting(wait_s: float) -> Callable[[], bool]:
    deadline = time.monotonic() + wait_s

    def wait() -> bool:
        time.sleep(min(_ASK_AGAIN_S, max(0.0, deadline - time.monotonic())))
        return time.monotonic() < deadline

    return wait


def _topics(broker: Broker | None, *, done: Offsets, before_us: int, apply: bool) -> list[dict[str, Any]]:
    if broker is None:
        return []
    found = expire_topics(broker.address, done=done, before_us=before_us, apply=apply, prefix=broker.prefix, settings=broker.settings)
    return [dataclasses.asdict(one) for one in found]
