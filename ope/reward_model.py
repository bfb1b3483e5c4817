"""A reward model of categories, cross-fitted: no row is ever predicted by a model that has seen it.

Rows with the same categories are the same row to the model, so all that it needs of a log is a table of counts: counts of parts of a
log add up, and the log itself is read once to count and once to predict.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from ope.rows import Floats

__all__ = ["FOLDS", "count", "folds_of_blocks", "merge_counts", "predictions"]

FOLDS = 3
# Rows of one block share a fold: neighbours in time are often one visitor's, and must not stand on both sides.
BLOCK_ROWS = 500
# Inverse strength of the penalty; 100 is what the public reference figures of the Open Bandit data were made with.
_C = 100.0
_ITERATIONS = 1_000
# Far below any digit that is reported, so that another machine reports the same.
_TOLERANCE = 1e-10


def folds_of_blocks(rows: int, *, first: int = 0, folds: int = FOLDS) -> npt.NDArray[np.int64]:
    """The fold of each of `rows` rows that begin at row `first` of their log, by blocks of BLOCK_ROWS, i64[rows] in 0..folds-1."""
    return (first + np.arange(rows)) // BLOCK_ROWS % folds


def count(rows: pl.DataFrame, *, categories: Sequence[str]) -> pl.DataFrame:
    """Rows and successes of each combination; `rows` has the columns `categories`, `fold` and `reward` (0 or 1)."""
    return rows.group_by("fold", *categories).agg(pl.len().alias("rows"), pl.col("reward").sum().alias("successes"))


def merge_counts(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Counts of the rows of both."""
    keys = [name for name in left.columns if name not in ("rows", "successes")]
    return pl.concat([left, right]).group_by(keys).agg(pl.col("rows", "successes").sum())


def predictions(counts: pl.DataFrame, *, cells: pl.DataFrame, categories: Sequence[str]) -> pl.DataFrame:
    """`cells` with a column `q`: the chance of a success for each fold and combination, by logistic regression on the OTHER folds.

    `cells` has the columns `fold` and `categories`. Where the other folds know one outcome only, q is their mean.
    """
    keys = ["fold", *categories]
    ordered = counts.sort(keys)
    parts = [
        part.with_columns(pl.Series("q", _fitted(ordered.filter(pl.col("fold") != fold[0]), part, categories)))
        for fold, part in cells.group_by("fold", maintain_order=True)
    ]
    return pl.concat(parts)


def _fitted(counts: pl.DataFrame, cells: pl.DataFrame, categories: Sequence[str]) -> Floats:
    totals = counts.select(pl.col("rows", "successes").sum())
    rows, successes = totals["rows"][0], totals["successes"][0]
    if not 0 < successes < rows:
        return np.full(len(cells), successes / rows if rows else np.nan)
    encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float64).fit(counts.select(categories).to_numpy())
    features = encoder.transform(counts.select(categories).to_numpy())
    outcome = np.repeat([1, 0], len(counts))
    weight = np.concatenate([counts["successes"].to_numpy(), (counts["rows"] - counts["successes"]).to_numpy()]).astype(np.float64)
    seen = np.flatnonzero(weight)
    row = np.tile(np.arange(len(counts)), 2)
    model = LogisticRegression(C=_C, max_iter=_ITERATIONS, tol=_TOLERANCE, solver="newton-cholesky").fit(
        features[row[seen]], outcome[seen], sample_weight=weight[seen]
    )
    return np.asarray(model.predict_proba(encoder.transform(cells.select(categories).to_numpy()))[:, 1], np.float64)
