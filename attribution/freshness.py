"""How long a reward waits until the observations say it, apart from the config's windows. Pure: times come in.

A reward counts as said when the commit is in that derives its batch: whatever waits longer waits for a window, and that is no delay.
Measured from the log's append time, so a difference between the clocks of broker and joiner is in it.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

__all__ = ["COMMIT_KEY", "Freshness", "FreshnessWindow", "commit_metadata", "freshness_of_commits", "reward_times"]

# Where a commit of observations tells of its batch, in its metadata; Delta adds when it was committed.
COMMIT_KEY = "reward_append_us"
# So many of the newest rewards make the quantiles.
_REWARDS = 10_000

Times = np.ndarray[Any, np.dtype[np.int64]]


class Freshness(NamedTuple):
    """Seconds from append to commit of the newest rewards: how many, median and 99th percentile. None = no reward came yet."""

    rewards: int
    p50_s: float | None
    p99_s: float | None


class FreshnessWindow:
    """The newest rewards of a running joiner."""

    def __init__(self, *, keep: int = _REWARDS) -> None:
        self._delays_us: deque[int] = deque(maxlen=keep)

    def add(self, append_times_us: Times, *, committed_us: int) -> None:
        """Rewards that the commit at `committed_us` (microseconds since the epoch) said."""
        kept = append_times_us[-(self._delays_us.maxlen or 0) :]
        self._delays_us.extend((committed_us - kept).tolist())

    def now(self) -> Freshness:
        """The quantiles."""
        return _of(np.array(self._delays_us.copy(), dtype=np.float64), np.ones(len(self._delays_us)))


def reward_times(events: pl.DataFrame) -> Times:
    """Append times of the rewards among events, microseconds since the epoch."""
    found: Times = events.filter(pl.col("kind") == "reward")["append_time_us"].to_numpy()
    return found


def commit_metadata(append_times_us: Times) -> dict[str, str]:
    """What a commit says of the rewards in its batch, for `freshness_of_commits`."""
    if not append_times_us.size:
        return {}
    median, oldest = (int(np.quantile(append_times_us, q, method="lower")) for q in (0.5, 0.01))
    return {COMMIT_KEY: json.dumps([append_times_us.size, median, oldest])}


def freshness_of_commits(history: Iterable[Mapping[str, Any]]) -> Freshness:
    """The quantiles over commits of observations, as Delta's history tells them (`timestamp` in milliseconds).

    Each commit knows only the median and the oldest hundredth of its rewards, so these are the quantiles of those, weighed by rewards.
    """
    told = [(*json.loads(entry[COMMIT_KEY]), int(entry["timestamp"]) * 1000) for entry in history if COMMIT_KEY in entry]
    if not told:
        return Freshness(0, None, None)
    rewards, median, oldest, committed = np.array(told, dtype=np.float64).T
    return Freshness(int(rewards.sum()), _of(committed - median, rewards).p50_s, _of(committed - oldest, rewards).p99_s)


def _of(delays_us: np.ndarray[Any, np.dtype[np.float64]], weights: np.ndarray[Any, np.dtype[np.float64]]) -> Freshness:
    if not delays_us.size:
        return Freshness(0, None, None)
    order = np.argsort(delays_us)
    share = np.cumsum(weights[order]) / weights.sum()
    p50, p99 = (float(delays_us[order][min(int(np.searchsorted(share, q)), len(order) - 1)]) / 1e6 for q in (0.5, 0.99))
    return Freshness(int(weights.sum()), p50, p99)
