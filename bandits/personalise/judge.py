"""What policies are worth on rows that trained nothing: doubly robust values, and the paired gain over the best uniform arm. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

__all__ = ["Gain", "Judged", "Judging", "judged", "mean_and_error"]

# Quantile of the normal distribution for intervals at 95 %.
_Z95 = 1.959963984540054


class Judging(NamedTuple):
    """Scores of the judging half: `scores` f64[n, K] of the utility less costs, by `outcomes` before; `cluster` i64[n] or None."""

    scores: np.ndarray
    outcomes: Mapping[str, np.ndarray]
    cluster: np.ndarray | None

    @property
    def best(self) -> int:
        """The arm that is best for everybody, on these very rows."""
        return int(np.argmax(self.scores.mean(axis=0)))


class Gain(NamedTuple):
    """A mean with its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """At 95 %, normal."""
        return self.value - _Z95 * self.error, self.value + _Z95 * self.error


class Judged(NamedTuple):
    """A policy's `value` and its `gain` over the best uniform arm on the same rows; outcomes' values; share of rows by arm f64[K]."""

    value: Gain
    gain: Gain
    outcomes: Mapping[str, Gain]
    shares: np.ndarray


def judged(judging: Judging, arms: np.ndarray) -> Judged:
    """A policy that plays `arms` i64[n]."""
    rows = np.arange(len(arms))
    value = judging.scores[rows, arms]
    return Judged(
        value=mean_and_error(value, judging.cluster),
        gain=mean_and_error(value - judging.scores[:, judging.best], judging.cluster),
        outcomes={name: mean_and_error(scores[rows, arms], judging.cluster) for name, scores in judging.outcomes.items()},
        shares=np.bincount(arms, minlength=judging.scores.shape[1]) / len(arms),
    )


def mean_and_error(values: np.ndarray, cluster: np.ndarray | None) -> Gain:
    """Mean of f64[n] with its standard error, by cluster where there are clusters."""
    n, mean = len(values), float(values.mean())
    rest = values - mean
    if cluster is not None:
        _, code = np.unique(cluster, return_inverse=True)
        sums = np.bincount(code, rest)
        return Gain(mean, float(np.sqrt(np.sum(sums**2) * len(sums) / max(len(sums) - 1, 1))) / n)
    return Gain(mean, float(np.sqrt(np.sum(rest**2) / max(n - 1, 1) / n)))
