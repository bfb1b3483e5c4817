"""What was answered to which request id, as far as the process remembers: a retry gets the identical answer."""

import threading
from collections import OrderedDict
from typing import NamedTuple

from serving.errors import RequestIdReused

__all__ = ["RequestMemory"]

# Tenant, task, request id.
RequestKey = tuple[str, str, str]


class _Entry(NamedTuple):
    body: bytes
    answer: bytes | None


class RequestMemory:
    """A bounded map from request to (hash of its body, bytes of its answer); the least recently used goes first. Thread-safe."""

    def __init__(self, *, entries: int) -> None:
        """Remembers up to `entries` requests; 0 = none."""
        self._entries = entries
        self._known: OrderedDict[RequestKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def claim(self, key: RequestKey, *, body: bytes) -> bytes | None:
        """The remembered answer; None where the caller has to make it, and then to `keep` or `release` it.

        `body`: hash of the request. Two callers may both be told to make the answer of one body: on one snapshot they make the same.
        Raises RequestIdReused if the id belongs to another body.
        """
        with self._lock:
            entry = self._known.setdefault(key, _Entry(body, None))
            self._known.move_to_end(key)
            while len(self._known) > self._entries:
                self._known.popitem(last=False)
        if entry.body != body:
            raise RequestIdReused(
                f"request_id: {key[2]!r} was already used for another request of this task; send a new id, or the same body again",
                field="request_id",
            )
        return entry.answer

    def keep(self, key: RequestKey, *, answer: bytes) -> None:
        """Stores the answer of a claimed request."""
        with self._lock:
            if key in self._known:
                self._known[key] = self._known[key]._replace(answer=answer)

    def release(self, key: RequestKey) -> None:
        """Forgets a claim that came to nothing; an answer that stands is kept."""
        with self._lock:
            if key in self._known and self._known[key].answer is None:
                del self._known[key]
