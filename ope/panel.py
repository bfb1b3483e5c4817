"""Many estimators over the same rows in one pass: what they share, the units, the weights, the ones, is added up once. Pure.

The answer is that of each estimator's own moments, to rounding; memory grows with units x columns, and is flat in rows and actions.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ope.errors import RowsError
from ope.estimators import Estimator, require
from ope.moments import Moments, Terms
from ope.rows import Batch, Floats, Keys, check

__all__ = ["Panel"]


class Panel:
    """Running moments of several estimators; `add` each batch, then take the `moments`."""

    def __init__(self, entries: Sequence[Estimator]) -> None:
        self._entries = tuple(entries)
        self._sums: _Sums | None = None
        # Moments of estimators that are no sum of terms, and of rows whose slates were shorter or longer than those that follow.
        self._apart: dict[int, Moments] = {}

    def add(self, batch: Batch) -> None:
        """Adds the rows. Raises RowsError as the estimators do."""
        batch = check(batch)
        raw = []
        for at, entry in enumerate(self._entries):
            if entry.raw is None:
                self._merge(at, entry.moments(batch))
            else:
                require(batch, name=entry.name, needs=entry.needs)
                raw.append(entry.raw(batch))
        columns, layout = _distinct(raw)
        if self._sums is not None and self._sums.layout != layout:
            self._close()
        if self._sums is None:
            self._sums = _Sums(layout, len(columns))
        self._sums.add(columns, raw, batch.unit)

    def moments(self) -> list[Moments]:
        """Moments of each estimator, in their order. Raises RowsError before the first batch."""
        self._close()
        if not self._entries or len(self._apart) < len(self._entries):
            raise RowsError("rows: none were given; give a log with at least one row, and a weight or a reward model")
        return [self._apart[at] for at in range(len(self._entries))]

    def _close(self) -> None:
        if self._sums is None:
            return
        summed = [at for at, entry in enumerate(self._entries) if entry.raw is not None]
        for at, moments in zip(summed, self._sums.moments(), strict=True):
            self._merge(at, moments)
        self._sums = None

    def _merge(self, at: int, moments: Moments) -> None:
        self._apart[at] = self._entries[at].merge(self._apart[at], moments) if at in self._apart else moments


class _Sums:
    """Totals of the distinct columns of several terms, by unit and over rows that are their own unit."""

    def __init__(self, layout: list[tuple[list[int], int]], columns: int) -> None:
        # Columns of each estimator (numerator, denominator, deviations, normalised) among the distinct ones, and its slots.
        self.layout = layout
        self._unit: Keys = np.zeros(0, np.uint64)
        # Column by column, f64[columns, units]: a column of one batch is added up in one sweep.
        self._total: Floats = np.zeros((columns, 0))
        # Rows of named units, and rows that are their own.
        self._rows = np.zeros(2, np.int64)
        self._mean: Floats = np.zeros(columns)
        self._scatter: Floats = np.zeros((columns, columns))
        # By estimator: sum of squared weights, largest weight, value of each slot.
        self._weights = [[np.zeros(slots) for _ in range(3)] for _, slots in layout]

    def add(self, columns: Sequence[Callable[[], Floats]], terms: Sequence[Terms], unit: Keys | None) -> None:
        """Adds the columns of so many rows."""
        if unit is None:
            self._add_alone(np.stack([column() for column in columns]))
        else:
            self._add_units(columns, unit)
        self._add_weights(terms)

    def moments(self) -> list[Moments]:
        """Moments of each estimator."""
        order = np.argsort(self._unit)
        return [self._moments_of(at, order) for at in range(len(self.layout))]

    def _add_alone(self, values: Floats) -> None:
        """Chan, Golub and LeVeque (1979), on all columns at once."""
        new, old = values.shape[1], int(self._rows[1])
        mean = values.mean(axis=1) if new else np.zeros(len(values))
        values -= mean[:, None]
        apart = mean - self._mean
        self._scatter += values @ values.T + np.outer(apart, apart) * (old * new / max(old + new, 1))
        self._mean = self._mean + apart * (new / max(old + new, 1))
        self._rows[1] += new

    def _add_units(self, columns: Sequence[Callable[[], Floats]], unit: Keys) -> None:
        coded = pa.array(unit).dictionary_encode()
        place = self._places(coded.dictionary)[coded.indices.to_numpy()]
        for at, column in enumerate(columns):
            self._total[at] += np.bincount(place, weights=column(), minlength=len(self._unit))
        self._rows[0] += len(unit)

    def _places(self, keys: pa.Array) -> npt.NDArray[np.int64]:
        """Where the units stand in the table; new ones are put at its end."""
        found = pc.index_in(keys, value_set=pa.array(self._unit)).fill_null(-1).to_numpy().astype(np.int64)
        new = found < 0
        count = int(new.sum())
        found[new] = len(self._unit) + np.arange(count)
        self._unit = np.concatenate([self._unit, keys.to_numpy()[new]])
        self._total = np.concatenate([self._total, np.zeros((len(self._total), count))], axis=1)
        return found

    def _add_weights(self, terms: Sequence[Terms]) -> None:
        shared: dict[tuple[int, ...], tuple[Floats, Floats]] = {}
        for each, kept in zip(terms, self._weights, strict=True):
            key = _address(each.weight)
            if key not in shared:
                shared[key] = np.einsum("nl,nl->l", each.weight, each.weight), each.weight.max(axis=0, initial=0.0)
            kept[0] += shared[key][0]
            kept[1] = np.maximum(kept[1], shared[key][1])
            kept[2] += each.slot_value.sum(axis=0)

    def _moments_of(self, at: int, order: npt.NDArray[np.intp]) -> Moments:
        columns, _ = self.layout[at]
        square, largest, value = self._weights[at]
        return Moments(
            self._unit[order],
            np.ascontiguousarray(self._total[columns][:, order].T)[:, None],
            self._rows[0],
            self._rows[1],
            self._mean[columns][None],
            self._scatter[np.ix_(columns, columns)][None, :, None],
            weight_square=square[None],
            weight_largest=largest[None],
            slot_value=value[None],
        )


def _distinct(terms: Sequence[Terms]) -> tuple[list[Callable[[], Floats]], list[tuple[list[int], int]]]:
    """The distinct columns of the terms, each made when it is asked for, and which of them each estimator has with its slots."""
    found: dict[tuple[object, ...], int] = {}
    columns: list[Callable[[], Floats]] = []

    def place(key: tuple[object, ...], make: Callable[[], Floats]) -> int:
        if key not in found:
            found[key] = len(columns)
            columns.append(make)
        return found[key]

    def plain(values: Floats) -> int:
        return place(_address(values), lambda: values)

    def deviation(values: Floats) -> int:
        return place(("deviation", *_address(values)), lambda: values - 1.0)

    layout = []
    for each in terms:
        mine = [plain(each.numerator), plain(each.denominator), *(deviation(column) for column in each.weight.T)]
        mine += [] if each.normalised is None else [plain(column) for column in each.normalised.T]
        layout.append((mine, each.weight.shape[1]))
    return columns, layout


def _address(values: Floats) -> tuple[int, ...]:
    """Two arrays with one address, shape and strides are one array, while both are held."""
    return (values.__array_interface__["data"][0], *values.shape, *values.strides)
