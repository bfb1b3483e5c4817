"""When a log may take no more: the broker is too far behind it, or the disk is nearly full. Then no decision is acknowledged."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from serving.errors import LogUnavailable
from serving.shipping import Lag

__all__ = ["LogBounds", "LogGuard"]


class LogBounds(NamedTuple):
    """How far the broker may be behind, bytes and seconds, and the share of the disk that stays free, in [0, 1)."""

    lag_bytes: int
    lag_age_s: float
    disk_reserve: float


class LogGuard:
    """Looks at most every `every_s` seconds; between two looks the answer stands. Thread-safe."""

    def __init__(self, log: Path, bounds: LogBounds, *, lag: Callable[[], Lag], now_s: Callable[[], float], every_s: float = 0.25) -> None:
        self._log, self._bounds, self._lag = log, bounds, lag
        self._now_s, self._every_s = now_s, every_s
        self._lock = threading.Lock()
        self._next_s = 0.0
        #: Why the log takes nothing; empty while it does.
        self.reason = ""

    def check(self) -> None:
        """Raises LogUnavailable while the log may take nothing."""
        now_s = self._now_s()
        if now_s >= self._next_s and self._lock.acquire(blocking=False):
            try:
                self.reason = self._look()
                self._next_s = now_s + self._every_s
            finally:
                self._lock.release()
        if self.reason:
            raise LogUnavailable(self.reason)

    def _look(self) -> str:
        lag, bounds = self._lag(), self._bounds
        if lag.size_bytes > bounds.lag_bytes:
            return f"log: {lag.size_bytes} bytes wait for the broker (log_max_bytes is {bounds.lag_bytes}); mend the broker"
        if lag.age_s > bounds.lag_age_s:
            return f"log: a record has waited {lag.age_s:.0f} s for the broker (log_max_age_s is {bounds.lag_age_s:.0f}); mend the broker"
        free = self._free_share()
        if free < bounds.disk_reserve:
            return f"log: {free:.1%} of the disk is free (disk_reserve is {bounds.disk_reserve:.0%}); free disk space, then send it again"
        return ""

    def _free_share(self) -> float:
        found = os.statvfs(self._log)
        return found.f_bavail / max(found.f_blocks, 1)
