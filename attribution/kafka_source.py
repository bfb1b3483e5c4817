"""Kafka as a source: topics by kind of event, partitions assigned by hand, offsets from our own tables.

`assign` rather than `subscribe`: reading is a function of the offsets in the tables. Which partitions are read is either all of them, or
what a `Membership` says. `auto.offset.reset=error`: records that the broker dropped before we read them are an
error, never a gap. Append time is Kafka's record time, so the topics want `message.timestamp.type=LogAppendTime`.

In a backlog the partitions come in the order of their time (`read_ahead`); one that is far ahead of the others is read no further for a
while.
"""

import itertools
import math
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from attribution.errors import LostRecords, SourceError
from attribution.events import Raws
from attribution.fetch_bounds import FetchBounds, Room, Size
from attribution.membership import GROUP, Membership
from attribution.pieces import Piece, pieces_of, records_of
from attribution.read_ahead import GRAIN_MS, ReadAhead
from attribution.sources import Fetched, Offsets, Partition

__all__ = ["TOPICS", "KafkaSource"]

TOPICS = ("decisions", "impressions", "rewards", "signals")
_METADATA_TIMEOUT_S, _RECOUNT_TIMEOUT_S = 10.0, 1.0
# Before the first fetch: a batch of the size that pays, and the brokers' own bound on a message.
_FIRST_GUESS = Size(500, 1 << 20)
# Read between two looks at what is due: 4 to 40 chunks of small messages.
_LOOK_BYTES = 1 << 19
# Fetches whose bytes may wait before what is far ahead is read no further.
_FETCHES_AHEAD = 2
# What the client reads in advance goes with a pause; and neither a full queue nor a request that waits for records that are not there
# is to keep it from fetching what is.
_READING = {"queued.min.messages": 20_000, "fetch.queue.backoff.ms": 20, "fetch.wait.max.ms": 100}
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
        self._consumer = Consumer({**_READING, **(settings or {}), **own})
        self._admin = AdminClient({**(settings or {}), "bootstrap.servers": bootstrap})
        self._bounds = FetchBounds(records=max_records, events=max_events, size_bytes=max_bytes)
        self._largest, self._timeout_s, self._prefix = _FIRST_GUESS, timeout_s, prefix
        self._assigned: dict[Partition, int] = {}
        # What has been read and not been fetched, and the offset behind what has been read of each partition.
        self._ahead, self._read = ReadAhead(), dict[Partition, int]()
        self._paused: set[Partition] = set()
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
        pieces, full = self._consume() if self._partitions else ([], False)
        raws = records_of(pieces)
        following = {**offsets, **_ends(raws)}
        self._assigned = self._places(following)
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

    def _consume(self) -> tuple[list[Piece], bool]:
        """What fits into the bounds, the oldest first, and whether a bound was reached."""
        room, deadline = Room(self._bounds, largest=self._largest), time.monotonic() + self._timeout_s
        pieces = self._ahead.due(room, at_end=self._at_end)
        while not room.full:
            asked = room.chunk
            found = self._consumer.consume(num_messages=asked, timeout=max(deadline - time.monotonic(), 0.0))
            self._take_in(found, room)
            if len(found) < asked:
                # No more has come in time: what is about as old as the rest is not kept back, and nothing where nothing comes.
                pieces += self._ahead.due(room, at_end=self._at_end, slack_ms=GRAIN_MS if found else math.inf)
                break
            if room.seen_enough(_LOOK_BYTES):
                pieces += self._ahead.due(room, at_end=self._at_end)
                self._pause()
        self._pause()
        self._largest = room.largest if pieces else self._largest
        return pieces, room.full

    def _take_in(self, messages: Sequence[Message], room: Room) -> None:
        """Puts these messages behind what waits."""
        if not all(map(operator.is_, map(Message.error, messages), itertools.repeat(None))):
            for message in messages:
                _refuse(message)
        for piece in pieces_of(messages, prefix=self._prefix):
            self._ahead.add(piece)
            room.see(piece.events, piece.sizes)
            self._read[piece.partition] = int(piece.offsets[-1]) + 1

    def _at_end(self, partition: Partition) -> bool:
        """True = everything has been read that the broker was last known to have."""
        low, high = self._consumer.get_watermark_offsets(self._at(partition, 0), cached=True)
        return 0 <= high <= max(self._read.get(partition, OFFSET_BEGINNING), low)

    def _pause(self) -> None:
        """Reads no further of what is far ahead while as much waits as some fetches bring, but always of what the others wait for.

        What the client has read in advance goes with a pause, so one is to last.
        """
        most, slowest = _FETCHES_AHEAD * self._bounds.size_bytes, self._ahead.slowest(self._at_end)
        if far := self._ahead.far(most) - self._paused - {slowest}:
            self._consumer.pause([self._at(partition, 0) for partition in far])
            self._paused |= far
        if near := self._paused & {*self._ahead.near(most), slowest}:
            self._consumer.resume([self._at(partition, 0) for partition in near])
            self._paused -= near

    def _seek(self, offsets: Offsets) -> None:
        self._assigned = self._places(offsets)
        self._consumer.resume([self._at(partition, 0) for partition in self._paused])
        self._paused.clear()
        self._ahead.follow(self._partitions)
        self._read = dict(self._assigned)
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


def _ends(raws: Raws) -> dict[Partition, int]:
    """The offset behind the last record of each partition."""
    records = pl.DataFrame({"topic": raws.topics, "partition": raws.partitions, "offset": raws.offsets})
    last = records.group_by("topic", "partition").agg(pl.col("offset").max())
    return {Partition(topic, number): offset + 1 for topic, number, offset in last.iter_rows()}
