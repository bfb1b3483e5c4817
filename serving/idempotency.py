"""What was answered to which request id, as far as the process remembers: a retry gets the identical answer."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from serving.errors import RequestIdReused

__all__ = ["RequestKey", "RequestMemory"]

# Answers that are kept, together: 65,536 of a slate of three take 20 MB, and as many long slates with their reasons would take gigabytes.
_ANSWERS_BYTES = 256 << 20
# Tenant, task, request id.
RequestKey = tuple[str, str, str]


class _Entry(NamedTuple):
    body: bytes
    answer: bytes | None


class RequestMemory:
    """A bounded map from request to (hash of its body, bytes of its answer); the least recently used goes first. Thread-safe."""

    def __init__(self, *, entries: int, answers_bytes: int = _ANSWERS_BYTES) -> None:
        """Remembers up to `entries` requests (0 = none), with answers of `answers_bytes` bytes together."""
        self._entries, self._most_bytes = entries, answers_bytes
        self._known: OrderedDict[RequestKey, _Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def claim(self, key: RequestKey, *, body: bytes) -> bytes | None:
        """The remembered answer; None where the caller has to make it, and then to `keep` or `release` it.

        `body`: hash of the request. Two callers may both be told to make the answer of one body: on one snapshot they make the same.
        Raises RequestIdReused if the id belongs to another body.
        """
        with self._lock:
            entry = self._known.setdefault(key, _Entry(body, None))
            self._known.move_to_end(key)
            self._forget_oldest()
        if entry.body != body:
            raise RequestIdReused(
                f"request_id: {key[2]!r} was already used for another request of this task; send a new id, or the same body again",
                field="request_id",
            )
        return entry.answer

    def claim_all(self, keys: Sequence[RequestKey], *, bodies: Sequence[bytes]) -> bool:
        """Claims all of them, as `claim` does, if they are new and no two are the same; false = claims none."""
        with self._lock:
            if len(set(keys)) < len(keys) or any(key in self._known for key in keys):
                return False
            self._known.update(zip(keys, (_Entry(body, None) for body in bodies), strict=True))
            self._forget_oldest()
        return True

    def keep(self, key: RequestKey, *, answer: bytes) -> None:
        """Stores the answer of a claimed request."""
        self.keep_all([key], answers=[answer])

    def keep_all(self, keys: Sequence[RequestKey], *, answers: Sequence[bytes]) -> None:
        """Stores the answers of claimed requests."""
        with self._lock:
            for key, answer in zip(keys, answers, strict=True):
                entry = self._known.get(key)
                if entry is not None:
                    self._known[key] = _Entry(entry.body, answer)
                    self._bytes += len(answer) - len(entry.answer or b"")
            self._forget_oldest()

    def release(self, key: RequestKey) -> None:
        """Forgets a claim that came to nothing; an answer that stands is kept."""
        with self._lock:
            if key in self._known and self._known[key].answer is None:
                del self._known[key]

    def _forget_oldest(self) -> None:
        while len(self._known) > self._entries or self._bytes > self._most_bytes:
            self._bytes -= len(self._known.popitem(last=False)[1].answer or b"")
