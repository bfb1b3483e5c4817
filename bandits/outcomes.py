"""Named outcomes beside the scalar reward: which ones a policy asks for, and their columns of a batch, out of observations. Pure.

A policy that learns several outcomes says so in its settings (`AsksForOutcomes`). The learner then fills `Batch.outcomes` in that order;
for every other policy the column has no width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from protos import config

__all__ = ["REWARD", "AsksForOutcomes", "slot_outcomes"]

#: The name of the scalar reward, where an outcome is named: it comes with every row and takes no column.
REWARD = "reward"


@runtime_checkable
class AsksForOutcomes(Protocol):
    """Settings of a policy that learns several outcomes."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes, in the order of the columns of `Batch.outcomes`."""

    @property
    def learns_exactly(self) -> bool:
        """true = with these settings batches commute and merge, and a revised row takes the old one back exactly."""

    @property
    def member(self) -> tuple[str, dict[str, Any]] | None:
        """Name and settings of another policy of the catalog that they bring in; None = none."""

    def with_member(self, settings: dict[str, Any]) -> config.StrictModel:
        """The same with other settings of that policy."""

    def placed(self, *, actions: Sequence[str], outcomes: Sequence[str], given: Mapping[str, Any]) -> config.StrictModel:
        """The settings of a task with names turned into places in its action table. Raises PolicyError for a name that it lacks.

        `outcomes`: names of its section `rewards`; `given`: what its file says, without defaults.
        """

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As plain data."""


def slot_outcomes(column: pa.ChunkedArray, *, names: Sequence[str], slots: int) -> np.ndarray:
    """Values of named outcomes by slot, f64[n, L, J], from the observations' column `outcomes`; 0 where a slot has none.

    What belongs to the whole slate stands in each slot that has no value of its own: every shown item took part in it.
    """
    values = np.full((len(column), slots, len(names)), np.nan)
    of_slate = np.full((len(column), len(names)), np.nan)
    if names and len(column):
        row, flat = _entries(column)
        place = pc.fill_null(pc.index_in(flat.field("name"), pa.array(names, pa.string())), -1).to_numpy(zero_copy_only=False)
        slot = flat.field("slot").fill_null(-1).to_numpy(zero_copy_only=False)
        value = flat.field("value").to_numpy(zero_copy_only=False)
        own, shared = (place >= 0) & (slot >= 0) & (slot < slots), (place >= 0) & (slot < 0)
        values[row[own], slot[own], place[own]] = value[own]
        of_slate[row[shared], place[shared]] = value[shared]
    return np.nan_to_num(np.where(np.isnan(values), of_slate[:, None, :], values), nan=0.0)


def _entries(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.StructArray]:
    """The row of each entry, i64[entries], and the entries."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), lists.flatten()
