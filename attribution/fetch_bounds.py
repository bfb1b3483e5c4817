"""How much one fetch may bring: messages, events and bytes. Pure.

A message may hold one event or thousands, so a bound on messages alone is none. A fetch goes chunk by chunk: how much is asked for next
follows from the largest message of late, and what comes beyond the bound all the same is left for the next fetch.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from attribution.envelope import event_sizes

__all__ = ["FetchBounds", "Room", "Size"]

# Most messages of one chunk, so that messages that are suddenly larger stand in memory by the hundred and not by the ten thousand.
_CHUNK = 500


class Size(NamedTuple):
    """Of a message, or of many."""

    events: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class FetchBounds:
    """Most messages, events and bytes (of values taken apart) in one fetch; one message is always taken, however large. Each at least 1."""

    records: int = 100_000
    events: int = 200_000
    size_bytes: int = 64 << 20


class Room:
    """What is left of the bounds while a fetch goes on; `largest` is the guess for the first chunk, then what was seen."""

    def __init__(self, bounds: FetchBounds, *, largest: Size) -> None:
        self._left, self._guess = bounds, largest
        self.largest = Size(0, 0)

    @property
    def full(self) -> bool:
        """No further message is to be asked for: one as large as the largest would not fit, and what is left costs a seek."""
        left, least = self._left, Size(max(self.largest.events, 1), max(self.largest.size_bytes, 1))
        return left.records < 1 or left.events < least.events or left.size_bytes < least.size_bytes

    @property
    def chunk(self) -> int:
        """How many messages to ask for next."""
        size = self.largest if self.largest.events else self._guess
        fitting = min(self._left.events // max(size.events, 1), self._left.size_bytes // max(size.size_bytes, 1))
        return max(min(fitting, self._left.records, _CHUNK), 1)

    def take(self, values: Sequence[bytes]) -> int:
        """How many of these messages, from the first on, fit; after one that does not the room is full."""
        if not values:
            return 0
        events, sizes = event_sizes(values)
        fit = (np.cumsum(events) <= self._left.events) & (np.cumsum(sizes) <= self._left.size_bytes)
        # The first message of a fetch goes in always, or it would stand in the way for ever.
        count = max(int(fit.sum()), 0 if self.largest.events else 1)
        self.largest = Size(max(self.largest.events, int(events.max())), max(self.largest.size_bytes, int(sizes.max())))
        self._left = FetchBounds(
            records=self._left.records - count,
            events=self._left.events - int(events[:count].sum()) if count == len(values) else 0,
            size_bytes=self._left.size_bytes - int(sizes[:count].sum()),
        )
        return count
