"""Names for requests that came without an id: random, drawn many at a time, since asking the system for each costs as much as the rest."""

import secrets
from collections import deque
from collections.abc import Callable

__all__ = ["RequestIds", "together"]

_BYTES, _AT_A_TIME = 16, 256


class RequestIds:
    """Gives 32 hex digits at each call. Thread-safe; for one process: one that was forked from another would give the same."""

    def __init__(self, draw: Callable[[int], bytes] = secrets.token_bytes) -> None:
        """`draw` gives so many random bytes."""
        self._draw = draw
        self._ready: deque[str] = deque()

    def __call__(self) -> str:
        """The next id."""
        try:
            return self._ready.pop()
        except IndexError:
            digits, size = self._draw(_BYTES * _AT_A_TIME).hex(), 2 * _BYTES
            drawn = [digits[at : at + size] for at in range(0, len(digits), size)]
            self._ready.extend(drawn[1:])
            return drawn[0]

    def many(self, count: int) -> list[bytes]:
        """So many ids, in UTF-8: for a batch they are drawn together, and none is kept."""
        digits, size = self._draw(_BYTES * count).hex().encode(), 2 * _BYTES
        return [digits[at : at + size] for at in range(0, len(digits), size)]


def together(new_request_id: Callable[[], str]) -> Callable[[int], list[bytes]]:
    """How a batch gets its ids where `new_request_id` names one request."""
    if isinstance(new_request_id, RequestIds):
        return new_request_id.many
    return lambda count: [new_request_id().encode() for _ in range(count)]
