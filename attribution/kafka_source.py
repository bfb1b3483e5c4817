"""Kafka as a source: topics by kind of event, partitions assigned by hand, offsets from our own tables.

`assign` rather than `subscribe`: reading is a function of the offsets in the tables. Which partitions are read is either all of them, or
what a `Membership` says. `auto.offset.reset=error`: records that the broker dropped before we read them are an
error, never a gap. Append time is Kafka's record time, so the topics want `message.timestamp.type=LogAppendTime`.
"""

import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from attribution.envelope import Values, gathered, joined
from attribution.errors import LostRecords, SourceError
from attribution.events import Raws
from attribution.fetch_bounds import FetchBounds, Room, Size
from attribution.membership import GROUP, Membership
from attribution.sources import Fetched, Offsets, Partition

__all__ = ["TOPICS", "KafkaSource"]

TOPICS = ("decisions", "impressions", "rewards", "signals")
_METADATA_TIMEOUT_S, _RECOUNT_TIMEOUT_S = 10.0, 1.0
# Before the first fetch: a batch of the size that pays, and the brokers' own bound on a message.
_FIRST_GUESS = Size(500, 1 << 20)
Numbers = np.ndarray[Any, np.dtype[np.int64]]
_RESET = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class KafkaSource:
    """Reads every partition of TOPICS through one consumer.

    `prefix` stands before the topics' names at the broker, and nowhere else. `settings` are librdkafka's own (security, client id);
    `max_records` (messages), `max_events`, `max_bytes` and `timeout_s` bound a fetch. With `members` only their partitions are read.
    Every `recount_s` it is looked whether the topics still have as many partitions. Raises SourceError if the broker doesn't answer, a
    topic is absent, or their numbers of partitions differ.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        prefix: str = "",
        settings: Mapping[str, Any] | None = None,
        max_records: int = FetchBounds.records,
        max_events: int = FetchBounds.events,
        max_bytes: int = FetchBounds.size_bytes,
        timeout_s: float = 0.5,
        members: Membership | None = None,
        recount_s: float = 60.0,
    ) -> None:
        own = {"bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False, "auto.offset.reset": "error"}
        self._consumer = Consumer({**(settings or {}), **own})
        self._admin = AdminClient({**(settings or {}), "bootstrap.servers": bootstrap})
        self._bounds = FetchBounds(records=max_records, events=max_events, size_bytes=max_bytes)
        self._largest, self._timeout_s, self._prefix = _FIRST_GUESS, timeout_s, prefix
        self._assigned: dict[Partition, int] = {}
        self._members = members
        self._partitions = self._all = [partition for topic in TOPICS for partition in self._of_topic(topic, bootstrap)]
        _refuse_unequal(self._all, bootstrap)
        self._recount_s, self._recount_at = recount_s, time.monotonic() + recount_s

    def partitions(self) -> Sequence[Partition]:
        """Every partition of the topics, as the broker listed them at the start; in a group, those that are this member's now.

        Raises SourceError if a topic has grown: its new partitions would be nobody's.
        """
        self._recount()
        if self._members is not None:
            owned = self._members.owned()
            self._partitions = [partition for partition in self._all if partition.number in owned]
        return self._partitions

    @property
    def shared(self) -> bool:
        """True = the partitions are shared out in a group, and may be another member's at any time."""
        return self._members is not None

    def fetch(self, offsets: Offsets) -> Fetched:
        """Reads on; waits at most `timeout_s` where nothing has come."""
        if self._places(offsets) != self._assigned:
            self._seek(offsets)
        # Until the batch is whole the consumer's own place is not to be trusted: the next fetch seeks.
        self._assigned = {}
        pieces, left, full = self._consume() if self._partitions else ([], False, False)
        raws = _columns(pieces, prefix=self._prefix)
        following = {**offsets, **_ends(raws)}
        # What was left stands behind the consumer's own place: then the next fetch seeks too.
        self._assigned = {} if left else self._places(following)
        return Fetched(raws, following, full)

    def commit(self, offsets: Offsets) -> None:
        """Commits to the group, for tools that show its lag."""
        places = [self._at(p, offset) for p, offset in offsets.items()]
        if places:
            self._consumer.commit(offsets=places, asynchronous=True)

    def end_offsets(self) -> Offsets:
        """High watermarks, asked of the broker."""
        # All at once and on a connection of their own: behind a fetch that waits for records each would wait as long.
        places = {TopicPartition(self._prefix + p.topic, p.number): p for p in self._all}
        asked = self._admin.list_offsets({place: OffsetSpec.latest() for place in places})
        try:
            found = [(place, future.result(_METADATA_TIMEOUT_S).offset) for place, future in asked.items()]
        except KafkaException as error:
            raise SourceError(f"end offsets: {error}; mend the broker and ask again") from error
        return {Partition(place.topic.removeprefix(self._prefix), place.partition): int(offset) for place, offset in found}

    def close(self) -> None:
        """Leaves the group and lets the connections go."""
        self._consumer.close()
        if self._members is not None:
            self._members.close()

    def _of_topic(self, topic: str, bootstrap: str) -> list[Partition]:
        try:
            found = self._consumer.list_topics(self._prefix + topic, timeout=_METADATA_TIMEOUT_S).topics[self._prefix + topic]
        except KafkaException as error:
            raise SourceError(f"--bootstrap {bootstrap}: no answer ({error}); start the broker, or give its address") from error
        if found.error is not None:
            raise SourceError(f"--bootstrap {bootstrap}: topic {self._prefix + topic!r}: {found.error}; `attribution topics` makes it")
        return [Partition(topic, number) for number in sorted(found.partitions)]

    def _recount(self) -> None:
        if time.monotonic() < self._recount_at:
            return
        self._recount_at = time.monotonic() + self._recount_s
        try:
            topics = self._admin.list_topics(timeout=_RECOUNT_TIMEOUT_S).topics
        except KafkaException:
            # A broker that is down for a moment; the next count is soon enough.
            return
        known = sum(partition.topic == TOPICS[0] for partition in self._all)
        for topic in TOPICS:
            listed = topics.get(self._prefix + topic)
            if listed is not None and len(listed.partitions) > known:
                raise SourceError(
                    f"topic {self._prefix + topic}: has {len(listed.partitions)} partitions now, not {known}, and units have moved among "
                    "them; give all four topics the same number and start again: rewards of decisions made before count as orphans"
                )

    def _consume(self) -> tuple[list["_Piece"], bool, bool]:
        """What fits into the bounds; whether some that came did not and is left; whether a bound was reached."""
        room, pieces = Room(self._bounds, largest=self._largest), list[_Piece]()
        deadline = time.monotonic() + self._timeout_s
        while not room.full:
            asked = room.chunk
            found = self._consumer.consume(num_messages=asked, timeout=max(deadline - time.monotonic(), 0.0))
            values = [value or b"" for value in map(Message.value, found)]
            count = room.take(values)
            pieces += _pieces(found[:count], values[:count])
            if len(found) < asked or count < len(found):
                break
        self._largest = room.largest if pieces else self._largest
        return pieces, count < len(found), room.full

    def _seek(self, offsets: Offsets) -> None:
        self._assigned = self._places(offsets)
        self._consumer.assign([self._at(p, offset) for p, offset in self._assigned.items()])

    def _at(self, partition: Partition, offset: int) -> TopicPartition:
        return TopicPartition(self._prefix + partition.topic, partition.number, offset)

    def _places(self, offsets: Offsets) -> dict[Partition, int]:
        return {partition: offsets.get(partition, OFFSET_BEGINNING) for partition in self._partitions}


