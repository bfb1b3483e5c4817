"""Lets go of a topic's old records at the broker, once they are landed and derived. Touches the network.

The broker's own retention goes by age alone, and takes what a joiner that stood still has not read. This goes by the tables' offsets too,
so `attribution topics --retention-days` can be long, for safety, and the disk of the brokers small all the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from attribution.errors import SourceError
from attribution.sources import Offsets, Partition

__all__ = ["TopicExpiry", "expire_topics"]

_TIMEOUT_S = 15.0


@dataclasses.dataclass(frozen=True)
class TopicExpiry:
    """What goes of one partition: so many offsets, all before `until_offset`."""

    topic: str
    partition: int
    records: int
    until_offset: int


def expire_topics(
    bootstrap: str, *, done: Offsets, before_us: int, apply: bool, prefix: str = "", settings: Mapping[str, Any] | None = None
) -> list[TopicExpiry]:
    """Lets go of records from before a time (the broker's, microseconds since the epoch) and before the offsets `done`, or (`apply`
    false) says which would go. Of a partition that is not in `done` nothing goes. Raises SourceError if the broker refuses.
    """
    admin = AdminClient({**(settings or {}), "bootstrap.servers": bootstrap})
    try:
        begins = _offsets(admin, done, OffsetSpec.earliest(), prefix=prefix)
        # A time below 0 has a meaning of its own at the broker: the end.
        young = _offsets(admin, done, OffsetSpec.for_timestamp(max(before_us, 0) // 1000), prefix=prefix)
        found = [_expiry(p, begin=begins[p], young=young[p], done=offset) for p, offset in sorted(done.items())]
        if apply:
            _delete(admin, [expiry for expiry in found if expiry.records], prefix=prefix)
    except KafkaException as error:
        raise SourceError(f"--bootstrap {bootstrap}: {error}; nothing that has not landed went; mend the broker and do it again") from error
    return found


def _offsets(admin: AdminClient, partitions: Offsets, spec: OffsetSpec, *, prefix: str) -> dict[Partition, int]:
    if not partitions:
        return {}
    asked = admin.list_offsets({TopicPartition(prefix + p.topic, p.number): spec for p in partitions}, request_timeout=_TIMEOUT_S)
    return {Partition(at.topic.removeprefix(prefix), at.partition): int(told.result(_TIMEOUT_S).offset) for at, told in asked.items()}


def _expiry(partition: Partition, *, begin: int, young: int, done: int) -> TopicExpiry:
    # -1 = there is no record as young: all of them are old.
    until = done if young < 0 else min(done, young)
    return TopicExpiry(partition.topic, partition.number, max(until - begin, 0), max(until, begin))


def _delete(admin: AdminClient, going: list[TopicExpiry], *, prefix: str) -> None:
    if going:
        places = [TopicPartition(prefix + expiry.topic, expiry.partition, expiry.until_offset) for expiry in going]
        for told in admin.delete_records(places, request_timeout=_TIMEOUT_S).values():
            told.result(_TIMEOUT_S)
