"""How many events counted as what, by partition: a partition and its counts move from worker to worker. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

__all__ = ["Counts", "minus", "of_partition", "plus", "tally", "tally_by"]

# Partition -> what events counted as -> how many. Zeros are left out.
Counts = Mapping[int, Mapping[str, int]]


def tally(name: str, partitions: pl.Series | np.ndarray[Any, Any]) -> Counts:
    """One event of this name for each entry, which is its partition."""
    if not len(partitions):
        return {}
    found = np.bincount(partitions.to_numpy() if isinstance(partitions, pl.Series) else partitions)
    return {int(number): {name: int(found[number])} for number in np.flatnonzero(found)}


def tally_by(events: pl.DataFrame, column: str) -> Counts:
    """The events (with `partition`) by the name in a column."""
    counts: dict[int, dict[str, int]] = {}
    if events.height:
        for number, name, count in events.group_by("partition", column).len().sort("partition", column).iter_rows():
            counts.setdefault(number, {})[name] = count
    return counts


def plus(*counts: Counts) -> dict[int, dict[str, int]]:
    """The counts added up."""
    numbers = dict.fromkeys(number for part in counts for number in part)
    added = {number: _plus([part[number] for part in counts if number in part]) for number in numbers}
    return {number: named for number, named in added.items() if named}


def minus(counts: Counts, others: Counts) -> Counts:
    """The counts, less the others."""
    return plus(counts, {number: {name: -count for name, count in named.items()} for number, named in others.items()})


def of_partition(counts: Counts, number: int) -> Mapping[str, int]:
    """The counts of one partition."""
    return counts.get(number, {})


def _plus(parts: list[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: total for name in names if (total := sum(part.get(name, 0) for part in parts))}
