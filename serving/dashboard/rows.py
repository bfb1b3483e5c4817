"""Reward, lag, traffic, propensities, arms and actions from the rows of the observations table. Pure but for reading them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos.observation_reader import latest_revisions

__all__ = ["COLUMNS", "figures", "read_recent"]

COLUMNS = (
    "decision_time_us",
    "reward",
    "status",
    "watermark_us",
    "snapshot_digest",
    "policy",
    "arm",
    "overridden",
    "fallback",
    "logged",
    "slot_action",
    "slot_propensity",
    "slot_reward",
)
# Enough rows for every picture; the newest of a busy task come from minutes, those of a quiet one from weeks.
_ENOUGH_ROWS, _FIRST_S, _WIDER = 20_000, 600.0, 6
_LONGEST_S = 400 * 86_400.0
# Widths of a bin, seconds: those that a clock's face has.
_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800)
_BINS, _PROPENSITY_BINS, _ACTIONS = 120, 24, 12
# A row of a source that ended carries the end of time as its watermark.
_NEVER_S = 10 * _LONGEST_S


def read_recent(table: Path, *, task: str, now_us: int) -> pa.Table:
    """The newest rows of a task, oldest first: the window before now is widened until it holds enough. Raises ObservationsError."""
    seconds = _FIRST_S
    while seconds < _LONGEST_S:
        rows = latest_revisions(table, task=task, decided_after_us=now_us - int(seconds * 1e6), columns=COLUMNS)
        if rows.num_rows >= _ENOUGH_ROWS:
            return rows
        seconds *= _WIDER
    return latest_revisions(table, task=task, columns=COLUMNS)


def figures(rows: pa.Table) -> dict[str, Any] | None:
    """Everything that the page shows of rows, oldest first; None where there are none."""
    if rows.num_rows == 0:
        return None
    time_us = rows["decision_time_us"].to_numpy()
    fallback = rows["fallback"].to_numpy() != 0
    overridden = rows["overridden"].to_numpy(zero_copy_only=False).astype(bool)
    closed = rows["status"].to_numpy(zero_copy_only=False) != "provisional"
    reward = rows["reward"].to_numpy()
    judged = closed & ~overridden & ~fallback & ~np.isnan(reward)
    kept = rows.filter(pa.array(judged))
    return {
        "decisions": rows.num_rows,
        "from_us": int(time_us[0]),
        "until_us": int(time_us[-1]),
        "reward": _mean(reward[judged]),
        "recent": _mean(reward[judged][-max(int(judged.sum()) // 10, min(int(judged.sum()), 100)) :]),
        "counts": {"open": int((~closed).sum()), "overridden": int(overridden.sum()), "fallback": int(fallback.sum())},
        "bins": _over_time(time_us, reward, rows["watermark_us"].to_numpy(), judged),
        "propensities": _propensities(rows),
        "arms": _groups(kept["arm"], reward[judged], time_us[judged]),
        "policies": _groups(kept["snapshot_digest"], reward[judged], time_us[judged], also=kept["policy"]),
        "actions": _actions(kept),
    }


def _mean(values: np.ndarray) -> dict[str, Any]:
    """Mean with one standard error, and how many; without values the mean is None."""
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"mean": float(values.mean()) if n else None, "error": error, "n": n}


def _over_time(time_us: np.ndarray, reward: np.ndarray, watermark_us: np.ndarray, judged: np.ndarray) -> dict[str, Any]:
    width_s = _width_s((int(time_us[-1]) - int(time_us[0])) / 1e6)
    first = int(time_us[0] // (width_s * 1_000_000))
    place = time_us // (width_s * 1_000_000) - first
    n = int(place[-1]) + 1
    decided = np.bincount(place, minlength=n)
    mean, error = _binned(place[judged], reward[judged], n)
    lag_s = (watermark_us - time_us) / 1e6
    told = (lag_s >= 0) & (lag_s < _NEVER_S)
    lag, _ = _binned(place[told], lag_s[told], n)
    return {
        "width_s": width_s,
        "time_us": [(first + at) * width_s * 1_000_000 + width_s * 500_000 for at in range(n)],
        "per_s": (decided / width_s).tolist(),
        "reward": mean,
        "error": error,
        "lag_s": lag,
    }


def _width_s(span_s: float) -> int:
    return next((width for width in _WIDTHS_S if span_s / width <= _BINS), math.ceil(span_s / _BINS))


def _binned(place: np.ndarray, values: np.ndarray, n: int) -> tuple[list[float | None], list[float | None]]:
    """Mean and standard error in each bin; None where it has no value (no error where it has one)."""
    count = np.bincount(place, minlength=n)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(place, values, n) / count
        spread = np.bincount(place, (values - mean[place]) ** 2, n) / (count - 1)
        error = np.sqrt(spread / count)
    return _or_none(mean), _or_none(np.where(count > 1, error, np.nan))


def _or_none(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _propensities(rows: pa.Table) -> dict[str, Any] | None:
    """Histogram of the slots' propensities in equal steps of their logarithm."""
    values = rows.filter(pc.equal(rows["fallback"], 0))["slot_propensity"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not len(values):
        return None
    # A little room below: rounding must not lose the smallest, nor the ones.
    edges = np.geomspace(min(float(values.min()), 0.5) * (1 - 1e-9), 1.0, _PROPENSITY_BINS + 1)
    edges[-1] = 1.0
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "smallest": float(values.min())}


def _groups(keys: pa.ChunkedArray, reward: np.ndarray, time_us: np.ndarray, also: pa.ChunkedArray | None = None) -> list[dict[str, Any]]:
    """Decisions, share and mean reward by key, most decisions first."""
    codes = pc.dictionary_encode(keys).combine_chunks()
    names, place = codes.dictionary.to_pylist(), codes.indices.to_numpy(zero_copy_only=False)
    found = []
    for at, name in enumerate(names):
        own = place == at
        first, last = (int(time_us[own][edge]) for edge in (0, -1))
        beside = {"policy": also[int(np.flatnonzero(own)[0])].as_py()} if also is not None else {}
        found.append({"name": name, "share": float(own.mean()), "first_us": first, "last_us": last, **beside, **_mean(reward[own])})
    return sorted(found, key=lambda group: -group["n"])


def _actions(rows: pa.Table) -> dict[str, Any]:
    """How often each action was seen, and what a seen slot of it earned; the most seen ones, and the rest as one."""
    actions = rows["slot_action"].combine_chunks().flatten()
    rewards = rows["slot_reward"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    seen = ~np.isnan(rewards.astype(np.float64))
    codes = pc.dictionary_encode(actions.filter(pa.array(seen)))
    place, values = codes.indices.to_numpy(zero_copy_only=False), rewards[seen].astype(np.float64)
    counts = np.bincount(place, minlength=len(codes.dictionary))
    sums = np.bincount(place, values, len(codes.dictionary))
    order = np.argsort(-counts, kind="stable")
    total = max(int(counts.sum()), 1)
    top = [_action(codes.dictionary[int(at)].as_py(), counts[at], sums[at], total) for at in order[:_ACTIONS]]
    return {"seen": int(counts.sum()), "actions": len(order), "top": top, "rest": float(counts[order[_ACTIONS:]].sum()) / total}


def _action(name: str, count: float, summed: float, total: int) -> dict[str, Any]:
    return {"name": name, "share": float(count) / total, "n": int(count), "mean": float(summed) / max(int(count), 1)}
