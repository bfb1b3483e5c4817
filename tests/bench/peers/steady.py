"""CPU of this process, all of it and behind a start: what a joiner costs that runs for days. Touches the system's accounts only."""

import resource
import time
from typing import Any

__all__ = ["Cost"]

# Of the events, the share in which memory is touched for the first time and windows fill.
_START = 1 / 3


class Cost:
    """Begins when it is made; `at` is told how many events are done."""

    def __init__(self, count: int) -> None:
        """`count` of all events."""
        self._start = count * _START
        self._began_s, self._began_cpu_s = time.monotonic(), _cpu_s()
        self._from: tuple[int, float] | None = None

    def at(self, events: int) -> None:
        """So many are done."""
        if self._from is None and events >= self._start:
            self._from = (events, _cpu_s())

    def told(self, events: int, **more: Any) -> dict[str, Any]:
        """Seconds of all events, and microseconds an event behind the start; none where a run is too short to tell."""
        now_s, steady_us = _cpu_s(), None
        if self._from is not None and events > self._from[0]:
            steady_us = (now_s - self._from[1]) * 1e6 / (events - self._from[0])
        wall_s = time.monotonic() - self._began_s
        return {"events": events, **more, "cpu_s": now_s - self._began_cpu_s, "steady_us": steady_us, "wall_s": wall_s}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
