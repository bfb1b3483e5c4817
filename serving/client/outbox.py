"""Events that wait for the server's return: bounded, and whatever is dropped is counted. Thread-safe; touches no world."""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from protos.events_pb2 import Event

__all__ = ["Counts", "Outbox"]

_logger = logging.getLogger(__name__)
# What one Feedback call carries at most: events, and bytes, a quarter of what a server takes by default. A larger event never fits.
_EVENTS, _BYTES = 500, 1 << 20
# What waits takes no more memory than this, bytes.
_WAITING_BYTES = 64 << 20


class Counts(NamedTuple):
    """What became of a client's own slates and of events that the server could not take at once.

    `fallbacks`: slates ranked by the client. Of events: `waiting` now, `delivered` late, `dropped` (the outbox was full, or the event
    larger than a call), `refused` by the server when it was back.
    """

    fallbacks: int = 0
    waiting: int = 0
    delivered: int = 0
    dropped: int = 0
    refused: int = 0


class Outbox:
    """A queue of events, oldest first. When full it keeps what it has: the newest are dropped."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._together = _EVENTS
        self._lock = threading.Lock()
        self._delivered = self._dropped = self._refused = self._fallbacks = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def counts(self) -> Counts:
        """The figures of this moment."""
        with self._lock:
            return Counts(self._fallbacks, len(self._waiting), self._delivered, self._dropped, self._refused)

    def put(self, batch: Iterable[Event], *, fallbacks: int = 0) -> None:
        """Adds events; `fallbacks` of them tell of slates of the client's own."""
        with self._lock:
            self._fallbacks += fallbacks
            before = self._dropped
            for event in batch:
                size = event.ByteSize()
                if size > _BYTES or len(self._waiting) >= self._most or self._bytes + size > _WAITING_BYTES:
                    self._dropped += 1
                else:
                    self._waiting.append((event, size))
                    self._bytes += size
            if before == 0 < self._dropped:
                _logger.warning("the outbox holds %d events and takes no more: from now on events are dropped, and counted", len(self))

    def head(self) -> list[Event]:
        """The oldest events that fit into one call; empty = none waits. They stay until `sent` or `refuse`."""
        with self._lock:
            taken: list[Event] = []
            size = 0
            for event, own in self._waiting:
                size += own
                if len(taken) >= self._together or (taken and size > _BYTES):
                    break
                taken.append(event)
            return taken

    def sent(self, batch: Sequence[Event]) -> None:
        """The head stands in the log."""
        with self._lock:
            self._delivered += len(batch)
            self._forget(len(batch))
            self._together = min(2 * self._together, _EVENTS)

    def refuse(self, batch: Sequence[Event], *, why: str) -> None:
        """The server refused the head. One bad event refuses its whole call: so they are halved, until the bad one stands alone."""
        with self._lock:
            if len(batch) > 1:
                self._together = len(batch) // 2
                return
            self._refused += 1
            self._forget(1)
        _logger.warning("the server refused an event that had waited: %s", why)

    def _forget(self, events: int) -> None:
        for _ in range(events):
            self._bytes -= self._waiting.popleft()[1]
