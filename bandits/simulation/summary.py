"""What a simulation comes to: means over seeds with intervals, regret, and the same as plain data. Pure.

Intervals are Student's t over seeds, which are independent; rounds of one seed are not.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import scipy.stats

from bandits.catalog import PolicySpec
from bandits.simulation.run import History

__all__ = ["LEVEL", "Curve", "Mean", "Summary", "arrow_rows", "difference", "mean_over_seeds", "plain", "regret_curve", "summarise"]

# Probability that an interval holds.
LEVEL = 0.95
# Points of a curve: more than a picture can show.
_POINTS = 400


class Mean(NamedTuple):
    """A mean over seeds, its standard error and interval; NaN with fewer than two seeds, where there is no spread to go by."""

    value: float
    standard_error: float
    lower: float
    upper: float


class Curve(NamedTuple):
    """Cumulative regret after `round` decisions, i64[P]: mean and interval over seeds, f64[P]."""

    round: np.ndarray
    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Summary(NamedTuple):
    """One policy's figures.

    `by_seed`: mean reward of each seed over the rounds that count; `last_tenth`: over the last tenth of the rounds; `regret`: total of a
    seed; `counted`: share of the rounds that count; `violations`: share that breaks the world's constraint; `seconds`: wall time,
    compilation included.
    """

    label: str
    spec: PolicySpec
    by_seed: tuple[float, ...]
    mean_reward: Mean
    last_tenth: Mean
    regret: Mean
    counted: float
    violations: float
    curve: Curve
    seconds: float


def summarise(history: History, *, label: str, spec: PolicySpec, seconds: float) -> Summary:
    """The figures of a policy's history."""
    rounds = history.counted.shape[1]
    by_seed = _mean_counted(history, slice(None))
    regret = history.best - history.value
    return Summary(
        label=label,
        spec=spec,
        by_seed=tuple(by_seed.tolist()),
        mean_reward=mean_over_seeds(by_seed),
        last_tenth=mean_over_seeds(_mean_counted(history, slice(rounds - max(rounds // 10, 1), None))),
        regret=mean_over_seeds(regret.sum(axis=1)),
        counted=float(history.counted.mean()),
        violations=float(history.violated.mean()),
        curve=regret_curve(regret),
        seconds=seconds,
    )


def mean_over_seeds(values: np.ndarray) -> Mean:
    """Mean, standard error and t interval of values f64[S], one a seed."""
    value, error, half = _interval(values)
    return Mean(float(value), float(error), float(value - half), float(value + half))


def difference(one: Summary, other: Summary) -> Mean:
    """Mean reward of `one` less that of `other`, paired by seed: both met the same worlds."""
    return mean_over_seeds(np.subtract(one.by_seed, other.by_seed))


def regret_curve(regret: np.ndarray) -> Curve:
    """Cumulative regret at up to 400 rounds, from regrets f64[S, T]."""
    rounds = regret.shape[1]
    places = np.unique(np.linspace(0, rounds - 1, min(rounds, _POINTS)).astype(np.int64))
    value, _, half = _interval(np.cumsum(regret, axis=1)[:, places])
    return Curve(round=places + 1, value=value, lower=value - half, upper=value + half)


def plain(summary: Summary, *, against: Summary | None = None) -> dict[str, Any]:
    """A summary as JSON takes it, NaN as null; with the paired difference to another policy where one is given."""
    figures: dict[str, Any] = {
        "label": summary.label,
        "policy": summary.spec.name,
        "settings": json.loads(summary.spec.settings),
        "wrappers": json.loads(summary.spec.wrappers),
        "floor": summary.spec.floor,
        "mean_reward": summary.mean_reward.value,
        "mean_reward_interval": summary.mean_reward._asdict(),
        "by_seed": list(summary.by_seed),
        "last_tenth": summary.last_tenth.value,
        "regret": summary.regret._asdict(),
        "counted": summary.counted,
        "violations": summary.violations,
        "seconds": round(summary.seconds, 3),
    }
    if against is not None:
        figures["less"] = {"label": against.label, **difference(summary, against)._asdict()}
    return _without_nan(figures)


def arrow_rows(history: History, *, label: str, seeds: range) -> pa.Table:
    """A history as rows, one a seed and round; lists have an entry a slot."""
    shape = history.counted.shape
    columns: dict[str, Any] = {
        "policy": pa.array([label]).dictionary_encode().take(pa.array(np.zeros(shape[0] * shape[1], np.int8))),
        "seed": np.repeat(np.asarray(seeds, np.int32), shape[1]),
        "round": np.tile(np.arange(shape[1], dtype=np.int32), shape[0]),
    }
    for name, column in history._asdict().items():
        flat = pa.array(column.reshape(-1))
        columns[name] = flat if column.ndim == 2 else pa.FixedSizeListArray.from_arrays(flat, column.shape[2])
    return pa.table(columns)


def _mean_counted(history: History, rounds: slice) -> np.ndarray:
    counted = history.counted[:, rounds]
    total = np.where(counted, history.earned[:, rounds], 0.0).sum(axis=1)
    rows = counted.sum(axis=1)
    return np.where(rows > 0, total / np.maximum(rows, 1), np.nan)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the first axis, standard error, and half the width of the interval."""
    n = len(values)
    value = values.mean(axis=0)
    if n < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    error = values.std(axis=0, ddof=1) / np.sqrt(n)
    return value, error, error * scipy.stats.t.ppf(0.5 + LEVEL / 2, n - 1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
