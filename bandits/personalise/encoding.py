"""Covariates as the columns of a matrix: numbers, and one indicator for each level of a factor. Learned from rows that train. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bandits.effects.plain import Column

__all__ = ["Encoding", "Feature", "encoding_of"]

# Levels of a factor beyond these, the most frequent, are told apart by no learner.
_MOST_LEVELS = 30
# A level of fewer rows among those that train is told apart by no learner either: so an id has none.
_LEAST_ROWS = 10


class Feature(NamedTuple):
    """A column of the matrix: the number `name` (`fill` where missing), or whether `name` has the `level` (None = is missing)."""

    name: str
    kind: str
    level: str | None = None
    fill: float = 0.0

    @property
    def title(self) -> str:
        """How the feature is written."""
        if self.kind == "number":
            return self.name
        return f"{self.name} is missing" if self.level is None else f"{self.name}={self.level}"


class Encoding(NamedTuple):
    """The features, in the order of the matrix."""

    features: tuple[Feature, ...]

    def matrix(self, columns: Mapping[str, Column]) -> np.ndarray:
        """Rows as f64[n, d]."""
        rows = len(next(iter(columns.values())).values)
        return np.column_stack([np.zeros((rows, 0)), *(_values(feature, columns[feature.name]) for feature in self.features)])


def encoding_of(columns: Mapping[str, Column], train: np.ndarray) -> Encoding:
    """Features that vary among the rows `train` i64[m]; a missing number is the median, with an indicator beside it."""
    features = [feature for each in columns.values() for feature in _features(each, train)]
    return Encoding(tuple(feature for feature in features if np.ptp(_values(feature, columns[feature.name])[train]) > 0.0))


def _features(each: Column, train: np.ndarray) -> list[Feature]:
    missing = [Feature(each.name, "level")] if each.missing[train].any() else []
    known = each.values[train][~each.missing[train]]
    if each.levels is None:
        return [Feature(each.name, "number", fill=float(np.median(known)) if len(known) else 0.0), *missing]
    counts = np.bincount(known, minlength=len(each.levels))
    kept = sorted(np.argsort(-counts, kind="stable")[:_MOST_LEVELS].tolist())
    kept = [level for level in kept if counts[level] >= min(_LEAST_ROWS, len(train) // 10)]
    # Of two levels, one says it all.
    kept = kept[1:] if len(kept) == 2 and not missing else kept
    return [*(Feature(each.name, "level", each.levels[level]) for level in kept), *missing]


def _values(feature: Feature, each: Column) -> np.ndarray:
    if feature.kind == "number":
        return np.where(each.missing, feature.fill, each.values)
    if feature.level is None:
        return each.missing.astype(np.float64)
    code = (each.levels or ()).index(feature.level)
    return ((each.values == code) & ~each.missing).astype(np.float64)
