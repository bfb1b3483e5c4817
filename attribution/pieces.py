"""Kafka's messages by column: pieces of one partition, and many of them as the records that are decoded. Pure."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from confluent_kafka import Message

from attribution.envelope import Values, event_sizes, gathered, joined
from attribution.events import Raws
from attribution.sources import Partition

__all__ = ["Piece", "pieces_of", "records_of"]

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Piece(NamedTuple):
    """Some messages of one partition by column: record times in milliseconds, values as `gathered` has them, events and bytes of each."""

    partition: Partition
    offsets: Numbers
    times_ms: Numbers
    values: Values
    events: Numbers
    sizes: Numbers

    def part(self, rows: slice) -> "Piece":
        """These messages of it."""
        return Piece(self.partition, self.offsets[rows], self.times_ms[rows], self.values[rows], self.events[rows], self.sizes[rows])


def pieces_of(messages: Sequence[Message], *, prefix: str) -> Iterator[Piece]:
    """The messages by partition, topics without `prefix`: one call a field and message, made from C, and no object of ours for each.

    Done while a chunk is in the processor's cache; and then its messages go, so that the next chunk's stand in the same memory.
    """
    if not messages:
        return
    topics, count = list(map(Message.topic, messages)), len(messages)
    partitions = np.fromiter(map(Message.partition, messages), dtype=np.int64, count=count)
    numbers, ends = {(topics[0], int(partitions[0])): 0}, [count]
    if topics.count(topics[0]) < count or (partitions != partitions[0]).any():
        places = list(zip(topics, partitions.tolist(), strict=True))
        numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
        which = np.fromiter(map(numbers.__getitem__, places), dtype=np.int64, count=count)
        messages, ends = [messages[row] for row in np.argsort(which, kind="stable").tolist()], np.cumsum(np.bincount(which)).tolist()
    values = list(map(Message.value, messages))
    offsets = np.fromiter(map(Message.offset, messages), dtype=np.int64, count=count)
    times_ms = np.fromiter(map(operator.itemgetter(1), map(Message.timestamp, messages)), dtype=np.int64, count=count)
    for (topic, number), begin, end in zip(numbers, [0, *ends], ends, strict=False):
        own = values[begin:end]
        # A tombstone is no event, and will be found undecodable. Each piece has its values to itself: what waits holds no other's.
        kept = gathered([value or b"" for value in own] if None in own else own)
        yield Piece(Partition(topic.removeprefix(prefix), number), offsets[begin:end], times_ms[begin:end], kept, *event_sizes(kept))


def records_of(pieces: Sequence[Piece]) -> Raws:
    """The pieces as one, topic by topic: what lies together is decoded without being gathered first. The order within a partition stays."""
    numbers = {topic: number for number, topic in enumerate(dict.fromkeys(piece.partition.topic for piece in pieces))}
    pieces = sorted(pieces, key=lambda piece: numbers[piece.partition.topic])
    counts = [piece.offsets.size for piece in pieces]
    which = np.repeat([numbers[piece.partition.topic] for piece in pieces], counts)
    return Raws(
        topics=pl.Series(list(numbers), dtype=pl.String).gather(which.astype(np.int16)),
        partitions=pl.Series(np.repeat([piece.partition.number for piece in pieces], counts), dtype=pl.Int32),
        offsets=pl.Series(_joined([piece.offsets for piece in pieces])),
        payloads=joined([piece.values for piece in pieces]),
        # 0 = the broker gave none.
        append_times_us=pl.Series(np.maximum(_joined([piece.times_ms for piece in pieces]), 0) * 1000),
        damages={},
    )


def _joined(columns: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.zeros(0, dtype=np.int64), *columns])
