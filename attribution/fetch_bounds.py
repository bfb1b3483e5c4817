"""How much one fetch may bring: messages, events and bytes. Pure.

A message may hold one event or thousands, so a bound on messages alone is none. A fetch goes chunk by chunk: how much is asked for next
follows from the largest message of late, and what comes beyond the bound all the same waits for the next fetch.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FetchBounds", "Room", "Size"]

Sizes = np.ndarray[Any, np.dtype[np.int64]]
# Most messages of one chunk, so that messages that are suddenly larger stand in memory by the hundred and not by the ten thousand.
_CHUNK = 500


class Size(NamedTuple):
    """Of a message, or of many."""

    events: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class FetchBounds:
    """Most messages, events and bytes (of values taken apart) in one fetch; one message is always taken, however large. Each at least 1."""

    records: int = 200_000
    events: int = 200_000
    size_bytes: int = 64 << 20


_NOTHING = FetchBounds(0, 0, 0)


class Room:
    """What is left of the bounds while a fetch goes on; `largest` is the guess for the first chunk, then what was seen."""

    def __init__(self, bounds: FetchBounds, *, largest: Size) -> None:
        self._left, self._guess = bounds, largest
        self.largest, self._empty, self._refused = Size(0, 0), True, False
        self._seen = _NOTHING

    @property
    def full(self) -> bool:
        """No further message is to be asked for: one has not gone in, or one as large as the largest would not."""
        left, least = self._left, Size(max(self.largest.events, 1), max(self.largest.size_bytes, 1))
        small = left.records < 1 or left.events < least.events or left.size_bytes < least.size_bytes
        return self._refused or (small and not self._empty)

    @property
    def chunk(self) -> int:
        """How many messages to ask for next."""
        size = self.largest if self.largest.events else self._guess
        left, seen = self._left, self._seen
        fitting = min((left.events - seen.events) // max(size.events, 1), (left.size_bytes - seen.size_bytes) // max(size.size_bytes, 1))
        return max(min(fitting, left.records - seen.records, _CHUNK), 1)

    def see(self, events: Sizes, sizes: Sizes) -> None:
        """Messages that have come, with the events and bytes of each, whether they go in or not."""
        self.largest = Size(max(self.largest.events, int(events.max())), max(self.largest.size_bytes, int(sizes.max())))
        seen = self._seen
        self._seen = FetchBounds(seen.records + events.size, seen.events + int(events.sum()), seen.size_bytes + int(sizes.sum()))

    def seen_enough(self, size_bytes: int) -> bool:
        """True = since the last answer of True as many bytes have come, or as much as there is room for: time to look what goes in."""
        seen, left = self._seen, self._left
        enough = seen.size_bytes >= min(size_bytes, left.size_bytes) or seen.records >= left.records or seen.events >= left.events
        self._seen = _NOTHING if enough else seen
        return enough

    def take(self, events: Sizes, sizes: Sizes) -> int:
        """How many of these messages, from the first on, go in."""
        fit = (np.cumsum(events) <= self._left.events) & (np.cumsum(sizes) <= self._left.size_bytes)
        # The first message of a fetch goes in always, or it would stand in the way for ever.
        count = min(max(int(fit.sum()), int(self._empty)), events.size, max(self._left.records, 0))
        self._left = FetchBounds(
            records=self._left.records - count,
            events=self._left.events - int(events[:count].sum()),
            size_bytes=self._left.size_bytes - int(sizes[:count].sum()),
        )
        self._empty &= count == 0
        self._refused |= count < events.size
        return count
