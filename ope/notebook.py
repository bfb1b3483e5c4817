"""The evaluator in a notebook: five functions that take and give Arrow.

    evaluate   what a policy would have earned, one row an estimator
    compare    two policies on the same rows, three rows an estimator: challenger, champion, difference
    diagnose   what the weights say about the evidence, one row a slot
    fit        a cross-fitted reward model: the table with its predictions
    coverage   how often intervals hold on simulated logs whose truth is known

Tables are anything with Arrow's interface: pyarrow, polars, pandas. `columns` maps the flags of `ope evaluate` to columns:
{"reward": "click", "propensity": "p", "target_propensity": "pi", "unit": "member"}.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from ope.coverage import ESTIMATORS
from ope.coverage import coverage as coverage_of
from ope.cross_fit import Model, cross_fit
from ope.diagnostics import slot_weights
from ope.estimate import Estimate
from ope.estimators import estimator
from ope.evaluate import compare as comparisons_of
from ope.evaluate import evaluate as estimates_of
from ope.interval_names import interval_of
from ope.parquet_log import ColumnMapping, batches_of
from ope.rows import Batch, as_logged, unit_keys

__all__ = ["compare", "coverage", "diagnose", "evaluate", "fit"]


def evaluate(
    rows: Any,
    *,
    columns: Mapping[str, str],
    estimators: Sequence[str] = (),
    interval: str = "student-t",
    span: tuple[float, float] | None = None,
    level: float = 0.05,
    per: str = "decision",
) -> pa.Table:
    """Estimates of a table's rows. Raises SourceError for a column that is not there, RowsError for rows that allow no estimate."""
    by = interval_of(interval, span=span)
    found = estimates_of(_batches(rows, columns), names=estimators, interval=by, level=level, denominator=per)
    return _table([(name, "value", estimate) for name, estimate in found.items()])


def compare(
    rows: Any,
    *,
    columns: Mapping[str, str],
    champion: Mapping[str, str] | None = None,
    estimators: Sequence[str] = (),
    interval: str = "student-t",
    span: tuple[float, float] | None = None,
    level: float = 0.05,
    per: str = "decision",
) -> pa.Table:
    """Challenger, champion and difference; `champion` maps the columns in which it differs, and without it is the logging policy."""
    mine = _batches(rows, columns)
    theirs = [as_logged(batch) for batch in mine] if champion is None else _batches(rows, {**columns, **champion})
    by, pairs = interval_of(interval, span=span), zip(mine, theirs, strict=True)
    found = comparisons_of(pairs, names=estimators, interval=by, level=level, denominator=per)
    return _table([(name, part, getattr(one, part)) for name, one in found.items() for part in one._fields])


def diagnose(rows: Any, *, columns: Mapping[str, str], name: str) -> pa.Table:
    """Weights under that estimator: effective rows, largest and mean weight, and how many standard errors the mean is from 1."""
    entry, (first, *others) = estimator(name), _batches(rows, columns)
    total = entry.moments(first)
    for batch in others:
        total = entry.merge(total, entry.moments(batch))
    return pa.Table.from_pylist([slot._asdict() for slot in slot_weights(total, 0)])


def fit(
    make: Callable[[], Model],
    rows: Any,
    *,
    row_id: str,
    context: Sequence[str],
    action: str,
    reward: str,
    target: str,
    unit: str | None = None,
    folds: int = 3,
) -> pa.Table:
    """The table with `fold`, `q_logged` and `v_target` added, by a fresh scikit-learn style model of `make` for each fold.

    Arguments name columns; `target` is one of lists, the target's propensity of each action 0..K-1. Folds follow the unit.
    """
    table = pa.table(rows)
    found = cross_fit(
        make,
        features=np.stack([table[name].to_numpy() for name in context], axis=1).astype(np.float64),
        action=table[action].to_numpy(),
        reward=table[reward].to_numpy().astype(np.float64),
        target=np.array(table[target].to_pylist(), np.float64),
        row_id=unit_keys([str(one) for one in table[row_id].to_pylist()]),
        unit=None if unit is None else unit_keys([str(one) for one in table[unit].to_pylist()]),
        folds=folds,
    )
    for name in ("fold", "q_logged", "v_target"):
        table = table.append_column(name, pa.array(getattr(found, name)))
    return table


def coverage(designs: Sequence[str], *, estimators: Sequence[str] = ESTIMATORS, replications: int = 200, level: float = 0.05) -> pa.Table:
    """How often the intervals hold in the designs `near`, `far`, `clusters`, `retrained`, one row an interval."""
    found = coverage_of(designs, replications=replications, level=level, names=estimators)
    return pa.Table.from_pylist([covered._asdict() for covered in found])


def _batches(rows: Any, columns: Mapping[str, str]) -> list[Batch]:
    return list(batches_of(ds.dataset(pa.table(rows)), ColumnMapping(**columns)))


def _table(found: Sequence[tuple[str, str, Estimate]]) -> pa.Table:
    return pa.Table.from_pylist([{"estimator": name, "part": part, **dataclasses.asdict(estimate)} for name, part, estimate in found])