def _refuse_unequal(partitions: Sequence[Partition], bootstrap: str) -> None:
    """Partition p of all topics is derived together, so a unit must have the same one in each."""
    counts = {topic: sum(partition.topic == topic for partition in partitions) for topic in TOPICS}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{topic} {count}" for topic, count in counts.items())
        raise SourceError(f"--bootstrap {bootstrap}: the topics' numbers of partitions differ ({told}); give all four the same number")


def _refuse(message: Message) -> None:
    error = message.error()
    if error is None:
        return
    place = f"{message.topic()}/{message.partition()} at offset {message.offset()}"
    if error.code() in _RESET:
        raise LostRecords(f"{place}: the broker no longer holds this record ({error}); lengthen its retention, and backfill what is left")
    raise SourceError(f"{place}: {error}; mend the broker and start again: nothing was skipped")


class _Piece(NamedTuple):
    """Some messages of one topic by column: record times in milliseconds, values as `gathered` has them."""

    topic: str
    partitions: Numbers
    offsets: Numbers
    times_ms: Numbers
    values: Values


def _pieces(messages: Sequence[Message], values: Sequence[bytes]) -> list[_Piece]:
    """The messages by topic: one call a field and message, made from C, and no object of ours for each.

    Done while a chunk is in the processor's cache; and then its messages go, so that the next chunk's stand in the same memory.
    """
    if any(error is not None for error in map(Message.error, messages)):
        for message in messages:
            _refuse(message)
    topics, count = list(map(Message.topic, messages)), len(messages)
    partitions = np.fromiter(map(Message.partition, messages), dtype=np.int64, count=count)
    offsets = np.fromiter(map(Message.offset, messages), dtype=np.int64, count=count)
    times_ms = np.fromiter(map(operator.itemgetter(1), map(Message.timestamp, messages)), dtype=np.int64, count=count)
    pieces = []
    for name in dict.fromkeys(topics):
        rows = [row for row, topic in enumerate(topics) if topic == name] if topics.count(name) < count else slice(None)
        theirs = values[rows] if isinstance(rows, slice) else [values[row] for row in rows]
        pieces.append(_Piece(name, partitions[rows], offsets[rows], times_ms[rows], gathered(theirs)))
    return pieces


def _columns(pieces: Sequence[_Piece], *, prefix: str) -> Raws:
    """The pieces as one, topic by topic: what lies together is decoded without being gathered first. The order within a partition stays."""
    numbers = {topic: number for number, topic in enumerate(dict.fromkeys(piece.topic for piece in pieces))}
    pieces = sorted(pieces, key=lambda piece: numbers[piece.topic])
    which = np.repeat([numbers[piece.topic] for piece in pieces], [piece.offsets.size for piece in pieces])
    names = pl.Series([topic.removeprefix(prefix) for topic in numbers], dtype=pl.String)
    return Raws(
        topics=names.gather(which.astype(np.int16)),
        partitions=pl.Series(_joined([piece.partitions for piece in pieces]), dtype=pl.Int32),
        offsets=pl.Series(_joined([piece.offsets for piece in pieces])),
        payloads=joined([piece.values for piece in pieces]),
        # 0 = the broker gave none.
        append_times_us=pl.Series(np.maximum(_joined([piece.times_ms for piece in pieces]), 0) * 1000),
        damages={},
    )


def _joined(columns: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.zeros(0, dtype=np.int64), *columns])


def _ends(raws: Raws) -> dict[Partition, int]:
    """The offset behind the last record of each partition."""
    records = pl.DataFrame({"topic": raws.topics, "partition": raws.partitions, "offset": raws.offsets})
    last = records.group_by("topic", "partition").agg(pl.col("offset").max())
    return {Partition(topic, number): offset + 1 for topic, number, offset in last.iter_rows()}
