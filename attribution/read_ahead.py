"""A backlog in the order of its time: what was read of one partition ahead of the others waits here until they have come as far. Pure.

A consumer brings as many bytes of one partition as of the next, so it reads small events hours ahead of large ones; all of them would be
open windows at once, looked at and copied in every step. A partition that has been read to its end, or one of which nothing comes, holds
nobody back: nothing waits longer than one fetch for what is not there.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection

import numpy as np

from attribution.fetch_bounds import Room
from attribution.pieces import Piece
from attribution.sources import Partition

__all__ = ["GRAIN_MS", "ReadAhead"]

# Record times that differ by less count as one: pieces are not cut finer.
GRAIN_MS = 60_000.0


class ReadAhead:
    """Pieces by partition in the order in which they were read, and how far each partition has been read."""

    def __init__(self) -> None:
        self._waiting: dict[Partition, deque[Piece]] = {}
        # Of each partition of which something waits, the record time of its first message.
        self._heads: list[tuple[int, Partition]] = []
        # Record time of the newest message of each partition, in milliseconds.
        self._reached_ms: dict[Partition, int] = {}
        self._sizes: dict[Partition, int] = {}

    def follow(self, partitions: Collection[Partition]) -> None:
        """Begins anew, with these partitions: nothing waits, and nothing has been read."""
        self._waiting, self._heads = {partition: deque() for partition in partitions}, []
        self._reached_ms, self._sizes = dict.fromkeys(partitions, -1), dict.fromkeys(partitions, 0)

    def add(self, piece: Piece) -> None:
        """What has been read."""
        self._waiting[piece.partition].append(piece)
        if len(self._waiting[piece.partition]) == 1:
            self._push(piece)
        self._sizes[piece.partition] += int(piece.sizes.sum())
        self._reached_ms[piece.partition] = int(piece.times_ms[-1])

    def due(self, room: Room, *, at_end: Callable[[Partition], bool], slack_ms: float = 0.0) -> list[Piece]:
        """What goes into the room, the oldest first, up to `slack_ms` after the time that the slowest partition has been read to.

        `at_end` is asked of a partition that holds others back: True = it has no more for now.
        """
        slowest, due = self.slowest(at_end), list[Piece]()
        limit_ms = slack_ms + (math.inf if slowest is None else self._reached_ms[slowest])
        while self._heads and self._heads[0][0] <= limit_ms and not room.full:
            first = heapq.heappop(self._heads)[1]
            next_ms = self._heads[0][0] if self._heads else math.inf
            piece = self._taken(first, room, limit_ms=min(limit_ms, next_ms + GRAIN_MS))
            if not piece.offsets.size:
                break
            due.append(piece)
        return due

    def slowest(self, at_end: Callable[[Partition], bool]) -> Partition | None:
        """The partition that the others wait for; None = all are at their ends."""
        by_time = sorted(self._reached_ms.items(), key=lambda reached: reached[1])
        return next((partition for partition, _ in by_time if not at_end(partition)), None)

    def far(self, most_bytes: int) -> set[Partition]:
        """Partitions that have more than their share where more than `most_bytes` wait in all."""
        if sum(self._sizes.values()) < most_bytes:
            return set()
        return {partition for partition, size in self._sizes.items() if size * len(self._sizes) >= most_bytes}

    def near(self, most_bytes: int) -> set[Partition]:
        """Partitions that have less than a quarter of their share."""
        return {partition for partition, size in self._sizes.items() if 4 * size * len(self._sizes) <= most_bytes}

    def _push(self, first: Piece) -> None:
        heapq.heappush(self._heads, (int(first.times_ms[0]), first.partition))

    def _taken(self, partition: Partition, room: Room, *, limit_ms: float) -> Piece:
        """As many messages of the partition's first piece as are due and fit; the others go on waiting."""
        waiting = self._waiting[partition]
        piece = waiting.popleft()
        # Up to the first that is not due: a partition's order is kept, whatever its clock says.
        later = np.flatnonzero(piece.times_ms > limit_ms)
        due = int(later[0]) if later.size else piece.offsets.size
        count = room.take(piece.events[:due], piece.sizes[:due])
        if count < piece.offsets.size:
            waiting.appendleft(piece.part(slice(count, None)))
            piece = piece.part(slice(count))
        if waiting:
            self._push(waiting[0])
        self._sizes[partition] -= int(piece.sizes.sum())
        return piece
