"""How the features of a snapshot's training rows lay, so that a server can tell when those of its requests lie elsewhere. Pure.

The histogram of a feature has at most ten bins between deciles (of a category a bin a word, of true or false two), over all numbers of a
feature of several. Two are compared by the population stability index, PSI = sum over bins of (q - p) ln(q / p), and by the share of rows
that lacked the feature. By custom a PSI above 0.2 is a shift that matters; of n rows in b bins, chance alone brings about (b - 1) / n.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pydantic

from bandits.features import Feature, Schema
from protos import config

__all__ = ["Drift", "FeatureHistogram", "Seen", "drift", "histograms"]

_BINS = 10
# Half a row in each bin: an empty one would make the index infinite.
_SMOOTHING = 0.5


class FeatureHistogram(config.StrictModel):
    """Of one context feature: `counts` of the numbers that lie before the first of `edges`, between them, and behind the last; of a
    category, of each word. `missing` of `rows` rows lacked it; they are counted under its default too."""

    edges: tuple[float, ...] = ()
    counts: tuple[pydantic.NonNegativeInt, ...]
    rows: pydantic.NonNegativeInt
    missing: pydantic.NonNegativeInt


class Seen(NamedTuple):
    """Rows as they were logged: `context` f32[n, d], and the names of the features that each lacked."""

    context: np.ndarray
    defaulted: Sequence[Sequence[str]]

    def last(self, rows: int) -> "Seen":
        """The newest rows."""
        return Seen(self.context[-rows:], self.defaulted[-rows:])

    def joined(self, other: "Seen") -> "Seen":
        """These and later ones."""
        return Seen(np.concatenate([self.context, other.context]), [*self.defaulted, *other.defaulted])


class Drift(NamedTuple):
    """How a feature of some rows differs from what it was: the PSI, >= 0, and the shares of rows that lacked it, before and now."""

    psi: float
    missing_before: float
    missing: float


def histograms(seen: Seen, schema: Schema) -> dict[str, FeatureHistogram]:
    """Of each context feature; none of no rows."""
    found: dict[str, FeatureHistogram] = {}
    if not len(seen.context):
        return found
    for feature, block in _blocks(schema, seen.context):
        edges = () if feature.type == "category" else _edges(feature, block)
        counts = tuple(int(count) for count in _counts(feature, block, edges))
        found[feature.name] = FeatureHistogram(edges=edges, counts=counts, rows=len(block), missing=_missing(seen, feature))
    return found


def drift(before: Mapping[str, FeatureHistogram], seen: Seen, schema: Schema) -> dict[str, Drift]:
    """Of each context feature that has a histogram of this schema; none of no rows."""
    found: dict[str, Drift] = {}
    if not len(seen.context):
        return found
    for feature, block in _blocks(schema, seen.context):
        was = before.get(feature.name)
        if was is None or not was.rows:
            continue
        counts = _counts(feature, block, was.edges)
        if len(counts) == len(was.counts):
            psi = _psi(np.array(was.counts, np.float64), counts)
            found[feature.name] = Drift(psi, was.missing / was.rows, _missing(seen, feature) / len(block))
    return found


def _blocks(schema: Schema, context: np.ndarray) -> list[tuple[Feature, np.ndarray]]:
    stops = np.cumsum([feature.width for feature in schema.context])
    return list(zip(schema.context, np.split(context, stops[:-1], axis=1), strict=True)) if len(stops) else []


def _edges(feature: Feature, block: np.ndarray) -> tuple[float, ...]:
    if feature.type == "bool":
        return (0.5,)
    deciles = np.quantile(block, np.arange(1, _BINS) / _BINS, method="lower")
    return tuple(float(edge) for edge in np.unique(deciles))


def _counts(feature: Feature, block: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    if feature.type == "category":
        return np.asarray((block > 0).sum(axis=0))
    return np.bincount(np.searchsorted(np.array(edges), block.ravel(), side="right"), minlength=len(edges) + 1)


def _missing(seen: Seen, feature: Feature) -> int:
    return sum(feature.name in names for names in seen.defaulted)


def _psi(before: np.ndarray, now: np.ndarray) -> float:
    p, q = ((counts + _SMOOTHING) / (counts.sum() + _SMOOTHING * len(counts)) for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())
